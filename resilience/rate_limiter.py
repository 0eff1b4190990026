"""Rate limiter: `rate` permits per `interval` seconds, in bursts of up to `burst`.

`resilience.schedule` is the arithmetic, without clock or lock; `RateLimiter` waits and shares.

>>> limiter = RateLimiter("polygon_api", rate=5, interval=60, burst=5, strict=True)
>>> [limiter.allow_request() for _ in range(6)]
[True, True, True, True, True, False]
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Generator, Iterator
from contextlib import closing, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import CoroutineType
from typing import ClassVar, NoReturn

from resilience.checks import duration_ns, finite, whole_number
from resilience.clock import (
    MAX_SECONDS,
    AsyncSleep,
    Clock,
    Sleep,
    Sleeper,
    WallClock,
    to_ns,
    to_seconds,
    utc_now,
)
from resilience.errors import RateLimited
from resilience.events import LimiterPaused, LimiterResumed, SharedLimitChanged, SharedState
from resilience.pattern import P, Pattern, Status, T, await_result, reject_coroutine
from resilience.priority import current_priority
from resilience.schedule import Schedule, Ticket
from resilience.shared_limit import Limit, SharedLimit, SharedLimiter

Waits = Generator[float, None, None]

_wait_in_context: ContextVar[int | None] = ContextVar("wait_in_context", default=None)


@contextmanager
def waiting_up_to(seconds: float) -> Iterator[None]:
    """In the block `execute` waits for up to `seconds`, whatever the limiter's `max_wait`."""
    token = _wait_in_context.set(to_ns(finite("seconds", seconds)))
    try:
        yield
    finally:
        _wait_in_context.reset(token)


@dataclass(frozen=True, slots=True)
class RateLimiterStatus(Status):
    """State of a rate limiter."""

    kind: ClassVar[str] = "rate_limiter"
    rate: int
    interval: float
    burst: int
    tokens: int
    """Permits that are free now, not counting a pause."""
    paused_until: datetime | None
    shared: SharedState | None
    """None without a shared store."""
    strict: bool
    waiting: int
    """Reservations whose slot has not come."""
    granted_count: int
    rejected_count: int
    paused_count: int


