"""A vendor's protection: Retry(CircuitBreaker(RateLimiter(Bulkhead(request)))) around every
request.

What the patterns reject, and what a vendor's quota rejects for longer than a request should wait,
becomes a Snooze: the item comes back later and no retry is counted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from enrichment.errors import (
    AccessDenied,
    ProviderUnavailable,
    QuotaExceeded,
    RequestRefused,
    Snooze,
    UnknownSymbol,
)
from resilience import ResilienceError, ResilienceManager

T = TypeVar("T")
DEFAULT_WAIT_SECONDS = 30.0
LONGEST_LIMITER_WAIT_SECONDS = 60.0
UNLIMITED_PER_MINUTE = 1_000_000


class VendorGuard:
    """The resilient call of one vendor.

    per_minute: the vendor's quota in requests a minute, kept strictly; None where there is none
    (the limiter is there all the same: an answer of 429 pauses it).
    """

    def __init__(
        self,
        manager: ResilienceManager,
        vendor: str,
        *,
        per_minute: int | None,
        max_retries: int = 3,
    ) -> None:
        name = f"{vendor}_api"
        breaker = manager.register_circuit_breaker(
            name,
            failure_threshold=0.5,
            recovery_timeout=60,
            ignore=(QuotaExceeded, AccessDenied, UnknownSymbol, RequestRefused),
        )
        retry = manager.register_retry_policy(
            name,
            max_retries=max_retries,
            initial_delay=1.0,
            max_delay=8.0,
            deadline=120.0,
            retry_on=(ProviderUnavailable,),
        )
        bulkhead = manager.register_bulkhead(name, max_concurrent=10, timeout=300)
        rate = per_minute or UNLIMITED_PER_MINUTE
        limiter = manager.register_rate_limiter(
            name,
            rate=rate,
            interval=60,
            burst=rate,
            strict=per_minute is not None,
            max_wait=LONGEST_LIMITER_WAIT_SECONDS,
        )
        self._pipeline = manager.pipeline(
            breaker=breaker, limiter=limiter, retry=retry, bulkhead=bulkhead, pause_on=_pause
        )

    def __call__(self, request: Callable[[], T]) -> T:
        try:
            return self._pipeline.execute(request)
        except ResilienceError as exc:
            raise Snooze(str(exc), exc.retry_after or DEFAULT_WAIT_SECONDS) from exc
        except QuotaExceeded as exc:
            raise Snooze(str(exc), exc.retry_after or DEFAULT_WAIT_SECONDS) from exc


def _pause(exc: Exception) -> float | None:
    """Seconds for which all threads leave the vendor alone."""
    return exc.retry_after if isinstance(exc, QuotaExceeded) else None
