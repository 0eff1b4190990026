"""The blueprint of `/api/v1/data`: what is known of the data, and the data itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

from flask import Blueprint, Response, stream_with_context
from pydantic import Field

from api.downloads import ENCODINGS, Format, encoded
from api.endpoint import endpoint
from api.parameters import Limit, Moment, NumberCursor, QueryModel, Symbol, Whole
from api.responses import conditional_response, page_response
from enrichment.domain.clock import utc_now
from enrichment.domain.errors import NotTracked
from enrichment.domain.model import Timeframe, is_simulated
from enrichment.warehouse.read_models import bars as bar_download
from enrichment.warehouse.read_models.audit_log import CorrectedValue
from enrichment.warehouse.read_models.facade import ReadModels
from enrichment.warehouse.read_models.quality_by_day import SymbolQuality

MAX_DAYS = 366
MAX_BARS = 10_000_000
Column = StrEnum("Column", {name: name for name in bar_download.COLUMNS})  # type: ignore[misc]


@dataclass(frozen=True, slots=True)
class CorrectionsAnswer:
    timestamp: datetime
    count: int
    corrections: Sequence[CorrectedValue]


class QualityQuery(QueryModel):
    days: Annotated[int, Field(ge=1, le=MAX_DAYS), Whole] = Field(
        7, description="UTC days, today among them."
    )


class CorrectionsQuery(QueryModel):
    symbol: Symbol | None = None
    timeframe: Timeframe | None = None
    since: Moment | None = Field(None, description="Made at this time or later.")
    limit: Limit = 100
    cursor: NumberCursor | None = None


class BarsQuery(QueryModel):
    timeframe: Timeframe = Timeframe.D1
    start: Moment | None = Field(None, alias="from", description="Start of the first bar.")
    end: Moment | None = Field(None, alias="to", description="Bars start before this time.")
    columns: list[Column] | None = Field(
        None, description="Columns beside `ts`, in this order; left out: all."
    )
    limit: Annotated[int, Field(ge=1, le=MAX_BARS), Whole] | None = Field(
        None, description="At most so many bars, the oldest."
    )
    format: Format = Format.JSON


def blueprint(reader: ReadModels) -> Blueprint:
    """The endpoints on these read models."""
    bp = Blueprint("data", __name__, url_prefix="/api/v1/data")

    @bp.get("/quality/<symbol>")
    @endpoint("data", SymbolQuality, responses={304: None})
    def quality(symbol: Symbol, query: QualityQuery) -> Response:
        """A symbol's quality day by day, and its newest fetches.

        Gaps and anomalies count on the day they were first seen.
        """
        found = reader.quality.of(symbol, query.days)
        if found is None:
            raise NotTracked.of(symbol)
        return conditional_response(found)

    @bp.get("/corrections")
    @endpoint("data", CorrectionsAnswer, responses={304: None})
    def corrections(query: CorrectionsQuery) -> Response:
        """Stored values that a vendor restated, newest first: old, new and why."""
        found = reader.journal.corrections(
            query.limit + 1,
            symbol=query.symbol,
            timeframe=query.timeframe,
            since=query.since,
            before=query.cursor,
        )
        return page_response(
            found,
            query.limit,
            lambda page: CorrectionsAnswer(utc_now(), len(page), page),
            lambda last: last.id,
        )

    @bp.get("/bars/<symbol>")
    @endpoint("data", content=_contents())
    def bars(symbol: Symbol, query: BarsQuery) -> Response:
        """A series' bars with their features, oldest first, all as they stood at one moment.

        Simulated series, of the sandbox vendor, are named by the header `X-Simulated: true`.
        """
        if not reader.bars.known(symbol):
            raise NotTracked.of(symbol)
        columns = list(dict.fromkeys(query.columns or bar_download.COLUMNS))
        batches = reader.bars.chunks(
            symbol, query.timeframe, columns, query.start, query.end, query.limit
        )
        head = {"timestamp": utc_now(), "symbol": symbol, "timeframe": query.timeframe}
        pieces = encoded(query.format, batches, bar_download.schema(columns), head)
        return _file(pieces, symbol, query)

    return bp


def _contents() -> dict[str, dict[str, Any]]:
    number = {"type": ["number", "null"]}
    label = {"type": ["string", "null"]}
    kinds = {"number": number, "label": label}
    bar = {
        "type": "object",
        "required": ["ts"],
        "properties": {
            "ts": {"type": "string", "format": "date-time", "description": "start of the bar"},
            **{name: kinds[kind] for name, kind in bar_download.COLUMNS.items()},
        },
    }
    series = {
        "type": "object",
        "required": ["timestamp", "symbol", "timeframe", "bars"],
        "properties": {
            "timestamp": {"type": "string", "format": "date-time"},
            "symbol": {"type": "string"},
            "timeframe": {"type": "string"},
            "bars": {"type": "array", "items": bar},
        },
    }
    return {
        encoding.media: {"schema": series if kind is Format.JSON else {}}
        for kind, encoding in ENCODINGS.items()
    }


def _file(pieces: Any, symbol: str, query: BarsQuery) -> Response:
    response = Response(stream_with_context(pieces), mimetype=ENCODINGS[query.format].media)
    if query.format is not Format.JSON:
        name = f"{symbol.replace(':', '_')}-{query.timeframe}.{query.format}"
        response.headers["Content-Disposition"] = f'attachment; filename="{name}"'
    if is_simulated(symbol):
        response.headers["X-Simulated"] = "true"
    return response
