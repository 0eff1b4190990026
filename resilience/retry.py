"""Retry with capped exponential backoff, jitter, a deadline and a budget.

Delay before retry k (from 0): cap = min(max_delay, initial_delay · multiplier^k), then jitter
full: U(0, cap); equal: cap/2 + U(0, cap/2); none: cap. Source: M. Brooker, "Exponential
Backoff And Jitter" (AWS). The budget is gRPC's retry throttling (gRFC A6): a retry costs 1, a
success returns 0.1, and without a whole token nothing is retried.

>>> policy = RetryPolicy("vendor", initial_delay=1.0, backoff_multiplier=2.0, max_delay=60.0)
>>> [policy.backoff(retry) for retry in range(8)]
[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]
"""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from math import isfinite
from types import CoroutineType
from typing import Any, ClassVar, Literal

from resilience.checks import finite, optional_duration_ns, whole_number
from resilience.clock import AsyncSleep, Clock, Rng, Sleep, Sleeper, WallClock, to_ns, utc_now
from resilience.errors import ResilienceError
from resilience.events import RetriesStopped, RetryScheduled, StopReason
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

Jitter = Literal["full", "equal", "none"]

_JITTER: dict[str, Callable[[float, Rng], float]] = {
    "full": lambda cap, rng: cap * rng(),
    "equal": lambda cap, rng: cap / 2 + cap / 2 * rng(),
    "none": lambda cap, rng: cap,
}


def retry_after_of(error: Exception, wall_clock: WallClock = utc_now) -> float | None:
    """Seconds that a server asks to wait, or None.

    Reads `error.retry_after` (seconds), else the Retry-After header of `error.response`
    (RFC 9110: seconds or an HTTP-date; a past date is 0). None for malformed values.
    """
    requested = getattr(error, "retry_after", None)
    if requested is None:
        headers = getattr(getattr(error, "response", None), "headers", None) or {}
        requested = headers.get("Retry-After") or headers.get("retry-after")
    try:
        seconds = float(requested)  # type: ignore[arg-type]  # other types raise TypeError
    except (TypeError, ValueError):
        return _seconds_until(requested, wall_clock) if isinstance(requested, str) else None
    return max(0.0, seconds) if isfinite(seconds) else None


def _seconds_until(date: str, wall_clock: WallClock) -> float | None:
    try:
        moment = parsedate_to_datetime(date)
    except ValueError:
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, (moment - wall_clock()).total_seconds())


@dataclass(frozen=True, slots=True)
class RetryStatus(Status):
    """State of a retry policy."""

    kind: ClassVar[str] = "retry"
    max_retries: int
    retry_count: int
    stopped_count: int
    """Calls no longer retried because of attempts, deadline or budget."""
    budget: float
    """Tokens left."""
    last_error: str | None
    last_retry_at: datetime | None


