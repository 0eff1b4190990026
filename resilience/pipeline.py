"""The four patterns in one order: Retry(CircuitBreaker(RateLimiter(Bulkhead(fn)))).

Each attempt asks the breaker and pays a permit of its own, and nothing is held while a retry
sleeps. Waiting for a permit happens outside the bulkhead and takes none of its slots.
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
    """Runs functions through those of the four patterns that are given.

    pause_on: error of the function → seconds for which it pauses the limiter, or None. An
        HTTP 429 belongs here and in the breaker's `ignore`.
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
        chosen = [pattern for pattern in (retry, breaker, limiter, bulkhead) if pattern]
        self._stages: list[Callable[..., Any]] = [pattern.execute for pattern in chosen]
        self._stages_async: list[Callable[..., Any]] = [p.execute_async for p in chosen]
        if pause_on is not None:
            self._stages.append(self._pausing)
            self._stages_async.append(self._pausing_async)

    def execute(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `fn` through all patterns; their rejections are ResilienceErrors."""
        first, *rest = (*self._stages, fn)
        result: T = first(*rest, *args, **kwargs)
        return result

    async def execute_async(
        self, fn: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Await `fn` through all patterns."""
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
