"""Clocks, sleeping and random numbers that every pattern takes as keyword arguments.

clock        monotonic nanoseconds, which all logic runs on
wall_clock   timezone-aware UTC datetime, for display only
sleep        blocks for some seconds; `async_sleep` awaits them
rng          uniform float in [0, 1)

>>> to_ns(1.5), to_seconds(1_500_000_000)
(1500000000, 1.5)
"""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import partial
from typing import Protocol

Clock = Callable[[], int]
WallClock = Callable[[], datetime]
Sleep = Callable[[float], object]
AsyncSleep = Callable[[float], Awaitable[object]]
Rng = Callable[[], float]

SECOND = 1_000_000_000
MAX_SECONDS = 1e9  # a server may ask for longer waits than timers and datetimes can represent


def utc_now() -> datetime:
    """The current time, timezone-aware, in UTC."""
    return datetime.now(UTC)


def to_ns(seconds: float) -> int:
    """Seconds, capped at MAX_SECONDS, in whole nanoseconds."""
    return round(min(seconds, MAX_SECONDS) * SECOND)


def to_seconds(ns: int) -> float:
    """Nanoseconds in seconds; 0 for negative ones."""
    return max(0, ns) / SECOND


_interruption: ContextVar[Callable[[], None] | None] = ContextVar("interruption", default=None)
_CHECK_SECONDS = 0.5


@contextmanager
def interruptible(check: Callable[[], None]) -> Iterator[None]:
    """In the block a sleep calls `check` twice a second; what that raises ends the sleep."""
    token = _interruption.set(check)
    try:
        yield
    finally:
        _interruption.reset(token)


_around_sleep: ContextVar[Callable[[], AbstractContextManager[object]]] = ContextVar(
    "around_sleep", default=nullcontext
)


@contextmanager
def sleeping_in(around: Callable[[], AbstractContextManager[object]]) -> Iterator[None]:
    """In the block, sleeps of more than half a second run inside the context of `around()`."""
    token = _around_sleep.set(around)
    try:
        yield
    finally:
        _around_sleep.reset(token)


class Sleeper:
    """Interruptible sleep for threads and coroutines. `close()` may be called from any thread."""

    def __init__(self, sleep: Sleep | None = None, async_sleep: AsyncSleep | None = None) -> None:
        self._sleep, self._async_sleep = sleep, async_sleep
        self._closed = threading.Event()
        self._wakers: set[Callable[[], object]] = set()
        on_fork(self)

    def close(self) -> None:
        """Interrupt all current and future sleeps. Idempotent."""
        self._closed.set()
        for wake in tuple(self._wakers):
            with suppress(RuntimeError):  # the event loop of this sleep is closed
                wake()

    def sleep(self, seconds: float) -> bool:
        """Block for `seconds`. Returns False if interrupted by `close()`."""
        if seconds <= _CHECK_SECONDS:
            return self._sleep_checking(seconds)
        with _around_sleep.get()():
            return self._sleep_checking(seconds)

    def _sleep_checking(self, seconds: float) -> bool:
        sleep, check = self._sleep or self._closed.wait, _interruption.get()
        left = min(seconds, MAX_SECONDS)
        while check is not None and left > _CHECK_SECONDS and not self._closed.is_set():
            sleep(_CHECK_SECONDS)
            check()
            left -= _CHECK_SECONDS
        sleep(left)
        return not self._closed.is_set()

    async def sleep_async(self, seconds: float) -> bool:
        """Await `seconds`. Returns False if interrupted by `close()`."""
        await (self._async_sleep or self._wait_closed)(seconds)
        return not self._closed.is_set()

    async def _wait_closed(self, seconds: float) -> None:
        closed = asyncio.Event()
        wake = partial(asyncio.get_running_loop().call_soon_threadsafe, closed.set)
        self._wakers.add(wake)
        try:
            if not self._closed.is_set():
                with suppress(TimeoutError):
                    await asyncio.wait_for(closed.wait(), seconds)
        finally:
            self._wakers.discard(wake)

    def _after_fork(self) -> None:
        closed, self._closed = self._closed.is_set(), threading.Event()
        self._wakers.clear()
        if closed:
            self._closed.set()


class _ForkAware(Protocol):
    def _after_fork(self) -> None: ...


_fork_aware: weakref.WeakSet[_ForkAware] = weakref.WeakSet()


def on_fork(obj: _ForkAware) -> None:
    """Call `obj._after_fork()` in every forked child, where other threads' locks stay locked."""
    _fork_aware.add(obj)


def _call_all_after_fork() -> None:
    for obj in tuple(_fork_aware):
        obj._after_fork()


if hasattr(os, "register_at_fork"):  # absent on Windows
    os.register_at_fork(after_in_child=_call_all_after_fork)
