"""The blueprint of `/api/v1/enrichment`."""

from __future__ import annotations

import base64
import binascii
import time
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from flask import Blueprint, Request, Response, request, url_for

from api.authorization import actor, refusal
from api.envelope import answer, problem
from enrichment import health
from enrichment.clock import utc_now
from enrichment.commands import Commands
from enrichment.domain import parse_symbol
from enrichment.errors import InvalidRequest
from enrichment.storage.figures import (
    ComputeMetrics,
    FetchMetrics,
    HistoricJob,
    PatternStatus,
    Progress,
    QualityMetrics,
)
from enrichment.storage.read_models import ReadModels

MAX_WAIT_SECONDS = 300.0
MAX_KEY_LENGTH = 200
CHANGES = ("trigger", "pause", "resume", "cancel", "resume_failed")


@dataclass(frozen=True, slots=True)
class ResultSummary:
    successful: int
    failed: int
    duration_seconds: float | None


@dataclass(frozen=True, slots=True)
class TriggerAnswer:
    timestamp: datetime
    job_id: UUID
    status: str
    symbols_to_process: int
    manual_trigger: bool
    result_summary: ResultSummary | None


@dataclass(frozen=True, slots=True)
class PauseAnswer:
    timestamp: datetime
    status: str
    paused: bool


@dataclass(frozen=True, slots=True)
class HistoryAnswer:
    timestamp: datetime
    count: int
    jobs: list[HistoricJob]


@dataclass(frozen=True, slots=True)
class MetricsAnswer:
    fetch_pipeline: FetchMetrics
    compute_pipeline: ComputeMetrics
    data_quality: QualityMetrics
    timestamp: datetime


@dataclass(frozen=True, slots=True)
class Schedule:
    """The settings of the nightly run."""

    enrichment_hour: int = 1
    enrichment_minute: int = 30
    max_concurrent_symbols: int = 5
    max_retries: int = 3


@dataclass(frozen=True, slots=True)
class HealthAnswer:
    """running: a worker is alive; scheduler_running: its clock ticks."""

    timestamp: datetime
    health_status: str
    running: bool
    scheduler_running: bool
    last_enrichment_time: datetime | None
    issues: list[str]
    config: Schedule


@dataclass(frozen=True, slots=True)
class ResilienceAnswer:
    timestamp: datetime
    patterns: list[PatternStatus]


