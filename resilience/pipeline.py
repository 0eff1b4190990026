"""The four patterns composed as Retry(CircuitBreaker(RateLimiter(Bulkhead(fn)))).

Each attempt passes the circuit breaker and takes a permit of its own. Neither waiting for a permit
nor sleeping before a retry occupies a slot of the bulkhead.

>>> from resilience import Bulkhead, RetryPolicy
>>> Pipeline(retry=RetryPolicy("vendor"), bulkhead=Bulkhead("vendor")).execute(len, "abc")
3
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from resilience.bulkhead import Bulkhead
from resilience.circuit_breaker import CircuitBreaker
from resilience.pattern import Executor, P, T
from resilience.rate_limiter import RateLimiter
from resilience.retry import RetryPolicy

PauseOn = Callable[[Exception], float | None]


class Pipeline(Executor):
    """Runs functions through the given patterns.

    Args:
        breaker, limiter, retry, bulkhead: The patterns; None skips one.
        pause_on: Maps an error of the function to the seconds for which to pause the limiter, or
            None. HTTP 429 belongs here and in the breaker's `ignore`.

    Raises:
        ValueError: `pause_on` without a limiter.
    """

    def __init__(
        self,
        *,
        breaker: CircuitBreaker | None = None,
        limiter: RateLimiter | None = None,
        retry: RetryPolicy | None = None,
        bulkhead: Bulkhead | None = None,
        pause_on: PauseOn | None = None,
    ) -> None:
        self._limiter, self._pause_on = limiter, pause_on
        if pause_on is not None and limiter is None:
            raise ValueError("pause_on needs a limiter to pause")
        patterns = [pattern for pattern in (retry, breaker, limiter, bulkhead) if pattern]
        self._stages: list[Callable[..., Any]] = [pattern.execute for pattern in patterns]
        self._stages_async: list[Callable[..., Any]] = [p.execute_async for p in patterns]
        if pause_on is not None:
            self._stages.append(self._pausing)
            self._stages_async.append(self._pausing_async)

    def execute(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `fn` through all patterns. Raises ResilienceError if one rejects the call."""
        first, *rest = (*self._stages, fn)
        result: T = first(*rest, *args, **kwargs)
        return result

    async def execute_async(
        self, fn: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Await `fn` through all patterns. Raises ResilienceError if one rejects the call."""
        first, *rest = (*self._stages_async, fn)
        result: T = await first(*rest, *args, **kwargs)
        return result

    def _pausing(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return fn(*args, **kwargs)
        except Exception as error:
            self._pause_for(error)
            raise

    async def _pausing_async(
        self, fn: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        try:
            return await fn(*args, **kwargs)
        except Exception as error:
            self._pause_for(error)
            raise

    def _pause_for(self, error: Exception) -> None:
        seconds = self._pause_on(error) if self._pause_on else None
        if seconds is not None and self._limiter is not None:
            self._limiter.pause(max(0.0, seconds))
