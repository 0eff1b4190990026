"""The blueprint of `/api/v1/data`: quality, findings, corrections and bars."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

from flask import Blueprint, Response, stream_with_context
from pydantic import Field

from api.downloads import ENCODINGS, Format, encoded
from api.endpoint import Endpoint
from api.parameters import (
    FindingCursor,
    Limit,
    Moment,
    NumberCursor,
    QueryModel,
    Symbol,
    Text,
    Whole,
)
from api.responses import FIELD_DOCS, conditional_response, page_response, with_next_link
from enrichment.domain.clock import utc_now
from enrichment.domain.corporate_actions import Adjustment
from enrichment.domain.errors import NotTracked
from enrichment.domain.model import Timeframe, is_simulated
from enrichment.domain.statuses import GapCause
from enrichment.warehouse.read_models import bars as bar_download
from enrichment.warehouse.read_models.audit_log import CorrectedValue
from enrichment.warehouse.read_models.bars import Extent
from enrichment.warehouse.read_models.facade import ReadModels
from enrichment.warehouse.read_models.findings import (
    Filter,
    FindingsPage,
    Flag,
    MissingBar,
    RejectedBar,
)
from enrichment.warehouse.read_models.quality_by_day import SymbolQuality

MAX_DAYS = 366
MAX_BARS = 10_000_000
Column = StrEnum("Column", {name: name for name in bar_download.COLUMNS})  # type: ignore[misc]


@dataclass(frozen=True, slots=True)
class CorrectionsResponse:
    timestamp: datetime
    count: int
    corrections: Sequence[CorrectedValue]


@dataclass(frozen=True, slots=True)
class FlagsResponse:
    __pydantic_config__ = FIELD_DOCS
    timestamp: datetime
    count: int
    total: int
    """Flags that match, on all pages."""
    flags: Sequence[Flag]


@dataclass(frozen=True, slots=True)
class QuarantineResponse:
    __pydantic_config__ = FIELD_DOCS
    timestamp: datetime
    count: int
    total: int
    """Rejected bars that match, on all pages."""
    bars: Sequence[RejectedBar]


@dataclass(frozen=True, slots=True)
class GapsResponse:
    __pydantic_config__ = FIELD_DOCS
    timestamp: datetime
    count: int
    total: int
    """Missing bars that match, on all pages."""
    gaps: Sequence[MissingBar]


class QualityQuery(QueryModel):
    days: Annotated[int, Field(ge=1, le=MAX_DAYS), Whole] = Field(
        7, description="UTC days, including today."
    )


class CorrectionsQuery(QueryModel):
    symbol: Symbol | None = None
    timeframe: Timeframe | None = None
    since: Moment | None = Field(None, description="Time of the first correction.")
    limit: Limit = 100
    cursor: NumberCursor | None = None


class FindingsQuery(QueryModel):
    symbol: Symbol | None = Field(None, description="One symbol; by default all tracked ones.")
    timeframe: Timeframe | None = None
    since: Moment | None = Field(None, description="Found then or later.")
    limit: Limit = 100
    cursor: FindingCursor | None = None

    def which(self, kind: str | None) -> Filter:
        return Filter(self.symbol, self.timeframe, kind, self.since)


class ChecksQuery(FindingsQuery):
    check: Text | None = Field(None, description="Name of a validation check.")


class GapsQuery(FindingsQuery):
    cause: GapCause | None = None


class BarsQuery(QueryModel):
    timeframe: Timeframe = Timeframe.D1
    start: Moment | None = Field(None, alias="from", description="Earliest start of a bar.")
    end: Moment | None = Field(None, alias="to", description="End of the range, exclusive.")
    columns: list[Column] | None = Field(
        None,
        description="Columns besides `ts`, in this order; by default all (`session`: of intraday "
        "bars).",
    )
    limit: Annotated[int, Field(ge=1, le=MAX_BARS), Whole] | None = Field(
        None, description="Maximum number of bars, from the start of the range."
    )
    adjust: Adjustment = Field(
        Adjustment.SPLIT,
        description="Basis of prices and volumes: `none` as traded, `split` on today's share basis,"
        " `total` also as if dividends had been reinvested.",
    )
    format: Format = Format.JSON


def blueprint(reader: ReadModels) -> Blueprint:
    """Build the blueprint."""
    bp = Blueprint("data", __name__, url_prefix="/api/v1/data")

    @bp.get("/quality/<symbol>")
    @Endpoint("data", SymbolQuality, responses={304: None})
    def quality(symbol: Symbol, query: QualityQuery) -> Response:
        """A symbol's data quality by day, and its latest fetches.

        Gaps and anomalies count on the day on which they were first detected.
        """
        symbol = reader.symbols.stored_as(symbol)
        report = reader.quality_by_day.of(symbol, query.days)
        if report is None:
            raise NotTracked.of(symbol)
        return conditional_response(report)

    @bp.get("/corrections")
    @Endpoint("data", CorrectionsResponse, responses={304: None})
    def corrections(query: CorrectionsQuery) -> Response:
        """Stored values that were corrected because a vendor restated them, newest first."""
        rows = reader.audit_log.corrections(
            query.limit + 1,
            symbol=query.symbol and reader.symbols.stored_as(query.symbol),
            timeframe=query.timeframe,
            since=query.since,
            before=query.cursor,
        )
        return page_response(
            rows,
            query.limit,
            lambda page: CorrectionsResponse(utc_now(), len(page), page),
            lambda last: last.id,
        )

    @bp.get("/flags")
    @Endpoint("data", FlagsResponse, responses={304: None})
    def flags(query: ChecksQuery) -> Response:
        """Findings of validation checks in all series, newest bar first."""
        page = reader.findings.flags(query.limit, query.which(query.check), query.cursor)
        return _findings(page, FlagsResponse)

    @bp.get("/quarantine")
    @Endpoint("data", QuarantineResponse, responses={304: None})
    def quarantine(query: ChecksQuery) -> Response:
        """Rejected bars of all series as their vendors sent them, newest bar first."""
        page = reader.findings.rejected_bars(query.limit, query.which(query.check), query.cursor)
        return _findings(page, QuarantineResponse)

    @bp.get("/gaps")
    @Endpoint("data", GapsResponse, responses={304: None})
    def gaps(query: GapsQuery) -> Response:
        """Missing bars of all series with their cause, newest bar first."""
        page = reader.findings.missing_bars(query.limit, query.which(query.cause), query.cursor)
        return _findings(page, GapsResponse)

    @bp.get("/bars/<symbol>")
    @Endpoint("data", content=_content())
    def bars(symbol: Symbol, query: BarsQuery) -> Response:
        """A series' bars with their features, oldest first, from one state of the series.

        Prices and volumes are on the basis that `adjust` names; the header `X-Adjust` repeats it.
        The header `X-Row-Count` says how many bars follow. A download is cut, which ends the
        connection, where the series is changed meanwhile or the client takes longer than an hour.
        `X-Simulated: true` marks simulated series of the sandbox vendor.
        """
        symbol = reader.symbols.stored_as(symbol)
        if not reader.bars.exists(symbol):
            raise NotTracked.of(symbol)
        columns = list(
            dict.fromkeys(query.columns or bar_download.default_columns(query.timeframe))
        )
        extent = reader.bars.extent(
            symbol, query.timeframe, query.start, query.end, query.limit, query.adjust
        )
        batches = reader.bars.chunks(extent, columns)
        fields = {
            "timestamp": utc_now(),
            "symbol": symbol,
            "timeframe": query.timeframe,
            "adjust": query.adjust,
        }
        chunks = encoded(query.format, batches, bar_download.schema(columns), fields)
        return _download(chunks, extent, query)

    return bp


def _findings(page: FindingsPage[Any], response_model: Any) -> Response:
    rows = len(page.rows)
    response = conditional_response(response_model(utc_now(), rows, page.total, page.rows))
    return response if page.next is None else with_next_link(response, page.next)


def _content() -> dict[str, dict[str, Any]]:
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
        "required": ["timestamp", "symbol", "timeframe", "adjust", "bars"],
        "properties": {
            "timestamp": {"type": "string", "format": "date-time"},
            "symbol": {"type": "string"},
            "timeframe": {"type": "string"},
            "adjust": {"type": "string", "enum": list(Adjustment)},
            "bars": {"type": "array", "items": bar},
        },
    }
    return {
        encoding.media_type: {"schema": series if kind is Format.JSON else {}}
        for kind, encoding in ENCODINGS.items()
    }


def _download(chunks: Iterator[bytes], extent: Extent, query: BarsQuery) -> Response:
    symbol = extent.symbol
    response = Response(stream_with_context(chunks), mimetype=ENCODINGS[query.format].media_type)
    response.headers["X-Row-Count"] = str(extent.rows)
    if query.format is not Format.JSON:
        name = f"{symbol.replace(':', '_')}-{query.timeframe}.{query.format}"
        response.headers["Content-Disposition"] = f'attachment; filename="{name}"'
    response.headers["X-Adjust"] = query.adjust
    if is_simulated(symbol):
        response.headers["X-Simulated"] = "true"
    return response
