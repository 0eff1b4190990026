"""The vendor behind the wire formats: its series, faults, quota and record of requests."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from threading import Event, Lock
from time import monotonic
from typing import Any

from enrichment.sandbox.faults import Fault, FaultRegistry
from enrichment.sandbox.market import Market

_MINUTE = timedelta(minutes=1)
_GLANCE = 0.2  # seconds between looks whether the waiting client is still there


class SandboxVendor:
    """State that all wire formats share.

    api_key: the only key that is accepted; None accepts any that is not empty.
    quota_per_minute: requests that one key may send in any 60 seconds; None: any number.
    vendors: names that faults may give; None: any.
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
    ) -> None:
        self.market, self.clock = market, clock
        self.faults = FaultRegistry(faults, seed, vendors)
        self.requests = RequestLog()
        self._quota = Quota(quota_per_minute)
        self._api_key = api_key
        self._closed = False

    def accepts(self, key: str) -> bool:
        return key == self._api_key if self._api_key is not None else bool(key)

    def seconds_to_wait(self, key: str) -> float | None:
        """Count a request; seconds until the key may ask again if that is over its quota."""
        return self._quota.spend(key, self.clock())

    def wait(self, seconds: float, cancelled: Event, alone: Callable[[], bool]) -> None:
        """Wait, unless the faults are cleared, the server closes or the client leaves."""
        end = monotonic() + seconds
        while not self._closed and (left := end - monotonic()) > 0:
            if cancelled.wait(min(left, _GLANCE)) or alone():
                return

    def close(self) -> None:
        """Let go of all requests that wait."""
        self._closed = True
        self.faults.clear()


class Quota:
    """A sliding window of 60 seconds per key."""

    def __init__(self, per_minute: int | None) -> None:
        self._limit, self._lock = per_minute, Lock()
        self._spent: dict[str, deque[datetime]] = {}

    def spend(self, key: str, now: datetime) -> float | None:
        if self._limit is None:
            return None
        with self._lock:
            spent = self._spent.setdefault(key, deque())
            while spent and now - spent[0] >= _MINUTE:
                spent.popleft()
            if len(spent) >= self._limit:
                return (spent[0] + _MINUTE - now).total_seconds()
            spent.append(now)
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
