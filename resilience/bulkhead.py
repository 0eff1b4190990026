"""Bulkhead: at most `max_concurrent` calls at a time, each in its caller's thread.

One timeout covers waiting for a slot and running. The function can use `remaining()` as the timeout
of its own I/O: a thread can't be killed, so a call that overruns the timeout is counted and keeps
its slot until it ends. Source: M. Nygard, "Release It!".

>>> bulkhead = Bulkhead("vendor", max_concurrent=2)
>>> bulkhead.execute(lambda: bulkhead.status().available_slots)
1
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
from typing import ClassVar, NoReturn

from resilience.checks import duration_ns, whole_number
from resilience.clock import SECOND, Clock, WallClock, to_seconds, utc_now
from resilience.errors import BulkheadFull
from resilience.events import SlotOverrun
from resilience.pattern import P, Pattern, Status, T, await_result, reject_coroutine


@dataclass(frozen=True, slots=True)
class BulkheadStatus(Status):
    """State of a bulkhead."""

    kind: ClassVar[str] = "bulkhead"
    max_concurrent: int
    active_count: int
    available_slots: int
    rejected_count: int
    waiting_count: int
    overrun_count: int
    """Calls that ended after their timeout."""
    overdue_count: int
    """Calls that still run after their timeout."""


class _Call:
    """One call's deadline (ns) and its place in the queue. `outer` is the call it is nested in."""

    __slots__ = ("bulkhead", "deadline", "outer", "wake")

    def __init__(self, bulkhead: Bulkhead, deadline: int, outer: _Call | None) -> None:
        self.bulkhead, self.deadline, self.outer = bulkhead, deadline, outer
        self.wake: Callable[[], object] | None = None  # set when it starts waiting


class _ThreadLocal(threading.local):
    call: _Call | None = None


# Nesting is by thread or by task; for plain calls a context variable would be too slow.
_thread_local = _ThreadLocal()
_task_local: ContextVar[_Call | None] = ContextVar("resilience_bulkhead", default=None)


def remaining() -> float | None:
    """Seconds left until the timeout of the calling function's bulkhead; 0 when it has passed.

    The least of several nested bulkheads; None outside any.
    """
    return min((c.bulkhead.seconds_to(c.deadline) for c in _enclosing_calls()), default=None)


def _enclosing_calls() -> Iterator[_Call]:
    """The calls that the current code is nested in, except those that have ended."""
    for call in (_thread_local.call, _task_local.get()):
        while call is not None:
            if call.bulkhead.has_slot(call):
                yield call
            call = call.outer


