"""Recorded bars with their adjusted closes."""

from __future__ import annotations

from importlib.resources import files

import numpy as np
import pandas as pd
import pytest

from enrichment.domain.bars import Bars, Floats

Recorded = dict[str, tuple[Bars, Floats]]


@pytest.fixture(scope="session")
def recorded() -> Recorded:
    """Symbol → its daily bars, unadjusted, and the closes as adjusted today."""
    table = _table("us_stocks_daily.csv.gz", "date")
    return {
        str(symbol): (_bars(rows, "date"), rows["adj_close"].to_numpy(dtype=np.float64))
        for symbol, rows in table.groupby("symbol")
    }


@pytest.fixture(scope="session")
def eurusd() -> Bars:
    return _bars(_table("eurusd_hourly.csv.gz", "timestamp"), "timestamp")


def _table(name: str, ts: str) -> pd.DataFrame:
    with (files("enrichment.sandbox") / "data" / name).open("rb") as file:
        return pd.read_csv(file, compression="gzip", parse_dates=[ts])


def _bars(rows: pd.DataFrame, ts: str) -> Bars:
    names = ("open", "high", "low", "close", "volume")
    starts = rows[ts].dt.tz_localize(None).to_numpy(dtype="datetime64[us]")
    return Bars.of(starts, *(rows[name].to_numpy(dtype=np.float64) for name in names))
