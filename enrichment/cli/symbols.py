"""`enrichment symbols …`: the tracked symbols."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from enrichment.cli.context import Json, actor, out, services
from enrichment.domain.errors import InvalidRequest
from enrichment.domain.plurals import counted

app = typer.Typer(no_args_is_help=True, help="List, add, remove and import tracked symbols.")


@app.command("list")
def symbols_list(as_json: Json = False) -> None:
    """List tracked symbols and the status of their series."""
    from enrichment.cli import render

    with services() as (reader, _):
        series = reader.series()
    if as_json:
        out.print(render.as_json(series), highlight=False)
    elif not series:
        out.print("no symbols yet: enrichment symbols add AAPL --asset-class stock")
    else:
        out.print(render.series_table(series))


@app.command("add")
def symbols_add(
    symbol: Annotated[list[str], typer.Argument(help="One or more symbols.")],
    asset_class: Annotated[
        str | None, typer.Option(help="stock, etf or crypto; none: crypto for X:…, else stock.")
    ] = None,
    timeframes: Annotated[
        str, typer.Option(help="5m 15m 30m 1h 4h 1d 1w, separated by commas.")
    ] = "1d",
) -> None:
    """Track symbols, or change their asset class and timeframes."""
    from enrichment.domain.symbol_csv import parse_tracked
    from enrichment.domain.symbols import parse_symbol

    names = [parse_symbol(given) for given in symbol]
    default = {True: "crypto", False: "stock"}
    tracked = [
        parse_tracked(name, asset_class or default[name.startswith("X:")], timeframes)
        for name in names
    ]
    with services() as (_, commands):
        commands.track(tracked, actor=actor())
    out.print(f"tracking {', '.join(t.symbol for t in tracked)}", highlight=False)


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
    """Track the symbols of a CSV file: symbol,asset_class,timeframes (separated by '|')."""
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
