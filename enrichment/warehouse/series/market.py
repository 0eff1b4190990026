"""Returns of whole markets: an outlier that its market made, too, is none.

A run knows the returns of its symbol only. When a job has ended, the median return of all series of
each market is computed for the bars in which an outlier was flagged, and these flags are judged
again. So it does not matter in which order the symbols of a night were enriched.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby

import numpy as np
from sqlalchemy import Connection

from enrichment.domain.bars import Bars, to_datetime64
from enrichment.domain.calendars import Market, market_of
from enrichment.domain.corporate_actions import Splits
from enrichment.domain.exchanges import Exchange
from enrichment.domain.model import AssetClass, Timeframe, Window
from enrichment.domain.series import SeriesSnapshot
from enrichment.pipeline.quality import assess_quality, without_flag
from enrichment.pipeline.validation import is_flagged
from enrichment.pipeline.validation.bars import ValidationRequest
from enrichment.warehouse.database import Database, JsonRows, sql
from enrichment.warehouse.series import review, snapshots

CHECK = "outlier"
MIN_SERIES = 20  # with a return, for a median
_LOOKBACK = 200  # bars before a flagged one by which it is judged again
_CHUNK = 500  # flags that are judged together

Key = tuple[str, Timeframe]


@dataclass(frozen=True, slots=True)
class _Outlier:
    """A flag to be judged again."""

    symbol: str
    timeframe: Timeframe
    ts: datetime
    asset_class: AssetClass
    market_return: float

    @property
    def key(self) -> Key:
        return self.symbol, self.timeframe


def market_name(market: Market) -> str:
    """As in the table.

    >>> market_name(market_of("VOD.L", AssetClass.STOCK)), market_name(AssetClass.CRYPTO)
    ('XLON', 'crypto')
    """
    return market.mic if isinstance(market, Exchange) else market.value


def read_returns(
    conn: Connection, keys: Sequence[tuple[str, Timeframe]], since: datetime
) -> Mapping[tuple[str, Timeframe], Mapping[np.datetime64, float]]:
    """Market and timeframe → start of a bar → median return, for bars from a moment on."""
    markets, timeframes = zip(*set(keys), strict=True)
    values = {"markets": list(markets), "timeframes": list(map(str, timeframes)), "since": since}
    rows = conn.execute(sql(_RETURNS), values)
    returns: dict[tuple[str, Timeframe], dict[np.datetime64, float]] = {}
    for row in rows:
        of_market = returns.setdefault((row.market, Timeframe(row.timeframe)), {})
        of_market[to_datetime64(row.ts)] = row.median_return
    return returns


def review_outliers(db: Database) -> int:
    """Judge the outliers found in the last two days, and others in the same bars, by the returns of
    their markets. Returns the number of flags that were removed.
    """
    with db.begin() as conn:
        found = conn.execute(sql(_FOUND)).all()
        if not found:
            return 0
        tracked = conn.execute(sql(_TRACKED)).all()
        markets = {t.symbol: market_name(market_of(t.symbol, t.asset_class)) for t in tracked}
        bars = {(markets[f.symbol], f.timeframe, f.ts) for f in found if f.symbol in markets}
        _update_returns(conn, bars, markets)
        outliers = [
            _Outlier(r.symbol, Timeframe(r.timeframe), r.ts, AssetClass(r.asset_class), r.market)
            for r in conn.execute(sql(_OUTLIERS), _MEMBERS.bind(_members(markets)))
        ]
        explained = [o for part in _chunks(outliers) for o in _explained(conn, part)]
    for key, group in groupby(sorted(explained, key=lambda o: o.key), key=lambda o: o.key):
        with db.begin() as conn:
            _remove(conn, key, [outlier.ts for outlier in group])
    return len(explained)


def _members(markets: Mapping[str, str]) -> list[dict[str, object]]:
    return [{"symbol": symbol, "market": market} for symbol, market in markets.items()]


def _update_returns(
    conn: Connection, bars: set[tuple[str, str, datetime]], markets: Mapping[str, str]
) -> None:
    rows = [{"market": market, "timeframe": timeframe, "ts": ts} for market, timeframe, ts in bars]
    values = {**_BARS.bind(rows), **_MEMBERS.bind(_members(markets)), "least": MIN_SERIES}
    conn.execute(sql(_UPDATE_RETURNS), values)


def _chunks(outliers: Sequence[_Outlier]) -> Iterator[Sequence[_Outlier]]:
    return (outliers[n : n + _CHUNK] for n in range(0, len(outliers), _CHUNK))


def _explained(conn: Connection, outliers: Sequence[_Outlier]) -> Iterator[_Outlier]:
    """Those that are none beside the return of their market."""
    keys = sorted({outlier.key for outlier in outliers})
    known = dict(zip(keys, snapshots.read_snapshots(conn, keys, ""), strict=True))
    for outlier, bars in zip(outliers, _read_bars(conn, outliers), strict=True):
        if len(bars) and not is_flagged(CHECK, bars, _request(outlier, known[outlier.key])):
            yield outlier


def _request(outlier: _Outlier, snapshot: SeriesSnapshot) -> ValidationRequest:
    market = market_of(outlier.symbol, outlier.asset_class)
    end = outlier.ts + timedelta(microseconds=1)
    return ValidationRequest(
        market,
        outlier.timeframe,
        Window(outlier.ts, end),
        end,
        Splits.of(snapshot.splits, outlier.timeframe, market),
        snapshot.adjusted_until,
        {to_datetime64(outlier.ts): outlier.market_return},
    )


def _read_bars(conn: Connection, outliers: Sequence[_Outlier]) -> list[Bars]:
    """For each of them the bars up to it."""
    rows = [
        {"n": n, "symbol": o.symbol, "timeframe": o.timeframe, "ts": o.ts}
        for n, o in enumerate(outliers)
    ]
    values = {**_FLAGGED.bind(rows), "lookback": _LOOKBACK}
    ts, columns = snapshots.fetch(
        conn, _BARS_BEFORE, values, ("n", *snapshots.PRICES), order="n, ts"
    )
    edges = np.searchsorted(columns["n"], np.arange(len(outliers) + 1))
    bars = snapshots.bars_of(ts, columns)
    return [bars.take(slice(*edges[n : n + 2])) for n in range(len(outliers))]


def _remove(conn: Connection, key: Key, moments: Sequence[datetime]) -> None:
    """Remove outliers of a series, and let its score follow."""
    values = {"symbol": key[0], "timeframe": key[1].value, "check": CHECK}
    conn.execute(sql(_REMOVE), {**values, "moments": list(moments)})
    inputs = review.read_quality_inputs(conn, *key)
    if inputs is None:
        return
    for ts in moments:
        inputs = without_flag(inputs, CHECK, ts)
    review.reassess(conn, *key, assess_quality(inputs), inputs)


_BARS = JsonRows("touched", "market text, timeframe text, ts timestamptz")
_MEMBERS = JsonRows("members", "symbol text, market text")
_FLAGGED = JsonRows("flagged", "n integer, symbol text, timeframe text, ts timestamptz")

_RETURNS = """
SELECT market, timeframe, ts, median_return FROM market_returns
WHERE market = ANY(:markets) AND timeframe = ANY(:timeframes) AND ts >= :since
"""

_FOUND = f"""
SELECT symbol, timeframe, ts FROM bar_flags
WHERE check_name = '{CHECK}' AND found_at > now() - interval '2 days'
"""

_TRACKED = "SELECT symbol, asset_class FROM tracked_symbols WHERE active"

_UPDATE_RETURNS = f"""
INSERT INTO market_returns (market, timeframe, ts, median_return, series)
SELECT touched.market, touched.timeframe, touched.ts,
    percentile_cont(0.5) WITHIN GROUP (ORDER BY b.log_return), count(*)
