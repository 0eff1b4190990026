"""The blueprint of `/api/v1/data`: what is known of the data itself."""

from __future__ import annotations

from flask import Blueprint, Response, request

from api.envelope import answer
from enrichment.domain import parse_symbol
from enrichment.errors import InvalidRequest, NotTracked
from enrichment.storage.quality_history import QualityHistory

MOST_DAYS = 366


def blueprint(history: QualityHistory) -> Blueprint:
    """The endpoints on these read models."""
    bp = Blueprint("data", __name__, url_prefix="/api/v1/data")

    @bp.get("/quality/<path:symbol>")
    def quality(symbol: str) -> Response:
        name = parse_symbol(symbol)
        found = history.of(name, _days())
        if found is None:
            raise NotTracked(f"{name} is not tracked: see 'enrichment symbols list'")
        return answer(found)

    return bp


def _days() -> int:
    text = request.args.get("days", "7")
    days = int(text) if text.isascii() and text.isdigit() and len(text) <= 4 else 0
    if not 1 <= days <= MOST_DAYS:
        raise InvalidRequest(f"days={text!r}: give a whole number from 1 to {MOST_DAYS}")
    return days
