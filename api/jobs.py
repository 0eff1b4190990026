"""The blueprint of `/api/v1/enrichment/jobs`: a job, its symbols, cancelling and resuming it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from uuid import UUID

from flask import Blueprint, Response, request
from pydantic import Field

from api.endpoint import Endpoint
from api.enrichment import PREFIX, actor
from api.parameters import Limit, QueryModel, Reason, Symbol, SymbolCursor, Text
from api.responses import FIELD_DOCS, conditional_response, json_response, page_response
from enrichment.domain.clock import utc_now
from enrichment.domain.errors import UnknownJob
from enrichment.domain.statuses import ItemStatus
from enrichment.services.commands import Commands
from enrichment.warehouse.read_models.dto import MarketDays, VendorProgress, WaitReason
from enrichment.warehouse.read_models.facade import ReadModels
from enrichment.warehouse.read_models.jobs import ErrorGroup, JobItem


@dataclass(frozen=True, slots=True)
class JobResponse:
    __pydantic_config__ = FIELD_DOCS
    timestamp: datetime
    job_id: UUID
    state: str
    kind: str
    schedule: str | None
    """Whose run it is; null for a job that somebody opened."""
    requested_by: str
    reason: str | None
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None
    cancel_requested_at: datetime | None
    total: int
    counts: dict[str, int]
    """Symbols per status."""
    at_work: dict[str, str]
    """Running symbols and their step."""
    inserted: int
    updated: int
    duration_seconds: float | None
    symbols_per_second: float | None
    eta_seconds: float | None
    """Until the last vendor is done; null if that can't be told."""
    vendors: Sequence[VendorProgress]
    """What an open job still has to ask of each vendor."""
    waiting: Sequence[WaitReason]
    """Why symbols have not started."""
    market_days: MarketDays | None
    """Days of the whole market, each fetched with one request for all symbols; null if each symbol
    asks for itself."""
    error_groups: Sequence[ErrorGroup]
    """Failed symbols per error; `symbols` are the first few of `count`, items?error_class= lists
    all."""


@dataclass(frozen=True, slots=True)
class ItemsResponse:
    timestamp: datetime
    job_id: UUID
    count: int
    items: Sequence[JobItem]


@dataclass(frozen=True, slots=True)
class ItemLogResponse:
    __pydantic_config__ = FIELD_DOCS
    timestamp: datetime
    job_id: UUID
    symbol: str
    status: str
    lines: Sequence[str]
    """The newest 100, the oldest first; none if no attempt failed, or the last one succeeded."""


class ItemsQuery(QueryModel):
    status: ItemStatus | None = None
    error_class: Text | None = Field(None, description="Only failed symbols of this error.")
    limit: Limit = 100
    cursor: SymbolCursor = None


class CancelQuery(QueryModel):
    reason: Reason = None


class ResumeQuery(CancelQuery):
    error_class: Text | None = None


def blueprint(reader: ReadModels, commands: Commands) -> Blueprint:
    """Build the blueprint."""
    bp = Blueprint("jobs", __name__, url_prefix=f"{PREFIX}/jobs")

    @bp.get("/<uuid:job_id>")
    @Endpoint("jobs", JobResponse, responses={304: None})
    def job(job_id: UUID) -> Response:
        """A job's state: who requested it, counts, throughput, estimated time left, errors."""
        return conditional_response(_job(reader, job_id))

    @bp.get("/<uuid:job_id>/items")
    @Endpoint("jobs", ItemsResponse, responses={304: None})
    def items(job_id: UUID, query: ItemsQuery) -> Response:
        """A job's symbols by name, with their status and last error."""
        if reader.jobs.request(job_id) is None:
            raise UnknownJob.of(job_id)
        rows = reader.jobs.items(
            job_id,
            query.limit + 1,
            status=query.status,
            error_class=query.error_class,
            after=query.cursor,
        )
        return page_response(
            rows,
            query.limit,
            lambda page: ItemsResponse(utc_now(), job_id, len(page), page),
            lambda last: last.symbol,
        )

    @bp.get("/<uuid:job_id>/items/<symbol>/log")
    @Endpoint("jobs", ItemLogResponse, responses={304: None})
    def item_log(job_id: UUID, symbol: Symbol) -> Response:
        """What workers logged about a symbol of a job in attempts that failed."""
        log = reader.jobs.log(job_id, reader.symbols.stored_as(symbol))
        if log is None:
            raise UnknownJob.of(job_id, symbol)
        return conditional_response(ItemLogResponse(utc_now(), **asdict(log)))

    @bp.post("/<uuid:job_id>/cancel")
    @Endpoint("jobs", JobResponse, changes_state=True, error_statuses=(409,))
    def cancel(job_id: UUID, query: CancelQuery) -> Response:
        """Cancel a job: waiting symbols at once, running ones at their next step."""
        commands.cancel(job_id, actor=actor(request), reason=query.reason)
        return json_response(_job(reader, job_id))

    @bp.post("/<uuid:job_id>/resume")
    @Endpoint("jobs", JobResponse, changes_state=True, error_statuses=(409,))
    def resume_failed(job_id: UUID, query: ResumeQuery) -> Response:
        """Run a finished job's failed symbols again, all or those of one error class."""
        commands.resume_failed(
            job_id, actor=actor(request), error_class=query.error_class, reason=query.reason
        )
        return json_response(_job(reader, job_id))

    return bp


def _job(reader: ReadModels, job_id: UUID) -> JobResponse:
    job_request, progress = reader.jobs.request(job_id), reader.progress(job_id)
    if job_request is None or progress is None:
        raise UnknownJob.of(job_id)
    groups = reader.jobs.error_groups(job_id) if progress.counts.get(ItemStatus.FAILED) else []
    fields = {**asdict(job_request), **asdict(progress), "waiting": progress.waiting}
    fields["market_days"] = progress.market_days
    fields["vendors"] = progress.vendors
    return JobResponse(timestamp=utc_now(), error_groups=groups, **fields)
