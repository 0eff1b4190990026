"""Circuit breaker: rejects calls to a failing service and probes it later.

closed     outcomes enter a sliding window; it opens when failures / outcomes ≥ threshold
open       every call is rejected until `recovery_timeout` has passed
half_open  at most `half_open_calls` probes; a failure reopens it, that many successes close it

Sources: M. Nygard, "Release It!"; rates as in resilience4j; generations as in sony/gobreaker.

>>> breaker = CircuitBreaker("polygon_api")
>>> breaker.force_open()
>>> breaker.execute(len, "abc")
Traceback (most recent call last):
    ...
resilience.errors.CircuitOpen: circuit 'polygon_api' is open
>>> window = CountWindow(size=2)
>>> for failed in (True, False, False):
...     window.add(now=0, failed=failed, slow=False)
>>> window.total, window.failures
(2, 0)
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from types import CoroutineType
from typing import Any, ClassVar

from resilience.checks import duration_ns, finite, optional_duration_ns, whole_number
from resilience.clock import Clock, WallClock, to_seconds, utc_now
from resilience.errors import CircuitOpen, ResilienceError
from resilience.events import StateChanged
from resilience.pattern import (
    ErrorFilter,
    P,
    Pattern,
    Status,
    T,
    await_result,
    matcher,
    reject_coroutine,
    safe_repr,
)


class State(StrEnum):
    """State of a circuit breaker."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Mode(StrEnum):
    """Whether the state follows the outcomes of calls or was set by an operator."""

    AUTO = "auto"
    FORCED_OPEN = "forced_open"
    DISABLED = "disabled"


Permit = tuple[int, int | None]
"""The generation and, for a probe, the time when it was admitted (ns)."""


@dataclass(frozen=True, slots=True)
class CircuitBreakerStatus(Status):
    """State of a circuit breaker; counts and rates (0 to 1) are those of the window."""

    kind: ClassVar[str] = "circuit_breaker"
    state: State
    failure_count: int
    success_count: int
    failure_rate: float
    last_failure_time: datetime | None
    opened_at: datetime | None
    mode: Mode
    slow_count: int
    rejected_count: int
    retry_after: float | None
    last_error: str | None
    generation: int


