"""The resilient call around every request to a vendor.

It runs Retry(CircuitBreaker(RateLimiter(Bulkhead(request)))). A rejection by one of these patterns,
or by the vendor's quota, becomes a Snooze: the item is tried later, without counting a retry.

A rate limiter serves what a person asked for before the night, and then whoever comes first. An
item that is sent away loses the pages it has. So an item that has an answer waits longer for its
next permit than one that has none.

>>> VendorProtection(connect_timeout=5, read_timeout=400, budget=300).timeouts()
(5, 300)
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from threading import Lock
from time import monotonic
from typing import TypeVar

from enrichment.domain.errors import (
    AccessDenied,
    Cancelled,
    ProviderUnavailable,
    QuotaExceeded,
    RequestRefused,
    Snooze,
    UnknownSymbol,
)
from enrichment.domain.statuses import SnoozeCause
from resilience import (
    BulkheadFull,
    CircuitOpen,
    Event,
    LimiterResumed,
    RateLimited,
    ResilienceError,
    ResilienceManager,
    SharedLimiter,
    State,
    remaining,
    waiting_up_to,
)

T = TypeVar("T")
DEFAULT_WAIT_SECONDS = 30.0
TEST_WAIT_SECONDS = 5.0  # for the outcome of a breaker's test call
_MAX_INTERACTIVE_WAIT = 12.0  # for the next permit; all others are spaced so that it is
_MAX_QUOTA_WAIT = 270.0  # max_wait and the permits of a minute: a longer wait is a pause
_NEXT_NIGHT = 12 * 3600.0  # without a 429, after which pauses begin anew
_BLOCK_ADVICE = "install market-enrichment[yahoo], or put another vendor first in PROVIDERS_…"
UNLIMITED_PER_MINUTE = 1_000_000


@dataclass(frozen=True, slots=True)
class VendorProtection:
    """The parameters of a vendor's resilience patterns; times in seconds."""

    failure_threshold: float = 0.5
    """Share of failed calls that opens the breaker."""
    recovery_timeout: float = 60.0
    """From the breaker's opening to its first test call."""
    max_retries: int = 3
    initial_delay: float = 1.0
    """Before the first retry; it doubles with each."""
    max_delay: float = 8.0
    deadline: float = 120.0
    """No retry starts later than this after the first attempt."""
    max_concurrent: int = 10
    """Requests at the same time."""
    budget: float = 300.0
    """For one request, from entering the bulkhead."""
    max_wait: float = 180.0
    """For an item's first permit of the rate limiter; a longer wait is a Snooze. At 5 requests a
    minute the threads of three workers wait, instead of claiming and returning items in turn."""
    max_wait_with_answers: float = 900.0
    """For its later permits."""
    first_pause: float = 60.0
    """After a 429 that names no time; it doubles with each one that follows."""
    max_pause: float = 3600.0
    block_pauses: tuple[float, ...] = (300.0, 3600.0, 28_800.0)
    """After each 429 in a night of a vendor whose 429 is a block; the last is the rest of it."""
    block_outage: float = 4500.0
    """Such a vendor that has not answered for so long is not waited for."""
    connect_timeout: float = 5.0
    read_timeout: float = 30.0

    def timeouts(self) -> tuple[float, float]:
        """(connect, read) of the next attempt, at most what is left of the budget."""
        seconds = remaining()
        budget = self.budget if seconds is None else max(seconds, 0.001)
        return min(self.connect_timeout, budget), min(self.read_timeout, budget)


