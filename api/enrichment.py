"""The blueprint of `/api/v1/enrichment`: dashboard, trigger, pause, resume, history, resilience."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Annotated
from uuid import UUID

from flask import Blueprint, Request, Response, request, url_for
from pydantic import Field

from api.endpoint import Endpoint
from api.parameters import CURSOR, Flag, Limit, QueryModel, Reason, Seconds, Symbol, Text, Whole
from api.response_cache import ResponseCache
from api.responses import FIELD_DOCS, conditional_response, json_response, with_next_link
from enrichment.domain.clock import utc_now
from enrichment.domain.errors import Conflict, InvalidRequest, NotTracked
from enrichment.domain.model import AssetClass
from enrichment.domain.statuses import ItemStatus, PauseScope
from enrichment.services import health
from enrichment.services.commands import Commands
from enrichment.services.request_plan import RequestPlan, SkippedSymbols
from enrichment.vendors.registry import VENDORS
from enrichment.warehouse.read_models.dto import (
    ComputeMetrics,
    FetchMetrics,
    HistoricJob,
    JobStatus,
    Overview,
    PatternStatus,
    Progress,
    QualityMetrics,
    ServiceLevel,
)
from enrichment.warehouse.read_models.facade import ReadModels
from enrichment.warehouse.read_models.schedules import ScheduleStatus, UncoveredSymbols

PREFIX = "/api/v1/enrichment"
MAX_WAIT_SECONDS = 300
MAX_WAITING = 4  # requests for a job's end at the same time, a quarter of the server's threads
MAX_SYMBOLS = 200
MAX_KEY_LENGTH = 200
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
HISTORY_CURSOR = r"^[0-9]{1,17}_[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"
KEY_HEADER = {"Idempotency-Key": "Requests with the same key open one job and return it."}


@dataclass(frozen=True, slots=True)
class ResultSummary:
    successful: int
    failed: int
    duration_seconds: float | None


@dataclass(frozen=True, slots=True)
class TriggerResponse:
    timestamp: datetime
    job_id: UUID
    status: str
    symbols_to_process: int
    manual_trigger: bool
    result_summary: ResultSummary | None


@dataclass(frozen=True, slots=True)
class TriggerPlan:
    """What a trigger would do; nothing was changed."""

    __pydantic_config__ = FIELD_DOCS
    timestamp: datetime
    dry_run: bool
    symbols_to_process: int
    """Without those that are skipped."""
    requests: Mapping[str, int]
    """Vendor → about how many."""
    minutes: Mapping[str, float]
    """Vendor → how long its quota makes them take."""
    total_requests: int
    total_minutes: float
    """Until all is stored."""
    market_days: Sequence[date]
    """Sessions of the US market that are fetched whole, by one request each."""
    symbols_by_market_days: int
    """Whose daily and weekly series need no further request."""
    in_other_jobs: int
    """Of the symbols: those that an open job is going to fetch, too."""
    skipped: Sequence[SkippedSymbols]


@dataclass(frozen=True, slots=True)
class PauseResponse:
    __pydantic_config__ = FIELD_DOCS
    timestamp: datetime
    status: str
    paused: bool
    scope: str
    key: str
    until: datetime | None
    """When the pause expires."""


@dataclass(frozen=True, slots=True)
class HistoryResponse:
    timestamp: datetime
    count: int
    jobs: list[HistoricJob]


@dataclass(frozen=True, slots=True)
class MetricsResponse:
    fetch_pipeline: FetchMetrics
    compute_pipeline: ComputeMetrics
    data_quality: QualityMetrics
    timestamp: datetime


@dataclass(frozen=True, slots=True)
class RunConfig:
    """The settings of the scheduled runs; hour and minute are null beside SCHEDULES."""

    enrichment_hour: int | None = 1
    enrichment_minute: int | None = 30
    max_concurrent_symbols: int = 5
    max_retries: int = 3


@dataclass(frozen=True, slots=True)
class HealthResponse:
    __pydantic_config__ = FIELD_DOCS
    timestamp: datetime
    health_status: str
    running: bool
    """Whether a worker is alive."""
    scheduler_running: bool
    """Whether a live worker's scheduler ticks."""
    last_enrichment_time: datetime | None
    issues: list[str]
    config: RunConfig
    schedules: Sequence[ScheduleStatus]
    """Each with its last run and its next one."""
    uncovered: Sequence[UncoveredSymbols]
    """Symbols of no schedule."""


@dataclass(frozen=True, slots=True)
class ResilienceResponse:
    timestamp: datetime
    patterns: list[PatternStatus]


