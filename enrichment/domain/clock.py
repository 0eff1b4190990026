"""The wall clock. Functions that need the time take it, or a clock, as an argument.

>>> utc_now().tzinfo
datetime.timezone.utc
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial

utc_now = partial(datetime.now, UTC)
"""Now, timezone-aware, in UTC."""