class VendorGuard:
    """The resilient call of one vendor.

    Args:
        manager: Registers the patterns, under the name `{vendor}_api`.
        per_minute: The vendor's quota of requests, never exceeded in any minute. None: no quota,
            but a 429 still pauses the limiter.
        burst: Requests at once, the others of a minute evenly. None: all of them. What no person
            asked for is spaced so that another request finds a permit within 12 s.
        shared: Keeps the quota for all workers together. None: each process has its own.
        protection: Default: the parameters for production.
        blocks: Whether a 429 is a block for hours, which is failed over, and no used-up quota.
        breaker: Name of the breaker, for requests whose failures say nothing of the others. None:
            the one of the vendor.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        manager: ResilienceManager,
        vendor: str,
        *,
        per_minute: int | None,
        burst: int | None = None,
        shared: SharedLimiter | None = None,
        protection: VendorProtection | None = None,
        blocks: bool = False,
        breaker: str | None = None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self.protection = parameters = protection or VendorProtection()
        self._vendor = vendor
        name = f"{vendor}_api"
        rate = per_minute or UNLIMITED_PER_MINUTE
        self._breaker = manager.register_circuit_breaker(
            breaker or name,
            parameters.failure_threshold,
            parameters.recovery_timeout,
            ignore=(Cancelled, QuotaExceeded, AccessDenied, UnknownSymbol, RequestRefused),
        )
        limiter = manager.register_rate_limiter(
            name,
            rate,
            60,
            burst or rate,
            normal_burst=max(1, int(rate * _MAX_INTERACTIVE_WAIT / 60)),
            strict=per_minute is not None,
            max_wait=parameters.max_wait,
            shared=shared if per_minute is not None else None,
        )
        self._pipeline = manager.pipeline(
            retry=manager.register_retry_policy(
                name,
                parameters.max_retries,
                parameters.initial_delay,
                parameters.max_delay,
                deadline=parameters.deadline,
                retry_on=_is_transient,
            ),
            breaker=self._breaker,
            limiter=limiter,
            bulkhead=manager.register_bulkhead(name, parameters.max_concurrent, parameters.budget),
            pause_on=_pause_seconds,
        )
        self._block = _Block(vendor, parameters, clock) if blocks else None
        self._pause = self._block or _GrowingPause(
            parameters.first_pause, parameters.max_pause, clock
        )
        limiter.on(self._on_limiter)

    def __call__(self, request: Callable[[], T]) -> T:
        longer = self.protection.max_wait_with_answers
        if self._block is not None:
            self._block.require_over()
        try:
            with waiting_up_to(longer) if _has_answer.get() else nullcontext():
                answer = self._pipeline.execute(lambda: self._pause.applied(request))
        except (ResilienceError, QuotaExceeded) as exc:
            if self._block is not None:
                self._block.rejected(exc)
            if isinstance(exc, CircuitOpen) and self._breaker.status().state is not State.OPEN:
                # Another item's request tests right now whether the vendor is back.
                raise Snooze(str(exc), TEST_WAIT_SECONDS, SnoozeCause.CAPACITY) from exc
            wait = exc.retry_after or DEFAULT_WAIT_SECONDS
            raise Snooze(self._reason(exc, wait), wait, _cause(exc)) from exc
        _has_answer.set(True)
        return answer

    def _reason(self, exc: Exception, wait: float) -> str:
        if isinstance(exc, RateLimited):
            paused = wait > _MAX_QUOTA_WAIT
            return f"{self._vendor} asked to wait" if paused else f"quota of {self._vendor}"
        if isinstance(exc, CircuitOpen):
            error = "" if exc.last_error is None else f" (last error: {exc.last_error})"
            return f"breaker of {self._vendor} is open{error}"
        return str(exc) if isinstance(exc, ResilienceError) else f"{self._vendor}: {exc}"

    def _on_limiter(self, event: Event) -> None:
        if isinstance(event, LimiterResumed):
            self._pause.end()


class _GrowingPause:
    """How long to wait after a 429 without Retry-After: longer each time, until an answer."""

    def __init__(self, first: float, longest: float, clock: Callable[[], float]) -> None:
        self._first, self._longest, self._clock = first, longest, clock
        self._lock = Lock()
        self._next, self._until = first, clock()

    def applied(self, request: Callable[[], T]) -> T:
        """The request's answer; a QuotaExceeded leaves with the seconds to wait."""
        try:
            answer = request()
        except QuotaExceeded as exc:
            if exc.retry_after is None:
                exc.retry_after = self._seconds()
            raise
        with self._lock:
            if self._clock() >= self._until:
                self._next = self._first
        return answer

    def end(self) -> None:
        with self._lock:
            self._next, self._until = self._first, self._clock()

    def _seconds(self) -> float:
        """The rest of the pause; a new one if none is running."""
        with self._lock:
            now = self._clock()
            if now >= self._until:
                self._until = now + self._next
                self._next = min(2 * self._next, self._longest)
            return self._until - now


