"""The state behind the wire formats: series, faults, quotas and request counts."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from threading import Event, Lock
from time import monotonic
from typing import Any

from enrichment.sandbox.faults import Fault, FaultRegistry
from enrichment.sandbox.market import Market
from enrichment.sandbox.polygon_plan import PLANS, Plan

_MINUTE = timedelta(minutes=1)
_POLL_SECONDS = 0.2  # between checks whether the client of a delayed request still waits


class SandboxVendor:
    """State that all wire formats share.

    Args:
        clock: The sandbox's wall clock.
        api_key: The only accepted key; None: any that is not empty.
        quota_per_minute: Requests of one key in any 60 seconds; None: unlimited.
        vendors: The vendors that a fault can be limited to; None: any.
        plan: The plan of Polygon that every key has.
    """

    def __init__(
        self,
        market: Market,
        *,
        clock: Callable[[], datetime],
        api_key: str | None = None,
        quota_per_minute: int | None = None,
        faults: Iterable[Fault] = (),
        vendors: Sequence[str] | None = None,
        seed: int = 0,
        plan: Plan = PLANS["paid"],
    ) -> None:
        self.market, self.clock, self.plan = market, clock, plan
        self.faults = FaultRegistry(faults, seed, vendors)
        self.requests = RequestLog()
        self._quota = Quota(quota_per_minute)
        self._api_key = api_key
        self._closed = False

    def accepts_key(self, key: str) -> bool:
        return key == self._api_key if self._api_key is not None else bool(key)

    def consume_quota(self, key: str) -> float | None:
        """Count a request of the key; if it exceeds the quota, the seconds until the next one."""
        return self._quota.consume(key, self.clock())

    def delay(self, seconds: float, cancelled: Event, disconnected: Callable[[], bool]) -> None:
        """Wait; return early once cancelled, disconnected or closed."""
        end = monotonic() + seconds
        while not self._closed and (remaining := end - monotonic()) > 0:
            if cancelled.wait(min(remaining, _POLL_SECONDS)) or disconnected():
                return

    def close(self) -> None:
        """End all delayed requests."""
        self._closed = True
        self.faults.clear()


class Quota:
    """A sliding window of 60 seconds per key."""

    def __init__(self, per_minute: int | None) -> None:
        self._limit, self._lock = per_minute, Lock()
        self._times: dict[str, deque[datetime]] = {}

    def consume(self, key: str, now: datetime) -> float | None:
        """Count a request; if it exceeds the quota, the seconds until the next is allowed."""
        if self._limit is None:
            return None
        with self._lock:
            times = self._times.setdefault(key, deque())
            while times and now - times[0] >= _MINUTE:
                times.popleft()
            if len(times) >= self._limit:
                return (times[0] + _MINUTE - now).total_seconds()
            times.append(now)
            return None


class RequestLog:
    """Requests counted by ticker and by outcome."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._counts: Counter[tuple[str, str]] = Counter()

    def count(self, ticker: str, outcome: str) -> None:
        with self._lock:
            self._counts[ticker, outcome] += 1

    def clear(self) -> None:
        with self._lock:
            self._counts.clear()

    def describe(self) -> dict[str, Any]:
        with self._lock:
            counts = dict(self._counts)
        by_ticker: Counter[str] = Counter()
        by_outcome: Counter[str] = Counter()
        for (ticker, outcome), count in counts.items():
            by_ticker[ticker] += count
            by_outcome[outcome] += count
        return {
            "total": sum(counts.values()),
            "by_ticker": dict(by_ticker),
            "by_outcome": dict(by_outcome),
            "requests": [
                {"ticker": ticker, "outcome": outcome, "count": count}
                for (ticker, outcome), count in sorted(counts.items())
            ],
        }
