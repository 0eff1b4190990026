"""The blueprint of the symbols: what is tracked, and changing it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated

from flask import Blueprint, Response, request, url_for
from pydantic import Field

from api.endpoint import endpoint
from api.enrichment import PREFIX, actor
from api.parameters import BodyModel, Flag, Limit, QueryModel, Symbol, SymbolCursor, Text
from api.responses import conditional_response, json_response, page_response
from enrichment.domain.clock import utc_now
from enrichment.domain.errors import Conflict, NotTracked
from enrichment.domain.model import AssetClass, Timeframe, TrackedSymbol
from enrichment.domain.symbol_csv import HEADER, RejectedLine, read_csv
from enrichment.services.commands import Commands
from enrichment.warehouse.read_models.symbols import SymbolDetails, SymbolQueries

CSV_PATTERN = (
    rf"^{','.join(HEADER)}\r?\n(([XC]:)?[A-Z0-9][A-Z0-9.\-]{{0,23}},({'|'.join(AssetClass)}),"
    rf"({'|'.join(Timeframe)})(\|({'|'.join(Timeframe)}))*\r?\n)+$"
)
Timeframes = Annotated[list[Timeframe], Field(min_length=1, max_length=len(Timeframe))]


@dataclass(frozen=True, slots=True)
class SymbolAnswer:
    timestamp: datetime
    symbol: SymbolDetails


@dataclass(frozen=True, slots=True)
class SymbolsAnswer:
    timestamp: datetime
    count: int
    symbols: Sequence[SymbolDetails]


@dataclass(frozen=True, slots=True)
class ImportAnswer:
    """imported: whether the symbols are tracked now: only if no line is bad, and not on a trial."""

    timestamp: datetime
    imported: bool
    count: int
    symbols: Sequence[TrackedSymbol]
    bad_lines: Sequence[RejectedLine]


class SymbolsQuery(QueryModel):
    asset_class: AssetClass | None = None
    active: Flag | None = None
    search: Text | None = Field(None, description="A part of the name.")
    limit: Limit = 100
    cursor: SymbolCursor = None


class ImportQuery(QueryModel):
    dry_run: Flag = Field(False, description="Only say what would be imported.")


class NewSymbol(BodyModel):
    """A symbol to track."""

    symbol: Symbol
    asset_class: AssetClass
    timeframes: Timeframes


class SymbolChange(BodyModel):
    """What is to change; what is left out stays."""

    asset_class: AssetClass | None = None
    timeframes: Timeframes | None = None
    active: bool | None = None


def blueprint(catalogue: SymbolQueries, commands: Commands) -> Blueprint:
    """The endpoints on these services."""
    bp = Blueprint("symbols", __name__, url_prefix=PREFIX)

    @bp.get("/symbols")
    @endpoint("symbols", SymbolsAnswer, responses={304: None})
    def symbols(query: SymbolsQuery) -> Response:
        """Tracked symbols by name, with the state of their series."""
        found = catalogue.page(
            query.limit + 1,
            asset_class=query.asset_class,
            active=query.active,
            search=query.search,
            after=query.cursor,
        )
        return page_response(
            found,
            query.limit,
            lambda page: SymbolsAnswer(utc_now(), len(page), page),
            lambda last: last.symbol,
        )

    @bp.post("/symbols")
    @endpoint("symbols", SymbolAnswer, status=201, changes=True, problems=(409,))
    def add(body: NewSymbol) -> Response:
        """Track a symbol: from the next run on, with its history."""
        known = catalogue.find(body.symbol)
        if known is not None and known.active:
            raise Conflict(f"{body.symbol} is tracked already: change it with PATCH")
        timeframes = tuple(t for t in Timeframe if t in body.timeframes)
        commands.track(
            [TrackedSymbol(body.symbol, body.asset_class, timeframes)], actor=actor(request)
        )
        response = _one(catalogue, body.symbol, 201)
        response.headers["Location"] = url_for("symbols.symbol", symbol=body.symbol)
        return response

    @bp.get("/symbols/<symbol>")
    @endpoint("symbols", SymbolAnswer, responses={304: None})
    def symbol(symbol: Symbol) -> Response:
        """One symbol, with the state of its series."""
        return conditional_response(SymbolAnswer(utc_now(), _known(catalogue, symbol)))

    @bp.patch("/symbols/<symbol>")
    @endpoint("symbols", SymbolAnswer, changes=True)
    def change(symbol: Symbol, body: SymbolChange) -> Response:
        """Change how a symbol is tracked."""
        known = _known(catalogue, symbol)
        chosen = body.timeframes or [Timeframe(state.timeframe) for state in known.timeframes]
        changed = TrackedSymbol(
            symbol,
            body.asset_class or AssetClass(known.asset_class),
            tuple(timeframe for timeframe in Timeframe if timeframe in chosen),
            known.active if body.active is None else body.active,
        )
        if known.active and not changed.active:
            commands.untrack(symbol, actor=actor(request))
        commands.track([changed], actor=actor(request))
        return _one(catalogue, symbol)

    @bp.post("/symbols/<symbol>/deactivate")
    @endpoint("symbols", SymbolAnswer, changes=True)
    def deactivate(symbol: Symbol) -> Response:
        """Stop enriching a symbol; what is stored of it stays."""
        commands.untrack(symbol, actor=actor(request))
        return _one(catalogue, symbol)

    @bp.post("/symbol-import")
    @endpoint(
        "symbols",
        ImportAnswer,
        changes=True,
        takes="text/csv",
        pattern=CSV_PATTERN,
        responses={422: ImportAnswer},
    )
    def import_(query: ImportQuery, body: str) -> Response:
        """Track the symbols of a CSV file with the header symbol,asset_class,timeframes.

        Timeframes are separated by '|'. All lines are read before anything changes: if one is bad,
        nothing is imported, and the answer (422) names every bad line.
        """
        listed = read_csv(body)
        good = not listed.bad_lines
        if good and not query.dry_run:
            commands.track(listed.symbols, actor=actor(request))
        value = ImportAnswer(
            utc_now(),
            good and not query.dry_run,
            len(listed.symbols),
            listed.symbols,
            listed.bad_lines,
        )
        return json_response(value, 200 if good else 422)

    return bp


def _known(catalogue: SymbolQueries, symbol: str) -> SymbolDetails:
    found = catalogue.find(symbol)
    if found is None:
        raise NotTracked.of(symbol)
    return found


def _one(catalogue: SymbolQueries, symbol: str, status: int = 200) -> Response:
    return json_response(SymbolAnswer(utc_now(), _known(catalogue, symbol)), status)
