"""The blueprint of administration: audit log, workers, pauses, breaker overrides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from flask import Blueprint, Response, request
from pydantic import Field

from api.endpoint import Endpoint
from api.enrichment import PREFIX, ResilienceResponse, actor
from api.parameters import Limit, NumberCursor, QueryModel, Reason, Text
from api.responses import conditional_response, json_response, page_response
from enrichment.domain.clock import utc_now
from enrichment.services.commands import Commands
from enrichment.warehouse.read_models.audit_log import AuditEntry
from enrichment.warehouse.read_models.dto import Pause, Transition, WorkerStatus
from enrichment.warehouse.read_models.facade import ReadModels
from resilience import BreakerAction


@dataclass(frozen=True, slots=True)
class AuditResponse:
    timestamp: datetime
    count: int
    actions: Sequence[AuditEntry]


@dataclass(frozen=True, slots=True)
class WorkersResponse:
    timestamp: datetime
    workers: Sequence[WorkerStatus]


@dataclass(frozen=True, slots=True)
class PausesResponse:
    timestamp: datetime
    pauses: Sequence[Pause]


@dataclass(frozen=True, slots=True)
class TransitionsResponse:
    timestamp: datetime
    count: int
    transitions: Sequence[Transition]


class AuditQuery(QueryModel):
    actor: Text | None = None
    action: Text | None = Field(None, description="For example trigger, pause or untrack.")
    limit: Limit = 50
    cursor: NumberCursor | None = None


class TransitionsQuery(QueryModel):
    limit: Limit = 100


class OverrideQuery(QueryModel):
    reason: Reason = None


def blueprint(reader: ReadModels, commands: Commands) -> Blueprint:
    """Build the blueprint."""
    bp = Blueprint("admin", __name__, url_prefix=PREFIX)

    @bp.get("/audit")
    @Endpoint("operations", AuditResponse, responses={304: None})
    def audit(query: AuditQuery) -> Response:
        """The operators' actions with actor and reason, newest first."""
        rows = reader.audit_log.actions(
            query.limit + 1,
            actor=query.actor,
            action=query.action,
            before=query.cursor,
        )
        return page_response(
            rows,
            query.limit,
            lambda page: AuditResponse(utc_now(), len(page), page),
            lambda last: last.id,
        )

    @bp.get("/workers")
    @Endpoint("operations", WorkersResponse)
    def workers() -> Response:
        """Workers that were alive within the last day, with their last heartbeat."""
        return json_response(WorkersResponse(utc_now(), reader.workers()))

    @bp.get("/pauses")
    @Endpoint("operations", PausesResponse, responses={304: None})
    def pauses() -> Response:
        """The pauses in force."""
        return conditional_response(PausesResponse(utc_now(), reader.pauses()))

    @bp.get("/resilience/transitions")
    @Endpoint("resilience", TransitionsResponse, responses={304: None})
    def transitions(query: TransitionsQuery) -> Response:
        """State changes of circuit breakers, newest first."""
        rows = reader.transitions(query.limit)
        return conditional_response(TransitionsResponse(utc_now(), len(rows), rows))

    @bp.post("/resilience/breakers/<name>/<action>")
    @Endpoint("resilience", ResilienceResponse, changes_state=True)
    def override_breaker(name: Text, action: BreakerAction, query: OverrideQuery) -> Response:
        """Force a circuit breaker open, disable it or reset it, in every worker.

        It takes effect within two seconds, and lasts until a reset, across restarts.
        """
        commands.override_breaker(name, action, actor=actor(request), reason=query.reason)
        return json_response(ResilienceResponse(utc_now(), reader.resilience()))

    return bp
