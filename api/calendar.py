"""The blueprint of unscheduled closures of exchanges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum

from flask import Blueprint, Response, request
from pydantic import Field

from api.endpoint import Endpoint
from api.enrichment import PREFIX, actor
from api.parameters import BodyModel, Day, Reason, Text
from api.responses import FIELD_DOCS, json_response
from enrichment.domain.clock import utc_now
from enrichment.domain.exchanges import EXCHANGES
from enrichment.services.commands import Commands
from enrichment.warehouse.closures import Closure, ProposedClosure
from enrichment.warehouse.read_models.facade import ReadModels

Mic = StrEnum("Mic", {mic: mic for mic in EXCHANGES})  # type: ignore[misc]


@dataclass(frozen=True, slots=True)
class ClosuresResponse:
    __pydantic_config__ = FIELD_DOCS
    timestamp: datetime
    closures: Sequence[Closure]
    proposed: Sequence[ProposedClosure]
    """Sessions of the last 30 days that most symbols of the exchange miss."""


@dataclass(frozen=True, slots=True)
class SessionResponse:
    timestamp: datetime
    mic: str
    day: date
    closed: bool


class Session(BodyModel):
    """A session of an exchange."""

    mic: Mic = Field(description="Exchange (ISO 10383), such as XNYS.")
    day: Day


class ClosedSession(Session):
    """A session that did not take place."""

    reason: Text


class ReopenedSession(Session):
    """A session that took place after all."""

    reason: Reason = None


def blueprint(reader: ReadModels, commands: Commands) -> Blueprint:
    """Build the blueprint."""
    bp = Blueprint("calendar", __name__, url_prefix=f"{PREFIX}/calendar/closures")

    @bp.get("")
    @Endpoint("data", ClosuresResponse, responses={304: None})
    def listed() -> Response:
        """Sessions that operators declared closed, and those that look closed."""
        closures = reader.closures
        return json_response(ClosuresResponse(utc_now(), closures.listed(), closures.proposed()))

    @bp.post("")
    @Endpoint("data", SessionResponse, status=201, changes_state=True, error_statuses=(409,))
    def close(body: ClosedSession) -> Response:
        """Declare that an exchange did not trade on a day: no bars are expected of it."""
        commands.close_session(body.mic, body.day, reason=body.reason, actor=actor(request))
        return json_response(SessionResponse(utc_now(), body.mic.upper(), body.day, True), 201)

    @bp.post("/reopen")
    @Endpoint("data", SessionResponse, changes_state=True, error_statuses=(409,))
    def reopen(body: ReopenedSession) -> Response:
        """Take a closure back."""
        commands.reopen_session(body.mic, body.day, reason=body.reason, actor=actor(request))
        return json_response(SessionResponse(utc_now(), body.mic.upper(), body.day, False))

    return bp
