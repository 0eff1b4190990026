"""A cache of what many clients read at the same time."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")
_log = logging.getLogger(__name__)


class ResponseCache:
    """Shares the result of a read for `seconds`; 0 disables it.

    A result up to twice as old is still returned while a thread refreshes it (stale while
    revalidate), so that nobody waits for a refresh. After a change by this process, `invalidate`
    makes it visible at once.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds, self._clock = seconds, clock
        self._reads: list[_CachedRead[object]] = []

    def cached(self, read: Callable[[], T]) -> Callable[[], T]:
        """The same function with its result cached."""
        if self._seconds <= 0:
            return read
        cached_read: _CachedRead[T] = _CachedRead(read, self._seconds, self._clock)
        self._reads.append(cached_read)  # type: ignore[arg-type]  # it is only invalidated here
        return cached_read

    def invalidate(self) -> None:
        """Drop every cached result."""
        for cached_read in self._reads:
            cached_read.invalidate()


class _CachedRead(Generic[T]):
    def __init__(self, read: Callable[[], T], seconds: float, clock: Callable[[], float]) -> None:
        self._read, self._seconds, self._clock = read, seconds, clock
        self._reading = threading.Lock()
        self._result: tuple[float, T] | None = None
        """When it was read, and what."""

    def __call__(self) -> T:
        """The cached result. It is refreshed in a thread if older than `seconds`, and read here if
        it is missing or older than twice that; concurrent callers then wait for the one that reads.
        """
        result = self._younger_than(2 * self._seconds)
        if result is None:
            return self._wait_for_read()
        if self._younger_than(self._seconds) is None and self._reading.acquire(blocking=False):
            threading.Thread(target=self._refresh, name="cache-refresh", daemon=True).start()
        return result[1]

    def invalidate(self) -> None:
        with self._reading:
            self._result = None

    def _younger_than(self, seconds: float) -> tuple[float, T] | None:
        result = self._result
        return None if result is None or self._clock() - result[0] >= seconds else result

    def _wait_for_read(self) -> T:
        with self._reading:
            result = self._younger_than(2 * self._seconds) or self._read_now()
            return result[1]

    def _refresh(self) -> None:
        """Read again; the caller has acquired the lock, it is released here."""
        try:
            self._read_now()
        except Exception as exc:
            _log.warning("a cached result was not refreshed, the next request reads it: %s", exc)
        finally:
            self._reading.release()

    def _read_now(self) -> tuple[float, T]:
        started = self._clock()
        self._result = result = (started, self._read())
        return result
