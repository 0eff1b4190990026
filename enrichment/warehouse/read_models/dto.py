"""Results of the read models that several screens and endpoints share.

Times are timezone-aware UTC, durations seconds unless a name says otherwise, rates percent, scores
0–1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any
from uuid import UUID

from enrichment.domain.durations import duration_text
from enrichment.domain.plurals import counted
from enrichment.domain.statuses import FINAL_ITEM_STATUSES, OPEN_JOB_STATES, SeriesStatus
from enrichment.warehouse.read_models.schedules import ScheduleStatus


@dataclass(frozen=True, slots=True)
class SchedulerStatus:
    """What runs by itself, and when."""

    running: bool  # whether a worker's scheduler has ticked within the last 90 s
    last_enrichment_time: datetime | None
    next_enrichment_time: datetime | None  # of the schedule that runs next
    schedules: Sequence[ScheduleStatus]


@dataclass(frozen=True, slots=True)
class LastJob:
    """The job that finished last; cancelled ones do not count."""

    started_at: datetime | None
    completed_at: datetime | None
    duration_seconds: float | None
    successful: int
    failed: int
    retried: int


@dataclass(frozen=True, slots=True)
class FetchMetrics:
    """Requests to vendors."""

    total_fetches: int
    successful: int
    success_rate: float | None
    avg_response_time_ms: float | None
    api_quota_remaining: int | None  # requests, as the vendor last reported


@dataclass(frozen=True, slots=True)
class ComputeMetrics:
    """Computations of features."""

    total_computations: int
    successful: int
    success_rate: float | None
    avg_computation_time_ms: float | None


@dataclass(frozen=True, slots=True)
class QualityMetrics:
    """Means over the active series."""

    symbols_tracked: int
    series: int
    series_scored: int
    """Those that the averages cover: scored today or yesterday."""
    avg_validation_rate: float | None
    avg_quality_score: float | None
    fallback_share: float | None
    """Share of the series whose last run was served by a fallback, 0–1."""


@dataclass(frozen=True, slots=True)
class Metrics:
    """The last 24 hours; rates and averages are None without any event."""

    fetch_pipeline: FetchMetrics
    compute_pipeline: ComputeMetrics
    data_quality: QualityMetrics


@dataclass(frozen=True, slots=True)
class QueuedItem:
    """A symbol that waits or is being enriched."""

    symbol: str
    status: str
    retry_count: int


@dataclass(frozen=True, slots=True)
class RunForecast:
    """When an open scheduled or catch-up run is expected to end."""

    job_id: UUID
    schedule: str | None
    deadline: datetime
    expected_end: datetime | None  # at the present pace; None if it can't be told
    soonest_end: datetime | None  # if nothing disturbs its vendors any more
    minutes_late: float | None  # of the soonest end; below 0: before the deadline


@dataclass(frozen=True, slots=True)
class SessionLevel:
    """How much of a scheduled or catch-up run was complete by its deadline."""

    schedule: str | None
    slot_date: date
    deadline: datetime
    series: int
    series_complete: int


@dataclass(frozen=True, slots=True)
class ServiceLevel:
    """How often runs have kept their deadline, of the newest that are over."""

    timestamp: datetime
    deadline: str | None  # HH:MM UTC; None: there is none, and nothing is judged
    target_series: float  # share of a session's series to be complete by then
    target_sessions: float  # share of the sessions of which that is to be so
    sessions: int
    sessions_met: int
    attained: float | None  # share of the sessions; None without any
    budget: float  # sessions that may miss it
    burn: float | None  # share of the budget that is used up; above 1: the level is missed
    newest: Sequence[SessionLevel]  # the newest first


@dataclass(frozen=True, slots=True)
class Overview:
    timestamp: datetime
    scheduler: SchedulerStatus
    last_job: LastJob | None
    metrics: Metrics
    job_queue: list[QueuedItem]  # the first of them, those in progress before those that wait
    queued: int  # items that wait or are in progress, all of them
    forecasts: Sequence[RunForecast]  # of the open runs that have a deadline


@dataclass(frozen=True, slots=True)
class JobStatus:
    """The newest item of a symbol; pending, without times, if there is none."""

    symbol: str
    status: str
    retry_count: int
    last_error: str | None
    started_at: datetime | None
    completed_at: datetime | None
    timestamp: datetime


@dataclass(frozen=True, slots=True)
class HistoricJob:
    """A job of the history; a running one with its figures so far."""

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
    """Further columns of a historic job, for the dashboard and the command line."""

    kind: str
    schedule: str | None  # whose run it is
    state: str
    total: int
    created_at: datetime
    requested_by: str


@dataclass(frozen=True, slots=True)
class HistoryPage:
    """A page of the history, newest job first."""

    timestamp: datetime
    total: int  # jobs that match, on all pages
    jobs: list[HistoricJob]
    details: list[JobDetails]  # of the jobs, in their order
    next: tuple[datetime, UUID] | None  # `before` of the next page; None on the last one


@dataclass(frozen=True, slots=True)
class WaitReason:
    """Why symbols of a job have not started."""

    reason: str
    symbols: int
    until: datetime | None  # when the first of them may start; None if it is not known
    before: int | None = None  # symbols that a vendor's quota serves before the first of them
    last_until: datetime | None = None  # of a quota, whose times are estimates: the last of them

    def text(self, time_text: Callable[[datetime], str]) -> str:
        """The reason, and until when."""
        if self.until is None:
            return self.reason
        if self.before is None:
            return f"{self.reason}, until {time_text(self.until)}"
        text = f"{self.reason}, {self.before:,} before it, about {time_text(self.until)}"
        if self.symbols == 1 or self.last_until is None:
            return text
        return f"{text}, the last about {time_text(self.last_until)}"

    def sentence(self, time_text: Callable[[datetime], str]) -> str:
        """The same with the number of symbols."""
        verb = "waits" if self.symbols == 1 else "wait"
        return f"{counted(self.symbols, 'symbol')} {verb}: {self.text(time_text)}"


@dataclass(frozen=True, slots=True)
class MarketDays:
    """Days of the whole market that a job fetches, each with one request for all its symbols."""

    planned: int
    fetched: int  # those that are not published yet included
    given_up: int  # refused, failed, or not asked for after another one was
    symbols: int  # of the job, whose daily series need nothing but these days

    @property
    def summary(self) -> str:
        """One line for people."""
        given_up = f", {self.given_up} given up" if self.given_up else ""
        return (
            f"{self.fetched} of {counted(self.planned, 'day')} of the whole market fetched"
            f"{given_up}: one request each, in place of one for each of "
            f"{counted(self.symbols, 'symbol')}"
        )


@dataclass(frozen=True, slots=True)
class VendorProgress:
    """What a job still has to ask of a vendor."""

    vendor: str
    requests_left: int  # about
    per_minute: float | None  # at the present pace
    eta_seconds: float | None  # until the last one, those of jobs that go first included
    soonest_seconds: float | None  # the same at the best pace of the jobs that are open

    @property
    def text(self) -> str:
        pace = "" if self.per_minute is None else f", {self.per_minute:,.1f} a minute"
        left = "" if self.eta_seconds is None else f": {duration_text(self.eta_seconds)}"
        return f"{self.vendor}: about {counted(self.requests_left, 'request')} left{pace}{left}"


@dataclass(frozen=True, slots=True)
class Progress:
    """The present state of a job."""

    job_id: UUID
    state: str
    total: int
    counts: Mapping[str, int]  # items by status
    at_work: Mapping[str, str]  # symbol in progress → its step
    inserted: int  # bars
    updated: int  # bars
    duration_seconds: float | None
    symbols_per_second: float | None
    eta_seconds: float | None  # None if it can't be told
    vendors: Sequence[VendorProgress]  # of an open job
    waiting: Sequence[WaitReason]  # most symbols first; empty where they only wait for a thread
    market_days: MarketDays | None  # None if each symbol asks for itself

    @property
    def finished(self) -> bool:
        return self.state not in OPEN_JOB_STATES

    @property
    def done(self) -> int:
        """Items with a final status."""
        return sum(self.counts.get(status, 0) for status in FINAL_ITEM_STATUSES)


@dataclass(frozen=True, slots=True)
class FailedItem:
    """A symbol that failed in a job."""

    symbol: str
    error_class: str
    last_error: str


def cause_of(status: str, reasons: Sequence[str], last_error: str | None) -> str:
    """A series in error has its error as the cause, every other the deductions from its score."""
    deductions = "; ".join(reasons)
    if status == SeriesStatus.ERROR:
        return last_error or deductions
    return deductions or last_error or ""


@dataclass(frozen=True, slots=True)
class TrackedSeries:
    """One timeframe of a tracked symbol."""

    symbol: str
    asset_class: str
    timeframe: str
    active: bool
    status: str
    bars: int
    first_ts: datetime | None  # start of the oldest stored bar
    last_ts: datetime | None  # start of the newest stored bar
    source: str | None
    quality_score: float | None
    reasons: list[str]
    last_success_at: datetime | None
    last_error: str | None

    @property
    def cause(self) -> str:
        """Why the series is not as it should be, empty where nothing is known; see `cause_of`."""
        return cause_of(self.status, self.reasons, self.last_error)


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """A worker as of its last heartbeat."""

    worker_id: str
    host: str
    pid: int
    threads: int
    busy: int  # threads
    state: str
    started_at: datetime
    heartbeat_at: datetime
    alive: bool  # whether it has a recent heartbeat and has not stopped
    note: str | None  # what a waiting worker waits for


@dataclass(frozen=True, slots=True)
class PatternStatus:
    """The published status of a breaker, limiter, retry policy or bulkhead of one worker."""

    worker_id: str
    kind: str
    name: str
    state: str | None
    status: Mapping[str, Any]
    updated_at: datetime
    age_seconds: float
    stale: bool  # older than 15 s: the worker has stopped or can't publish
    set_by: str | None = None  # the operator who has forced or disabled the breaker
    reason: str | None = None  # of that operator
    since: datetime | None = None  # when the operator did

    @property
    def shown_state(self) -> str | None:
        """The mode that an operator has set (`forced_open`, `disabled`), else the state."""
        mode = self.status.get("mode", "auto")
        return self.state if mode == "auto" else str(mode)


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
    """A pause in force."""

    scope: str
    key: str
    paused_by: str
    reason: str | None
    at: datetime
    until: datetime | None


@dataclass(frozen=True, slots=True)
class ListTotals:
    """How many entries there are in lists of which screens show the newest."""

    slots: int  # of the schedules, with a job
    transitions: int
    alert_events: int
    actions: int


@dataclass(frozen=True, slots=True)
class SlotStatus:
    """A slot of a schedule and its job."""

    schedule: str
    slot: datetime | None  # when it was planned; None if that is not known
    job_id: UUID
    kind: str
    state: str
    late_seconds: float | None  # from the slot's time until the job was opened
    duration_seconds: float | None
    successful: int | None
    failed: int | None
