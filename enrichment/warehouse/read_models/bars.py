"""A series' bars with their features: in chunks for downloads, as candles for charts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from sqlalchemy import text

from enrichment.domain.bars import Timestamps, no_timestamps, to_datetime, to_datetime64
from enrichment.domain.calendars import Market, bar_starts, market_of, session_parts
from enrichment.domain.corporate_actions import Adjustment
from enrichment.domain.errors import Conflict
from enrichment.domain.model import AssetClass, SessionPart, Timeframe
from enrichment.pipeline.features import FEATURES
from enrichment.warehouse import closures
from enrichment.warehouse.database import Reader
from enrichment.warehouse.read_models.adjustment import Factors, read_factors
from enrichment.warehouse.read_models.symbols import is_known
from enrichment.warehouse.series.snapshots import PRICES, fetch
from enrichment.warehouse.series.upsert import to_arrow

if TYPE_CHECKING:
    import pandas as pd

CHUNK_ROWS = 5000
MAX_CANDLES = 600
SESSION = "session"
# Name → 'number' or 'label', in their order.
COLUMNS: Mapping[str, str] = {
    **dict.fromkeys(PRICES, "number"),
    **{name: feature.kind for name, feature in FEATURES.items()},
    SESSION: "label",  # pre, regular or post: by the calendar, not stored
}

_TYPES = {"number": pa.float64(), "label": pa.string()}


@dataclass(frozen=True, slots=True)
class Extent:
    """The bars of a download, as they were when it began."""

    symbol: str
    timeframe: Timeframe
    start: datetime | None
    last: datetime | None
    """The newest bar's ts; None without bars."""
    rows: int
    versions: int
    """Former values of the series' bars, whose number grows with every restatement."""
    factors: Factors
    """Of the basis that was asked for."""
    market: Market
    """Whose sessions the bars belong to."""


