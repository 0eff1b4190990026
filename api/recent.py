"""Answers that many readers ask for at once are made once and shared for a moment."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Recent:
    """Shares what is read for `seconds`; 0 reads anew each time.

    What is changed through this process is seen at once: `forget`. What others change is seen
    within `seconds`; the answer's own timestamp says of when it is.
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
        """The newest reading, if it is new enough; else one reader reads and the others wait."""
        found = self._fresh()
        if found is None:
            with self._reading:
                found = self._fresh()
                if found is None:
                    began = self._clock()
                    found = self._found = (began, self._read())
        return found[1]

    def forget(self) -> None:
        with self._reading:
            self._found = None

    def _fresh(self) -> tuple[float, T] | None:
        found = self._found
        if found is None or self._clock() - found[0] >= self._seconds:
            return None
        return found
