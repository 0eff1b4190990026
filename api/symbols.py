"""The blueprint of the tracked symbols."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated

from flask import Blueprint, Response, request, url_for
from pydantic import Field

from api.endpoint import Endpoint
from api.enrichment import PREFIX, actor
from api.parameters import BodyModel, Flag, Limit, QueryModel, Symbol, SymbolCursor, Text
from api.responses import FIELD_DOCS, conditional_response, json_response, page_response
from enrichment.domain.clock import utc_now
from enrichment.domain.errors import Conflict, NotTracked
from enrichment.domain.model import AssetClass, StockSession, Timeframe, TrackedSymbol
from enrichment.domain.symbol_csv import HEADER, MAX_SHOWN, SESSION, RejectedLine, read_csv
from enrichment.services.commands import Commands
from enrichment.warehouse.read_models.symbols import SymbolDetails, SymbolQueries

CSV_PATTERN = (
    rf"^{','.join(HEADER)}(,{SESSION})?\r?\n(([XC]:)?[A-Z0-9][A-Z0-9.\-]{{0,23}},({'|'.join(AssetClass)}),"
    rf"({'|'.join(Timeframe)})(\|({'|'.join(Timeframe)}))*(,({'|'.join(StockSession)})?)?\r?\n)+$"
)
_SESSION = Field(
    None, description="Hours of its intraday bars; null: those of the setting STOCK_SESSION."
)
Timeframes = Annotated[list[Timeframe], Field(min_length=1, max_length=len(Timeframe))]


@dataclass(frozen=True, slots=True)
class SymbolResponse:
    timestamp: datetime
    symbol: SymbolDetails


@dataclass(frozen=True, slots=True)
class SymbolsResponse:
    timestamp: datetime
    count: int
    symbols: Sequence[SymbolDetails]


@dataclass(frozen=True, slots=True)
class ImportResponse:
    __pydantic_config__ = FIELD_DOCS
    timestamp: datetime
    imported: bool
    """Whether the symbols are tracked now; false on a dry run and if a line is invalid."""
    count: int
    symbols: Sequence[TrackedSymbol]
    bad_lines: Sequence[RejectedLine]
    """The first 100."""
    bad_line_count: int
    """All of them."""


class SymbolsQuery(QueryModel):
    asset_class: AssetClass | None = None
    active: Flag | None = None
    search: Text | None = Field(None, description="Part of the symbol.")
    limit: Limit = 100
    cursor: SymbolCursor = None


class ImportQuery(QueryModel):
    dry_run: Flag = Field(False, description="Validate the file without importing it.")


class NewSymbol(BodyModel):
    """A symbol to track."""

    symbol: Symbol
    asset_class: AssetClass
    timeframes: Timeframes
    session: StockSession | None = _SESSION


class SymbolChange(BodyModel):
    """Changes to a symbol; absent fields stay as they are."""

    asset_class: AssetClass | None = None
    timeframes: Timeframes | None = None
    session: StockSession | None = _SESSION
    active: bool | None = None


def blueprint(queries: SymbolQueries, commands: Commands) -> Blueprint:
    """Build the blueprint."""
    bp = Blueprint("symbols", __name__, url_prefix=PREFIX)

    @bp.get("/symbols")
    @Endpoint("symbols", SymbolsResponse, responses={304: None})
    def symbols(query: SymbolsQuery) -> Response:
        """Tracked symbols in alphabetical order, with the status of their series."""
        rows = queries.page(
            query.limit + 1,
            asset_class=query.asset_class,
            active=query.active,
            search=query.search,
            after=query.cursor,
        )
        return page_response(
            rows,
            query.limit,
            lambda page: SymbolsResponse(utc_now(), len(page), page),
            lambda last: last.symbol,
        )

    @bp.post("/symbols")
    @Endpoint("symbols", SymbolResponse, status=201, changes_state=True, error_statuses=(409,))
    def add(body: NewSymbol) -> Response:
        """Track a symbol; the next job fetches its history."""
        existing = queries.find(queries.stored_as(body.symbol))
        if existing is not None and existing.active:
            raise Conflict(f"{existing.symbol} is tracked already: change it with PATCH")
        timeframes = tuple(t for t in Timeframe if t in body.timeframes)
        commands.track(
            [TrackedSymbol(body.symbol, body.asset_class, timeframes, session=body.session)],
            actor=actor(request),
        )
        response = _symbol_response(queries, body.symbol, 201)
        response.headers["Location"] = url_for("symbols.symbol", symbol=body.symbol)
        return response

    @bp.get("/symbols/<symbol>")
    @Endpoint("symbols", SymbolResponse, responses={304: None})
    def symbol(symbol: Symbol) -> Response:
        """A symbol with the status of its series."""
        return conditional_response(SymbolResponse(utc_now(), _find(queries, symbol)))

    @bp.patch("/symbols/<symbol>")
    @Endpoint("symbols", SymbolResponse, changes_state=True, error_statuses=(409,))
    def change(symbol: Symbol, body: SymbolChange) -> Response:
        """Change how a symbol is tracked."""
        current = _find(queries, symbol)
        symbol = current.symbol
        timeframes = body.timeframes or [Timeframe(state.timeframe) for state in current.timeframes]
        changed = TrackedSymbol(
            symbol,
            body.asset_class or AssetClass(current.asset_class),
            tuple(timeframe for timeframe in Timeframe if timeframe in timeframes),
            current.active if body.active is None else body.active,
            body.session if "session" in body.model_fields_set else _session(current),
        )
        if current.active and not changed.active:
            commands.untrack(symbol, actor=actor(request))
        commands.change(changed, actor=actor(request))
        return _symbol_response(queries, symbol)

    @bp.post("/symbols/<symbol>/deactivate")
    @Endpoint("symbols", SymbolResponse, changes_state=True)
    def deactivate(symbol: Symbol) -> Response:
        """Stop enriching a symbol; its stored data stays."""
        commands.untrack(symbol, actor=actor(request))
        return _symbol_response(queries, symbol)

    @bp.post("/symbol-import")
    @Endpoint(
        "symbols",
        ImportResponse,
        changes_state=True,
        text_type="text/csv",
        text_pattern=CSV_PATTERN,
        responses={422: ImportResponse},
    )
    def import_(query: ImportQuery, body: str) -> Response:
        """Track the symbols of a CSV file with the header symbol,asset_class,timeframes, and maybe
        session.

        Timeframes are separated by '|'. If any line is invalid, nothing is imported and the
        response (422) names the first 100 invalid lines and their number.
        """
        parsed = read_csv(body, commands.require_served)
        valid = not parsed.bad_lines
        imported = valid and not query.dry_run
        if imported:
            commands.track(parsed.symbols, actor=actor(request))
        value = ImportResponse(
            utc_now(),
            imported,
            len(parsed.symbols),
            parsed.symbols,
            parsed.bad_lines[:MAX_SHOWN],
            len(parsed.bad_lines),
        )
        return json_response(value, 200 if valid else 422)

    return bp


def _session(details: SymbolDetails) -> StockSession | None:
    return None if details.session is None else StockSession(details.session)


def _find(queries: SymbolQueries, symbol: str) -> SymbolDetails:
    details = queries.find(queries.stored_as(symbol))
    if details is None:
        raise NotTracked.of(symbol)
    return details


def _symbol_response(queries: SymbolQueries, symbol: str, status: int = 200) -> Response:
    return json_response(SymbolResponse(utc_now(), _find(queries, symbol)), status)
