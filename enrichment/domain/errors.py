"""Every error that market-enrichment raises on purpose.

EnrichmentError
├── ConfigurationError          a setting, an address or a port must be fixed first
│   └── DatabaseUnavailable     the database does not respond
├── InvalidRequest              an argument of a command is wrong (unknown symbol, timeframe …)
│   ├── InvalidSymbol           malformed ticker
│   ├── UnknownJob              no job has this id
│   ├── UnknownBreaker          no circuit breaker has this name
│   ├── UnknownAction           the ledger of corporate actions has no such row
│   ├── UnknownRule             no alert rule has this name
│   ├── NotAllowed              the caller has read access only
│   ├── Conflict                valid, but not in the present state, or not in this combination
│   └── NotTracked              the symbol is not (or no longer) tracked
├── ProviderError               a vendor's response could not be used
│   ├── ProviderUnavailable     transient: 5xx, reset, timeout
│   │   └── QuotaExceeded       transient: 429, carries retry_after
│   ├── MalformedResponse       not the wire format: HTML, truncated JSON, wrong types
│   ├── AccessDenied            permanent: wrong key or plan (401, 403)
│   ├── UnknownSymbol           permanent: the vendor does not know the ticker
│   ├── RequestRefused          permanent: the vendor or the client refuses this very request
│   └── NoProvider              no vendor is configured, or none is able to serve this task
├── Snooze                      try this item again later, without counting a retry
├── Cancelled                   an operator cancelled the job; nothing was written
├── StepFailed                  a step of an item failed; the cause is chained
├── WorkerLost                  every process that ran the item died while it did
└── LeaseLost                   another worker owns the item now; nothing was written

`permanent` errors are not retried: repeating the same request cannot help.

>>> ProviderUnavailable("503 from polygon").permanent, UnknownSymbol("no bars").permanent
(False, True)
>>> NotTracked.of("AAPL")
NotTracked("AAPL is not tracked: see 'enrichment symbols list'")
"""

from __future__ import annotations

from typing import Any, Self
from uuid import UUID

from enrichment.domain.escape import for_terminal
from enrichment.domain.redact import redact
from enrichment.domain.statuses import SnoozeCause


class EnrichmentError(Exception):
    """Base of the tree. The message is one line and says how to fix it; it has no control
    characters, and its secrets are masked.

    Errors are pickled with their fields and their cause.
    """

    permanent: bool = False

    def __init__(self, *args: Any) -> None:
        super().__init__(
            *(for_terminal(redact(arg)) if isinstance(arg, str) else arg for arg in args)
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickle, (type(self), self.args, self.__dict__, self.__cause__)


def _shown(text: str) -> str:
    return for_terminal(redact(text))


def _unpickle(
    error_type: type[EnrichmentError],
    args: tuple[Any, ...],
    fields: dict[str, Any],
    cause: BaseException | None,
) -> EnrichmentError:
    error = error_type.__new__(error_type, *args)
    error.__dict__.update(fields)
    error.__cause__ = cause
    return error


class ConfigurationError(EnrichmentError):
    """A setting, an address or a port must be fixed before work can start."""

    permanent = True


class DatabaseUnavailable(ConfigurationError):
    """The database does not respond, or refuses the connection. Worth a retry."""

    permanent = False


class InvalidRequest(EnrichmentError, ValueError):
    """An argument of a command is wrong."""

    permanent = True


class InvalidSymbol(InvalidRequest):
    """The ticker is malformed."""


class UnknownJob(InvalidRequest):
    """No job has this id."""

    @classmethod
    def of(cls, job_id: UUID, symbol: str | None = None) -> Self:
        what = f"job {job_id}" if symbol is None else f"symbol {symbol} in a job {job_id}"
        return cls(f"there is no {what}: see 'enrichment history'")


class UnknownBreaker(InvalidRequest):
    """No circuit breaker has this name."""


class UnknownAction(InvalidRequest):
    """The ledger of corporate actions has no such row."""

    @classmethod
    def of(cls, row: str, symbol: str) -> Self:
        return cls(f"the ledger does not have {row}: see 'enrichment actions list {symbol}'")


class UnknownLimiter(InvalidRequest):
    """No rate limiter has this name."""


class UnknownRule(InvalidRequest):
    """No alert rule has this name."""


class UnknownVendor(InvalidRequest):
    """There is no vendor of this name."""


class NotAllowed(InvalidRequest):
    """The caller has read access only."""


class Conflict(InvalidRequest):
    """The request is valid, but not in the present state, or not in this combination."""


class NotTracked(InvalidRequest):
    """The symbol is not tracked."""

    @classmethod
    def of(cls, symbol: str) -> Self:
        return cls(f"{symbol} is not tracked: see 'enrichment symbols list'")


class ProviderError(EnrichmentError):
    """A vendor's response could not be used."""


class ProviderUnavailable(ProviderError):
    """A transient failure of the vendor: 5xx, connection reset, timeout."""


class QuotaExceeded(ProviderUnavailable):
    """The vendor responded with 429."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after  # seconds to wait, if the vendor says so


class MalformedResponse(ProviderError):
    """The response does not have the vendor's wire format."""


class AccessDenied(ProviderError):
    """The vendor refuses the key or the plan (401, 403)."""

    permanent = True

    def __init__(
        self, message: str, status: str | None = None, http_status: int | None = None
    ) -> None:
        super().__init__(message)
        self.status = status  # the vendor's own word for it, if it sent one
        self.http_status = http_status


class UnknownSymbol(ProviderError):
    """The vendor does not know the ticker."""

    permanent = True


class RequestRefused(ProviderError):
    """The request itself is wrong: any other 4xx, a redirect, an unusable address."""

    permanent = True

    def __init__(self, message: str, code: int | None = None) -> None:
        super().__init__(message)
        self.code = code  # the vendor's own error code, if it sent one


class NoProvider(ProviderError):
    """No vendor is configured for this task, or none is able to serve it."""

    permanent = True


class Snooze(EnrichmentError):
    """Try the item again after `seconds`, without counting a retry."""

    def __init__(
        self, message: str, seconds: float, cause: SnoozeCause = SnoozeCause.CAPACITY
    ) -> None:
        super().__init__(message)
        self.seconds = seconds
        self.cause = cause


class Cancelled(EnrichmentError):
    """An operator cancelled the job while the item was running; nothing was written."""


class StepFailed(EnrichmentError):
    """A step of an item failed; the cause is chained."""

    def __init__(self, step: str, timeframe: str | None, duration_ms: float) -> None:
        super().__init__(f"{step} failed")
        self.step = step  # its name
        self.timeframe = timeframe  # of the series, None for a step of the whole item
        self.duration_ms = duration_ms  # from its start to the failure


class WorkerLost(EnrichmentError):
    """Every process that ran the item died while it did."""


class LeaseLost(EnrichmentError):
    """Another worker took over the lease of the item; this worker's result was discarded."""
