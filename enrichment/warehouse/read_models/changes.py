"""Whether anything that screens show has changed since the last look."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

# Tables that change every few seconds although nothing happens.
_UNCOUNTED = ("workers", "resilience_state", "resilience_limits", "alert_evaluation")


@dataclass(frozen=True, slots=True)
class Changes:
    """The state of the tables' counters."""

    at: datetime | None  # None before the first look
    count: int
    """Rows inserted, updated and deleted in all tables, without heartbeats and reports of workers.

    The server counts a transaction within ten seconds; mostly at once."""


CHANGES = f"""
SELECT now() AS at, coalesce(sum(n_tup_ins + n_tup_upd + n_tup_del), 0)::bigint AS count
FROM pg_stat_user_tables WHERE relname NOT IN {_UNCOUNTED}
"""
