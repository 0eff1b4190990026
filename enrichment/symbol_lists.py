"""Symbols with their settings, from texts and CSV files."""

from __future__ import annotations

import csv
import io

from enrichment.domain import AssetClass, Timeframe, TrackedSymbol, parse_symbol
from enrichment.errors import InvalidRequest


def parse_tracked(symbol: str, asset_class: str, timeframes: str) -> TrackedSymbol:
    """A symbol with its settings, from their texts."""
    return TrackedSymbol(
        parse_symbol(symbol), AssetClass.parse(asset_class), Timeframe.parse_list(timeframes)
    )


def parse_csv(content: str) -> list[TrackedSymbol]:
    """Symbols from CSV with the header symbol,asset_class,timeframes (timeframes separated by '|').

    All lines are checked before anything is changed; the error names every bad line.
    """
    reader = csv.DictReader(io.StringIO(content.lstrip("\ufeff")))
    if not {"symbol", "asset_class", "timeframes"} <= set(reader.fieldnames or ()):
        raise InvalidRequest("the first line must be: symbol,asset_class,timeframes")
    found: list[TrackedSymbol] = []
    problems: list[str] = []
    for row in reader:
        try:
            found.append(
                parse_tracked(
                    row["symbol"] or "", row["asset_class"] or "", row["timeframes"] or ""
                )
            )
        except InvalidRequest as exc:
            problems.append(f"line {reader.line_num}: {exc}")
    if problems:
        raise InvalidRequest("; ".join(problems))
    if not found:
        raise InvalidRequest("the file names no symbol")
    return list({tracked.symbol: tracked for tracked in found}.values())
