"""Figures of the data and its quality, by their JSON."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import pandas as pd
import pytest

from enrichment.dashboard.charts import quality

TODAY = dt.date(2024, 3, 1)


def drawn(figure: Any) -> dict[str, Any]:
    return dict(json.loads(figure.to_json()))


def candles(count: int) -> pd.DataFrame:
    prices = [100.0 + n % 7 for n in range(count)]
    return pd.DataFrame(
        {
            "ts": pd.date_range("2024-01-01", periods=count, tz="UTC"),
            "open": prices,
            "high": [price + 2 for price in prices],
            "low": [price - 2 for price in prices],
            "close": [price + (-1) ** n for n, price in enumerate(prices)],
            "volume": 1000.0,
            "sma_20": prices,
            "rsi_14": 50.0,
        }
    )


NO_FLAGS = pd.DataFrame(columns=["ts", "severity", "text"])


def test_candles_have_features_over_them_and_volume_below() -> None:
    figure = drawn(quality.candlestick(candles(50), NO_FLAGS, ("sma_20",), "rsi_14"))
    assert [trace["name"] for trace in figure["data"]] == ["price", "sma_20", "volume", "rsi_14"]
    titles = [figure["layout"][axis]["title"]["text"] for axis in ("yaxis", "yaxis2", "yaxis3")]
    assert titles == ["price", "volume", "rsi_14"]


def test_flagged_bars_are_marked_by_their_severity() -> None:
    flags = pd.DataFrame(
        {
            "ts": [pd.Timestamp("2024-01-05", tz="UTC")] * 2,
            "severity": ["error", "warning"],
            "text": ["split: a factor of 4", "outlier: 12 deviations"],
        }
    )
    figure = drawn(quality.candlestick(candles(50), flags, (), None))
    marks = {t["name"]: t["text"] for t in figure["data"] if t["name"].startswith("flag")}
    assert marks == {
        "flag: error": ["split: a factor of 4"],
        "flag: warning": ["outlier: 12 deviations"],
    }


def test_six_hundred_candles_stay_small() -> None:
    figure = quality.candlestick(candles(600), NO_FLAGS, ("sma_20",), "rsi_14")
    assert len(figure.to_json()) < 300_000


def test_gaps_stand_in_their_series_and_month() -> None:
    gaps = pd.DataFrame(
        {
            "name": ["AAPL 1d", "AAPL 1d", "IBM 1h"],
            "month": [dt.date(2024, 1, 1), dt.date(2024, 3, 1), dt.date(2024, 3, 1)],
            "missing": [2, 1, 7],
        }
    )
    heat = quality.gap_map(gaps).data[0]
    assert list(heat.y) == ["AAPL 1d", "IBM 1h"]
    assert list(heat.x) == ["2024-01", "2024-02", "2024-03"]
    assert heat.z.tolist() == [[2, 0, 1], [0, 0, 7]]


def test_the_lowest_symbols_stand_on_top_and_one_day_is_no_wall() -> None:
    scores = pd.DataFrame({"symbol": ["A", "B"], "date": [TODAY] * 2, "score": [0.4, 0.9]})
    heat = quality.symbol_days(scores).data[0]
    assert list(heat.y) == ["B", "A"]  # the last row is drawn on top
    assert len(heat.x) == 14


def test_the_trend_has_its_target_and_room_for_two_weeks() -> None:
    days = pd.DataFrame({"date": [TODAY], "score": [0.95], "lowest": [0.7], "series": [12]})
    figure = drawn(quality.trend(days))
    first, last = (pd.Timestamp(edge) for edge in figure["layout"]["xaxis"]["range"])
    assert last - first == pd.Timedelta(days=14)
    assert figure["layout"]["shapes"][0]["y0"] == quality.TARGET


def test_a_score_is_the_sum_of_its_components_and_what_it_lost_completes_it() -> None:
    parts = {"completeness": 0.5, "validation": 0.9, "features": 1.0, "freshness": 0.25}
    series = pd.DataFrame([{"name": name, "score": 0.695, **parts} for name in ("A", "B")])
    figure = drawn(quality.components(series))
    assert [trace["name"] for trace in figure["data"]] == [*quality.COMPONENTS, "lost"]
    assert sum(trace.x[0] for trace in quality.components(series).data) == pytest.approx(1.0)
    assert figure["layout"]["yaxis"]["categoryarray"] == ["B", "A"]


def test_scores_are_counted_in_steps_of_a_hundredth() -> None:
    bars = quality.distribution(pd.Series([1.0, 0.999, 0.99, 0.851, 0.859])).data[0]
    assert dict(zip(bars.customdata, bars.y, strict=True)) == {0.85: 2, 0.99: 3}
    orange, blue = bars.marker.color
    assert orange != blue  # below the target and above it


def test_a_market_that_closes_has_no_nights_on_its_axis() -> None:
    times = pd.to_datetime(["2024-03-01T20:00Z", "2024-03-04T14:30Z", "2024-03-04T14:45Z"])
    flags = pd.DataFrame({"ts": [times[1] + pd.Timedelta("5min")], "severity": "info", "text": "x"})
    rows = candles(3).assign(ts=times)
    closing = quality.candlestick(rows, flags, (), None)
    assert list(closing.data[0].x) == ["2024-03-01 20:00", "2024-03-04 14:30", "2024-03-04 14:45"]
    assert closing.layout.xaxis.type == "category"
    assert list(closing.data[-1].x) == ["2024-03-04 14:30"]  # the candle that the flag is in
    open_always = quality.candlestick(rows, flags, (), None, continuous=True)
    assert open_always.layout.xaxis.type is None
    assert list(pd.to_datetime(open_always.data[-1].x)) == [times[1].tz_localize(None)]
