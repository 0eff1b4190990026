"""The blueprint of single bars: what analysts confirm and reject."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from flask import Blueprint, Response, request, url_for

from api.endpoint import Endpoint
from api.enrichment import PREFIX, actor
from api.parameters import BodyModel, Moment, Symbol, Text
from api.responses import FIELD_DOCS, json_response
from enrichment.domain.clock import utc_now
from enrichment.domain.model import Timeframe
from enrichment.services.command_results import TriggerResult
from enrichment.services.commands import Commands


@dataclass(frozen=True, slots=True)
class ScoreResponse:
    timestamp: datetime
    quality_score: float


@dataclass(frozen=True, slots=True)
class RejectionResponse:
    __pydantic_config__ = FIELD_DOCS
    timestamp: datetime
    job_id: UUID
    """The job that computes the series' features again."""


class BarKey(BodyModel):
    """A bar by its start."""

    symbol: Symbol
    timeframe: Timeframe = Timeframe.D1
    ts: Moment
    reason: Text


class FlagKey(BarKey):
    """A flag of a bar."""

    check: Text


def blueprint(commands: Commands) -> Blueprint:
    """Build the blueprint."""
    bp = Blueprint("review", __name__, url_prefix=f"{PREFIX}/bars")

    @bp.post("/confirm")
    @Endpoint("data", ScoreResponse, changes_state=True, error_statuses=(409,))
    def confirm(body: FlagKey) -> Response:
        """Confirm that a flagged bar is correct: its flag is removed and not raised again."""
        return _review_flag(commands.confirm, body)

    @bp.post("/unconfirm")
    @Endpoint("data", ScoreResponse, changes_state=True, error_statuses=(409,))
    def unconfirm(body: FlagKey) -> Response:
        """Take a confirmation back: the bar is flagged again."""
        return _review_flag(commands.unconfirm, body)

    @bp.post("/reject")
    @Endpoint("data", RejectionResponse, status=202, changes_state=True, error_statuses=(404, 409))
    def reject(body: BarKey) -> Response:
        """Keep a wrong bar out of its series, whatever vendors send.

        It becomes a version and one correction; the job's URL is in `Location`.
        """
        return _review_bar(commands.reject, body)

    @bp.post("/unreject")
    @Endpoint("data", RejectionResponse, status=202, changes_state=True, error_statuses=(404, 409))
    def unreject(body: BarKey) -> Response:
        """Take a rejection back: the bar is fetched again."""
        return _review_bar(commands.unreject, body)

    return bp


def _review_flag(command: Callable[..., float], body: FlagKey) -> Response:
    score = command(
        body.symbol,
        body.timeframe,
        body.ts,
        check=body.check,
        reason=body.reason,
        actor=actor(request),
    )
    return json_response(ScoreResponse(utc_now(), score))


def _review_bar(command: Callable[..., TriggerResult], body: BarKey) -> Response:
    result = command(body.symbol, body.timeframe, body.ts, reason=body.reason, actor=actor(request))
    response = json_response(RejectionResponse(utc_now(), result.job_id), 202)
    response.headers["Location"] = url_for("jobs.job", job_id=result.job_id)
    return response
