"""The blueprint of `/api/v1/enrichment/alerts`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from flask import Blueprint, Response, request, url_for

from api.authorization import actor, refusal
from api.envelope import answer
from enrichment.clock import utc_now
from enrichment.commands import Commands
from enrichment.durations import parse_duration
from enrichment.errors import InvalidRequest
from enrichment.storage.alert_figures import AlertEvent
from enrichment.storage.alerts import AlertStore


@dataclass(frozen=True, slots=True)
class AlertHistoryAnswer:
    timestamp: datetime
    count: int
    events: list[AlertEvent]


@dataclass(frozen=True, slots=True)
class SilenceAnswer:
    timestamp: datetime
    rule: str
    silenced_until: datetime | None


def blueprint(store: AlertStore, commands: Commands, token: str | None) -> Blueprint:
    """The endpoints on these services; with a token, silences ask for it."""
    bp = Blueprint("alerts", __name__, url_prefix="/api/v1/enrichment/alerts")

    @bp.before_request
    def authorize() -> Response | None:
        return None if request.method in ("GET", "HEAD") else refusal(request, token)

    @bp.get("")
    def alerts() -> Response:
        return answer(store.report())

    @bp.get("/history")
    def history() -> Response:
        limit = _limit(request.args.get("limit", "10"))
        found = store.history(limit + 1, _cursor(request.args.get("cursor")))
        page = found[:limit]
        response = answer(AlertHistoryAnswer(utc_now(), len(page), page))
        if len(found) > limit:
            following = url_for("alerts.history", limit=limit, cursor=page[-1].event_id)
            response.headers["Link"] = f'<{following}>; rel="next"'
        return response

    @bp.post("/<rule>/silence")
    def silence(rule: str) -> Response:
        length = parse_duration(request.args.get("for", "2h"))
        reason = request.args.get("reason")
        until = commands.silence(rule, length=length, actor=actor(request), reason=reason)
        return answer(SilenceAnswer(utc_now(), rule, until))

    @bp.delete("/<rule>/silence")
    def unsilence(rule: str) -> Response:
        commands.unsilence(rule, actor=actor(request), reason=request.args.get("reason"))
        return answer(SilenceAnswer(utc_now(), rule, None))

    return bp


def _limit(value: str) -> int:
    if not (value.isascii() and value.isdigit() and 1 <= int(value[:6]) <= 500):
        raise InvalidRequest(f"limit={value[:40]!r}: give a number from 1 to 500")
    return int(value)


def _cursor(value: str | None) -> UUID | None:
    try:
        return None if value is None else UUID(value)
    except ValueError:
        raise InvalidRequest("cursor: take it from the Link header of the page before") from None