FROM {_BARS.table}
JOIN {_MEMBERS.table} USING (market)
JOIN bars b ON (b.symbol, b.timeframe, b.ts) = (members.symbol, touched.timeframe, touched.ts)
WHERE b.log_return IS NOT NULL
GROUP BY 1, 2, 3 HAVING count(*) >= :least
ON CONFLICT (market, timeframe, ts) DO UPDATE SET
    median_return = EXCLUDED.median_return, series = EXCLUDED.series, computed_at = now()
"""

_OUTLIERS = f"""
SELECT f.symbol, f.timeframe, f.ts, t.asset_class, r.median_return AS market
FROM market_returns r
JOIN {_MEMBERS.table} USING (market)
JOIN bar_flags f ON (f.symbol, f.timeframe, f.ts) = (members.symbol, r.timeframe, r.ts)
JOIN tracked_symbols t ON t.symbol = f.symbol
WHERE f.check_name = '{CHECK}' AND r.computed_at = now()
ORDER BY f.symbol, f.timeframe, f.ts
"""

_BARS_BEFORE = f"""
SELECT flagged.n::float8 AS n, b.* FROM {_FLAGGED.table}, LATERAL (
    SELECT ts, {", ".join(snapshots.PRICES)} FROM bars
    WHERE (symbol, timeframe) = (flagged.symbol, flagged.timeframe) AND ts <= flagged.ts
    ORDER BY ts DESC LIMIT :lookback
) b
"""

_REMOVE = """
DELETE FROM bar_flags WHERE symbol = :symbol AND timeframe = :timeframe AND check_name = :check
    AND ts = ANY(:moments)
"""
