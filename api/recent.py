"""Answers that many readers ask for at once are made once and shared for a moment."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")
log = logging.getLogger(__name__)


class Recent:
    """Shares what is read for `seconds`; 0 reads anew each time.

    An answer up to twice that old is still given, while it is read anew behind it: nobody waits
    for a figure that others have just been told. What is changed through this process is seen at
    once: `forget`. The answer's own timestamp says of when it is.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds, self._clock = seconds, clock
        self._shared: list[_Shared[object]] = []

    def of(self, read: Callable[[], T]) -> Callable[[], T]:
        """The same reading, shared."""
        if self._seconds <= 0:
            return read
        shared: _Shared[T] = _Shared(read, self._seconds, self._clock)
        self._shared.append(shared)  # type: ignore[arg-type]  # only forgotten, never read, here
        return shared

    def forget(self) -> None:
        for shared in self._shared:
            shared.forget()


class _Shared(Generic[T]):
    def __init__(self, read: Callable[[], T], seconds: float, clock: Callable[[], float]) -> None:
        self._read, self._seconds, self._clock = read, seconds, clock
        self._reading = threading.Lock()
        self._found: tuple[float, T] | None = None

    def __call__(self) -> T:
        """The newest reading, renewed behind it if it ages; one reader reads and the others wait
        where there is none, or none that may still be given.
        """
        found = self._found
        if found is None or self._age(found) >= 2 * self._seconds:
            return self._awaited()
        if self._age(found) >= self._seconds and self._reading.acquire(blocking=False):
            threading.Thread(target=self._renew, name="renewing", daemon=True).start()
        return found[1]

    def forget(self) -> None:
        with self._reading:
            self._found = None

    def _age(self, found: tuple[float, T]) -> float:
        return self._clock() - found[0]

    def _awaited(self) -> T:
        with self._reading:
            found = self._found
            if found is None or self._age(found) >= 2 * self._seconds:
                found = self._found = (self._clock(), self._read())
            return found[1]

    def _renew(self) -> None:
        """Read anew; the lock is held by whoever asked, and let go here."""
        try:
            self._found = (self._clock(), self._read())
        except Exception as exc:
            log.warning("a shared answer was not renewed, the next reader reads it: %s", exc)
        finally:
            self._reading.release()
