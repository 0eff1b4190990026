"""The wall clock. Functions that need the time take it, or a clock, as an argument.

>>> utc_now().tzinfo
datetime.timezone.utc
"""

from __future__ import annotations

from datetime import UTC, datetime


def utc_now() -> datetime:
    """Now, timezone-aware, in UTC."""
    return datetime.now(UTC)
