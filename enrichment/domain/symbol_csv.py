"""Tracked symbols from text and CSV files.

>>> parsed = read_csv("symbol,asset_class,timeframes\\naapl,stock,1d|1h\\nX:BTCUSD,bond,1h")
>>> [tracked.symbol for tracked in parsed.symbols]
['AAPL']
>>> [(bad.line, bad.detail) for bad in parsed.bad_lines]
[(3, "unknown asset class 'bond': choose one of stock, etf, crypto")]
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from enrichment.domain.errors import InvalidRequest
from enrichment.domain.model import AssetClass, StockSession, Timeframe, TrackedSymbol
from enrichment.domain.symbols import parse_symbol

MAX_SHOWN = 100  # bad lines in an error or a response
HEADER = ("symbol", "asset_class", "timeframes")
SESSION = "session"  # a column that may be left out


@dataclass(frozen=True, slots=True)
class RejectedLine:
    """A line of a file with an error."""

    line: int  # its number; the header is line 1
    detail: str


@dataclass(frozen=True, slots=True)
class SymbolList:
    """Content of a file."""

    symbols: Sequence[TrackedSymbol]  # each once
    bad_lines: Sequence[RejectedLine]


def parse_tracked(
    symbol: str, asset_class: str, timeframes: str, session: str | None = None
) -> TrackedSymbol:
    """A symbol with its settings. Raises InvalidRequest if one of them is malformed."""
    return TrackedSymbol(
        parse_symbol(symbol),
        AssetClass.parse(asset_class),
        Timeframe.parse_list(timeframes),
        session=StockSession.parse(session) if session else None,
    )


def _tracked(row: Mapping[str, str | None]) -> TrackedSymbol:
    symbol, asset_class, timeframes = (row[name] or "" for name in HEADER)
    return parse_tracked(symbol, asset_class, timeframes, row.get(SESSION))


def read_csv(
    content: str, check: Callable[[TrackedSymbol], None] = lambda tracked: None
) -> SymbolList:
    """Symbols from CSV with the header symbol,asset_class,timeframes (timeframes separated by '|'),
    and maybe a column session.

    The last line of a symbol wins. Errors become `bad_lines`; nothing is raised.

    Args:
        content: Text of the file.
        check: Raises InvalidRequest for a symbol that is not to be tracked.
    """
    reader = csv.DictReader(io.StringIO(content.lstrip("\ufeff")))
    symbols: dict[str, TrackedSymbol] = {}
    bad_lines: list[RejectedLine] = []
    try:
        if not set(HEADER) <= set(reader.fieldnames or ()):
            return SymbolList([], [RejectedLine(1, f"the first line must be: {','.join(HEADER)}")])
        for row in reader:
            try:
                tracked = _tracked(row)
                check(tracked)
                symbols[tracked.symbol] = tracked
            except InvalidRequest as exc:
                bad_lines.append(RejectedLine(reader.line_num, str(exc)))
    except csv.Error as exc:
        bad_lines.append(RejectedLine(reader.line_num + 1, f"this is not CSV: {exc}"))
    if not symbols and not bad_lines:
        bad_lines.append(RejectedLine(1, "the file names no symbol"))
    return SymbolList(list(symbols.values()), bad_lines)


def parse_csv(
    content: str, check: Callable[[TrackedSymbol], None] = lambda tracked: None
) -> list[TrackedSymbol]:
    """Like `read_csv`, but a bad line raises InvalidRequest, which names the first ones."""
    parsed = read_csv(content, check)
    if parsed.bad_lines:
        shown = [f"line {bad.line}: {bad.detail}" for bad in parsed.bad_lines[:MAX_SHOWN]]
        if len(parsed.bad_lines) > MAX_SHOWN:
            shown.append(f"{len(parsed.bad_lines):,} bad lines in all")
        raise InvalidRequest("; ".join(shown))
    return list(parsed.symbols)
