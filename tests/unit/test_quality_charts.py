"""Figures of the data and its quality, by their JSON."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import pandas as pd

from enrichment.dashboard import quality_charts

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
    figure = drawn(quality_charts.candlestick(candles(50), NO_FLAGS, ("sma_20",), "rsi_14"))
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
    figure = drawn(quality_charts.candlestick(candles(50), flags, (), None))
    marks = {t["name"]: t["text"] for t in figure["data"] if t["name"].startswith("flag")}
    assert marks == {
        "flag: error": ["split: a factor of 4"],
        "flag: warning": ["outlier: 12 deviations"],
    }


def test_six_hundred_candles_stay_small() -> None:
    figure = quality_charts.candlestick(candles(600), NO_FLAGS, ("sma_20",), "rsi_14")
    assert len(figure.to_json()) < 300_000


def test_gaps_stand_in_their_series_and_month() -> None:
    gaps = pd.DataFrame(
        {
            "name": ["AAPL 1d", "AAPL 1d", "IBM 1h"],
            "month": [dt.date(2024, 1, 1), dt.date(2024, 3, 1), dt.date(2024, 3, 1)],
            "missing": [2, 1, 7],
        }
    )
    heat = quality_charts.gap_map(gaps).data[0]
    assert (list(heat.y), list(heat.x)) == (["AAPL 1d", "IBM 1h"], ["2024-01", "2024-03"])
    assert heat.z.tolist() == [[2, 1], [0, 7]]


def test_the_lowest_symbols_stand_on_top_and_one_day_is_no_wall() -> None:
    scores = pd.DataFrame({"symbol": ["A", "B"], "date": [TODAY] * 2, "score": [0.4, 0.9]})
    heat = quality_charts.symbol_days(scores).data[0]
    assert list(heat.y) == ["B", "A"]  # the last row is drawn on top
    assert len(heat.x) == 14


def test_the_trend_has_its_target_and_room_for_two_weeks() -> None:
    days = pd.DataFrame({"date": [TODAY], "score": [0.95], "lowest": [0.7], "series": [12]})
    figure = drawn(quality_charts.trend(days))
    first, last = (pd.Timestamp(edge) for edge in figure["layout"]["xaxis"]["range"])
    assert last - first == pd.Timedelta(days=14)
    assert figure["layout"]["shapes"][0]["y0"] == quality_charts.TARGET


def test_each_component_has_a_point_for_each_series() -> None:
    series = pd.DataFrame({"name": ["A", "B"], **dict.fromkeys(quality_charts.COMPONENTS, 1.0)})
    figure = drawn(quality_charts.components(series))
    assert [trace["name"] for trace in figure["data"]] == list(quality_charts.COMPONENTS)
    assert figure["layout"]["yaxis"]["categoryarray"] == ["B", "A"]
