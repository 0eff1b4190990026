"""Every error that this package raises on purpose.

ResilienceError               the call was turned away; `name`, and `retry_after` in seconds or None
├── CircuitOpen               the breaker rejects; also carries `last_error`
├── RateLimited               no permit within the time allowed
├── BulkheadFull              no slot within the time allowed; also carries `max_concurrent`
└── WrongCall                 (also TypeError) coroutine function in `execute`, or the reverse

There is no error for exhausted retries: the original exception surfaces, unwrapped.
All of them survive pickling, so that they can cross processes.
"""

from __future__ import annotations


class ResilienceError(Exception):
    """Base of the tree: a rejection by this package, never a failure of the called function."""

    name: str = ""
    retry_after: float | None = None


class CircuitOpen(ResilienceError):
    """The breaker `name` rejects calls.

    retry_after: seconds until a probe may be admitted; None when forced open.
    last_error: the latest recorded failure, or None.
    """

    def __init__(
        self, name: str, retry_after: float | None = None, last_error: Exception | None = None
    ) -> None:
        super().__init__(name, retry_after, last_error)
        self.name, self.retry_after, self.last_error = name, retry_after, last_error

    def __str__(self) -> str:
        because = "" if self.last_error is None else f" (last error: {self.last_error!r})"
        return f"circuit {self.name!r} is open{_hint(self.retry_after)}{because}"


class RateLimited(ResilienceError):
    """The limiter `name` has no permit in time. retry_after: seconds until it would have one."""

    def __init__(self, name: str, retry_after: float | None = None) -> None:
        super().__init__(name, retry_after)
        self.name, self.retry_after = name, retry_after

    def __str__(self) -> str:
        return f"rate limit {self.name!r} is reached{_hint(self.retry_after)}"


class BulkheadFull(ResilienceError):
    """The bulkhead `name` has no slot of its `max_concurrent`; `reason` says why waiting ended."""

    def __init__(self, name: str, max_concurrent: int, reason: str) -> None:
        super().__init__(name, max_concurrent, reason)
        self.name, self.max_concurrent, self.reason = name, max_concurrent, reason

    def __str__(self) -> str:
        return f"bulkhead {self.name!r} is full ({self.max_concurrent} slots): {self.reason}"


class WrongCallStyle(ResilienceError, TypeError):
    """A coroutine function was given to `execute`, or a plain function to `execute_async`."""


def _hint(retry_after: float | None) -> str:
    return "" if retry_after is None else f"; retry in {retry_after:.3g} s"
