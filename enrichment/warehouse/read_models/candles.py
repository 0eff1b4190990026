"""A series as a screen shows it: candles of so many bars each that a picture stays readable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from sqlalchemy import text

from enrichment.domain.model import Timeframe
from enrichment.warehouse.database import Database
from enrichment.warehouse.read_models.bars import COLUMNS

if TYPE_CHECKING:
    import pandas as pd

MAX_CANDLES = 600


@dataclass(frozen=True)
class Candles:
    """frame: ts (UTC), open, high, low, close, volume and the features; width: of one candle."""

    frame: pd.DataFrame
    width: timedelta
    bars_each: int


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
        with self._db.begin() as conn:
            count = conn.execute(text(_COUNT), values).scalar_one()
            each = max(1, -(-count // MAX_CANDLES))
            listed = "".join(f', (array_agg("{f}" ORDER BY ts DESC))[1] AS "{f}"' for f in features)
            query = text(_CANDLES.format(features=listed))
            rows = conn.execute(query, {**values, "each": each}).all()
        names = ["ts", "open", "high", "low", "close", "volume", *features]
        frame = pd.DataFrame(rows, columns=names)
        frame["ts"] = pd.to_datetime(frame["ts"], utc=True)
        return Candles(frame, timeframe.duration * each, each)


_RANGE = """
FROM bars WHERE symbol = :symbol AND timeframe = :timeframe AND ts >= :start AND ts < :end
"""

_COUNT = f"SELECT count(*) {_RANGE}"

_CANDLES = f"""
SELECT min(ts), (array_agg(open ORDER BY ts))[1], max(high), min(low),
    (array_agg(close ORDER BY ts DESC))[1], sum(volume){{features}}
FROM (SELECT *, (row_number() OVER (ORDER BY ts) - 1) / :each AS candle {_RANGE}) numbered
GROUP BY candle ORDER BY candle
"""