class TriggerQuery(QueryModel):
    symbols: list[Symbol] | None = Field(None, max_length=MAX_SYMBOLS)
    asset_class: AssetClass | None = None
    wait: Annotated[float, Field(ge=0, le=MAX_WAIT_SECONDS), Seconds] | None = Field(
        None, description="Seconds to wait for the result."
    )
    dry_run: Flag = Field(
        False, description="Say how many requests it would take, and change nothing."
    )
    reason: Reason = None


class HistoryQuery(QueryModel):
    schedule: Text | None = Field(None, description="Only the runs of this schedule.")
    limit: Limit = 10
    cursor: Annotated[str, Field(pattern=HISTORY_CURSOR, description=CURSOR)] | None = None


class ScopeQuery(QueryModel):
    """The scope of a pause: one of these parameters, or everything."""

    asset_class: AssetClass | None = None
    symbol: Symbol | None = None
    provider: Annotated[str, Field(json_schema_extra={"enum": list(VENDORS.names)})] | None = None
    reason: Reason = None

    @property
    def scope(self) -> tuple[PauseScope, str]:
        """(scope, key); Conflict if more than one is given."""
        named = [
            (scope, str(key))
            for scope in (PauseScope.ASSET_CLASS, PauseScope.SYMBOL, PauseScope.PROVIDER)
            if (key := getattr(self, scope)) is not None
        ]
        if len(named) > 1:
            raise Conflict("give one of asset_class, symbol and provider, or none for everything")
        return named[0] if named else (PauseScope.GLOBAL, "")


class PauseQuery(ScopeQuery):
    minutes: Annotated[int, Field(ge=1, le=525_600), Whole] | None = Field(
        None, description="Minutes after which the pause expires."
    )


def blueprint(
    reader: ReadModels, commands: Commands, config: RunConfig, cache: ResponseCache
) -> Blueprint:
    """Build the blueprint; what monitoring polls is read through the cache."""
    bp = Blueprint("enrichment", __name__, url_prefix=PREFIX)
    read_overview, read_metrics = cache.cached(reader.overview), cache.cached(reader.metrics)
    read_night = cache.cached(reader.night)
    read_service_level = cache.cached(reader.service_level)
    read_workers = cache.cached(reader.workers)
    waiting = threading.BoundedSemaphore(MAX_WAITING)

    @bp.get("/dashboard/overview")
    @Endpoint("dashboard", Overview, responses={304: None})
    def overview() -> Response:
        """Scheduler, last job, metrics of the last 24 hours, and the queue."""
        return conditional_response(read_overview())

    @bp.get("/dashboard/metrics")
    @Endpoint("dashboard", MetricsResponse, responses={304: None})
    def metrics() -> Response:
        """Fetches, computations and data quality of the last 24 hours.

        Rates are percent, scores 0–1, null if there is no data.
        """
        values = read_metrics()
        return conditional_response(
            MetricsResponse(
                values.fetch_pipeline, values.compute_pipeline, values.data_quality, utc_now()
            )
        )

    @bp.get("/dashboard/health")
    @Endpoint("dashboard", HealthResponse, responses={304: None})
    def health_() -> Response:
        """Health of the installation: healthy, warning or critical, and the issues."""
        night = read_night()
        result = health.assess(night)
        return conditional_response(
            HealthResponse(
                night.timestamp,
                result.status,
                any(worker.alive for worker in read_workers()),
                night.scheduler_running,
                night.last_enrichment_time,
                list(result.issues),
                config,
                night.schedules,
                night.uncovered,
            )
        )

    @bp.get("/service-level")
    @Endpoint("dashboard", ServiceLevel, responses={304: None})
    def service_level() -> Response:
        """How often scheduled runs were complete by `ENRICHMENT_DEADLINE`.

        Of the newest 100 runs that are over: the share that was, the budget of runs that may miss
        it, and how much of that is used up.
        """
        return conditional_response(read_service_level())

    @bp.get("/dashboard/job-status/<symbol>")
    @Endpoint("dashboard", JobStatus, responses={304: None})
    def job_status(symbol: Symbol) -> Response:
        """Status of a tracked symbol in its latest job."""
        symbol = reader.symbols.stored_as(symbol)
        status = reader.job_status(symbol)
        if status is None:
            raise NotTracked.of(symbol)
        return conditional_response(status)

    @bp.post("/trigger")
    @Endpoint(
        "jobs",
        TriggerResponse,
        status=202,
        changes_state=True,
        error_statuses=(404, 409),
        headers=KEY_HEADER,
        responses={200: TriggerPlan},
    )
    def trigger(query: TriggerQuery) -> Response:
        """Open a job for the given symbols, for an asset class, or for all symbols.

        The response comes at once, with the job's URL in `Location`; with `wait` it comes when the
        job has finished, or after that many seconds. While four requests wait, further ones are
        responded to at once. A dry run is answered with 200 and what the job would ask of the
        vendors.
        """
        symbols = query.symbols or None
        if query.dry_run:
            return json_response(_plan(commands.plan_trigger(symbols, query.asset_class)))
        job = commands.trigger(
            actor=actor(request),
            symbols=symbols,
            asset_class=query.asset_class,
            idempotency_key=_idempotency_key(request),
            reason=query.reason,
        )
        summary = None
        if query.wait and waiting.acquire(blocking=False):
            try:
                summary = _summary(_wait_until_finished(reader, job.job_id, query.wait))
            finally:
                waiting.release()
        response = json_response(
            TriggerResponse(
                utc_now(), job.job_id, "triggered", job.symbols_to_process, True, summary
            ),
            202,
        )
        response.headers["Location"] = url_for("jobs.job", job_id=job.job_id)
        return response

    @bp.route("/pause", methods=["GET", "POST"])
    @Endpoint("operations", PauseResponse, changes_state=True, error_statuses=(404, 409))
    def pause(query: PauseQuery) -> Response:
        """Start no more symbols of a scope until it is resumed; running ones finish."""
        scope, key = query.scope
        until = None if query.minutes is None else utc_now() + timedelta(minutes=query.minutes)
        commands.pause(actor=actor(request), scope=scope, key=key, reason=query.reason, until=until)
        return json_response(PauseResponse(utc_now(), "paused", True, scope, key, until))

    @bp.route("/resume", methods=["GET", "POST"])
    @Endpoint("operations", PauseResponse, changes_state=True, error_statuses=(404, 409))
    def resume(query: ScopeQuery) -> Response:
        """Resume a paused scope."""
        scope, key = query.scope
        commands.resume(actor=actor(request), scope=scope, key=key, reason=query.reason)
        return json_response(PauseResponse(utc_now(), "running", False, scope, key, None))

    @bp.get("/history")
    @Endpoint("jobs", HistoryResponse, responses={304: None})
    def history(query: HistoryQuery) -> Response:
        """Jobs, newest first."""
        page = reader.history(
            query.limit, _parse_history_cursor(query.cursor), schedule=query.schedule
        )
        response = conditional_response(HistoryResponse(page.timestamp, len(page.jobs), page.jobs))
        return with_next_link(response, _history_cursor(page.next)) if page.next else response

    @bp.get("/resilience")
    @Endpoint("resilience", ResilienceResponse)
    def resilience() -> Response:
        """Every breaker, limiter, retry policy and bulkhead of every worker, with its age."""
        return json_response(ResilienceResponse(utc_now(), reader.resilience()))

    return bp


