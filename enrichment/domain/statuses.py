"""States and statuses, as the database, the API and the screens spell them.

A `StrEnum` member equals its value: it can be bound to SQL, compared with a stored value and put
into JSON unchanged. In SQL texts, which are put together once, write `{JobState.RUNNING}`.

>>> SeriesStatus("healthy") is SeriesStatus.HEALTHY
True
>>> f"status = '{SeriesStatus.STALE}'"
"status = 'stale'"
"""

from __future__ import annotations

from enum import IntEnum, StrEnum


class JobState(StrEnum):
    """Of `enrichment_jobs`: open while queued or running; partial where some symbols failed."""

    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    PARTIAL = "partial"
    FAILED = "failed"
    CANCELLED = "cancelled"


OPEN_JOB_STATES = (JobState.QUEUED, JobState.RUNNING)
FINISHED_JOB_STATES = (JobState.COMPLETED, JobState.PARTIAL, JobState.FAILED)


class ItemStatus(StrEnum):
    """Of `enrichment_job_items`: one symbol of a job."""

    PENDING = "pending"
    IN_PROGRESS = "in_progress"
    RETRY = "retry"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


WAITING_ITEM_STATUSES = (ItemStatus.PENDING, ItemStatus.RETRY)
QUEUED_ITEM_STATUSES = (*WAITING_ITEM_STATUSES, ItemStatus.IN_PROGRESS)
FINAL_ITEM_STATUSES = (ItemStatus.COMPLETED, ItemStatus.FAILED, ItemStatus.CANCELLED)


class MarketDayStatus(StrEnum):
    """Of `market_days`: one day of the market that a job fetches whole."""

    PENDING = "pending"
    FETCHED = "fetched"
    UNPUBLISHED = "unpublished"  # no symbol has it yet
    REFUSED = "refused"  # not in the vendor's plan
    FAILED = "failed"
    DROPPED = "dropped"  # since a newer one was refused or failed


class SeriesStatus(StrEnum):
    """Of `enrichment_status`: one timeframe of a symbol."""

    HEALTHY = "healthy"
    WARNING = "warning"
    STALE = "stale"
    ERROR = "error"
    NOT_ENRICHED = "not_enriched"


class WorkerState(StrEnum):
    """Of `workers`."""

    RUNNING = "running"
    WAITING = "waiting"
    DRAINING = "draining"
    STOPPED = "stopped"


class PauseScope(StrEnum):
    """Of `pauses`: what a pause covers."""

    GLOBAL = "global"
    ASSET_CLASS = "asset_class"
    SYMBOL = "symbol"
    PROVIDER = "provider"


class HealthStatus(StrEnum):
    """Of the installation, best first."""

    HEALTHY = "healthy"
    WARNING = "warning"
    CRITICAL = "critical"


class AlertStatus(StrEnum):
    """Of `alert_states`: pending until the condition has held for the rule's duration."""

    OK = "ok"
    PENDING = "pending"
    FIRING = "firing"


class AlertChange(StrEnum):
    """Of `alert_events`: an alert has begun to fire, or was resolved."""

    FIRING = "firing"
    RESOLVED = "resolved"


class AlertSeverity(StrEnum):
    """Of an alert rule, most severe first."""

    CRITICAL = "critical"
    WARNING = "warning"
    INFO = "info"


class ItemPriority(IntEnum):
    """Of a job's items: the smaller one is claimed first."""

    MANUAL = 0
    BACKFILL = 1  # the last of those that a person asked for
    ACTIONS = 5  # after corporate actions became known
    NIGHTLY = 10


class SnoozeCause(StrEnum):
    """Why an item is tried again later; only an outage makes another vendor answer at once."""

    QUOTA = "quota"  # the vendor's requests are used up, or it answered 429
    PAUSE = "pause"  # an operator paused the vendor
    CAPACITY = "capacity"  # everything that could run the request is busy
    OUTAGE = "outage"  # the vendor's circuit breaker is open


class HistoryLimit(StrEnum):
    """Why a series begins later than was asked for."""

    LISTED = "listed"  # the instrument was first traded then
    PLAN = "plan"  # the vendor's plan reaches no further back
    VENDOR = "vendor"  # the vendor has no older bars


class FindingKind(StrEnum):
    """What may be wrong with bars: flagged, rejected or missing ones."""

    FLAGS = "flags"
    QUARANTINE = "quarantine"
    GAPS = "gaps"


class GapCause(StrEnum):
    """Of `bar_gaps`: why an expected bar is missing, as far as it is known."""

    UNEXPLAINED = "unexplained"
    FAILED_REQUEST = "failed_request"  # the request for it failed
    QUARANTINED = "quarantined"  # the vendor sent it, but validation rejected it
    NO_TRADES = "no_trades"  # two vendors that list the symbol agree that nobody traded
    VENDOR_OUTAGE = "vendor_outage"  # many symbols miss the same bar
