"""Circuit breaker: stop calling what is failing, probe it later.

closed     outcomes go into a sliding window; it trips when failures / outcomes ≥ threshold
open       every call is rejected until `recovery_timeout` has passed
half_open  exactly `half_open_calls` probes; a failure reopens, that many successes close

Sources: M. Nygard, "Release It!"; rates as in resilience4j; generations as in sony/gobreaker.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from types import CoroutineType
from typing import Any, ClassVar, Literal

from resilience.checks import number, optional_span, span, whole
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
from resilience.window import CountWindow, TimeWindow


class State(StrEnum):
    """The three states of a breaker."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


Mode = Literal["auto", "forced_open", "disabled"]
Permit = tuple[int, int | None]  # generation; for a probe, when it was admitted (ns)


@dataclass(frozen=True, slots=True)
class CircuitBreakerStatus(Status):
    """Counts and rates are of the window; rates are fractions from 0 to 1."""

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

    failure_threshold: fraction that trips, from min(minimum_calls, window_size) outcomes on.
    recovery_timeout: seconds to the first probe; half_open_timeout (the same): until it is lost.
    window_size: outcomes in the window; window_seconds: use the last seconds instead.
    slow_call_seconds: calls of at least this duration are slow; slow_call_threshold is
        their fraction that trips. Around a limiter the duration includes waiting for it.
    record: errors that are failures (others are successes); ignore: errors that count as
        nothing; exception classes or a predicate. record_result: predicate of failed results.
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
        self._threshold = number("failure_threshold", failure_threshold, above=0, most=1)
        self._recovery = span("recovery_timeout", recovery_timeout)
        self._size = whole("window_size", window_size)
        self._span = optional_span("window_seconds", window_seconds)
        least = whole("minimum_calls", minimum_calls)
        self._minimum = least if self._span else min(least, self._size)
        self._probe_calls = whole("half_open_calls", half_open_calls)
        self._patience = optional_span("half_open_timeout", half_open_timeout) or self._recovery
        self._slow = optional_span("slow_call_seconds", slow_call_seconds)
        self._slow_threshold = number("slow_call_threshold", slow_call_threshold, above=0, most=1)
        self._timed = self._slow is not None or self._span is not None
        self._recorded, self._ignored = matcher(record), matcher(ignore)
        self._record_result = record_result
        self._generation = self._opened = 0
        self._window: CountWindow | TimeWindow
        self._clear()

    def execute(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `fn`, or raise CircuitOpen. `fn`'s own error surfaces, also when it trips."""
        permit = self._ready or self._admit()
        started = self._clock() if self._timed else 0
        try:
            result = fn(*args, **kwargs)
            if type(result) is CoroutineType:
                reject_coroutine(fn, result)
            failed = self._record_result is not None and bool(self._record_result(result))
        except BaseException as error:
            self._settle_error(permit, started, error)
            raise
        self._settle(permit, started, failed)
        return result

    async def execute_async(
        self, fn: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Await `fn`, or raise CircuitOpen; cancellation records nothing."""
        permit = self._ready or self._admit()
        started = self._clock() if self._timed else 0
        try:
            result = await await_result(fn, *args, **kwargs)
            failed = self._record_result is not None and bool(self._record_result(result))
        except BaseException as error:
            self._settle_error(permit, started, error)
            raise
        self._settle(permit, started, failed)
        return result

    def force_open(self) -> None:
        """Reject every call, whatever the timers say, until `reset` or `disable`."""
        self._override("forced_open", State.OPEN)

    def disable(self) -> None:
        """Let every call through and record nothing, until `reset` or `force_open`."""
        self._override("disabled", State.CLOSED)

    def reset(self) -> None:
        """Close, end a forced state, forget outcomes and errors."""
        with self._lock:
            before = self._state, self._mode
            self._clear()
            if before != (State.CLOSED, "auto"):
                self._announce(before[0], "reset")
        self._flush()

    def status(self) -> CircuitBreakerStatus:
        """The state now; reading it ages the window and moves due timers."""
        last_error = safe_repr(self._last_error)
        with self._lock:
            now = self._clock()
            self._advance(now)
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
        self._flush()
        return status

    def _clear(self) -> None:
        self._mode: Mode = "auto"
        self._last_error: Exception | None = None
        self._last_failure: datetime | None = None
        self._rejected = 0
        self._enter(State.CLOSED, 0)

    def _override(self, mode: Mode, state: State) -> None:
        with self._lock:
            self._mode = mode
            self._change(state, self._clock(), mode.replace("_", " "))
        self._flush()

    def _enter(self, state: State, at: int) -> None:
        """Begin a generation: permits of earlier ones no longer count."""
        self._state = state
        self._generation += 1
        self._probes: list[int] = []
        if state is State.OPEN:
            self._opened = at
            since = timedelta(seconds=to_seconds(self._clock() - at))
            self._opened_at: datetime | None = self._wall_clock() - since
        elif state is State.CLOSED:
            self._opened_at = None
            self._window = TimeWindow(self._span) if self._span else CountWindow(self._size)
        else:
            self._window = CountWindow(self._probe_calls)
        # Read without the lock on the way in: one reference, replaced as a whole, and last.
        self._ready: Permit | None = (self._generation, None) if state is State.CLOSED else None
        if self._mode == "disabled":
            self._ready = (-1, None)  # its outcome belongs to no generation

    def _change(self, state: State, at: int, reason: str) -> None:
        old = self._state
        self._enter(state, at)
        self._announce(old, reason)

    def _announce(self, old: State, reason: str) -> None:
        self._outbox.append(
            StateChanged(self.name, self._wall_clock(), old, self._state, self._generation, reason)
        )

    def _advance(self, now: int) -> None:
        """Make the changes that time alone has brought, dated when they were due."""
        if self._mode != "auto":
            return
        if self._probes and now - self._probes[0] >= self._patience:
            self._change(State.OPEN, self._probes[0] + self._patience, "probe never returned")
        if self._state is State.OPEN and now - self._opened >= self._recovery:
            self._change(State.HALF_OPEN, now, "recovery timeout passed")

    def _admit(self) -> Permit:
        with self._lock:
            now = self._clock()
            self._advance(now)
            permit = self._ready or self._probe(now)
            if permit is None:
                self._rejected += 1
                rejection = CircuitOpen(self.name, self._retry_after(now), self._last_error)
        self._flush()
        if permit is None:
            self._announce_rejection(rejection.retry_after)
            raise rejection
        return permit

    def _probe(self, now: int) -> Permit | None:
        busy = len(self._probes) + self._window.total
        if self._state is not State.HALF_OPEN or busy >= self._probe_calls:
            return None
        self._probes.append(now)
        return self._generation, now

    def _retry_after(self, now: int) -> float | None:
        if self._mode != "auto":
            return None
        due = self._probes[0] + self._patience if self._probes else self._opened + self._recovery
        return to_seconds(due - now)

    def _settle_error(self, permit: Permit, started: int, error: BaseException) -> None:
        failed: bool | None = None  # gives the permit back
        try:
            if isinstance(error, Exception) and not isinstance(error, ResilienceError):
                failed = None if self._ignored(error) else self._recorded(error)
        finally:
            self._settle(permit, started, failed, error)

    def _settle(self, permit: Permit, started: int, failed: bool | None, error: Any = None) -> None:
        now = self._clock() if self._timed else 0
        slow = self._slow is not None and now - started >= self._slow
        # One more success changes nothing in a full window of fast successes: no lock is needed.
        # The permit is compared last: if it is current now, it was when the window was read.
        if self._window.saturated and failed is False and not slow and permit is self._ready:
            return
        with self._lock:
            if permit[0] == self._generation:
                if permit[1] is not None:
                    self._probes.remove(permit[1])
                if failed is not None:
                    self._judge(now, failed, slow, error)
        if self._outbox:
            self._flush()

    def _judge(self, now: int, failed: bool, slow: bool, error: Exception | None) -> None:
        window, probing = self._window, self._state is State.HALF_OPEN
        window.add(now, failed, slow)
        if failed:
            self._last_error, self._last_failure = error, self._wall_clock()
        if failed and probing:
            self._change(State.OPEN, self._clock(), "probe failed")
        elif window.total < (self._probe_calls if probing else self._minimum):
            return
        elif window.failures / window.total >= self._threshold:
            self._change(State.OPEN, self._clock(), "failure rate")
        elif window.slow / window.total >= self._slow_threshold:
            self._change(State.OPEN, self._clock(), "slow call rate")
        elif probing:
            self._change(State.CLOSED, self._clock(), "probes succeeded")
