"""The blueprint of `/api/v1/enrichment/alerts`: state, history and silences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated

from flask import Blueprint, Response, request
from pydantic import Field

from api.endpoint import Endpoint
from api.enrichment import PREFIX, actor
from api.parameters import Limit, NumberCursor, QueryModel, Reason, Text, Whole
from api.responses import conditional_response, json_response, page_response
from enrichment.domain.clock import utc_now
from enrichment.services.commands import MAX_SILENCE, Commands
from enrichment.warehouse.read_models.alerts import AlertEvent, AlertReport, AlertReports

MAX_SILENCE_MINUTES = MAX_SILENCE // timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class AlertHistoryResponse:
    timestamp: datetime
    count: int
    events: Sequence[AlertEvent]


@dataclass(frozen=True, slots=True)
class SilenceResponse:
    timestamp: datetime
    rule: str
    silenced_until: datetime | None


class AlertHistoryQuery(QueryModel):
    limit: Limit = 10
    cursor: NumberCursor | None = None


class UnsilenceQuery(QueryModel):
    reason: Reason = None


class SilenceQuery(UnsilenceQuery):
    minutes: Annotated[int, Field(ge=1, le=MAX_SILENCE_MINUTES), Whole] = 120


def blueprint(store: AlertReports, commands: Commands) -> Blueprint:
    """Build the blueprint."""
    bp = Blueprint("alerts", __name__, url_prefix=f"{PREFIX}/alerts")

    @bp.get("")
    @Endpoint("alerts", AlertReport, responses={304: None})
    def alerts() -> Response:
        """State of every rule at the last evaluation, most severe first."""
        return conditional_response(store.report())

    @bp.get("/history")
    @Endpoint("alerts", AlertHistoryResponse, responses={304: None})
    def history(query: AlertHistoryQuery) -> Response:
        """Alerts that fired or were resolved, newest first, with their deliveries."""
        rows = store.history(query.limit + 1, query.cursor)
        return page_response(
            rows,
            query.limit,
            lambda page: AlertHistoryResponse(utc_now(), len(page), page),
            lambda last: last.id,
        )

    @bp.post("/<rule>/silence")
    @Endpoint("alerts", SilenceResponse, changes_state=True)
    def silence(rule: Text, query: SilenceQuery) -> Response:
        """Send no notifications of a rule for a while; if it still fires then, they are sent."""
        until = commands.silence(
            rule,
            length=timedelta(minutes=query.minutes),
            actor=actor(request),
            reason=query.reason,
        )
        return json_response(SilenceResponse(utc_now(), rule, until))

    @bp.post("/<rule>/unsilence")
    @Endpoint("alerts", SilenceResponse, changes_state=True, error_statuses=(409,))
    def unsilence(rule: Text, query: UnsilenceQuery) -> Response:
        """End a silence early."""
        commands.unsilence(rule, actor=actor(request), reason=query.reason)
        return json_response(SilenceResponse(utc_now(), rule, None))

    return bp
