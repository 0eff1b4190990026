"""The blueprint of corporate actions: the ledger, and what operators add to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime

from flask import Blueprint, Response, request
from pydantic import Field

from api.endpoint import Endpoint
from api.enrichment import PREFIX, actor
from api.parameters import ActionCursor, BodyModel, Day, Flag, Limit, QueryModel, Symbol, Text
from api.responses import FIELD_DOCS, json_response, page_response
from enrichment.domain.clock import utc_now
from enrichment.domain.corporate_actions import ActionKind
from enrichment.services.commands import Commands
from enrichment.warehouse.read_models.corporate_actions import ListedAction
from enrichment.warehouse.read_models.facade import ReadModels


@dataclass(frozen=True, slots=True)
class ActionsResponse:
    timestamp: datetime
    count: int
    actions: Sequence[ListedAction]


@dataclass(frozen=True, slots=True)
class ActionResponse:
    __pydantic_config__ = FIELD_DOCS
    timestamp: datetime
    symbol: str
    kind: str
    effective_date: date
    enriched_again: bool
    """Whether a job was opened, since the features of stored bars have to change."""


class ActionsQuery(QueryModel):
    symbol: Symbol | None = None
    kind: ActionKind | None = None
    since: Day | None = Field(None, description="Earliest effective date.")
    until: Day | None = Field(None, description="Latest effective date.")
    withdrawn: Flag = Field(True, description="Whether withdrawn actions are listed, too.")
    limit: Limit = 100
    cursor: ActionCursor | None = None


class NewAction(BodyModel):
    """An action, or a correction of one: the operator's account goes before the vendors'."""

    symbol: Symbol
    kind: ActionKind
    effective_date: Day = Field(
        description="First day on the new basis; the ex-date of a dividend."
    )
    ratio: float | None = Field(None, gt=0, description="New shares for one old share.")
    amount: float | None = Field(None, gt=0, description="Paid for one share.")
    currency: Text | None = Field(None, description="Of the amount; by default the prices'.")
    reason: Text


class ActionKey(BodyModel):
    """An action of the ledger."""

    symbol: Symbol
    kind: ActionKind
    effective_date: Day
    reason: Text


def blueprint(reader: ReadModels, commands: Commands) -> Blueprint:
    """Build the blueprint."""
    bp = Blueprint("corporate_actions", __name__, url_prefix=f"{PREFIX}/corporate-actions")

    @bp.get("")
    @Endpoint("data", ActionsResponse, responses={304: None})
    def listed(query: ActionsQuery) -> Response:
        """Splits, dividends and other corporate actions, the latest first.

        `applies` says whether an action is part of the adjustment of prices, `problem` why not.
        """
        rows = reader.corporate_actions.listed(
            query.limit + 1,
            symbol=query.symbol,
            kind=query.kind,
            since=query.since,
            until=query.until,
            withdrawn=query.withdrawn,
            before=query.cursor,
        )
        return page_response(
            rows,
            query.limit,
            lambda page: ActionsResponse(utc_now(), len(page), page),
            lambda last: last.cursor,
        )

    @bp.post("")
    @Endpoint("data", ActionResponse, status=201, changes_state=True, error_statuses=(409,))
    def add(body: NewAction) -> Response:
        """Add an action, or correct one that vendors report."""
        again = commands.add_action(
            body.symbol,
            body.kind,
            body.effective_date,
            ratio=body.ratio,
            amount=body.amount,
            currency=body.currency,
            reason=body.reason,
            actor=actor(request),
        )
        return _changed(body, again, 201)

    @bp.post("/refute")
    @Endpoint("data", ActionResponse, changes_state=True, error_statuses=(404, 409))
    def refute(body: ActionKey) -> Response:
        """State that an action did not take place, whatever vendors report."""
        return _change(commands.refute_action, body)

    @bp.post("/restore")
    @Endpoint("data", ActionResponse, changes_state=True, error_statuses=(404, 409))
    def restore(body: ActionKey) -> Response:
        """Take the operators' account of an action back: that of the vendors applies again."""
        return _change(commands.restore_action, body)

    return bp


def _change(command: Callable[..., bool], body: ActionKey) -> Response:
    enriched_again = command(
        body.symbol, body.kind, body.effective_date, reason=body.reason, actor=actor(request)
    )
    return _changed(body, enriched_again)


def _changed(body: NewAction | ActionKey, enriched_again: bool, status: int = 200) -> Response:
    return json_response(
        ActionResponse(utc_now(), body.symbol, body.kind, body.effective_date, enriched_again),
        status,
    )
