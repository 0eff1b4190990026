"""The blueprint of what operators look after: the audit, workers, pauses, breakers by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from flask import Blueprint, Response, request
from pydantic import Field

from api.endpoint import endpoint
from api.enrichment import PREFIX, ResilienceAnswer, actor
from api.parameters import Limit, NumberCursor, QueryModel, Reason, Text
from api.responses import conditional_response, json_response, page_response
from enrichment.domain.clock import utc_now
from enrichment.services.commands import Commands
from enrichment.warehouse.read_models.audit_log import AuditEntry
from enrichment.warehouse.read_models.dto import Pause, Transition, WorkerStatus
from enrichment.warehouse.read_models.facade import ReadModels


class Override(StrEnum):
    """force_open: let nothing through; disable: let everything through; reset: decide again."""

    FORCE_OPEN = "force_open"
    DISABLE = "disable"
    RESET = "reset"


@dataclass(frozen=True, slots=True)
class AuditAnswer:
    timestamp: datetime
    count: int
    actions: Sequence[AuditEntry]


@dataclass(frozen=True, slots=True)
class WorkersAnswer:
    timestamp: datetime
    workers: Sequence[WorkerStatus]


@dataclass(frozen=True, slots=True)
class PausesAnswer:
    timestamp: datetime
    pauses: Sequence[Pause]


@dataclass(frozen=True, slots=True)
class TransitionsAnswer:
    timestamp: datetime
    count: int
    transitions: Sequence[Transition]


class AuditQuery(QueryModel):
    actor: Text | None = None
    action: Text | None = Field(None, description="Such as trigger, pause or untrack.")
    limit: Limit = 50
    cursor: NumberCursor | None = None


class TransitionsQuery(QueryModel):
    limit: Limit = 100


class OverrideQuery(QueryModel):
    reason: Reason = None


def blueprint(reader: ReadModels, commands: Commands) -> Blueprint:
    """The endpoints on these services."""
    bp = Blueprint("operations", __name__, url_prefix=PREFIX)

    @bp.get("/audit")
    @endpoint("operations", AuditAnswer, responses={304: None})
    def audit(query: AuditQuery) -> Response:
        """Who did what, and why, newest first."""
        found = reader.journal.actions(
            query.limit + 1,
            actor=query.actor,
            action=query.action,
            before=query.cursor,
        )
        return page_response(
            found,
            query.limit,
            lambda page: AuditAnswer(utc_now(), len(page), page),
            lambda last: last.id,
        )

    @bp.get("/workers")
    @endpoint("operations", WorkersAnswer)
    def workers() -> Response:
        """Workers of the last day with their heartbeats."""
        return json_response(WorkersAnswer(utc_now(), reader.workers()))

    @bp.get("/pauses")
    @endpoint("operations", PausesAnswer, responses={304: None})
    def pauses() -> Response:
        """The pauses in force."""
        return conditional_response(PausesAnswer(utc_now(), reader.pauses()))

    @bp.get("/resilience/transitions")
    @endpoint("resilience", TransitionsAnswer, responses={304: None})
    def transitions(query: TransitionsQuery) -> Response:
        """The breakers' changes of state, newest first."""
        found = reader.transitions(query.limit)
        return conditional_response(TransitionsAnswer(utc_now(), len(found), found))

    @bp.post("/resilience/breakers/<name>/<action>")
    @endpoint("resilience", ResilienceAnswer, changes=True)
    def override(name: Text, action: Override, query: OverrideQuery) -> Response:
        """Force a breaker open, disable it, or let it decide again, in every worker.

        Workers follow within two seconds. Forced states outlive restarts, until a reset.
        """
        commands.override_breaker(name, action, actor=actor(request), reason=query.reason)
        return json_response(ResilienceAnswer(utc_now(), reader.resilience()))

    return bp