class RateLimiter(Pattern):
    """Grants permits in the order of reservation; first to calls in `with_priority(HIGH)`.

    A call of high priority takes the next permit that is neither granted nor reserved with high
    priority. Waiting calls of normal priority keep their order and come later by as many permits
    as were taken, and are rejected if that exceeds their timeout.

    Args:
        name: Name of the limiter.
        rate: Whole number of permits per interval.
        interval: Seconds.
        burst: Permits granted at once after idling.
        normal_burst: The same for calls of normal priority; default: as many. While only these
            use up the rate, a call of high priority waits at most normal_burst·interval/rate.
        strict: Never grant more than `rate` in any interval (a token bucket alone grants a burst
            and the refill together); a burst is then at most `rate`.
        max_wait: Seconds that `execute` waits for a permit; None for no limit.
        shared: Store of a limit that several processes share. While it is unavailable, this
            process keeps to the limit by itself.
        clock, wall_clock, sleep, async_sleep: See `resilience.clock`.
        sleeper: Used instead of `sleep` and `async_sleep`; its `close()` interrupts waits.
    """

    kind = "rate_limiter"

    def __init__(
        self,
        name: str,
        rate: int = 100,
        interval: float = 60,
        burst: int = 150,
        *,
        normal_burst: int | None = None,
        strict: bool = False,
        max_wait: float | None = None,
        shared: SharedLimiter | None = None,
        clock: Clock = time.monotonic_ns,
        wall_clock: WallClock = utc_now,
        sleep: Sleep | None = None,
        async_sleep: AsyncSleep | None = None,
        sleeper: Sleeper | None = None,
    ) -> None:
        super().__init__(name, clock, wall_clock)
        self.rate, self.burst, self.strict = (
            whole_number("rate", rate),
            whole_number("burst", burst),
            strict,
        )
        self.interval = finite("interval", interval, above=0)
        self._max_permits = min(self.rate, self.burst) if strict else self.burst
        self.normal_burst = self._max_permits
        if normal_burst is not None:
            self.normal_burst = min(whole_number("normal_burst", normal_burst), self._max_permits)
        self._max_wait_ns = None if max_wait is None else to_ns(finite("max_wait", max_wait))
        self._shared: SharedLimit | None = None
        if shared is not None:
            limit = Limit(self.rate, self.interval, self.burst, self.normal_burst, strict)
            self._shared = SharedLimit(shared, name, limit, clock, self._notify_shared)
        self._awaiting_shared = 0
        self._sleeper = sleeper or Sleeper(sleep, async_sleep)
        self._clear()

    def allow_request(self, n: int = 1) -> bool:
        """Take n permits if they are free now.

        Raises:
            ValueError: `n` is not between 1 and the burst.
        """
        try:
            self._take(n, 0)
        except RateLimited:
            return False
        return True

    def acquire(self, n: int = 1, timeout: float | None = None) -> None:
        """Wait for n permits, first come first served within a priority.

        Args:
            n: Number of permits.
            timeout: Seconds; None for no limit.

        Raises:
            RateLimited: At once, if the wait would exceed the timeout; nothing is reserved.
            ValueError: `n` is not between 1 and the burst.
        """
        self._take(n, None if timeout is None else to_ns(finite("timeout", timeout)))

    def execute(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Wait for a permit, then run `fn`. Raises RateLimited if it would exceed `max_wait`."""
        self._take(1, self._longest_wait())
        result = fn(*args, **kwargs)
        if type(result) is CoroutineType:
            reject_coroutine(fn, result)
        return result

    async def execute_async(
        self, fn: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Like `execute`, for coroutine functions."""
        await self._take_async(1, self._longest_wait())
        return await await_result(fn, *args, **kwargs)

    def pause(self, seconds: float) -> None:
        """Grant nothing for `seconds`, such as a vendor's Retry-After.

        A longer pause stays in force. Waiting callers keep their order and their intervals.
        """
        seconds = min(finite("seconds", seconds), MAX_SECONDS)
        length = to_ns(seconds)
        with self._lock:
            now = self._clock()
            self._paused += 1
            extended = self._schedule.pause(now, now + length)
        if extended:
            at = self._wall_clock()
            until = at + timedelta(seconds=seconds)
            self._listeners.notify(LimiterPaused(self.name, at, seconds, until))

    def resume(self) -> None:
        """End a pause. Nothing else changes: what was granted still counts."""
        with self._lock:
            resumed = self._schedule.resume(self._clock())
        if resumed:
            self._listeners.notify(LimiterResumed(self.name, self._wall_clock()))

    def reset(self) -> None:
        """Fill the bucket, end a pause and zero the counts; waiting callers keep their slots."""
        with self._lock:
            self._clear()

    def status(self) -> RateLimiterStatus:
        """The current state."""
        with self._lock:
            now, schedule = self._clock(), self._schedule
            schedule.prune(now)
            pause = to_seconds(schedule.paused - now)
            return RateLimiterStatus(
                name=self.name,
                rate=self.rate,
                interval=self.interval,
                burst=self.burst,
                tokens=schedule.tokens(now),
                paused_until=self._wall_clock() + timedelta(seconds=pause) if pause else None,
                shared=self._shared.state if self._shared else None,
                strict=self.strict,
                waiting=len(schedule.pending) + self._awaiting_shared,
                granted_count=self._granted,
                rejected_count=self._rejected,
                paused_count=self._paused,
            )

    def _after_fork(self) -> None:
        super()._after_fork()
        self._schedule.forget_pending()  # the waiting threads do not exist in the child
        self._awaiting_shared = 0

    def _clear(self) -> None:
        self._schedule = Schedule(
            self.rate,
            duration_ns("interval", self.interval),
            self._max_permits,
            normal_burst=self.normal_burst,
            strict=self.strict,
            now=self._clock(),
        )
        self._granted = self._rejected = self._paused = 0

    def _longest_wait(self) -> int | None:
        in_context = _wait_in_context.get()
        return self._max_wait_ns if in_context is None else in_context

    def _take(self, n: int, max_wait: int | None) -> None:
        """Wait for n permits. Raises RateLimited if it would take longer than `max_wait` (ns)."""
        if self._shared is None:
            ticket = self._reserve(n, max_wait)
            if ticket is None:
                return
            waits = self._local_waits(ticket)
        else:
            waits = self._shared_waits(self._shared, n, max_wait)
        with closing(waits):
            for wait in waits:
                if not self._sleeper.sleep(wait):
                    self._reject(wait)

    async def _take_async(self, n: int, max_wait: int | None) -> None:
        if self._shared is None:
            ticket = self._reserve(n, max_wait)
            if ticket is None:
                return
            waits = self._local_waits(ticket)
        else:
            waits = self._shared_waits(self._shared, n, max_wait)
        with closing(waits):
            while (wait := await self._next_wait(waits)) is not None:
                if not await self._sleeper.sleep_async(wait):
                    self._reject(wait)

    async def _next_wait(self, waits: Waits) -> float | None:
        if self._shared is None:
            return next(waits, None)
        return await asyncio.to_thread(next, waits, None)

    def _reserve(self, n: int, max_wait: int | None) -> Ticket | None:
        if not 1 <= n <= self._max_permits:
            raise ValueError(f"n must be from 1 to {self._max_permits} (the burst), got {n!r}")
        with self._lock:
            ticket = self._schedule.reserve(n, self._clock(), max_wait, current_priority())
            if ticket is None or ticket.granted:
                self._granted += n
            else:
                self._rejected += 1
        return ticket

    def _local_waits(self, ticket: Ticket) -> Waits:
        """The seconds to sleep until a reservation comes due.

        Closing the generator before its end cancels it where that is possible.
        """
        if not ticket.granted:
            self._reject(to_seconds(ticket.slot - self._clock()))
        try:
            while (wait := self._seconds_left(ticket)) > 0:
                yield wait
        except BaseException:
            self._cancel(ticket)
            raise

    def _shared_waits(self, shared: SharedLimit, n: int, max_wait: int | None) -> Waits:
        if not 1 <= n <= self._max_permits:
            raise ValueError(f"n must be from 1 to {self._max_permits} (the burst), got {n!r}")
        limit = None if max_wait is None else self._clock() + max_wait
        with self._lock:
            self._awaiting_shared += 1
        try:
            granted = yield from self._await_store(shared, n, limit)
        finally:
            with self._lock:
                self._awaiting_shared -= 1
        if not granted:
            left = None if limit is None else max(0, limit - self._clock())
            ticket = self._reserve(n, left)
            if ticket is not None:
                yield from self._local_waits(ticket)

    def _await_store(
        self, shared: SharedLimit, n: int, limit: int | None
    ) -> Generator[float, None, bool]:
        """The waits for n permits of the store. Returns False if it is unavailable."""
        while True:
            yield from self._pause_waits(limit)
            timeout = None if limit is None else to_seconds(limit - self._clock())
            answer = shared.reserve(n, current_priority(), timeout)
            while answer is not None and answer.granted and answer.wait > 0:
                yield answer.wait
                if answer.ticket is None:
                    break
                answer = shared.confirm(answer.ticket)
            if answer is None:
                return False
            with self._lock:
                now = self._clock()
                if not answer.granted:
                    self._rejected += 1
                elif now >= self._schedule.paused:
                    self._schedule.record(n, now)
                    self._granted += n
                    return True
            if not answer.granted:
                self._reject(answer.wait)

    def _pause_waits(self, limit: int | None) -> Waits:
        """The wait for the end of a pause of this process."""
        while (until := self._schedule.paused) > (now := self._clock()):
            if limit is not None and until > limit:
                with self._lock:
                    self._rejected += 1
                self._reject(to_seconds(until - now))
            yield to_seconds(until - now)

    def _cancel(self, ticket: Ticket) -> None:
        with self._lock:
            if self._schedule.cancel(ticket) or not ticket.granted:
                self._granted -= ticket.n

    def _reject(self, wait: float) -> NoReturn:
        self._notify_rejection(wait)
        raise RateLimited(self.name, wait)

    def _seconds_left(self, ticket: Ticket) -> float:
        wait = to_seconds(ticket.slot - self._clock())
        # Checked again, since a pause or a call of high priority may have delayed the slot.
        if not ticket.granted or (ticket.limit is not None and ticket.slot > ticket.limit):
            self._reject(wait)
        return wait

    def _notify_shared(self, state: SharedState) -> None:
        self._listeners.notify(SharedLimitChanged(self.name, self._wall_clock(), state))
