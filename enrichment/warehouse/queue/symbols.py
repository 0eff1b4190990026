"""The tracked symbols."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, text

from enrichment.domain.model import AssetClass, Timeframe, TrackedSymbol
from enrichment.domain.symbols import parse_symbol, spellings
from enrichment.warehouse.state_lists import QUEUED_ITEMS


def put(conn: Connection, tracked: Sequence[TrackedSymbol], *, keep_timeframes: bool) -> None:
    """Add the symbols, or bring existing ones to these settings.

    Args:
        keep_timeframes: Whether active symbols keep the timeframes that they have beside these, and
            their session where none is given.
    """
    conn.execute(
        text(_PUT),
        [
            {
                "symbol": t.symbol,
                "asset_class": t.asset_class.value,
                "timeframes": [timeframe.value for timeframe in t.timeframes],
                "active": t.active,
                "session": t.session,
                "keep": keep_timeframes,
                "order": list(Timeframe),
            }
            for t in tracked
        ],
    )


def deactivate(conn: Connection, symbol: str) -> bool:
    """Stop enriching a symbol; its bars and history stay. False if it was not active."""
    updated = conn.execute(
        text(
            "UPDATE tracked_symbols SET active = false, updated_at = now()"
            " WHERE symbol = :symbol AND active"
        ),
        {"symbol": symbol},
    )
    return updated.rowcount == 1


def stored_as(conn: Connection, symbols: Sequence[str]) -> list[str]:
    """The symbols as they are stored: one that was tracked under another spelling keeps that."""
    names = [parse_symbol(symbol) for symbol in symbols]
    others = {spelling: name for name in names for spelling in spellings(name)[1:]}
    if not others:
        return names
    rows = conn.execute(
        text("SELECT symbol FROM tracked_symbols WHERE symbol = ANY(:symbols)"),
        {"symbols": [*names, *others]},
    )
    tracked = set(rows.scalars())
    older = {others[symbol]: symbol for symbol in sorted(tracked & others.keys())}
    return [name if name in tracked else older.get(name, name) for name in names]


def select(
    conn: Connection, symbols: Sequence[str] | None = None, asset_class: str | None = None
) -> list[TrackedSymbol]:
    """The tracked symbols, or these or an asset class' of them, ascending; inactive ones, too."""
    names = None if symbols is None else list(symbols)
    rows = conn.execute(text(_SELECT), {"symbols": names, "asset_class": asset_class})
    return [_tracked(row) for row in rows]


def queued(conn: Connection) -> set[str]:
    """The symbols that open jobs have not finished yet."""
    return set(conn.execute(text(_QUEUED)).scalars())


def _tracked(row: Any) -> TrackedSymbol:
    timeframes = tuple(Timeframe(name) for name in row.timeframes)
    return TrackedSymbol(row.symbol, AssetClass(row.asset_class), timeframes, row.active)


def not_active(conn: Connection, symbols: Sequence[str]) -> list[str]:
    """Those of the symbols that are not tracked, or not active."""
    rows = conn.execute(
        text("SELECT symbol FROM tracked_symbols WHERE symbol = ANY(:symbols) AND active"),
        {"symbols": list(symbols)},
    )
    active = set(rows.scalars())
    return [symbol for symbol in symbols if symbol not in active]


_SELECT = """
SELECT symbol, asset_class, timeframes, active FROM tracked_symbols
WHERE (CAST(:symbols AS text[]) IS NULL OR symbol = ANY(CAST(:symbols AS text[])))
    AND (CAST(:asset_class AS text) IS NULL OR asset_class = :asset_class)
ORDER BY symbol
"""

_QUEUED = f"SELECT DISTINCT symbol FROM enrichment_job_items WHERE status IN {QUEUED_ITEMS}"

_PUT = """
INSERT INTO tracked_symbols AS t (symbol, asset_class, timeframes, active, session)
VALUES (:symbol, :asset_class, :timeframes, :active, :session)
ON CONFLICT (symbol) DO UPDATE SET asset_class = EXCLUDED.asset_class,
    timeframes = CASE WHEN t.active AND :keep THEN ARRAY(
            SELECT tf FROM unnest(CAST(:order AS text[])) WITH ORDINALITY AS o (tf, position)
            WHERE tf = ANY(t.timeframes || EXCLUDED.timeframes) ORDER BY position)
        ELSE EXCLUDED.timeframes END,
    session = CASE WHEN :keep THEN coalesce(EXCLUDED.session, t.session)
        ELSE EXCLUDED.session END,
    active = EXCLUDED.active, updated_at = now()
"""
