"""Every error that this package raises on purpose.

ResilienceError               the call was rejected; has `name` and `retry_after` (seconds or None)
├── CircuitOpen               the circuit breaker is open; also has `last_error`
├── RateLimited               no permit within the time allowed
├── BulkheadFull              no slot within the time allowed; also has `max_concurrent`
└── WrongCallStyle            (also a TypeError) coroutine function in `execute`, or the reverse

There is no error for exhausted retries: the function's last exception is raised as it is. All
errors can be pickled.

>>> str(RateLimited("polygon_api", retry_after=12.0))
"rate limit 'polygon_api' is reached; retry in 12 s"
"""

from __future__ import annotations


class ResilienceError(Exception):
    """Base class: a rejection by this package, never a failure of the called function."""

    name: str = ""
    retry_after: float | None = None


class CircuitOpen(ResilienceError):
    """The circuit breaker rejects calls.

    Args:
        name: Name of the breaker.
        retry_after: Seconds until a probe may be admitted; None if it is forced open.
        last_error: The latest recorded failure, or None.
    """

    def __init__(
        self, name: str, retry_after: float | None = None, last_error: Exception | None = None
    ) -> None:
        super().__init__(name, retry_after, last_error)
        self.name, self.retry_after, self.last_error = name, retry_after, last_error

    def __str__(self) -> str:
        cause = "" if self.last_error is None else f" (last error: {self.last_error!r})"
        return f"circuit {self.name!r} is open{_retry_hint(self.retry_after)}{cause}"


class RateLimited(ResilienceError):
    """The rate limiter has no permit in time.

    Args:
        name: Name of the limiter.
        retry_after: Seconds until it would have one.
    """

    def __init__(self, name: str, retry_after: float | None = None) -> None:
        super().__init__(name, retry_after)
        self.name, self.retry_after = name, retry_after

    def __str__(self) -> str:
        return f"rate limit {self.name!r} is reached{_retry_hint(self.retry_after)}"


class BulkheadFull(ResilienceError):
    """The bulkhead has no free slot.

    Args:
        name: Name of the bulkhead.
        max_concurrent: Its number of slots.
        reason: Why the call does not wait any longer.
    """

    def __init__(self, name: str, max_concurrent: int, reason: str) -> None:
        super().__init__(name, max_concurrent, reason)
        self.name, self.max_concurrent, self.reason = name, max_concurrent, reason

    def __str__(self) -> str:
        return f"bulkhead {self.name!r} is full ({self.max_concurrent} slots): {self.reason}"


class WrongCallStyle(ResilienceError, TypeError):
    """A coroutine function was given to `execute`, or a plain function to `execute_async`."""


def _retry_hint(retry_after: float | None) -> str:
    return "" if retry_after is None else f"; retry in {retry_after:.3g} s"
