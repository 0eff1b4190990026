"""Bulkhead: at most `max_concurrent` calls at a time, in the caller's own thread.

One time budget runs from entry. Waiting for a slot uses it up first, and the function may ask
`remaining()` for the timeout of its own I/O. A thread can't be killed: a call that overruns is
counted and keeps its slot until it ends. Source: M. Nygard, "Release It!".
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from types import CoroutineType
from typing import ClassVar, NoReturn, Protocol

from resilience.checks import span, whole
from resilience.clock import Clock, WallClock, to_seconds, utc_now
from resilience.errors import BulkheadFull
from resilience.events import SlotOverrun
from resilience.pattern import P, Pattern, Status, T, await_result, reject_coroutine


class Signal(Protocol):
    """What a waiting thread blocks on; threading.Event fits."""

    def set(self) -> None:
        """Wake the waiting thread."""

    def wait(self, timeout: float | None = None) -> bool:
        """Block until set, for `timeout` seconds at most."""
        ...


@dataclass(frozen=True, slots=True)
class BulkheadStatus(Status):
    """overrun_count: calls that ended late; overdue_count: calls that are late and still run."""

    kind: ClassVar[str] = "bulkhead"
    max_concurrent: int
    active_count: int
    available_slots: int
    rejected_count: int
    waiting_count: int
    overrun_count: int
    overdue_count: int


class _Hold:
    """One caller's budget; `outer` is the one it is nested in."""

    __slots__ = ("bulkhead", "deadline", "outer", "wake")

    def __init__(self, bulkhead: Bulkhead, deadline: int, outer: _Hold | None) -> None:
        self.bulkhead, self.deadline, self.outer = bulkhead, deadline, outer
        self.wake: Callable[[], object] | None = None  # set once it has queued


class _Thread(threading.local):
    hold: _Hold | None = None


# Plain calls nest by thread and coroutines by task; a context variable costs a plain call too much.
_thread = _Thread()
_task: ContextVar[_Hold | None] = ContextVar("resilience_bulkhead", default=None)


def remaining() -> float | None:
    """Seconds left of the budget that the caller runs under (0 when used up), or None.

    Nested budgets count together: the least of them is what is left.
    """
    return min((hold.bulkhead.seconds_to(hold.deadline) for hold in _held()), default=None)


def _held() -> Iterator[_Hold]:
    """Holds that the caller runs under; a task may have outlived those it inherited."""
    for hold in (_thread.hold, _task.get()):
        while hold is not None:
            if hold.bulkhead.holds(hold):
                yield hold
            hold = hold.outer


