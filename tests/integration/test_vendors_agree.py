"""Polygon's and Yahoo's formats of one series give the same bars: those that pandas computes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest

from enrichment.domain.bars import Bars
from enrichment.domain.model import AssetClass, Timeframe, Window
from enrichment.sandbox import create_app, running
from enrichment.sandbox.market import Market
from enrichment.vendors.canonical import CanonicalProvider
from enrichment.vendors.http import HttpClient
from enrichment.vendors.polygon import PolygonProvider
from enrichment.vendors.registry import VENDORS
from enrichment.vendors.yahoo import YahooProvider
from tests.helpers.fake_transport import direct

NEW_YORK = "America/New_York"
FREQUENCIES = {
    Timeframe.M5: "5min",
    Timeframe.M15: "15min",
    Timeframe.M30: "30min",
    Timeframe.H1: "1h",
    Timeframe.H4: "4h",
    Timeframe.D1: "1D",
}
NOISE = 1e-6  # Yahoo sends prices as float32, changing in the 7th digit
SETTLING = 0.03  # on the evening of a day, Yahoo's volume lacks some of it
HEADERS = {"Authorization": "Bearer any", **VENDORS["yahoo"].headers}


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def expected(window: Window, now: datetime, timeframe: Timeframe) -> pd.DataFrame:
    """The series' five-minute bars, resampled on New York's clock."""
    series = Market(now).series("SIM1")
    assert series is not None
    bars = series.bars(Timeframe.M5, window, now)
    frame = pd.DataFrame(
        {name: getattr(bars, name) for name in ("open", "high", "low", "close", "volume")},
        index=pd.DatetimeIndex(bars.ts).tz_localize("UTC"),
    )
    rules = {"open": "first", "high": "max", "low": "min", "close": "last", "volume": "sum"}
    local = frame.tz_convert(NEW_YORK).tz_localize(None)
    daily = local.resample("1D").agg(rules).dropna(subset=["open"])
    if timeframe is Timeframe.D1:
        return daily.tz_localize("UTC")
    if timeframe is Timeframe.W1:
        return daily.resample("W-MON", label="left", closed="left").agg(rules).tz_localize("UTC")
    out = local.resample(FREQUENCIES[timeframe], origin="start_day").agg(rules)
    return out.dropna(subset=["open"]).tz_localize(NEW_YORK).tz_convert("UTC")


def assert_same(bars: Bars, frame: pd.DataFrame, rtol: float, settling: float) -> None:
    assert len(frame) > 0
    ts = frame.index.tz_localize(None).to_numpy(dtype="datetime64[us]")
    np.testing.assert_array_equal(bars.ts, ts)
    for name in ("open", "high", "low", "close"):
        np.testing.assert_allclose(getattr(bars, name), frame[name], rtol=rtol, err_msg=name)
    np.testing.assert_array_equal(bars.volume[:-1], frame["volume"][:-1])
    np.testing.assert_allclose(bars.volume[-1], frame["volume"].iloc[-1], rtol=settling)


@pytest.mark.parametrize(
    ("now", "week"),
    [
        (
            "2024-12-27T01:30",
            "running",
        ),  # winter, evening; a half day before
        (
            "2024-07-05T02:00",
            "running",
        ),  # summer; a half day and a holiday
        ("2024-11-29T19:00", "ended"),  # an hour after the close of a half day
        ("2024-03-16T12:00", "ended"),  # the week of the change to daylight saving time
        ("2024-11-09T12:00", "ended"),  # and of the change back
    ],
)
def test_both_vendors_give_the_bars_that_pandas_computes(now: str, week: str) -> None:
    moment = at(now)
    with (
        running(create_app(clock=lambda: moment)) as address,
        HttpClient(address, call=direct, headers=HEADERS) as http,
    ):
        vendors = (
            (PolygonProvider(http, now=lambda: moment), 1e-12, 0.0),
            (YahooProvider(http, now=lambda: moment), NOISE, SETTLING),
        )
        for timeframe in Timeframe:
            weeks = 8 if timeframe is Timeframe.W1 else 2
            monday = moment.replace(hour=0, minute=0) - timedelta(days=moment.weekday())
            window = Window(monday - timedelta(weeks=weeks), moment)
            frame = expected(window, moment, timeframe)
            if timeframe is Timeframe.W1 and week == "running":
                frame = frame.iloc[:-1]
            for vendor, rtol, settling in vendors:
                provider = CanonicalProvider(vendor, now=lambda: moment)
                fetched = provider.fetch("SIM1", AssetClass.STOCK, timeframe, window)
                assert_same(fetched.bars, frame, rtol, 0.0 if timeframe.intraday else settling)
