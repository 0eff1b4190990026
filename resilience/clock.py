"""Time as an argument: the seams that every pattern takes as keywords, with real defaults.

clock        monotonic nanoseconds; all logic runs on it
wall_clock   aware UTC datetime; for display only
sleep        blocks for seconds; `async_sleep` awaits them
rng          uniform float in [0, 1)
"""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import Protocol

Clock = Callable[[], int]
WallClock = Callable[[], datetime]
Sleep = Callable[[float], object]
AsyncSleep = Callable[[float], Awaitable[object]]
Rng = Callable[[], float]

SECOND = 1_000_000_000
MAX_SECONDS = 1e9  # seconds; servers may ask for more than clocks and datetimes can hold


def utc_now() -> datetime:
    """The current time, aware, in UTC."""
    return datetime.now(UTC)


def to_ns(seconds: float) -> int:
    """Seconds, at most LONGEST, to whole nanoseconds, rounded to the nearest."""
    return round(min(seconds, MAX_SECONDS) * SECOND)


def to_seconds(ns: int) -> float:
    """Nanoseconds to seconds; 0 for negative ones."""
    return max(0, ns) / SECOND


class Sleeper:
    """Sleeps, for threads and coroutines, that `close()` cuts short from any thread."""

    def __init__(self, sleep: Sleep | None = None, async_sleep: AsyncSleep | None = None) -> None:
        self._sleep, self._async_sleep = sleep, async_sleep
        self._closed = threading.Event()
        self._wakers: set[Callable[[], object]] = set()
        fork_safe(self)

    def close(self) -> None:
        """End present sleeps now and later ones at once. Idempotent."""
        self._closed.set()
        for wake in tuple(self._wakers):
            with suppress(RuntimeError):  # its event loop is gone, and the sleeper with it
                wake()

    def sleep(self, seconds: float) -> bool:
        """Block for `seconds`; False when closed, perhaps early."""
        (self._sleep or self._closed.wait)(min(seconds, MAX_SECONDS))
        return not self._closed.is_set()

    async def sleep_async(self, seconds: float) -> bool:
        """Await `seconds`; False when closed, perhaps early."""
        await (self._async_sleep or self._until_closed)(seconds)
        return not self._closed.is_set()

    async def _until_closed(self, seconds: float) -> None:
        woken = asyncio.Event()
        wake = partial(asyncio.get_running_loop().call_soon_threadsafe, woken.set)
        self._wakers.add(wake)
        try:
            if not self._closed.is_set():
                with suppress(TimeoutError):
                    await asyncio.wait_for(woken.wait(), seconds)
        finally:
            self._wakers.discard(wake)

    def _after_fork(self) -> None:
        closed, self._closed = self._closed.is_set(), threading.Event()
        self._wakers.clear()
        if closed:
            self._closed.set()


class _Forkable(Protocol):
    def _after_fork(self) -> None: ...


_forkable: weakref.WeakSet[_Forkable] = weakref.WeakSet()


def fork_safe(obj: _Forkable) -> None:
    """Have `obj._after_fork()` called in every forked child: its locks may be held by no one."""
    _forkable.add(obj)


def _renew_all() -> None:
    for obj in tuple(_forkable):
        obj._after_fork()


if hasattr(os, "register_at_fork"):  # absent on Windows, where nothing forks
    os.register_at_fork(after_in_child=_renew_all)
