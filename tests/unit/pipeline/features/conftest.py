"""Real daily bars of five stocks, 2000 to 2013."""

from __future__ import annotations

from importlib.resources import files

import numpy as np
import pandas as pd
import pytest

from enrichment.domain.bars import Bars


@pytest.fixture(scope="session")
def stocks() -> dict[str, Bars]:
    """Symbol → recorded bars."""
    with (files("enrichment.sandbox") / "data" / "us_stocks_daily.csv.gz").open("rb") as file:
        table = pd.read_csv(file, compression="gzip", parse_dates=["date"])
    return {str(symbol): _bars(rows) for symbol, rows in table.groupby("symbol")}


def _bars(rows: pd.DataFrame) -> Bars:
    names = ("open", "high", "low", "close", "volume")
    ts = rows["date"].to_numpy(dtype="datetime64[us]")
    return Bars.of(ts, *(rows[name].to_numpy(dtype=np.float64) for name in names))