class CircuitBreaker(Pattern):
    """Rejects calls with CircuitOpen while the failure rate is too high.

    Args:
        name: Name of the breaker.
        failure_threshold: Failure rate, above 0 and at most 1, that opens it.
        recovery_timeout: Seconds from opening to the first probe.
        window_size: Number of outcomes in the window.
        window_seconds: Use a window over this time instead.
        minimum_calls: Outcomes required before it can open (at most `window_size`).
        half_open_calls: Concurrent probes, and successes required to close.
        half_open_timeout: Seconds after which a running probe reopens it; None for
            `recovery_timeout`.
        slow_call_seconds: Calls that take at least this long are slow; includes the wait of a rate
            limiter inside the breaker.
        slow_call_threshold: Rate of slow calls that opens it.
        record: Errors that are failures; others are successes. Exception classes or a predicate.
        ignore: Errors that are neither. Exception classes or a predicate.
        record_result: Predicate of returned values that are failures.
        clock, wall_clock: See `resilience.clock`.
    """

    kind = "circuit_breaker"

    def __init__(
        self,
        name: str,
        failure_threshold: float = 0.5,
        recovery_timeout: float = 60,
        *,
        window_size: int = 20,
        window_seconds: float | None = None,
        minimum_calls: int = 5,
        half_open_calls: int = 1,
        half_open_timeout: float | None = None,
        slow_call_seconds: float | None = None,
        slow_call_threshold: float = 1.0,
        record: ErrorFilter = (Exception,),
        ignore: ErrorFilter = (),
        record_result: Callable[[Any], bool] | None = None,
        clock: Clock = time.monotonic_ns,
        wall_clock: WallClock = utc_now,
    ) -> None:
        super().__init__(name, clock, wall_clock)
        self._threshold = finite("failure_threshold", failure_threshold, above=0, maximum=1)
        self._recovery_ns = duration_ns("recovery_timeout", recovery_timeout)
        self._size = whole_number("window_size", window_size)
        self._window_ns = optional_duration_ns("window_seconds", window_seconds)
        minimum = whole_number("minimum_calls", minimum_calls)
        self._minimum = minimum if self._window_ns else min(minimum, self._size)
        self._half_open_calls = whole_number("half_open_calls", half_open_calls)
        probe_timeout = recovery_timeout if half_open_timeout is None else half_open_timeout
        self._probe_timeout_ns = duration_ns("half_open_timeout", probe_timeout)
        self._slow_ns = optional_duration_ns("slow_call_seconds", slow_call_seconds)
        self._slow_threshold = finite(
            "slow_call_threshold", slow_call_threshold, above=0, maximum=1
        )
        self._timed = self._slow_ns is not None or self._window_ns is not None
        self._is_failure, self._is_ignored = matcher(record), matcher(ignore)
        self._record_result = record_result
        self._generation = self._opened_ns = 0
        self._window: CountWindow | TimeWindow
        self._clear()

    def execute(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `fn`, or raise CircuitOpen. The call that opens the breaker raises its own error."""
        permit = self._permit or self._acquire_permit()
        started = self._clock() if self._timed else 0
        try:
            result = fn(*args, **kwargs)
            if type(result) is CoroutineType:
                reject_coroutine(fn, result)
            failed = self._record_result is not None and bool(self._record_result(result))
        except BaseException as error:
            self._finish_with_error(permit, started, error)
            raise
        self._finish(permit, started, failed)
        return result

    async def execute_async(
        self, fn: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Await `fn`, or raise CircuitOpen. A cancellation is not recorded."""
        permit = self._permit or self._acquire_permit()
        started = self._clock() if self._timed else 0
        try:
            result = await await_result(fn, *args, **kwargs)
            failed = self._record_result is not None and bool(self._record_result(result))
        except BaseException as error:
            self._finish_with_error(permit, started, error)
            raise
        self._finish(permit, started, failed)
        return result

    def force_open(self) -> None:
        """Reject every call until `reset` or `disable`; timers do not apply."""
        self._override(Mode.FORCED_OPEN, State.OPEN)

    def disable(self) -> None:
        """Allow every call and record nothing until `reset` or `force_open`."""
        self._override(Mode.DISABLED, State.CLOSED)

    def reset(self) -> None:
        """Close, return to automatic mode and clear outcomes and errors."""
        with self._lock:
            before = self._state, self._mode
            self._clear()
            if before != (State.CLOSED, Mode.AUTO):
                self._add_transition(before[0], "reset")
        self._deliver_events()

    def status(self) -> CircuitBreakerStatus:
        """The current state, after expiring outcomes and applying timers."""
        last_error = safe_repr(self._last_error)
        with self._lock:
            now = self._clock()
            self._apply_timers(now)
            window = self._window
            window.expire(now)
            status = CircuitBreakerStatus(
                name=self.name,
                state=self._state,
                failure_count=window.failures,
                success_count=window.total - window.failures,
                failure_rate=window.failures / max(1, window.total),
                last_failure_time=self._last_failure,
                opened_at=self._opened_at,
                mode=self._mode,
                slow_count=window.slow,
                rejected_count=self._rejected,
                retry_after=self._retry_after(now) if self._state is State.OPEN else None,
                last_error=last_error,
                generation=self._generation,
            )
        self._deliver_events()
        return status

    def _clear(self) -> None:
        self._mode = Mode.AUTO
        self._last_error: Exception | None = None
        self._last_failure: datetime | None = None
        self._rejected = 0
        self._set_state(State.CLOSED, 0)

    def _override(self, mode: Mode, state: State) -> None:
        with self._lock:
            self._mode = mode
            self._transition(state, self._clock(), mode.replace("_", " "))
        self._deliver_events()

    def _set_state(self, state: State, at: int) -> None:
        """Start a generation: outcomes of permits of earlier ones are dropped."""
        self._state = state
        self._generation += 1
        self._probes: list[int] = []
        if state is State.OPEN:
            self._opened_ns = at
            since = timedelta(seconds=to_seconds(self._clock() - at))
            self._opened_at: datetime | None = self._wall_clock() - since
        elif state is State.CLOSED:
            self._opened_at = None
            self._window = (
                TimeWindow(self._window_ns) if self._window_ns else CountWindow(self._size)
            )
        else:
            self._window = CountWindow(self._half_open_calls)
        permit: Permit | None = (self._generation, None) if state is State.CLOSED else None
        # Assigned last and once, since `execute` reads it without the lock. Outcomes of generation
        # -1 are dropped.
        self._permit = (-1, None) if self._mode is Mode.DISABLED else permit

    def _transition(self, state: State, at: int, reason: str) -> None:
        old = self._state
        self._set_state(state, at)
        self._add_transition(old, reason)

    def _add_transition(self, old: State, reason: str) -> None:
        self._events.append(
            StateChanged(self.name, self._wall_clock(), old, self._state, self._generation, reason)
        )

    def _apply_timers(self, now: int) -> None:
        """Make the transitions that are due, dated when they became due."""
        if self._mode is not Mode.AUTO:
            return
        if self._probes and now - self._probes[0] >= self._probe_timeout_ns:
            due = self._probes[0] + self._probe_timeout_ns
            self._transition(State.OPEN, due, "probe timed out")
        if self._state is State.OPEN and now - self._opened_ns >= self._recovery_ns:
            self._transition(State.HALF_OPEN, now, "recovery timeout passed")

    def _acquire_permit(self) -> Permit:
        with self._lock:
            now = self._clock()
            self._apply_timers(now)
            permit = self._permit or self._probe_permit(now)
            if permit is None:
                self._rejected += 1
                rejection = CircuitOpen(self.name, self._retry_after(now), self._last_error)
        self._deliver_events()
        if permit is None:
            self._notify_rejection(rejection.retry_after)
            raise rejection
        return permit

    def _probe_permit(self, now: int) -> Permit | None:
        admitted = len(self._probes) + self._window.total
        if self._state is not State.HALF_OPEN or admitted >= self._half_open_calls:
            return None
        self._probes.append(now)
        return self._generation, now

    def _retry_after(self, now: int) -> float | None:
        if self._mode is not Mode.AUTO:
            return None
        if self._probes:
            return to_seconds(self._probes[0] + self._probe_timeout_ns - now)
        return to_seconds(self._opened_ns + self._recovery_ns - now)

    def _finish_with_error(self, permit: Permit, started: int, error: BaseException) -> None:
        failed: bool | None = None  # returns the permit without an outcome
        try:
            if isinstance(error, Exception) and not isinstance(error, ResilienceError):
                failed = None if self._is_ignored(error) else self._is_failure(error)
        finally:
            self._finish(permit, started, failed, error)

    def _finish(self, permit: Permit, started: int, failed: bool | None, error: Any = None) -> None:
        now = self._clock() if self._timed else 0
        slow = self._slow_ns is not None and now - started >= self._slow_ns
        # Another success does not change a full window of fast successes, so no lock is needed.
        # The permit is compared last: if it is current now, it was when the window was read.
        if self._window.saturated and failed is False and not slow and permit is self._permit:
            return
        with self._lock:
            if permit[0] == self._generation:
                if permit[1] is not None:
                    self._probes.remove(permit[1])
                if failed is not None:
                    self._update_window(now, failed, slow, error)
        if self._events:
            self._deliver_events()

    def _update_window(self, now: int, failed: bool, slow: bool, error: Exception | None) -> None:
        window, probing = self._window, self._state is State.HALF_OPEN
        window.add(now, failed, slow)
        if failed:
            self._last_error, self._last_failure = error, self._wall_clock()
        if failed and probing:
            self._transition(State.OPEN, self._clock(), "probe failed")
        elif window.total < (self._half_open_calls if probing else self._minimum):
            return
        elif window.failures / window.total >= self._threshold:
            self._transition(State.OPEN, self._clock(), "failure rate")
        elif window.slow / window.total >= self._slow_threshold:
            self._transition(State.OPEN, self._clock(), "slow call rate")
        elif probing:
            self._transition(State.CLOSED, self._clock(), "probes succeeded")


class CountWindow:
    """The last `size` outcomes.

    Attributes:
        total: Number of outcomes in the window.
        failures: Number of failures among them.
        slow: Number of slow calls among them.
        saturated: Whether it is full and holds only fast successes.
    """

    __slots__ = ("_outcomes", "_size", "failures", "saturated", "slow", "total")

    def __init__(self, size: int) -> None:
        self.total = self.failures = self.slow = 0
        self.saturated = False
        self._size = size
        self._outcomes: deque[tuple[bool, bool]] = deque()

    def add(self, now: int, failed: bool, slow: bool) -> None:
        """Add an outcome; a full window drops its oldest one."""
        self._outcomes.append((failed, slow))
        self.failures += failed
        self.slow += slow
        if self.total < self._size:
            self.total += 1
        else:
            old_failed, old_slow = self._outcomes.popleft()
            self.failures -= old_failed
            self.slow -= old_slow
            self.saturated = not (self.failures or self.slow)

    def expire(self, now: int) -> None:
        """Do nothing: outcomes are dropped by count only."""


class TimeWindow:
    """The outcomes later than now - `span` (ns), with the attributes of CountWindow."""

    __slots__ = ("_entries", "_grain", "_span", "failures", "saturated", "slow", "total")

    def __init__(self, span: int) -> None:
        self.total = self.failures = self.slow = 0
        self.saturated = False
        # Outcomes within a thousandth of the span share an entry, which bounds the memory.
        self._span, self._grain = span, span // 1000
        self._entries: deque[list[int]] = deque()  # [first time, outcomes, failures, slow]

    def add(self, now: int, failed: bool, slow: bool) -> None:
        """Add an outcome of time `now` (ns)."""
        entries = self._entries
        if entries and now - entries[0][0] >= self._span:
            self.expire(now)
        if not entries or now - entries[-1][0] > self._grain:
            entries.append([now, 0, 0, 0])
        entry = entries[-1]
        entry[1] += 1
        self.total += 1
        if failed:
            entry[2] += 1
            self.failures += 1
        if slow:
            entry[3] += 1
            self.slow += 1

    def expire(self, now: int) -> None:
        """Drop the outcomes that are older than the span."""
        while self._entries and now - self._entries[0][0] >= self._span:
            _, total, failures, slow = self._entries.popleft()
            self.total -= total
            self.failures -= failures
            self.slow -= slow