class Bulkhead(Pattern):
    """Limits concurrency; waiters are served in order of arrival.

    timeout: seconds from entry for waiting and running together; a slot that does not come
        free in that time is BulkheadFull. max_queue: waiters at most (None: no limit).
    A nested call on a full bulkhead is BulkheadFull at once, as waiting might never end.
    event: makes the object that a waiting thread blocks on.
    """

    kind = "bulkhead"

    def __init__(
        self,
        name: str,
        max_concurrent: int = 10,
        timeout: float = 300,
        *,
        max_queue: int | None = None,
        clock: Clock = time.monotonic_ns,
        wall_clock: WallClock = utc_now,
        event: Callable[[], Signal] = threading.Event,
    ) -> None:
        super().__init__(name, clock, wall_clock)
        self.max_concurrent = whole("max_concurrent", max_concurrent)
        self._timeout = span("timeout", timeout)
        self._max_queue = None if max_queue is None else whole("max_queue", max_queue, least=0)
        self._event = event
        self._active: set[_Hold] = set()
        self._waiters: deque[_Hold] = deque()
        self._rejected = self._overruns = 0

    def execute(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `fn` in a slot, or raise BulkheadFull."""
        outer = _thread.hold
        hold = _Hold(self, self._clock() + self._timeout, outer)
        try:
            if not self._enter(hold):
                self._wait(hold)
            _thread.hold = hold
            result = fn(*args, **kwargs)
        finally:
            _thread.hold = outer
            self._leave(hold)
        if type(result) is CoroutineType:
            reject_coroutine(fn, result)
        return result

    async def execute_async(
        self, fn: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Await `fn` in a slot, or raise BulkheadFull; an overrun is not cancelled either."""
        outer = _task.get()
        while outer is not None and not outer.bulkhead.holds(outer):
            outer = outer.outer
        hold = _Hold(self, self._clock() + self._timeout, outer)
        try:
            if not self._enter(hold):
                await self._wait_async(hold)
            _task.set(hold)
            return await await_result(fn, *args, **kwargs)
        finally:
            _task.set(outer)
            self._leave(hold)

    def reset(self) -> None:
        """Zero the counts; callers keep their slots."""
        with self._lock:
            self._rejected = self._overruns = 0

    def status(self) -> BulkheadStatus:
        """The state now."""
        with self._lock:
            now, holds = self._clock(), tuple(self._active)
            active = min(len(holds), self.max_concurrent)
            return BulkheadStatus(
                name=self.name,
                max_concurrent=self.max_concurrent,
                active_count=active,
                available_slots=self.max_concurrent - active,
                rejected_count=self._rejected,
                waiting_count=len(self._waiters),
                overrun_count=self._overruns,
                overdue_count=sum(now > hold.deadline for hold in holds),
            )

    def _after_fork(self) -> None:
        super()._after_fork()
        self._active = {hold for hold in _held() if hold.bulkhead is self}
        self._waiters.clear()

    def seconds_to(self, deadline: int) -> float:
        """Seconds until `deadline` (ns) on this bulkhead's clock; 0 when past."""
        return to_seconds(deadline - self._clock())

    def holds(self, hold: _Hold) -> bool:
        """Whether `hold` has a slot at present."""
        return hold in self._active

    # Being in `_active` is having a slot. Who adds itself and then counts no more than the limit
    # keeps it; set operations are atomic, so the last of too many always sees the excess and
    # steps back into the queue, where the lock decides. The usual call needs no lock.

    def _enter(self, hold: _Hold) -> bool:
        if self._waiters:
            return False
        self._active.add(hold)
        if len(self._active) <= self.max_concurrent:
            return True
        self._active.discard(hold)
        return False

    def _queue(self, hold: _Hold, wake: Callable[[], object]) -> bool:
        """Whether a slot came free meanwhile; if not, the caller is in the queue now."""
        hold.wake = wake
        nested = any(outer.bulkhead is self for outer in _held())
        obstacle = None
        with self._lock:
            self._waiters.append(hold)
            heirs = self._promote()
            if hold not in self._active:
                obstacle = self._obstacle(nested)
        self._wake(heirs)
        if obstacle:
            self._reject(obstacle)
        return hold in heirs

    def _promote(self) -> list[_Hold]:
        heirs = []
        while self._waiters:
            self._active.add(self._waiters[0])
            if len(self._active) > self.max_concurrent:
                self._active.discard(self._waiters[0])
                break
            heirs.append(self._waiters.popleft())
        return heirs

    def _obstacle(self, nested: bool) -> str | None:
        if nested:
            return "a nested call can't wait for its own caller"
        if self._max_queue is not None and len(self._waiters) > self._max_queue:
            return f"{self._max_queue} callers are waiting already"
        return None

    def _wait(self, hold: _Hold) -> None:
        event = self._event()
        if not self._queue(hold, event.set):
            event.wait(self.seconds_to(hold.deadline))
            self._confirm(hold)

    async def _wait_async(self, hold: _Hold) -> None:
        event = asyncio.Event()
        wake = partial(asyncio.get_running_loop().call_soon_threadsafe, event.set)
        if not self._queue(hold, wake):
            with suppress(TimeoutError):
                await asyncio.wait_for(event.wait(), self.seconds_to(hold.deadline))
            self._confirm(hold)

    def _confirm(self, hold: _Hold) -> None:
        with self._lock:
            granted = hold not in self._waiters
        if not granted:
            self._reject("no slot came free in time")

    def _reject(self, reason: str) -> NoReturn:
        with self._lock:
            self._rejected += 1
        self._announce_rejection(None)
        raise BulkheadFull(self.name, self.max_concurrent, reason)

    def _leave(self, hold: _Hold) -> None:
        """Free the slot for the longest waiter; also right for a caller that never got one."""
        if hold.wake is not None:
            self._withdraw(hold)  # first, or it could still be given a slot that nobody frees
        late = self._clock() - hold.deadline if hold in self._active else 0
        self._active.discard(hold)
        if self._waiters:
            self._serve()
        if late > 0:
            with self._lock:
                self._overruns += 1
            self._listeners.notify(SlotOverrun(self.name, self._wall_clock(), to_seconds(late)))

    def _withdraw(self, hold: _Hold) -> None:
        with self._lock, suppress(ValueError):
            self._waiters.remove(hold)

    def _serve(self) -> None:
        with self._lock:
            heirs = self._promote()
        self._wake(heirs)

    def _wake(self, heirs: list[_Hold]) -> None:
        for heir in heirs:
            try:
                if heir.wake is not None:
                    heir.wake()
            except RuntimeError:  # its event loop is gone: the slot goes to the next
                self._leave(heir)
