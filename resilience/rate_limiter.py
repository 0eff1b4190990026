"""Rate limiter: `rate` permits per `interval` seconds, bursts of up to `burst`.

The arithmetic is in `resilience.gcra`; here are waiting, pausing and the shared store.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import CoroutineType
from typing import ClassVar, NoReturn

from resilience.checks import number, span, whole
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
from resilience.events import LimiterPaused, SharedLimitChanged
from resilience.gcra import Schedule, Ticket
from resilience.pattern import P, Pattern, Status, T, await_result, reject_coroutine
from resilience.shared_limit import SharedLimit, SharedLimiter, SharedState


@dataclass(frozen=True, slots=True)
class RateLimiterStatus(Status):
    """tokens: permits free now, a pause aside; waiting: reservations whose time has not come;
    paused_count: how often it was told to pause.
    """

    kind: ClassVar[str] = "rate_limiter"
    rate: int
    interval: float
    burst: int
    tokens: int
    paused_until: datetime | None
    shared: SharedState | None
    strict: bool
    waiting: int
    granted_count: int
    rejected_count: int
    paused_count: int


class RateLimiter(Pattern):
    """Grants permits in the order of reservation.

    rate: whole permits per `interval` seconds; burst: permits at once after idling.
    strict: also never more than `rate` in any interval (a bucket alone lets a burst and the
        refill pass together); a burst is then at most `rate`.
    max_wait: seconds that `execute` waits for a permit; None waits as long as it takes.
    shared: a store that several processes reserve from, in addition to the local limit.
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
        self.rate, self.burst, self.strict = whole("rate", rate), whole("burst", burst), strict
        self.interval = number("interval", interval, above=0)
        self._most = min(self.rate, self.burst) if strict else self.burst
        self._patience = None if max_wait is None else to_ns(number("max_wait", max_wait))
        self._shared: SharedLimit | None = None
        if shared is not None:
            limit = (self.rate, self.interval, self.burst, strict)
            self._shared = SharedLimit(shared, limit, clock, self._announce_shared)
        self._sleeper = sleeper or Sleeper(sleep, async_sleep)
        self._clear()

    def allow_request(self, n: int = 1) -> bool:
        """Take n permits if they are free now. n outside 1 … burst is a ValueError."""
        ticket = self._reserve(n, 0)
        if ticket is None:
            return True
        wait = to_seconds(ticket.slot - self._clock())
        if ticket.granted:
            if self._shared is None:
                return True
            answer = self._shared.reserve(self.name, n, 0.0)
            if answer.granted:
                return True
            self._give_back(ticket)
            wait = answer.wait
        self._announce_rejection(wait)
        return False

    def acquire(self, n: int = 1, timeout: float | None = None) -> None:
        """Wait for n permits, first come first served.

        timeout: seconds; where the wait would be longer, RateLimited is raised at once and
        nothing is reserved. None waits as long as it takes.
        """
        ticket = self._reserve(n, _patience(timeout))
        if ticket is not None:
            self._redeem(ticket)

    async def acquire_async(self, n: int = 1, timeout: float | None = None) -> None:
        """`acquire` without blocking the event loop."""
        ticket = self._reserve(n, _patience(timeout))
        if ticket is not None:
            await self._redeem_async(ticket)

    def execute(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Acquire one permit, waiting at most `max_wait`, then run `fn`."""
        ticket = self._reserve(1, self._patience)
        if ticket is not None:
            self._redeem(ticket)
        result = fn(*args, **kwargs)
        if type(result) is CoroutineType:
            reject_coroutine(fn, result)
        return result

    async def execute_async(
        self, fn: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """`execute` for coroutine functions."""
        ticket = self._reserve(1, self._patience)
        if ticket is not None:
            await self._redeem_async(ticket)
        return await await_result(fn, *args, **kwargs)

    def pause(self, seconds: float) -> None:
        """Grant nothing for `seconds` (a vendor's Retry-After); a longer pause stays in force.

        Those already waiting keep their order and their distances.
        """
        seconds = min(number("seconds", seconds), MAX_SECONDS)
        length = to_ns(seconds)
        with self._lock:
            now = self._clock()
            self._paused += 1
            begun = self._schedule.pause(now, now + length)
        if begun:
            at = self._wall_clock()
            until = at + timedelta(seconds=seconds)
            self._listeners.notify(LimiterPaused(self.name, at, seconds, until))

    def reset(self) -> None:
        """Fill the bucket, end a pause, zero the counts; those waiting keep their slots."""
        with self._lock:
            self._clear()

    def status(self) -> RateLimiterStatus:
        """The state now."""
        with self._lock:
            now, schedule = self._clock(), self._schedule
            schedule.prune(now)
            left = to_seconds(schedule.paused - now)
            return RateLimiterStatus(
                name=self.name,
                rate=self.rate,
                interval=self.interval,
                burst=self.burst,
                tokens=schedule.tokens(now),
                paused_until=self._wall_clock() + timedelta(seconds=left) if left else None,
                shared=self._shared.state if self._shared else None,
                strict=self.strict,
                waiting=len(schedule.pending),
                granted_count=self._granted,
                rejected_count=self._rejected,
                paused_count=self._paused,
            )

    def _after_fork(self) -> None:
        super()._after_fork()
        self._schedule.pending.clear()  # those who waited do not exist in the child

    def _clear(self) -> None:
        interval, keep = span("interval", self.interval), self._shared is not None
        self._schedule = Schedule(self.rate, interval, self._most, self.strict, keep, self._clock())
        self._granted = self._rejected = self._paused = 0

    def _reserve(self, n: int, patience: int | None) -> Ticket | None:
        if not 1 <= n <= self._most:
            raise ValueError(f"n must be from 1 to {self._most} (the burst), got {n!r}")
        with self._lock:
            ticket = self._schedule.reserve(n, self._clock(), patience)
            if ticket is None or ticket.granted:
                self._granted += n
            else:
                self._rejected += 1
        return ticket

    def _redeem(self, ticket: Ticket) -> None:
        self._wait_for_turn(ticket)
        if self._shared is not None:
            self._wait_for_turn(self._claim_shared(self._shared, ticket))

    async def _redeem_async(self, ticket: Ticket) -> None:
        await self._sit_async(ticket)
        if self._shared is not None:
            shared = await asyncio.to_thread(self._claim_shared, self._shared, ticket)
            await self._sit_async(shared)

    def _claim_shared(self, shared: SharedLimit, ticket: Ticket) -> Ticket:
        """The store's ticket in addition to the local one; RateLimited if it refuses."""
        now = self._clock()
        left = None if ticket.limit is None else to_seconds(ticket.limit - now)
        answer = shared.reserve(self.name, ticket.n, left)
        if not answer.granted:
            self._give_back(ticket)
            self._reject(answer.wait)
        return Ticket(ticket.n, now + to_ns(answer.wait), -1, None, True)

    def _give_back(self, ticket: Ticket) -> None:
        with self._lock:
            if self._schedule.cancel(ticket):
                self._granted -= ticket.n

    def _reject(self, wait: float) -> NoReturn:
        self._announce_rejection(wait)
        raise RateLimited(self.name, wait)

    def _wait_for_turn(self, ticket: Ticket) -> None:
        try:
            while (wait := self._seconds_left(ticket)) > 0:
                if not self._sleeper.sleep(wait):
                    self._reject(wait)
        except BaseException:
            self._give_back(ticket)
            raise

    async def _sit_async(self, ticket: Ticket) -> None:
        try:
            while (wait := self._seconds_left(ticket)) > 0:
                if not await self._sleeper.sleep_async(wait):
                    self._reject(wait)
        except BaseException:
            self._give_back(ticket)
            raise

    def _seconds_left(self, ticket: Ticket) -> float:
        wait = to_seconds(ticket.slot - self._clock())
        # Not in time from the start, or no longer, as a pause came in between.
        if not ticket.granted or (ticket.limit is not None and ticket.slot > ticket.limit):
            self._reject(wait)
        return wait

    def _announce_shared(self, state: SharedState) -> None:
        self._listeners.notify(SharedLimitChanged(self.name, self._wall_clock(), state))


def _patience(timeout: float | None) -> int | None:
    return None if timeout is None else to_ns(number("timeout", timeout))
