"""`enrichment bars`: a series' bars and features as a file, on the basis that is asked for."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from enrichment.cli.context import parse_time, services
from enrichment.domain.errors import ConfigurationError, InvalidRequest, NotTracked

E = TypeVar("E", bound=StrEnum)


def bars(
    symbol: Annotated[str, typer.Argument(help="Symbol.")],
    timeframe: Annotated[str, typer.Option(help="5m 15m 30m 1h 4h 1d 1w.")] = "1d",
    start: Annotated[str | None, typer.Option("--from", help="Earliest start (UTC).")] = None,
    end: Annotated[str | None, typer.Option("--to", help="End, exclusive (UTC).")] = None,
    columns: Annotated[
        str | None, typer.Option(help="Columns besides ts, separated by commas; none: all.")
    ] = None,
    adjust: Annotated[
        str, typer.Option(help="Basis of prices and volumes: none, split or total.")
    ] = "split",
    format_: Annotated[str, typer.Option("--format", help="csv, json, arrow or parquet.")] = "csv",
    output: Annotated[
        Path | None, typer.Option(help="File to write; none: standard output.")
    ] = None,
) -> None:
    """Write a series' bars with their features, oldest first.

    With --adjust none prices are as traded, with split on today's share basis, with total also as
    if dividends had been reinvested.
    """
    from api.downloads import Format, encoded
    from enrichment.domain.clock import utc_now
    from enrichment.domain.corporate_actions import Adjustment
    from enrichment.domain.model import Timeframe
    from enrichment.warehouse.read_models.bars import COLUMNS, default_columns, schema

    kind = Timeframe.parse(timeframe)
    basis = _one_of(Adjustment, adjust, "basis")
    encoding = _one_of(Format, format_, "format")
    names = [name.strip() for name in columns.split(",")] if columns else default_columns(kind)
    if unknown := [name for name in names if name not in COLUMNS]:
        raise InvalidRequest(f"no such columns: {', '.join(unknown)}; choose from {_list(COLUMNS)}")
    first, last = (None if moment is None else parse_time(moment) for moment in (start, end))
    with services() as (reader, _):
        name = reader.symbols.stored_as(symbol)
        if not reader.bars.exists(name):
            raise NotTracked.of(name)
        extent = reader.bars.extent(name, kind, first, last, adjustment=basis)
        fields = {"timestamp": utc_now(), "symbol": name, "timeframe": kind, "adjust": basis}
        batches = reader.bars.chunks(extent, names)
        chunks = encoded(encoding, batches, schema(names), fields)
        if output is None:
            for chunk in chunks:
                sys.stdout.buffer.write(chunk)
            return
        try:
            with output.open("wb") as file:
                file.writelines(chunks)
        except OSError as exc:
            raise ConfigurationError(
                f"{output} can't be written ({exc.strerror}): choose another --output"
            ) from None


def _one_of(choices: type[E], text: str, label: str) -> E:
    try:
        return choices(text.strip().lower())
    except ValueError:
        raise InvalidRequest(f"unknown {label} {text!r}: choose from {_list(choices)}") from None


def _list(names: Iterable[str]) -> str:
    return ", ".join(names)


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command()(bars)
