"""The blueprint of `/api/v1/enrichment/repair`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from flask import Blueprint, Response, request, url_for
from pydantic import Field

from api.endpoint import Endpoint
from api.enrichment import MAX_SYMBOLS, PREFIX, actor
from api.parameters import Flag, QueryModel, Reason, Symbol
from api.responses import FIELD_DOCS, json_response
from enrichment.domain.clock import utc_now
from enrichment.domain.damage import DamageKind
from enrichment.domain.errors import Conflict
from enrichment.services.commands import Commands
from enrichment.services.repairs import DamageEntry, PlannedSeries, RepairPlan


@dataclass(frozen=True, slots=True)
class RepairResponse:
    __pydantic_config__ = FIELD_DOCS
    timestamp: datetime
    job_id: UUID | None
    """The job that repairs; null for a dry run."""
    symbols_to_process: int
    findings: Sequence[DamageEntry]
    series: Sequence[PlannedSeries]
    """What is fetched again."""
    requests: Mapping[str, int]
    """Vendor → about how many."""
    minutes: float
    """About how long the vendors' quotas make it take."""


class RepairQuery(QueryModel):
    """Which series; `symbols` or `all_symbols` is required."""

    symbols: list[Symbol] | None = Field(None, max_length=MAX_SYMBOLS)
    all_symbols: Flag = Field(False, description="All active symbols.")
    kinds: list[DamageKind] | None = Field(None, description="Only these kinds of damage.")
    dry_run: Flag = Field(False, description="Say what would be done, and change nothing.")
    reason: Reason = None


def blueprint(commands: Commands) -> Blueprint:
    """Build the blueprint."""
    bp = Blueprint("repair", __name__, url_prefix=PREFIX)

    @bp.post("/repair")
    @Endpoint(
        "jobs",
        RepairResponse,
        status=202,
        changes_state=True,
        error_statuses=(404, 409),
        responses={200: RepairResponse},
    )
    def repair(query: RepairQuery) -> Response:
        """Fetch damaged parts of series again and replace them.

        Replaced bars are kept as versions. A reason is required, except for a dry run, which is
        answered with 200; the job's URL is in `Location`.
        """
        if bool(query.symbols) == query.all_symbols:
            raise Conflict("give either symbols or all_symbols=true")
        symbols, kinds = query.symbols or None, query.kinds or ()
        if query.dry_run:
            plan = commands.plan_repair(symbols, kinds)
            return json_response(_response(plan, None))
        reason = (query.reason or "").strip()
        result = commands.repair(symbols, kinds, actor=actor(request), reason=reason)
        response = json_response(_response(result.plan, result.job_id), 202)
        response.headers["Location"] = url_for("jobs.job", job_id=result.job_id)
        return response

    return bp


def _response(plan: RepairPlan, job_id: UUID | None) -> RepairResponse:
    return RepairResponse(
        utc_now(),
        job_id,
        len(plan.symbols),
        plan.entries,
        plan.series,
        plan.requests,
        plan.minutes,
    )
