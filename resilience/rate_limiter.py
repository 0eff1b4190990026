"""Rate limiter: `rate` permits per `interval` seconds, in bursts of up to `burst`.

`Schedule` is the arithmetic, without clock or lock; `RateLimiter` waits and shares.

>>> limiter = RateLimiter("polygon_api", rate=5, interval=60, burst=5, strict=True)
>>> [limiter.allow_request() for _ in range(6)]
[True, True, True, True, True, False]
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
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
from resilience.shared_limit import SharedLimit, SharedLimiter

_wait_in_context: ContextVar[int | None] = ContextVar("wait_in_context", default=None)


@contextmanager
def waiting_up_to(seconds: float) -> Iterator[None]:
    """In the block `execute` waits for up to `seconds`, whatever the limiter's `max_wait`."""
    token = _wait_in_context.set(to_ns(finite("seconds", seconds)))
    try:
        yield
    finally:
        _wait_in_context.reset(token)


class Ticket:
    """A reservation of n permits, or its refusal.

    Attributes:
        n: Number of permits.
        slot: Time from which they may be used (ns).
        end: TAT after this reservation.
        limit: Latest slot that the caller accepts (ns); None for any.
        granted: False if nothing is reserved.
    """

    __slots__ = ("end", "granted", "limit", "n", "slot")

    def __init__(self, n: int, slot: int, end: int, limit: int | None, granted: bool) -> None:
        self.n, self.slot, self.end, self.limit, self.granted = n, slot, end, limit, granted