class RetryPolicy(Pattern):
    """Repeats a call after an error; in the end its last error is raised as it is.

    Args:
        name: Name of the policy.
        max_retries: Calls after the first one; 3 makes four calls in all.
        initial_delay: Seconds before the first retry.
        max_delay: Seconds; does not limit a server's Retry-After.
        backoff_multiplier: Factor from one delay to the next.
        jitter: "full", "equal" or "none"; see above.
        retry_on: Exception classes or a predicate; other errors are raised at once.
        retry_rejections: Also retry this package's rejections that have a `retry_after`.
        retry_result: Predicate of returned values to retry; in the end the last one is returned.
        delay_from: Maps an error to the seconds to wait instead of the backoff, or None.
        deadline: Seconds from the first call; a delay that would reach it is not started.
        budget: Whole number of tokens, shared by all calls of this policy.
        clock, wall_clock, sleep, async_sleep, rng: See `resilience.clock`.
        sleeper: Used instead of `sleep` and `async_sleep`; its `close()` interrupts sleeps, whose
            calls then raise their last error.
    """

    kind = "retry"

    def __init__(
        self,
        name: str,
        max_retries: int = 3,
        initial_delay: float = 1.0,
        max_delay: float = 60.0,
        backoff_multiplier: float = 2.0,
        *,
        jitter: Jitter = "full",
        retry_on: ErrorFilter = (Exception,),
        retry_rejections: bool = False,
        retry_result: Callable[[Any], bool] | None = None,
        delay_from: Callable[[Exception], float | None] = retry_after_of,
        deadline: float | None = None,
        budget: int = 100,
        clock: Clock = time.monotonic_ns,
        wall_clock: WallClock = utc_now,
        sleep: Sleep | None = None,
        async_sleep: AsyncSleep | None = None,
        rng: Rng = random.random,
        sleeper: Sleeper | None = None,
    ) -> None:
        super().__init__(name, clock, wall_clock)
        self.max_retries = whole_number("max_retries", max_retries, minimum=0)
        self._initial = float(finite("initial_delay", initial_delay))
        self._cap = float(finite("max_delay", max_delay))
        self._multiplier = float(finite("backoff_multiplier", backoff_multiplier, above=0))
        if jitter not in _JITTER:
            raise ValueError(f"jitter must be one of {', '.join(_JITTER)}, got {jitter!r}")
        self._jitter, self._rng = _JITTER[jitter], rng
        self._retry_on, self._retry_rejections = matcher(retry_on), retry_rejections
        self._retry_result = retry_result
        is_default = delay_from is retry_after_of
        self._delay_from = (
            partial(retry_after_of, wall_clock=wall_clock) if is_default else delay_from
        )
        self._deadline = optional_duration_ns("deadline", deadline)
        self._budget = 10 * whole_number("budget", budget, minimum=0)  # in tenths, exact
        self._sleeper = sleeper or Sleeper(sleep, async_sleep)
        self._clear()

    def execute(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `fn` until it succeeds or is not retried; then raise or return its last outcome."""
        started = 0 if self._deadline is None else self._clock()
        attempt = 0
        while True:
            try:
                result = fn(*args, **kwargs)
            except Exception as error:
                delay = self._delay_after_error(error, attempt, started)
                if delay is None or not self._sleeper.sleep(delay):
                    raise
            else:
                if type(result) is CoroutineType:
                    reject_coroutine(fn, result)
                if self._retry_result is None and self._tokens >= self._budget:
                    return result
                delay = self._delay_after_result(result, attempt, started)
                if delay is None or not self._sleeper.sleep(delay):
                    return result
            attempt += 1

    async def execute_async(
        self, fn: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Like `execute`, for coroutine functions; a cancellation is not retried."""
        started = 0 if self._deadline is None else self._clock()
        attempt = 0
        while True:
            try:
                result = await await_result(fn, *args, **kwargs)
            except Exception as error:
                delay = self._delay_after_error(error, attempt, started)
                if delay is None or not await self._sleeper.sleep_async(delay):
                    raise
            else:
                delay = self._delay_after_result(result, attempt, started)
                if delay is None or not await self._sleeper.sleep_async(delay):
                    return result
            attempt += 1

    def backoff(self, retry: int) -> float:
        """Seconds before retry number `retry` (from 0), without jitter."""
        try:
            return min(self._cap, self._initial * self._multiplier**retry)
        except OverflowError:
            return self._cap

    def reset(self) -> None:
        """Fill the budget and zero the counts."""
        with self._lock:
            self._clear()

    def status(self) -> RetryStatus:
        """The current state."""
        last_error = safe_repr(self._last_error)
        with self._lock:
            return RetryStatus(
                name=self.name,
                max_retries=self.max_retries,
                retry_count=self._retries,
                stopped_count=self._stopped,
                budget=self._tokens / 10,
                last_error=last_error,
                last_retry_at=self._last_retry_at,
            )

    def _clear(self) -> None:
        self._tokens = self._budget
        self._retries = self._stopped = 0
        self._last_error: Exception | None = None
        self._last_retry_at: datetime | None = None

    def _delay_after_result(self, result: object, attempt: int, started: int) -> float | None:
        if self._retry_result is not None and self._retry_result(result):
            return self._schedule_retry(None, attempt, started, self._jittered_delay(attempt))
        if self._tokens < self._budget:
            with self._lock:
                self._tokens = min(self._budget, self._tokens + 1)
        return None

    def _delay_after_error(self, error: Exception, attempt: int, started: int) -> float | None:
        """Seconds to wait before the next attempt, or None to raise the error."""
        if isinstance(error, ResilienceError):
            if not self._retry_rejections or error.retry_after is None:
                return None
            return self._schedule_retry(error, attempt, started, error.retry_after)
        if not self._retry_on(error):
            return None
        requested = self._delay_from(error)
        return self._schedule_retry(
            error,
            attempt,
            started,
            self._jittered_delay(attempt) if requested is None else max(0.0, requested),
        )

    def _jittered_delay(self, attempt: int) -> float:
        return self._jitter(self.backoff(attempt), self._rng)

    def _schedule_retry(
        self, error: Exception | None, attempt: int, started: int, delay: float
    ) -> float | None:
        too_late = self._deadline is not None and (
            self._clock() - started + to_ns(delay) >= self._deadline
        )
        with self._lock:
            reason = self._stop_reason(attempt, too_late)
            self._last_error, self._last_retry_at = error, self._wall_clock()
            if reason is None:
                self._tokens -= 10
                self._retries += 1
            else:
                self._stopped += 1
        notify, at = self._listeners.notify, self._last_retry_at
        if reason is None:
            notify(RetryScheduled(self.name, at, attempt + 1, delay, error))
            return delay
        notify(RetriesStopped(self.name, at, attempt + 1, reason, error))
        return None

    def _stop_reason(self, attempt: int, too_late: bool) -> StopReason | None:
        if attempt >= self.max_retries:
            return "attempts"
        if too_late:
            return "deadline"
        return "budget" if self._tokens < 10 else None
