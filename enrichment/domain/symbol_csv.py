"""Symbols with their settings, from texts and CSV files."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

from enrichment.domain.errors import InvalidRequest
from enrichment.domain.model import AssetClass, Timeframe, TrackedSymbol, parse_symbol

HEADER = ("symbol", "asset_class", "timeframes")


@dataclass(frozen=True, slots=True)
class RejectedLine:
    """A line of a file that can't be used. line: its number, the header being 1."""

    line: int
    detail: str


@dataclass(frozen=True, slots=True)
class SymbolList:
    """What a file names: its good lines, each symbol once, and its bad ones."""

    symbols: Sequence[TrackedSymbol]
    bad_lines: Sequence[RejectedLine]


def parse_tracked(symbol: str, asset_class: str, timeframes: str) -> TrackedSymbol:
    """A symbol with its settings, from their texts."""
    return TrackedSymbol(
        parse_symbol(symbol), AssetClass.parse(asset_class), Timeframe.parse_list(timeframes)
    )


def read_csv(content: str) -> SymbolList:
    """Symbols from CSV with the header symbol,asset_class,timeframes (timeframes separated by '|').

    A symbol's last line counts.
    """
    reader = csv.DictReader(io.StringIO(content.lstrip("\ufeff")))
    found: dict[str, TrackedSymbol] = {}
    problems: list[RejectedLine] = []
    try:
        if not set(HEADER) <= set(reader.fieldnames or ()):
            return SymbolList([], [RejectedLine(1, f"the first line must be: {','.join(HEADER)}")])
        for row in reader:
            try:
                tracked = parse_tracked(*(row[name] or "" for name in HEADER))
                found[tracked.symbol] = tracked
            except InvalidRequest as exc:
                problems.append(RejectedLine(reader.line_num, str(exc)))
    except csv.Error as exc:
        problems.append(RejectedLine(reader.line_num + 1, f"this is not CSV: {exc}"))
    if not found and not problems:
        problems.append(RejectedLine(1, "the file names no symbol"))
    return SymbolList(list(found.values()), problems)


def parse_csv(content: str) -> list[TrackedSymbol]:
    """Like `read_csv`, where nothing may be wrong: the error names every bad line."""
    listed = read_csv(content)
    if listed.bad_lines:
        raise InvalidRequest(
            "; ".join(f"line {bad.line}: {bad.detail}" for bad in listed.bad_lines)
        )
    return list(listed.symbols)
