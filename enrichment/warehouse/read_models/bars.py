"""A series' bars with their features: chunk by chunk for downloads, as candles for charts."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import pyarrow as pa
from sqlalchemy import text

from enrichment.domain.bars import to_datetime
from enrichment.domain.model import Timeframe
from enrichment.pipeline.features import FEATURES
from enrichment.warehouse.database import Database
from enrichment.warehouse.read_models.symbols import is_known
from enrichment.warehouse.series.binary_copy import fetch, to_arrow
from enrichment.warehouse.series.upsert import PRICES

if TYPE_CHECKING:
    import pandas as pd

CHUNK_ROWS = 20_000
MAX_CANDLES = 600
COLUMNS: Mapping[str, str] = {
    **dict.fromkeys(PRICES, "number"),
    **{name: feature.kind for name, feature in FEATURES.items()},
}
"""Name → 'number' or 'label', in their order."""

_TYPES = {"number": pa.float64(), "label": pa.string()}


class BarDownloads:
    """Reads stored bars for those who take them away."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def known(self, symbol: str) -> bool:
        """Whether the symbol is tracked, or was."""
        with self._db.begin() as conn:
            return is_known(conn, symbol)

    def chunks(
        self,
        symbol: str,
        timeframe: Timeframe,
        columns: Sequence[str],
        start: datetime | None = None,
        end: datetime | None = None,
        limit: int | None = None,
    ) -> Generator[pa.RecordBatch, None, None]:
        """Bars with start ≤ ts < end, ascending, as batches of `ts` (UTC) and these columns.

        All batches are of one snapshot, however long the reader takes. limit: at most so many rows.
        """
        numbers = [name for name in columns if COLUMNS[name] == "number"]
        labels = [name for name in columns if COLUMNS[name] == "label"]
        query = _CHUNK.format(columns=", ".join(["ts", *columns]))
        values = {"symbol": symbol, "timeframe": timeframe.value, "start": start, "end": end}
        remaining = limit
        after: datetime | None = None
        with self._db.begin() as conn:
            conn.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"))
            while remaining is None or remaining > 0:
                rows = CHUNK_ROWS if remaining is None else min(CHUNK_ROWS, remaining)
                page = {**values, "after": after, "rows": rows}
                ts, found = fetch(conn, query, page, numbers, labels=labels)
                if len(ts):
                    arrays = [to_arrow(ts), *(to_arrow(found[name]) for name in columns)]
                    yield pa.RecordBatch.from_arrays(arrays, schema=schema(columns))
                if len(ts) < rows:
                    return
                after = to_datetime(ts[-1])
                remaining = None if remaining is None else remaining - rows


def schema(columns: Sequence[str]) -> pa.Schema:
    """The types of `ts` and these columns."""
    types = [(name, _TYPES[COLUMNS[name]]) for name in columns]
    return pa.schema([("ts", pa.timestamp("us", tz="UTC")), *types])


@dataclass(frozen=True)
class Candles:
    """Candles of a chart."""

    frame: pd.DataFrame
    """ts (UTC), open, high, low, close, volume and the features."""

    width: timedelta
    """Of one candle."""

    bars_each: int
    """How many bars one candle sums up."""


class PriceCharts:
    """Reads candles; what a picture can't show is summed up in the database."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def candles(
        self,
        symbol: str,
        timeframe: Timeframe,
        start: datetime,
        end: datetime,
        features: Sequence[str] = (),
    ) -> Candles:
        """The bars with start ≤ ts < end in at most some 600 candles.

        A candle of several bars opens with its first, closes with its last, and has the last value
        of each feature. Only numbers among the features; others are a ValueError.
        """
        import pandas as pd

        if unknown := [name for name in features if COLUMNS.get(name) != "number"]:
            raise ValueError(f"not a number's column: {', '.join(unknown)}")
        values = {"symbol": symbol, "timeframe": timeframe.value, "start": start, "end": end}
        query = _CANDLES.format(features="".join(_LAST_VALUE.format(name=n) for n in features))
        names = ["open", "high", "low", "close", "volume", *features]
        with self._db.begin() as conn:
            count = conn.execute(text(_COUNT), values).scalar_one()
            each = max(1, -(-count // MAX_CANDLES))
            ts, columns = fetch(conn, query, {**values, "each": each}, names)
        frame = pd.DataFrame({"ts": pd.to_datetime(ts, utc=True), **columns})
        return Candles(frame, timeframe.duration * each, each)


RANGE = """
WHERE symbol = :symbol AND timeframe = :timeframe
    AND (CAST(:start AS timestamptz) IS NULL OR ts >= :start)
    AND (CAST(:end AS timestamptz) IS NULL OR ts < :end)
"""

_CHUNK = f"""
SELECT {{columns}} FROM bars {RANGE} AND (CAST(:after AS timestamptz) IS NULL OR ts > :after)
ORDER BY ts LIMIT :rows
"""

_COUNT = f"SELECT count(*) FROM bars {RANGE}"

_CANDLES = f"""
SELECT min(ts) AS ts, (array_agg(open ORDER BY ts))[1] AS open, max(high) AS high, min(low) AS low,
    (array_agg(close ORDER BY ts DESC))[1] AS close, sum(volume) AS volume{{features}}
FROM (SELECT *, (row_number() OVER (ORDER BY ts) - 1) / :each AS candle FROM bars {RANGE}) numbered
GROUP BY candle
"""

_LAST_VALUE = ", (array_agg({name} ORDER BY ts DESC))[1] AS {name}"
