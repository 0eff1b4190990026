"""What the read models answer with: frozen values, one per screen or endpoint.

Times are timezone-aware UTC, durations seconds unless a name says otherwise, rates percent, scores
0–1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from enrichment.domain.statuses import FINAL_ITEM_STATUSES, OPEN_JOB_STATES


@dataclass(frozen=True, slots=True)
class SchedulerStatus:
    """running: a live worker's clock has ticked within the last 90 s."""

    running: bool
    last_enrichment_time: datetime | None
    next_enrichment_time: datetime | None


@dataclass(frozen=True, slots=True)
class LastJob:
    started_at: datetime | None
    completed_at: datetime | None
    duration_seconds: float | None
    successful: int
    failed: int
    retried: int


@dataclass(frozen=True, slots=True)
class FetchMetrics:
    total_fetches: int
    successful: int
    success_rate: float | None
    avg_response_time_ms: float | None
    api_quota_remaining: int | None


@dataclass(frozen=True, slots=True)
class ComputeMetrics:
    total_computations: int
    successful: int
    success_rate: float | None
    avg_computation_time_ms: float | None


@dataclass(frozen=True, slots=True)
class QualityMetrics:
    symbols_tracked: int
    avg_validation_rate: float | None
    avg_quality_score: float | None


@dataclass(frozen=True, slots=True)
class Metrics:
    """The last 24 hours; rates and averages are None where nothing happened."""

    fetch_pipeline: FetchMetrics
    compute_pipeline: ComputeMetrics
    data_quality: QualityMetrics


@dataclass(frozen=True, slots=True)
class QueuedItem:
    symbol: str
    status: str
    retry_count: int


@dataclass(frozen=True, slots=True)
class Overview:
    timestamp: datetime
    scheduler: SchedulerStatus
    last_job: LastJob | None
    metrics: Metrics
    job_queue: list[QueuedItem]


@dataclass(frozen=True, slots=True)
class JobStatus:
    """A symbol's newest item; `pending` and no times where it was never run."""

    symbol: str
    status: str
    retry_count: int
    last_error: str | None
    started_at: datetime | None
    completed_at: datetime | None
    timestamp: datetime


@dataclass(frozen=True, slots=True)
class HistoricJob:
    """A job of the history; the figures of a running one are those so far."""

    job_id: UUID
    started_at: datetime | None
    completed_at: datetime | None
    duration_seconds: float | None
    successful: int
    failed: int
    retried: int
    total_records_inserted: int
    total_records_updated: int


@dataclass(frozen=True, slots=True)
class JobDetails:
    """What the dashboard and the command line add to a historic job."""

    kind: str
    state: str
    total: int
    created_at: datetime
    requested_by: str


@dataclass(frozen=True, slots=True)
class HistoryPage:
    """Newest first; `next` is the key to ask for the following page with, None at the end."""

    timestamp: datetime
    jobs: list[HistoricJob]
    details: list[JobDetails]
    next: tuple[datetime, UUID] | None


@dataclass(frozen=True, slots=True)
class WaitReason:
    """Why symbols of a job have not started."""

    reason: str
    symbols: int
    until: datetime | None  # when the first of them may start; None where nobody knows


@dataclass(frozen=True, slots=True)
class Progress:
    """A job as it stands: items per status, and what is at work now (symbol → step)."""

    job_id: UUID
    state: str
    total: int
    counts: Mapping[str, int]
    at_work: Mapping[str, str]
    inserted: int
    updated: int
    duration_seconds: float | None
    symbols_per_second: float | None
    eta_seconds: float | None
    waiting: Sequence[WaitReason]  # most symbols first; empty where they only wait for a thread

    @property
    def finished(self) -> bool:
        return self.state not in OPEN_JOB_STATES

    @property
    def done(self) -> int:
        return sum(self.counts.get(status, 0) for status in FINAL_ITEM_STATUSES)


@dataclass(frozen=True, slots=True)
class FailedItem:
    symbol: str
    error_class: str
    last_error: str


@dataclass(frozen=True, slots=True)
class TrackedSeries:
    """One timeframe of a tracked symbol."""

    symbol: str
    asset_class: str
    timeframe: str
    active: bool
    status: str
    bars: int
    first_ts: datetime | None
    last_ts: datetime | None
    source: str | None
    quality_score: float | None
    reasons: list[str]
    last_success_at: datetime | None
    last_error: str | None


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """A worker as of its last heartbeat. note: what it waits for while its state is `waiting`."""

    worker_id: str
    host: str
    pid: int
    threads: int
    busy: int
    state: str
    started_at: datetime
    heartbeat_at: datetime
    alive: bool
    note: str | None


@dataclass(frozen=True, slots=True)
class PatternStatus:
    """A breaker, limiter, retry policy or bulkhead of one worker, as it was `age_seconds` ago.

    stale: older than 15 s: the worker has stopped, or can't publish; nothing is known of it now.
    """

    worker_id: str
    kind: str
    name: str
    state: str | None
    status: Mapping[str, Any]
    updated_at: datetime
    age_seconds: float
    stale: bool


@dataclass(frozen=True, slots=True)
class Transition:
    """A breaker's change of state."""

    at: datetime
    worker_id: str
    name: str
    from_state: str
    to_state: str
    reason: str | None


@dataclass(frozen=True, slots=True)
class Pause:
    scope: str
    key: str
    paused_by: str
    reason: str | None
    at: datetime
    until: datetime | None


@dataclass(frozen=True, slots=True)
class SlotStatus:
    """A nightly slot that was taken. late_seconds: from the slot's time to its job's beginning."""

    slot: datetime
    job_id: UUID
    kind: str
    state: str
    late_seconds: float
    duration_seconds: float | None
    successful: int | None
    failed: int | None
