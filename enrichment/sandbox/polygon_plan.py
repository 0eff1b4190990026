"""Polygon's plans: how many requests a minute, how far back, and how soon after a session."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from datetime import datetime, timedelta
from threading import Lock
from zoneinfo import ZoneInfo

from enrichment.domain.errors import InvalidRequest
from enrichment.sandbox.counter_rng import fraction

_MINUTE = timedelta(minutes=1)
_MIN_BLOCK, _MAX_BLOCK = timedelta(seconds=150), timedelta(seconds=180)
_NEW_YORK = ZoneInfo("America/New_York")


@dataclass(frozen=True, slots=True)
class Plan:
    """What a subscription allows."""

    name: str
    status: str
    """Of its successful answers."""
    per_minute: int | None = None
    """Requests; None: unlimited."""
    years: int | None = None
    """How far back bars go; None: to the first."""
    end_of_day: bool = False
    """Whether a day is withheld until after midnight in New York."""

    def earliest(self, now: datetime) -> datetime | None:
        """The first day that it holds; None if it holds all."""
        return None if self.years is None else _midnight(now) - timedelta(days=365 * self.years)

    def clipped(self, first_ms: int, last_ms: int, now: datetime) -> tuple[int, int] | None:
        """The part of a range, both ends included, that it holds; None if it holds nothing."""
        earliest = self.earliest(now)
        if earliest is not None:
            first_ms = max(first_ms, _milliseconds(earliest))
        if self.end_of_day:
            last_ms = min(last_ms, _milliseconds(_midnight(now)) - 1)
        return None if first_ms > last_ms else (first_ms, last_ms)


PLANS = {
    plan.name: plan
    for plan in (
        Plan("paid", "OK"),
        Plan("free", "DELAYED", per_minute=5, years=2, end_of_day=True),
    )
}


def plan_of(name: str) -> Plan:
    """The plan of this name; InvalidRequest if there is none."""
    if name not in PLANS:
        raise InvalidRequest(f"unknown plan {name!r}: choose from {', '.join(PLANS)}")
    return PLANS[name]


class BurstQuota:
    """Requests a minute of a key; exceeding them blocks the key for 2.5 to 3 minutes."""

    def __init__(self, per_minute: int | None) -> None:
        self._limit, self._lock = per_minute, Lock()
        self._times: dict[str, deque[datetime]] = {}
        self._blocked_until: dict[str, datetime] = {}
        self._blocks = 0

    def allows(self, key: str, now: datetime) -> bool:
        """Count a request; False if it exceeds the quota or the key is blocked."""
        if self._limit is None:
            return True
        with self._lock:
            if now < self._blocked_until.get(key, now):
                return False
            times = self._times.setdefault(key, deque())
            while times and now - times[0] >= _MINUTE:
                times.popleft()
            if len(times) < self._limit:
                times.append(now)
                return True
            self._blocks += 1
            share = fraction(0, 0, self._blocks)
            self._blocked_until[key] = now + _MIN_BLOCK + share * (_MAX_BLOCK - _MIN_BLOCK)
            return False


def _midnight(now: datetime) -> datetime:
    return now.astimezone(_NEW_YORK).replace(hour=0, minute=0, second=0, microsecond=0)


def _milliseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)