def _plan(plan: RequestPlan) -> TriggerPlan:
    return TriggerPlan(
        utc_now(),
        True,
        plan.symbols,
        plan.requests,
        plan.minutes,
        plan.total_requests,
        plan.total_minutes,
        plan.market_days,
        len(plan.by_market_days),
        plan.in_other_jobs,
        plan.skipped,
    )


def actor(received: Request) -> str:
    """The actor for the audit: the client's address."""
    return f"api:{received.remote_addr or 'local'}"


def _history_cursor(key: tuple[datetime, UUID]) -> str:
    """Microseconds since 1970 and the job's id."""
    return f"{(key[0] - _EPOCH) // timedelta(microseconds=1)}_{key[1]}"


def _parse_history_cursor(cursor: str | None) -> tuple[datetime, UUID] | None:
    if cursor is None:
        return None
    microseconds, _, job_id = cursor.partition("_")
    return _EPOCH + timedelta(microseconds=int(microseconds)), UUID(job_id)


def _wait_until_finished(reader: ReadModels, job_id: UUID, seconds: float) -> Progress | None:
    """The job's progress when it has finished, or after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        progress = reader.progress(job_id)
        if progress is None or progress.finished or time.monotonic() >= deadline:
            return progress
        time.sleep(0.1)


def _summary(progress: Progress | None) -> ResultSummary | None:
    if progress is None or not progress.finished:
        return None
    counts = progress.counts
    return ResultSummary(
        counts.get(ItemStatus.COMPLETED, 0),
        counts.get(ItemStatus.FAILED, 0),
        progress.duration_seconds,
    )


def _idempotency_key(received: Request) -> str | None:
    key = received.headers.get("Idempotency-Key")
    if key is not None and not re.fullmatch(f"[!-~]{{1,{MAX_KEY_LENGTH}}}", key):
        raise InvalidRequest(f"Idempotency-Key: 1 to {MAX_KEY_LENGTH} ASCII characters, no blanks")
    return key