class BarDownloads(Reader):
    """Reads stored bars for downloads."""

    def exists(self, symbol: str) -> bool:
        """Whether the symbol is or was tracked, or has stored bars."""
        with self._db.begin() as conn:
            return is_known(conn, symbol)

    def extent(
        self,
        symbol: str,
        timeframe: Timeframe,
        start: datetime | None = None,
        end: datetime | None = None,
        limit: int | None = None,
        adjustment: Adjustment = Adjustment.NONE,
    ) -> Extent:
        """What `chunks` will read.

        Args:
            symbol: Of the series.
            timeframe: Of the series.
            start: The earliest ts; None for the first bar.
            end: Exclusive; None for all bars from `start` on.
            limit: Maximum number of rows; None for all.
            adjustment: The basis of prices and volumes.
        """
        values = {"symbol": symbol, "timeframe": timeframe, "start": start, "end": end}
        with self._db.begin() as conn:
            conn.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"))
            factors = read_factors(conn, symbol, timeframe, adjustment)
            row = conn.execute(text(_EXTENT), {**values, "limit": limit}).one()
        market = market_of(symbol, AssetClass(row.asset_class or AssetClass.STOCK), timeframe)
        return Extent(symbol, timeframe, start, row.last, row.rows, row.versions, factors, market)

    def chunks(self, extent: Extent, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """The bars of the extent, ascending, as batches of `ts` (UTC) and these columns.

        Each batch is read in a transaction of its own, so that a client that reads slowly holds
        none. All are from one state of the series.

        Args:
            extent: As it was read before.
            columns: Keys of COLUMNS.

        Raises:
            Conflict: The series was changed meanwhile.
        """
        stored = [name for name in columns if name != SESSION]
        numbers = [name for name in stored if COLUMNS[name] == "number"]
        labels = [name for name in stored if COLUMNS[name] == "label"]
        query = _CHUNK.format(columns=", ".join(["ts", *stored]))
        series = {"symbol": extent.symbol, "timeframe": extent.timeframe}
        after, rows = None, 0
        while rows < extent.rows:
            page = {**series, "start": extent.start, "last": extent.last, "after": after}
            with self._db.begin() as conn:
                conn.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"))
                versions = conn.execute(text(_VERSIONS), series).scalar_one()
                ts, chunk = fetch(conn, query, page, numbers, labels=labels)
            rows += len(ts)
            if versions != extent.versions or not len(ts) or rows > extent.rows:
                raise Conflict(f"{extent.symbol} was changed during the download: start it again")
            after = to_datetime(ts[-1])
            if SESSION in columns:
                chunk[SESSION] = session_parts(extent.market, extent.timeframe, ts)
            adjusted = (extent.factors.apply(name, ts, chunk[name]) for name in columns)
            arrays = [to_arrow(ts), *map(to_arrow, adjusted)]
            yield pa.RecordBatch.from_arrays(arrays, schema=schema(columns))


def default_columns(timeframe: Timeframe) -> list[str]:
    """Those of a download that names none: all, the session for intraday bars only."""
    return [name for name in COLUMNS if name != SESSION or timeframe.intraday]


def schema(columns: Sequence[str]) -> pa.Schema:
    """The Arrow types of `ts` and these columns."""
    types = [(name, _TYPES[COLUMNS[name]]) for name in columns]
    return pa.schema([("ts", pa.timestamp("us", tz="UTC")), *types])


@dataclass(frozen=True)
class Candles:
    """The candles of a chart."""

    # ts (UTC), open, high, low, close, volume, the features, and `outside`: whether the candle is
    # one bar outside of the regular session
    frame: pd.DataFrame
    width: timedelta  # of one candle
    bars_each: int  # bars per candle
    missing: Timestamps  # starts of bars between the first and the last one that are not stored


class PriceCharts(Reader):
    """Reads candles, aggregated in the database to as many as a chart can show."""

    def candles(
        self,
        symbol: str,
        timeframe: Timeframe,
        start: datetime,
        end: datetime,
        features: Sequence[str] = (),
        *,
        asset_class: AssetClass = AssetClass.STOCK,
        adjustment: Adjustment = Adjustment.SPLIT,
    ) -> Candles:
        """The bars with start ≤ ts < end as at most about 600 candles.

        A candle of several bars has the open of its first, the close and features of its last.

        Args:
            symbol: Of the series.
            timeframe: Of the series.
            start: Of the first bar, at the earliest.
            end: After the last bar.
            features: Names of further columns.
            asset_class: Says on which calendar bars are missing.

        Raises:
            ValueError: For a feature that is no number.
        """
        import pandas as pd

        if unknown := [name for name in features if COLUMNS.get(name) != "number"]:
            raise ValueError(f"not a number's column: {', '.join(unknown)}")
        values = {"symbol": symbol, "timeframe": timeframe.value, "start": start, "end": end}
        names = ["open", "high", "low", "close", "volume", *features]
        with self._db.begin() as conn:
            closures.refresh(conn)
            factors = read_factors(conn, symbol, timeframe, adjustment)
            values |= {"bounds": factors.bounds.tolist()}
            values |= {"price": factors.price.tolist(), "shares": factors.volume.tolist()}
            query = _CANDLES.format(
                adjusted=", ".join(_adjusted(name, factors) for name in names),
                features="".join(_LAST_VALUE.format(name=n) for n in features),
            )
            count = conn.execute(text(_COUNT), values).scalar_one()
            each = max(1, -(-count // MAX_CANDLES))
            ts, columns = fetch(conn, query, {**values, "each": each}, names)
            rows = conn.execute(text(_BREAKS), {**values, "duration": timeframe.duration})
            breaks = [(row.before, row.ts) for row in rows]
        market = market_of(symbol, asset_class, timeframe)
        parts = session_parts(market, timeframe, ts) if each == 1 else np.full(len(ts), None)
        columns["outside"] = np.isin(parts, [SessionPart.PRE, SessionPart.POST])
        frame = pd.DataFrame({"ts": pd.to_datetime(ts, utc=True), **columns})
        missing = _within(breaks, market, timeframe)
        return Candles(frame, timeframe.duration * each, each, missing)


def _within(
    breaks: Sequence[tuple[datetime, datetime]], market: Market, timeframe: Timeframe
) -> Timestamps:
    """Starts of the bars that should exist strictly between the two bars of any break."""
    if not breaks:
        return no_timestamps()
    before = np.array([to_datetime64(pair[0]) for pair in breaks])
    after = np.array([to_datetime64(pair[1]) for pair in breaks])
    expected = bar_starts(market, timeframe, breaks[0][0], breaks[-1][1])
    last = before.searchsorted(expected) - 1  # the break that begins before
    inside = (last >= 0) & (expected < after[last.clip(0)])
    missing: Timestamps = expected[inside]
    return missing


def _adjusted(name: str, factors: Factors) -> str:
    """The SQL of a column on the basis of the factors."""
    of_column = factors.of(name)
    if of_column is None:
        return name
    parameter = "price" if of_column is factors.price else "shares"
    return f"{name} * {_FACTOR.format(parameter=parameter)} AS {name}"


# `bounds` divide time into the parts that the factors belong to.
_FACTOR = "(CAST(:{parameter} AS float8[]))[width_bucket(ts, CAST(:bounds AS timestamptz[])) + 1]"

RANGE = """
WHERE symbol = :symbol AND timeframe = :timeframe
    AND (CAST(:start AS timestamptz) IS NULL OR ts >= :start)
    AND (CAST(:end AS timestamptz) IS NULL OR ts < :end)
"""

_CHUNK = f"""
SELECT {{columns}} FROM bars
WHERE symbol = :symbol AND timeframe = :timeframe AND ts <= :last
    AND (CAST(:start AS timestamptz) IS NULL OR ts >= :start)
    AND (CAST(:after AS timestamptz) IS NULL OR ts > :after)
ORDER BY ts LIMIT {CHUNK_ROWS}
"""

_VERSIONS = "SELECT count(*) FROM bar_versions WHERE symbol = :symbol AND timeframe = :timeframe"

_EXTENT = f"""
SELECT count(*) AS rows, max(ts) AS last, ({_VERSIONS}) AS versions,
    (SELECT asset_class FROM tracked_symbols WHERE symbol = :symbol) AS asset_class
FROM (SELECT ts FROM bars {RANGE} ORDER BY ts LIMIT :limit) chosen
"""

_COUNT = f"SELECT count(*) FROM bars {RANGE}"

# Pairs of subsequent bars that do not touch; for stocks, mostly nights and weekends.
_BREAKS = f"""
SELECT before, ts FROM (
    SELECT ts, lag(ts) OVER (ORDER BY ts) AS before FROM bars {RANGE}) pairs
WHERE ts - before > :duration ORDER BY ts
"""

_CANDLES = f"""
SELECT min(ts) AS ts, (array_agg(open ORDER BY ts))[1] AS open, max(high) AS high, min(low) AS low,
    (array_agg(close ORDER BY ts DESC))[1] AS close, sum(volume) AS volume{{features}}
FROM (
    SELECT ts, {{adjusted}}, (row_number() OVER (ORDER BY ts) - 1) / :each AS candle
    FROM bars {RANGE}
) numbered
GROUP BY candle
"""

_LAST_VALUE = ", (array_agg({name} ORDER BY ts DESC))[1] AS {name}"