def blueprint(
    reader: ReadModels, commands: Commands, config: Schedule, token: str | None
) -> Blueprint:
    """The endpoints on these services; with a token, whatever changes state asks for it."""
    bp = Blueprint("enrichment", __name__, url_prefix="/api/v1/enrichment")

    @bp.before_request
    def authorize() -> Response | None:
        changes_state = request.endpoint in {f"enrichment.{name}" for name in CHANGES}
        return refusal(request, token) if changes_state else None

    @bp.get("/dashboard/overview")
    def overview() -> Response:
        return answer(reader.overview())

    @bp.get("/dashboard/metrics")
    def metrics() -> Response:
        found = reader.metrics()
        return answer(
            MetricsAnswer(
                found.fetch_pipeline, found.compute_pipeline, found.data_quality, utc_now()
            )
        )

    @bp.get("/dashboard/health")
    def health_() -> Response:
        found = reader.overview()
        judged = health.judge(found, reader.pauses())
        return answer(
            HealthAnswer(
                found.timestamp,
                judged.status,
                any(worker.alive for worker in reader.workers()),
                found.scheduler.running,
                found.scheduler.last_enrichment_time,
                list(judged.issues),
                config,
            )
        )

    @bp.get("/dashboard/job-status/<symbol>")
    def job_status(symbol: str) -> Response:
        name = parse_symbol(symbol)
        found = reader.job_status(name)
        if found is None:
            return problem(404, "Not tracked", f"{name} is not tracked")
        return answer(found)

    @bp.get("/jobs/<uuid:job_id>")
    def job(job_id: UUID) -> Response:
        progress = reader.progress(job_id)
        if progress is None:
            return problem(404, "Unknown job", f"there is no job {job_id}")
        return answer(progress)

    @bp.post("/jobs/<uuid:job_id>/cancel")
    def cancel(job_id: UUID) -> Response:
        commands.cancel(job_id, actor=actor(request), reason=request.args.get("reason"))
        return job(job_id)

    @bp.post("/jobs/<uuid:job_id>/resume")
    def resume_failed(job_id: UUID) -> Response:
        commands.resume_failed(
            job_id,
            actor=actor(request),
            error_class=request.args.get("error_class"),
            reason=request.args.get("reason"),
        )
        return job(job_id)

    @bp.post("/trigger")
    def trigger() -> Response:
        wait = _seconds(request.args.get("wait"))
        job = commands.trigger(
            actor=actor(request),
            symbols=request.args.getlist("symbols") or None,
            asset_class=request.args.get("asset_class"),
            idempotency_key=_idempotency_key(request),
        )
        summary = None
        if wait is not None:
            summary = _summary(_finished(reader, job.job_id, wait))
        response = answer(
            TriggerAnswer(
                utc_now(), job.job_id, "triggered", job.symbols_to_process, True, summary
            ),
            202,
        )
        response.headers["Location"] = url_for("enrichment.job", job_id=job.job_id)
        return response

    @bp.route("/pause", methods=["GET", "POST"])
    def pause() -> Response:
        commands.pause(actor=actor(request), reason=request.args.get("reason"))
        return answer(PauseAnswer(utc_now(), "paused", True))

    @bp.route("/resume", methods=["GET", "POST"])
    def resume() -> Response:
        commands.resume(actor=actor(request), reason=request.args.get("reason"))
        return answer(PauseAnswer(utc_now(), "running", False))

    @bp.get("/history")
    def history() -> Response:
        limit = _limit(request.args.get("limit", "10"))
        page = reader.history(limit, _cursor(request.args.get("cursor")))
        response = answer(HistoryAnswer(page.timestamp, len(page.jobs), page.jobs))
        if page.next is not None:
            following = url_for("enrichment.history", limit=limit, cursor=_encode(page.next))
            response.headers["Link"] = f'<{following}>; rel="next"'
        return response

    @bp.get("/resilience")
    def resilience() -> Response:
        return answer(ResilienceAnswer(utc_now(), reader.resilience()))

    return bp


def _finished(reader: ReadModels, job_id: UUID, seconds: float) -> Progress | None:
    """The job once it has finished, or as it stands after `seconds`."""
    until = time.monotonic() + seconds
    while True:
        progress = reader.progress(job_id)
        if progress is None or progress.finished or time.monotonic() >= until:
            return progress
        time.sleep(0.1)


def _summary(progress: Progress | None) -> ResultSummary | None:
    if progress is None or not progress.finished:
        return None
    counts = progress.counts
    return ResultSummary(
        counts.get("completed", 0), counts.get("failed", 0), progress.duration_seconds
    )


def _seconds(value: str | None) -> float | None:
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= MAX_WAIT_SECONDS:
        raise InvalidRequest(f"wait={value!r}: give seconds from 0 to {MAX_WAIT_SECONDS:.0f}")
    return seconds


def _limit(value: str) -> int:
    if not (value.isascii() and value.isdigit() and 1 <= int(value[:6]) <= 500):
        raise InvalidRequest(f"limit={value[:40]!r}: give a number from 1 to 500")
    return int(value)


def _idempotency_key(received: Request) -> str | None:
    key = received.headers.get("Idempotency-Key")
    if key is not None and not (0 < len(key) <= MAX_KEY_LENGTH and key.isprintable()):
        raise InvalidRequest(f"Idempotency-Key: 1 to {MAX_KEY_LENGTH} printable characters")
    return key


def _encode(key: tuple[datetime, UUID]) -> str:
    return base64.urlsafe_b64encode(f"{key[0].isoformat()}|{key[1]}".encode()).decode()


def _cursor(value: str | None) -> tuple[datetime, UUID] | None:
    if value is None:
        return None
    try:
        at, job_id = base64.urlsafe_b64decode(value.encode()).decode().split("|")
        return datetime.fromisoformat(at), UUID(job_id)
    except (ValueError, binascii.Error):
        raise InvalidRequest("cursor: take it from the Link header of the page before") from None
