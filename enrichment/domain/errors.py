"""Every error that market-enrichment raises on purpose.

EnrichmentError
├── ConfigurationError          a setting, an address or a port that must be mended
│   └── DatabaseUnavailable     the database does not answer
├── InvalidRequest              a command's argument is wrong (unknown symbol, timeframe …)
│   ├── InvalidSymbol           malformed ticker
│   ├── UnknownJob              there is no job of this id
│   ├── UnknownBreaker          there is no breaker of this name
│   ├── UnknownRule             there is no alert rule of this name
│   ├── NotAllowed              whoever asks may look, but not change anything
│   ├── Conflict                well put, but not possible as things stand, or together
│   └── NotTracked              the symbol is not (or no longer) tracked
├── ProviderError               a vendor's answer could not be used
│   ├── ProviderUnavailable     transient: 5xx, reset, timeout
│   │   └── QuotaExceeded       transient: 429, carries retry_after
│   ├── MalformedResponse       not the wire format: HTML, truncated JSON, wrong types
│   ├── AccessDenied            permanent: wrong key or plan (401, 403)
│   ├── UnknownSymbol           permanent: the vendor does not know the ticker
│   ├── RequestRefused          permanent: the vendor or the client refuses this very request
│   └── NoProvider              no vendor is configured, or none is able to serve this task
├── Snooze                      try this item again at a later time, without counting a retry
├── Cancelled                   an operator cancelled the job; the item ends without an effect
├── StepFailed                  a step of an item failed; the cause is chained
├── WorkerLost                  every process that ran the item died while it did
└── LeaseLost                   another worker owns the item now; nothing was written

`permanent` errors are not retried: repeating the same request cannot help.
"""

from __future__ import annotations

from typing import Any, Self
from uuid import UUID


class EnrichmentError(Exception):
    """Base of the tree. The message is one line and names the mend.

    Errors travel between processes whole, each with its fields and its cause.
    """

    permanent: bool = False

    def __reduce__(self) -> tuple[Any, ...]:
        return _revived, (type(self), self.args, self.__dict__, self.__cause__)


def _revived(
    kind: type[EnrichmentError],
    arguments: tuple[Any, ...],
    fields: dict[str, Any],
    cause: BaseException | None,
) -> EnrichmentError:
    error = kind.__new__(kind, *arguments)
    error.__dict__.update(fields)
    error.__cause__ = cause
    return error


class ConfigurationError(EnrichmentError):
    """A setting, an address or a port that must be mended before work can start."""

    permanent = True


class DatabaseUnavailable(ConfigurationError):
    """The database does not answer, or refuses us. It may be back in a moment."""

    permanent = False


class InvalidRequest(EnrichmentError, ValueError):
    """A command's argument is wrong."""

    permanent = True


class InvalidSymbol(InvalidRequest):
    """The ticker is malformed."""


class UnknownJob(InvalidRequest):
    """There is no job of this id."""

    @classmethod
    def of(cls, job_id: UUID) -> Self:
        return cls(f"there is no job {job_id}: see 'enrichment history'")


class UnknownBreaker(InvalidRequest):
    """There is no breaker of this name."""


class UnknownRule(InvalidRequest):
    """There is no alert rule of this name."""


class UnknownVendor(InvalidRequest):
    """There is no vendor of this name."""


class NotAllowed(InvalidRequest):
    """Whoever asks may look, but not change anything."""


class Conflict(InvalidRequest):
    """Each part of the request is right, but not together, or not as things stand now."""


class NotTracked(InvalidRequest):
    """The symbol is not tracked."""

    @classmethod
    def of(cls, symbol: str) -> Self:
        return cls(f"{symbol} is not tracked: see 'enrichment symbols list'")


class ProviderError(EnrichmentError):
    """A vendor's answer could not be used."""


class ProviderUnavailable(ProviderError):
    """The vendor failed for now: 5xx, connection reset, timeout."""


class QuotaExceeded(ProviderUnavailable):
    """The vendor answered 429.

    retry_after: seconds that the vendor asks to wait, or None where it did not say.
    """

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class MalformedResponse(ProviderError):
    """The answer is not the vendor's wire format."""


class AccessDenied(ProviderError):
    """The vendor refuses the key or the plan (401, 403)."""

    permanent = True


class UnknownSymbol(ProviderError):
    """The vendor does not know the ticker."""

    permanent = True


class RequestRefused(ProviderError):
    """The request itself is wrong: a 4xx of no special meaning, a redirect, an unusable address.

    code: the vendor's own number for what is wrong, where it gave one.
    """

    permanent = True

    def __init__(self, message: str, code: int | None = None) -> None:
        super().__init__(message)
        self.code = code


class NoProvider(ProviderError):
    """No vendor is configured for this task."""

    permanent = True


class Snooze(EnrichmentError):
    """Try the item again after `seconds`, without counting a retry."""

    def __init__(self, message: str, seconds: float) -> None:
        super().__init__(message)
        self.seconds = seconds


class Cancelled(EnrichmentError):
    """An operator cancelled the job while the item was at work; nothing was written."""


class StepFailed(EnrichmentError):
    """A step of an item failed; the cause is chained.

    step: its name; timeframe: the series it worked on; duration_ms: how long it had run.
    """

    def __init__(self, step: str, timeframe: str | None, duration_ms: float) -> None:
        super().__init__(f"{step} failed")
        self.step = step
        self.timeframe = timeframe
        self.duration_ms = duration_ms


class WorkerLost(EnrichmentError):
    """Every process that ran the item died while it did."""


class LeaseLost(EnrichmentError):
    """The item's lease was taken over; this worker's result was discarded."""