class Bulkhead(Pattern):
    """Limits concurrency; slots are given in order of arrival.

    A nested call on a full bulkhead is rejected at once, since waiting could deadlock.

    Args:
        name: Name of the bulkhead.
        max_concurrent: Number of slots.
        timeout: Seconds for waiting and running together.
        max_queue: Maximum number of waiting calls; None for no limit.
        clock, wall_clock: See `resilience.clock`.
        event: Creates what a waiting thread blocks on.
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
        event: Callable[[], threading.Event] = threading.Event,
    ) -> None:
        super().__init__(name, clock, wall_clock)
        self.max_concurrent = whole_number("max_concurrent", max_concurrent)
        self._timeout_ns = duration_ns("timeout", timeout)
        self._max_queue = (
            None if max_queue is None else whole_number("max_queue", max_queue, minimum=0)
        )
        self._event = event
        self._active: set[_Call] = set()
        self._waiters: deque[_Call] = deque()
        self._rejected = self._overruns = 0

    def execute(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `fn` in a slot. Raises BulkheadFull if none is free in time."""
        outer = _thread_local.call
        call = _Call(self, self._clock() + self._timeout_ns, outer)
        try:
            if not self._enter(call):
                self._wait(call)
            _thread_local.call = call
            result = fn(*args, **kwargs)
        finally:
            _thread_local.call = outer
            self._leave(call)
        if type(result) is CoroutineType:
            reject_coroutine(fn, result)
        return result

    async def execute_async(
        self, fn: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Await `fn` in a slot. Raises BulkheadFull; an overrun is not cancelled either."""
        outer = _task_local.get()
        while outer is not None and not outer.bulkhead.has_slot(outer):
            outer = outer.outer
        call = _Call(self, self._clock() + self._timeout_ns, outer)
        try:
            if not self._enter(call):
                await self._wait_async(call)
            _task_local.set(call)
            return await await_result(fn, *args, **kwargs)
        finally:
            _task_local.set(outer)
            self._leave(call)

    def reset(self) -> None:
        """Zero the counts; running calls keep their slots."""
        with self._lock:
            self._rejected = self._overruns = 0

    def status(self) -> BulkheadStatus:
        """The current state."""
        with self._lock:
            now, calls = self._clock(), tuple(self._active)
            active = min(len(calls), self.max_concurrent)
            return BulkheadStatus(
                name=self.name,
                max_concurrent=self.max_concurrent,
                active_count=active,
                available_slots=self.max_concurrent - active,
                rejected_count=self._rejected,
                waiting_count=len(self._waiters),
                overrun_count=self._overruns,
                overdue_count=sum(now > call.deadline for call in calls),
            )

    def _after_fork(self) -> None:
        super()._after_fork()
        self._active = {call for call in _enclosing_calls() if call.bulkhead is self}
        self._waiters.clear()

    def seconds_to(self, deadline: int) -> float:
        """Seconds until `deadline` (ns of this bulkhead's clock); 0 when it has passed."""
        return max(0, deadline - self._clock()) / SECOND

    def has_slot(self, call: _Call) -> bool:
        """Whether the call has a slot."""
        return call in self._active

    # A call has a slot while it is in `_active`. It adds itself without the lock and keeps the slot
    # if the set is not too large then. Set operations are atomic, so at least the last of too many
    # calls sees the excess; it removes itself and waits in the queue, which the lock guards.

    def _enter(self, call: _Call) -> bool:
        if self._waiters:
            return False
        self._active.add(call)
        if len(self._active) <= self.max_concurrent:
            return True
        self._active.discard(call)
        return False

    def _enqueue(self, call: _Call, wake: Callable[[], object]) -> bool:
        """Add a call to the queue. Returns True if it has got a slot meanwhile."""
        call.wake = wake
        nested = any(outer.bulkhead is self for outer in _enclosing_calls())
        reason = None
        with self._lock:
            self._waiters.append(call)
            promoted = self._promote()
            if call not in self._active:
                reason = self._rejection_reason(nested)
        self._wake(promoted)
        if reason:
            self._reject(reason)
        return call in promoted

    def _promote(self) -> list[_Call]:
        promoted = []
        while self._waiters:
            self._active.add(self._waiters[0])
            if len(self._active) > self.max_concurrent:
                self._active.discard(self._waiters[0])
                break
            promoted.append(self._waiters.popleft())
        return promoted

    def _rejection_reason(self, nested: bool) -> str | None:
        if nested:
            return "a nested call can't wait for its own caller's slot"
        if self._max_queue is not None and len(self._waiters) > self._max_queue:
            return f"{self._max_queue} calls are waiting already"
        return None

    def _wait(self, call: _Call) -> None:
        event = self._event()
        if not self._enqueue(call, event.set):
            event.wait(self.seconds_to(call.deadline))
            self._reject_if_waiting(call)

    async def _wait_async(self, call: _Call) -> None:
        event = asyncio.Event()
        wake = partial(asyncio.get_running_loop().call_soon_threadsafe, event.set)
        if not self._enqueue(call, wake):
            with suppress(TimeoutError):
                await asyncio.wait_for(event.wait(), self.seconds_to(call.deadline))
            self._reject_if_waiting(call)

    def _reject_if_waiting(self, call: _Call) -> None:
        with self._lock:
            granted = call not in self._waiters
        if not granted:
            self._reject("no slot was free in time")

    def _reject(self, reason: str) -> NoReturn:
        with self._lock:
            self._rejected += 1
        self._notify_rejection(None)
        raise BulkheadFull(self.name, self.max_concurrent, reason)

    def _leave(self, call: _Call) -> None:
        """Free the slot for the next waiting call; also for a call that has got none."""
        if call.wake is not None:
            self._dequeue(call)  # first, or it could be given a slot that is never freed
        late = self._clock() - call.deadline if call in self._active else 0
        self._active.discard(call)
        if self._waiters:
            self._promote_waiters()
        if late > 0:
            with self._lock:
                self._overruns += 1
            self._listeners.notify(SlotOverrun(self.name, self._wall_clock(), to_seconds(late)))

    def _dequeue(self, call: _Call) -> None:
        with self._lock, suppress(ValueError):
            self._waiters.remove(call)

    def _promote_waiters(self) -> None:
        with self._lock:
            promoted = self._promote()
        self._wake(promoted)

    def _wake(self, promoted: list[_Call]) -> None:
        for call in promoted:
            try:
                if call.wake is not None:
                    call.wake()
            except RuntimeError:  # its event loop is closed: free the slot for the next one
                self._leave(call)
