"""Pages of tracked symbols with the state of their series."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Any

from sqlalchemy import Connection, Row, text

from enrichment.domain.exchanges import exchange_of
from enrichment.domain.model import AssetClass, is_simulated
from enrichment.domain.statuses import SeriesStatus
from enrichment.warehouse.database import Reader, from_row
from enrichment.warehouse.queue.symbols import stored_as
from enrichment.warehouse.read_models.dto import cause_of


@dataclass(frozen=True, slots=True)
class TimeframeState:
    """The stored series of one timeframe."""

    timeframe: str
    status: str
    bars: int
    first_ts: datetime | None  # start of the oldest bar
    last_ts: datetime | None  # start of the newest bar
    source: str | None
    quality_score: float | None
    reasons: Sequence[str]
    last_success_at: datetime | None
    last_error: str | None

    @property
    def cause(self) -> str:
        """Why the series is not as it should be, empty where nothing is known; see `cause_of`."""
        return cause_of(self.status, self.reasons, self.last_error)


@dataclass(frozen=True, slots=True)
class SymbolDetails:
    """A tracked symbol."""

    symbol: str
    asset_class: str
    active: bool
    simulated: bool  # whether its bars are made by the sandbox vendor
    created_at: datetime
    updated_at: datetime
    session: str | None  # hours of its intraday bars, if not those of STOCK_SESSION
    timeframes: Sequence[TimeframeState]

    @property
    def currency(self) -> str | None:
        """Of the prices of a stock or ETF, by its exchange; None for crypto."""
        is_crypto = self.asset_class == AssetClass.CRYPTO
        return None if is_crypto else exchange_of(self.symbol).currency


# Joins each timeframe `tf` of the symbols `t` and its stored state `e`; then columns of that state.
SERIES_OF_T = """
CROSS JOIN LATERAL unnest(t.timeframes) WITH ORDINALITY AS tf (timeframe, position)
LEFT JOIN enrichment_status e ON e.symbol = t.symbol AND e.timeframe = tf.timeframe
""".strip()
STATUS = f"coalesce(e.status, '{SeriesStatus.NOT_ENRICHED}')"
STATE = f"""
    {STATUS} AS status, coalesce(e.bars, 0) AS bars, e.first_ts, e.last_ts, e.source,
    e.quality_score, coalesce(e.reasons, '{{}}') AS reasons, e.last_success_at, e.last_error
""".strip()


class SymbolQueries(Reader):
    """Reads tracked symbols, inactive ones included."""

    def page(
        self,
        limit: int,
        *,
        asset_class: str | None = None,
        active: bool | None = None,
        search: str | None = None,
        status: str | None = None,
        after: str | None = None,
    ) -> list[SymbolDetails]:
        """Up to `limit` symbols, ascending.

        Args:
            limit: Maximum number of symbols.
            asset_class: Only of this class.
            active: Only active or only inactive ones.
            search: Part of the name.
            status: Only symbols with a series of this status.
            after: Symbols after this one; the last one of the previous page.
        """
        values = {
            "symbol": None,
            "asset_class": asset_class,
            "active": active,
            "search": None if search is None else search.upper(),
            "status": status,
            "after": after,
            "limit": limit,
        }
        return self._read(values)

    def names(
        self, limit: int, *, search: str | None = None, status: str | None = None
    ) -> list[str]:
        """The names of the symbols of `page`, up to `limit`."""
        values = {
            **dict.fromkeys(("symbol", "asset_class", "active", "after")),
            "search": None if search is None else search.upper(),
            "status": status,
            "limit": limit,
        }
        with self._db.begin() as conn:
            return list(conn.execute(text(_NAMES), values).scalars())

    def stored_as(self, symbol: str) -> str:
        """The symbol as it is stored, which may be an older spelling of it."""
        with self._db.begin() as conn:
            return stored_as(conn, [symbol])[0]

    def find(self, symbol: str) -> SymbolDetails | None:
        """One symbol; None if it was never tracked."""
        values = dict.fromkeys(("asset_class", "active", "search", "status", "after"))
        symbols = self._read({**values, "symbol": symbol, "limit": 1})
        return symbols[0] if symbols else None

    def _read(self, values: Mapping[str, object]) -> list[SymbolDetails]:
        with self._db.begin() as conn:
            rows = conn.execute(text(_PAGE), values).all()
        return [_symbol(list(series)) for _, series in groupby(rows, key=lambda row: row.symbol)]


def is_known(conn: Connection, symbol: str) -> bool:
    """Whether the symbol is or was tracked, or has a stored series."""
    return conn.execute(text(_KNOWN), {"symbol": symbol}).first() is not None


def _symbol(rows: Sequence[Row[Any]]) -> SymbolDetails:
    return from_row(
        SymbolDetails,
        rows[0],
        simulated=is_simulated(rows[0].symbol),
        timeframes=[from_row(TimeframeState, row) for row in rows],
    )


_KNOWN = """
SELECT 1 FROM tracked_symbols WHERE symbol = :symbol
UNION ALL SELECT 1 FROM enrichment_status WHERE symbol = :symbol LIMIT 1
"""

_CHOSEN = f"""
    FROM tracked_symbols t
    WHERE (CAST(:symbol AS text) IS NULL OR symbol = :symbol)
        AND (CAST(:asset_class AS text) IS NULL OR asset_class = :asset_class)
        AND (CAST(:active AS boolean) IS NULL OR active = :active)
        AND (CAST(:search AS text) IS NULL OR position(:search IN upper(symbol)) > 0)
        AND (CAST(:status AS text) IS NULL OR EXISTS (
            SELECT FROM unnest(t.timeframes) AS tf (timeframe)
            LEFT JOIN enrichment_status e ON e.symbol = t.symbol AND e.timeframe = tf.timeframe
            WHERE {STATUS} = :status))
        AND (CAST(:after AS text) IS NULL OR symbol > :after)
    ORDER BY symbol LIMIT :limit
"""

_NAMES = f"SELECT symbol {_CHOSEN}"

_PAGE = f"""
SELECT t.symbol, t.asset_class, t.active, t.created_at, t.updated_at, t.session, tf.timeframe,
    {STATE}
FROM (SELECT * {_CHOSEN}) t
{SERIES_OF_T}
ORDER BY t.symbol, tf.position
"""
