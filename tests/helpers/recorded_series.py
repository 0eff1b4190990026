"""The sandbox's recorded series: daily bars of five stocks and hourly ones of a currency."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

import numpy as np
import pandas as pd

from enrichment.domain.bars import Bars, Floats

_DATA = files("enrichment.sandbox") / "data"
DAILY_STOCKS = Path(str(_DATA / "us_stocks_daily.csv.gz"))
HOURLY_EURUSD = Path(str(_DATA / "eurusd_hourly.csv.gz"))


@dataclass(frozen=True)
class RecordedSeries:
    bars: Bars  # not adjusted
    adjusted_close: Floats


@cache
def daily_stocks() -> dict[str, RecordedSeries]:
    """Symbol → its sessions, 2000 to 2013."""
    table = pd.read_csv(DAILY_STOCKS, parse_dates=["date"])
    return {
        str(symbol): RecordedSeries(_bars(rows, "date"), rows["adj_close"].to_numpy(np.float64))
        for symbol, rows in table.groupby("symbol")
    }


@cache
def hourly_eurusd() -> Bars:
    """Without volume."""
    return _bars(pd.read_csv(HOURLY_EURUSD, parse_dates=["timestamp"]), "timestamp")


def _bars(rows: pd.DataFrame, ts: str) -> Bars:
    names = ("open", "high", "low", "close", "volume")
    starts = rows[ts].dt.tz_localize(None).to_numpy(dtype="datetime64[us]")
    return Bars.of(starts, *(rows[name].to_numpy(dtype=np.float64) for name in names))