class Schedule:
    """Slots for permits, first come first served. All times are monotonic ns.

    The generic cell rate algorithm (ITU-T I.371) in units of 1/rate ns, in which one permit lasts
    exactly `interval` ns, so that there is no rounding drift. With the theoretical arrival time
    TAT, a request for n permits at time t gives TAT' = max(TAT, t) + n·interval and is granted at
    max(t, TAT' - burst·interval): a token bucket without a refill step.

    >>> schedule = Schedule(rate=1, interval=10, burst=1, strict=False, keep_tickets=False, now=0)
    >>> schedule.reserve(1, now=0, max_wait=None) is None  # granted at once
    True
    >>> schedule.reserve(1, now=4, max_wait=None).slot
    10

    Args:
        rate: Permits per interval.
        interval: Nanoseconds.
        burst: Permits granted at once after idling.
        strict: Also never more than `rate` in any interval, by a log of the last interval's slots.
        keep_tickets: Return a ticket for permits granted at once, too, so they can be cancelled.
        now: The current time.

    Attributes:
        paused: Time until which nothing is granted; in the past if it is not paused.
        pending: Tickets whose slot has not come.
    """

    def __init__(
        self, rate: int, interval: int, burst: int, strict: bool, keep_tickets: bool, now: int
    ) -> None:
        self._rate, self._interval, self._strict = rate, interval, strict
        self._keep_tickets = keep_tickets or strict
        self._tolerance = burst * interval
        self._tat = now * rate
        self.paused = now
        self.pending: deque[Ticket] = deque()
        self._log: deque[Ticket] = deque()  # strict only: one entry per permit

    def reserve(self, n: int, now: int, max_wait: int | None) -> Ticket | None:
        """Reserve n permits; nothing if the wait would exceed `max_wait`.

        Returns:
            None if they are granted at once and no tickets are kept.
        """
        start = now if now > self.paused else self.paused
        if self._strict:
            start = self._earliest_start(n, start)
        arrival = start * self._rate
        end = (self._tat if self._tat > arrival else arrival) + n * self._interval
        slot = start
        if end - self._tolerance > arrival:
            slot = -((self._tolerance - end) // self._rate)  # rounded up
        if max_wait is not None and slot - now > max_wait:
            return Ticket(n, slot, end, None, False)
        self._tat = end
        if slot <= now and not self._keep_tickets:
            return None
        ticket = Ticket(n, slot, end, None if max_wait is None else now + max_wait, True)
        self._add(ticket, now)
        return ticket

    def cancel(self, ticket: Ticket) -> bool:
        """Undo the latest reservation. Returns False for others: later slots depend on them."""
        if not ticket.granted or ticket.end != self._tat:
            return False
        self._tat -= ticket.n * self._interval
        if self.pending and self.pending[-1] is ticket:
            self.pending.pop()
        while self._log and self._log[-1] is ticket:
            self._log.pop()
        return True

    def pause(self, now: int, until: int) -> bool:
        """Grant nothing before `until`. Returns False if it is paused as long already.

        All pending tickets are delayed by the same time, so that they do not come due at once.
        """
        resume = max(now, self.paused)
        if until <= resume:
            return False
        self.prune(now)
        if self.pending:
            delay = until - resume
            self._tat += delay * self._rate
            for ticket in self.pending:
                ticket.slot += delay
                ticket.end += delay * self._rate
        self.paused = until
        return True

    def resume(self, now: int) -> bool:
        """End a pause; pending tickets come due earlier by what was left. False without a pause."""
        early = self.paused - now
        if early <= 0:
            return False
        self.prune(now)
        if self.pending:
            self._tat -= early * self._rate
            for ticket in self.pending:
                ticket.slot -= early
                ticket.end -= early * self._rate
        self.paused = now
        return True

    def tokens(self, now: int) -> int:
        """Permits that are free at `now`, not counting a pause."""
        free = (self._tolerance - max(0, self._tat - now * self._rate)) // self._interval
        if self._strict:
            self._earliest_start(1, now)
            free = min(free, self._rate - len(self._log))
        return max(0, free)

    def prune(self, now: int) -> None:
        """Drop pending tickets whose slot has come."""
        while self.pending and self.pending[0].slot <= now:
            self.pending.popleft()

    def _add(self, ticket: Ticket, now: int) -> None:
        if ticket.slot > now:
            self.prune(now)
            self.pending.append(ticket)
        if self._strict:
            self._log.extend([ticket] * ticket.n)

    def _earliest_start(self, n: int, start: int) -> int:
        """The first time from `start` on at which n more permits keep to the rate."""
        log = self._log
        while log and log[0].slot <= start - self._interval:
            log.popleft()
        if log and log[-1].slot > start:  # a pause may have delayed it
            start = log[-1].slot
        excess = len(log) + n - self._rate
        return max(start, log[excess - 1].slot + self._interval) if excess > 0 else start


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
    """Grants permits in the order of reservation.

    Args:
        name: Name of the limiter.
        rate: Whole number of permits per interval.
        interval: Seconds.
        burst: Permits granted at once after idling.
        strict: Never grant more than `rate` in any interval (a token bucket alone grants a burst
            and the refill together); a burst is then at most `rate`.
        max_wait: Seconds that `execute` waits for a permit; None for no limit.
        shared: Store of a limit that several processes share, in addition to the local one.
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
        self._max_wait_ns = None if max_wait is None else to_ns(finite("max_wait", max_wait))
        self._shared: SharedLimit | None = None
        if shared is not None:
            limit = (self.rate, self.interval, self.burst, strict)
            self._shared = SharedLimit(shared, limit, clock, self._notify_shared)
        self._sleeper = sleeper or Sleeper(sleep, async_sleep)
        self._clear()

    def allow_request(self, n: int = 1) -> bool:
        """Take n permits if they are free now.

        Raises:
            ValueError: `n` is not between 1 and the burst.
        """
        ticket = self._reserve(n, 0)
        if ticket is None:
            return True
        wait = to_seconds(ticket.slot - self._clock())
        if ticket.granted:
            if self._shared is None:
                return True
            reservation = self._shared.reserve(self.name, n, 0.0)
            if reservation.granted:
                return True
            self._cancel(ticket)
            wait = reservation.wait
        self._notify_rejection(wait)
        return False

    def acquire(self, n: int = 1, timeout: float | None = None) -> None:
        """Wait for n permits, first come first served.

        Args:
            n: Number of permits.
            timeout: Seconds; None for no limit.

        Raises:
            RateLimited: At once, if the wait would exceed the timeout; nothing is reserved.
            ValueError: `n` is not between 1 and the burst.
        """
        max_wait = None if timeout is None else to_ns(finite("timeout", timeout))
        ticket = self._reserve(n, max_wait)
        if ticket is not None:
            self._await_permits(ticket)

    def execute(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Wait for a permit, then run `fn`. Raises RateLimited if it would exceed `max_wait`."""
        ticket = self._reserve(1, self._longest_wait())
        if ticket is not None:
            self._await_permits(ticket)
        result = fn(*args, **kwargs)
        if type(result) is CoroutineType:
            reject_coroutine(fn, result)
        return result

    async def execute_async(
        self, fn: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Like `execute`, for coroutine functions."""
        ticket = self._reserve(1, self._longest_wait())
        if ticket is not None:
            await self._await_permits_async(ticket)
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
                waiting=len(schedule.pending),
                granted_count=self._granted,
                rejected_count=self._rejected,
                paused_count=self._paused,
            )

    def _after_fork(self) -> None:
        super()._after_fork()
        self._schedule.pending.clear()  # the waiting threads do not exist in the child

    def _clear(self) -> None:
        interval, shared = duration_ns("interval", self.interval), self._shared is not None
        self._schedule = Schedule(
            self.rate, interval, self._max_permits, self.strict, shared, self._clock()
        )
        self._granted = self._rejected = self._paused = 0

    def _longest_wait(self) -> int | None:
        in_context = _wait_in_context.get()
        return self._max_wait_ns if in_context is None else in_context

    def _reserve(self, n: int, max_wait: int | None) -> Ticket | None:
        if not 1 <= n <= self._max_permits:
            raise ValueError(f"n must be from 1 to {self._max_permits} (the burst), got {n!r}")
        with self._lock:
            ticket = self._schedule.reserve(n, self._clock(), max_wait)
            if ticket is None or ticket.granted:
                self._granted += n
            else:
                self._rejected += 1
        return ticket

    def _await_permits(self, ticket: Ticket) -> None:
        self._wait_for_slot(ticket)
        if self._shared is not None:
            self._wait_for_slot(self._reserve_shared(self._shared, ticket))

    async def _await_permits_async(self, ticket: Ticket) -> None:
        await self._wait_for_slot_async(ticket)
        if self._shared is not None:
            shared_ticket = await asyncio.to_thread(self._reserve_shared, self._shared, ticket)
            await self._wait_for_slot_async(shared_ticket)

    def _reserve_shared(self, shared: SharedLimit, ticket: Ticket) -> Ticket:
        """The store's ticket, after the local one. Raises RateLimited if the store rejects."""
        now = self._clock()
        timeout = None if ticket.limit is None else to_seconds(ticket.limit - now)
        reservation = shared.reserve(self.name, ticket.n, timeout)
        if not reservation.granted:
            self._cancel(ticket)
            self._reject(reservation.wait)
        return Ticket(ticket.n, now + to_ns(reservation.wait), -1, None, True)

    def _cancel(self, ticket: Ticket) -> None:
        with self._lock:
            if self._schedule.cancel(ticket):
                self._granted -= ticket.n

    def _reject(self, wait: float) -> NoReturn:
        self._notify_rejection(wait)
        raise RateLimited(self.name, wait)

    def _wait_for_slot(self, ticket: Ticket) -> None:
        try:
            while (wait := self._seconds_left(ticket)) > 0:
                if not self._sleeper.sleep(wait):
                    self._reject(wait)
        except BaseException:
            self._cancel(ticket)
            raise

    async def _wait_for_slot_async(self, ticket: Ticket) -> None:
        try:
            while (wait := self._seconds_left(ticket)) > 0:
                if not await self._sleeper.sleep_async(wait):
                    self._reject(wait)
        except BaseException:
            self._cancel(ticket)
            raise

    def _seconds_left(self, ticket: Ticket) -> float:
        wait = to_seconds(ticket.slot - self._clock())
        # The limit is checked again, since a pause may have delayed the slot.
        if not ticket.granted or (ticket.limit is not None and ticket.slot > ticket.limit):
            self._reject(wait)
        return wait

    def _notify_shared(self, state: SharedState) -> None:
        self._listeners.notify(SharedLimitChanged(self.name, self._wall_clock(), state))
