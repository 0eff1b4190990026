"""`enrichment symbols …`: the tracked symbols."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from enrichment.cli.context import Json, Plain, actor, err, load_settings, out, services
from enrichment.domain.errors import InvalidRequest
from enrichment.domain.plurals import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from enrichment.domain.model import TrackedSymbol

app = typer.Typer(no_args_is_help=True, help="List, add, remove and import tracked symbols.")


@app.command("list")
def symbols_list(as_json: Json = False, plain: Plain = False) -> None:
    """List tracked symbols and the status of their series."""
    from enrichment.cli import render
    from enrichment.cli.tables import print_table

    with services() as (reader, _):
        series = reader.series()
    if as_json:
        render.print_json(out, series)
    elif not series and not plain:
        out.print("no symbols yet: enrichment symbols add AAPL --asset-class stock")
    else:
        print_table(out, render.series_table(series), plain=plain)


@app.command("add")
def symbols_add(
    symbol: Annotated[list[str], typer.Argument(help="One or more symbols.")],
    asset_class: Annotated[
        str | None, typer.Option(help="stock, etf or crypto; none: crypto for X:…, else stock.")
    ] = None,
    timeframes: Annotated[
        str, typer.Option(help="5m 15m 30m 1h 4h 1d 1w, separated by commas.")
    ] = "1d",
    session: Annotated[
        str | None,
        typer.Option(
            help="Hours of a stock's intraday bars: regular or extended; none: STOCK_SESSION."
        ),
    ] = None,
) -> None:
    """Track symbols, or change their asset class, timeframes and session."""
    from enrichment.domain.symbol_csv import parse_tracked
    from enrichment.domain.symbols import parse_symbol

    names = [parse_symbol(given) for given in symbol]
    default = {True: "crypto", False: "stock"}
    tracked = [
        parse_tracked(name, asset_class or default[name.startswith("X:")], timeframes, session)
        for name in names
    ]
    settings = load_settings()
    with services(settings) as (_, commands):
        commands.track(tracked, actor=actor())
    out.print(f"tracking {', '.join(t.symbol for t in tracked)}", highlight=False)
    if settings.uses_sandbox:
        _warn_of_unserved(tracked)


def _warn_of_unserved(tracked: Sequence[TrackedSymbol]) -> None:
    """Name the series that the sandbox vendor does not have."""
    from enrichment.sandbox.market import serves

    missing = [
        f"{t.symbol} {timeframe}"
        for t in tracked
        for timeframe in t.timeframes
        if not serves(t.symbol, timeframe)
    ]
    if missing:
        err.print(
            f"the sandbox vendor has no {', '.join(missing)}: it has daily and weekly bars of "
            "AAPL, FB, GOOG, IBM and MSFT, and every timeframe of SIM1, SIM2, … and X:SIM1USD, …; "
            "set POLYGON_API_KEY or PROVIDERS_… for real vendors",
            style="yellow",
        )


@app.command("remove")
def symbols_remove(
    symbol: Annotated[list[str], typer.Argument(help="One or more symbols.")],
) -> None:
    """Stop enriching symbols; their stored bars stay."""
    with services() as (reader, commands):
        for name in [reader.symbols.stored_as(given) for given in symbol]:
            commands.untrack(name, actor=actor())
            out.print(f"{name} is no longer tracked; its bars stay", highlight=False)


@app.command("import")
def symbols_import(file: Annotated[Path, typer.Argument(exists=True, dir_okay=False)]) -> None:
    """Track the symbols of a CSV file: symbol,asset_class,timeframes (separated by '|'), and maybe
    session.
    """
    from enrichment.domain.symbol_csv import parse_csv

    try:
        content = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as exc:
        raise InvalidRequest(
            f"{file.name} is not UTF-8 (byte {exc.start + 1}): save it as 'CSV UTF-8'"
        ) from None
    with services() as (_, commands):
        tracked = parse_csv(content, commands.require_served)
        commands.track(tracked, actor=actor())
    out.print(f"tracking {counted(len(tracked), 'symbol')} from {file.name}", highlight=False)
