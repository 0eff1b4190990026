"""Answers that many readers ask for at once are made once and shared for a moment."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")
_log = logging.getLogger(__name__)


class ResponseCache:
    """Shares what is read for `seconds`; 0 reads anew each time.

    An answer up to twice that old is still given, while it is read anew behind it: nobody waits
    for a figure that others have just been told. What is changed through this process is seen at
    once: `forget`. The answer's own timestamp says of when it is.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds, self._clock = seconds, clock
        self._shared: list[_CachedRead[object]] = []

    def cached(self, read: Callable[[], T]) -> Callable[[], T]:
        """The same reading, shared."""
        if self._seconds <= 0:
            return read
        shared: _CachedRead[T] = _CachedRead(read, self._seconds, self._clock)
        self._shared.append(shared)  # type: ignore[arg-type]  # only forgotten, never read, here
        return shared

    def invalidate(self) -> None:
        for shared in self._shared:
            shared.invalidate()


class _CachedRead(Generic[T]):
    def __init__(self, read: Callable[[], T], seconds: float, clock: Callable[[], float]) -> None:
        self._read, self._seconds, self._clock = read, seconds, clock
        self._reading = threading.Lock()
        self._found: tuple[float, T] | None = None

    def __call__(self) -> T:
        """The newest reading, renewed behind it if it ages; one reader reads and the others wait
        where there is none, or none that may still be given.
        """
        found = self._younger_than(2 * self._seconds)
        if found is None:
            return self._wait_for_read()
        if self._younger_than(self._seconds) is None and self._reading.acquire(blocking=False):
            threading.Thread(target=self._refresh, name="renewing", daemon=True).start()
        return found[1]

    def invalidate(self) -> None:
        with self._reading:
            self._found = None

    def _younger_than(self, seconds: float) -> tuple[float, T] | None:
        found = self._found
        return None if found is None or self._clock() - found[0] >= seconds else found

    def _wait_for_read(self) -> T:
        with self._reading:
            found = self._younger_than(2 * self._seconds) or self._read_now()
            return found[1]

    def _refresh(self) -> None:
        """Read anew; the lock is held by whoever asked, and let go here."""
        try:
            self._read_now()
        except Exception as exc:
            _log.warning("a shared answer was not renewed, the next reader reads it: %s", exc)
        finally:
            self._reading.release()

    def _read_now(self) -> tuple[float, T]:
        began = self._clock()
        self._found = found = (began, self._read())
        return found