class _Block:
    """The pauses of a vendor that turns clients away, by their looks or their address, for hours.

    While one lasts, other vendors are asked. What has no other vendor waits, except in the last
    pause, in which it fails at once, so that the night ends.
    """

    def __init__(self, vendor: str, limits: VendorProtection, clock: Callable[[], float]) -> None:
        self._vendor, self._limits, self._clock = vendor, limits, clock
        self._lock = Lock()
        self._pauses = 0  # in this night
        self._until = clock()
        self._failing_since: float | None = None

    def applied(self, request: Callable[[], T]) -> T:
        """The request's answer; a QuotaExceeded begins a pause, and leaves with its seconds."""
        try:
            answer = request()
        except QuotaExceeded as exc:
            exc.retry_after = self._begin(exc.retry_after or 0.0)
            raise
        self._failing_since = None
        return answer

    def end(self) -> None:
        with self._lock:
            self._pauses, self._until = 0, self._clock()

    def require_over(self) -> None:
        """Raise what stands for the running pause."""
        seconds = self._until - self._clock()
        if seconds <= 0:
            return
        about = f"{self._vendor} turned this address away (429)"
        if self._pauses < len(self._limits.block_pauses):
            raise Snooze(f"{about}: asked again later", seconds, SnoozeCause.OUTAGE)
        raise AccessDenied(
            f"{about} {self._pauses} times: not asked for {seconds / 3600:.1f} h; {_BLOCK_ADVICE}"
        )

    def rejected(self, exc: Exception) -> None:
        """Raise what stands for a request that was not answered, if that is due to a block."""
        if isinstance(exc, RateLimited) and (exc.retry_after or 0.0) > _MAX_QUOTA_WAIT:
            with self._lock:  # another worker was turned away
                self._until = max(self._until, self._clock() + (exc.retry_after or 0.0))
                self._pauses = max(self._pauses, 1)
        self.require_over()
        if isinstance(exc, CircuitOpen) and exc.retry_after is not None:
            self._failing_since = self._failing_since or self._clock()
            if self._clock() - self._failing_since > self._limits.block_outage:
                raise ProviderUnavailable(f"{self._vendor} does not answer; {exc}") from exc

    def _begin(self, retry_after: float) -> float:
        """Seconds of the running pause; of a new one if there is none."""
        with self._lock:
            now, pauses = self._clock(), self._limits.block_pauses
            if now >= self._until + _NEXT_NIGHT:
                self._pauses = 0
            if now >= self._until:
                seconds = pauses[min(self._pauses, len(pauses) - 1)]
                self._until = now + max(seconds, retry_after)
                self._pauses += 1
            return self._until - now


_has_answer: ContextVar[bool] = ContextVar("has_answer", default=False)
"""Whether a vendor has answered in this context; each item of a worker runs in one of its own."""


def _cause(exc: Exception) -> SnoozeCause:
    if isinstance(exc, CircuitOpen):
        return SnoozeCause.OUTAGE
    return SnoozeCause.CAPACITY if isinstance(exc, BulkheadFull) else SnoozeCause.QUOTA


def _is_transient(exc: Exception) -> bool:
    """Whether an immediate retry can help; an exhausted quota needs a longer wait."""
    return isinstance(exc, ProviderUnavailable) and not isinstance(exc, QuotaExceeded)


def _pause_seconds(exc: Exception) -> float | None:
    """For how long all threads stop calling the vendor.

    None: no pause.
    """
    return (exc.retry_after or 0.0) if isinstance(exc, QuotaExceeded) else None
