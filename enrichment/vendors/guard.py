"""A vendor's protection: Retry(CircuitBreaker(RateLimiter(Bulkhead(request)))) around every
request.

What the patterns reject, and what a vendor's quota rejects for longer than a request should wait,
becomes a Snooze: the item comes back later and no retry is counted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from enrichment.domain.errors import (
    AccessDenied,
    ProviderUnavailable,
    QuotaExceeded,
    RequestRefused,
    Snooze,
    UnknownSymbol,
)
from resilience import ResilienceError, ResilienceManager, SharedLimiter, remaining

T = TypeVar("T")
DEFAULT_WAIT_SECONDS = 30.0
UNLIMITED_PER_MINUTE = 1_000_000


@dataclass(frozen=True, slots=True)
class VendorProtection:
    """How a vendor is protected; seconds everywhere. The defaults are for production.

    connect_timeout, read_timeout: of one attempt, cut to what is left of the bulkhead's budget.
    longest_wait: for a permit of the limiter, before the item rather comes back later.
    """

    failure_threshold: float = 0.5
    recovery_timeout: float = 60.0
    max_retries: int = 3
    initial_delay: float = 1.0
    max_delay: float = 8.0
    deadline: float = 120.0
    max_concurrent: int = 10
    budget: float = 300.0
    max_wait: float = 60.0
    connect_timeout: float = 5.0
    read_timeout: float = 30.0

    def timeouts(self) -> tuple[float, float]:
        """(connect, read) for the attempt that is about to begin."""
        left = remaining()
        budget = self.budget if left is None else max(left, 0.001)
        return min(self.connect_timeout, budget), min(self.read_timeout, budget)


class VendorGuard:
    """The resilient call of one vendor.

    per_minute: the vendor's quota in requests a minute, kept strictly; None where there is none
    (the limiter is there all the same: an answer of 429 pauses it).
    shared: where all workers keep that quota together; without it, it holds for this process.
    """

    def __init__(
        self,
        manager: ResilienceManager,
        vendor: str,
        *,
        per_minute: int | None,
        shared: SharedLimiter | None = None,
        protection: VendorProtection | None = None,
    ) -> None:
        self.protection = chosen = protection or VendorProtection()
        name = f"{vendor}_api"
        rate = per_minute or UNLIMITED_PER_MINUTE
        self._pipeline = manager.pipeline(
            retry=manager.register_retry_policy(
                name,
                chosen.max_retries,
                chosen.initial_delay,
                chosen.max_delay,
                deadline=chosen.deadline,
                retry_on=_is_transient,
            ),
            breaker=manager.register_circuit_breaker(
                name,
                chosen.failure_threshold,
                chosen.recovery_timeout,
                ignore=(QuotaExceeded, AccessDenied, UnknownSymbol, RequestRefused),
            ),
            limiter=manager.register_rate_limiter(
                name,
                rate,
                60,
                rate,
                strict=per_minute is not None,
                max_wait=chosen.max_wait,
                shared=shared if per_minute is not None else None,
            ),
            bulkhead=manager.register_bulkhead(name, chosen.max_concurrent, chosen.budget),
            pause_on=_pause,
        )

    def __call__(self, request: Callable[[], T]) -> T:
        try:
            return self._pipeline.execute(request)
        except ResilienceError as exc:
            raise Snooze(str(exc), exc.retry_after or DEFAULT_WAIT_SECONDS) from exc
        except QuotaExceeded as exc:
            raise Snooze(str(exc), exc.retry_after or DEFAULT_WAIT_SECONDS) from exc


def _is_transient(exc: Exception) -> bool:
    """Whether another attempt may help soon; a used-up quota is rather waited for outside."""
    return isinstance(exc, ProviderUnavailable) and not isinstance(exc, QuotaExceeded)


def _pause(exc: Exception) -> float | None:
    """Seconds for which all threads leave the vendor alone; 0 where it refused without saying."""
    return (exc.retry_after or 0.0) if isinstance(exc, QuotaExceeded) else None
