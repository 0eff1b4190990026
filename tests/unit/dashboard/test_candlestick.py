"""The candlestick chart."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd
import pytest

from enrichment.dashboard.charts.candlestick import MAX_HOLES, candlestick


def as_json(figure: Any) -> dict[str, Any]:
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


def test_overlays_are_drawn_over_the_candles_and_the_volume_below() -> None:
    figure = as_json(candlestick(candles(50), NO_FLAGS, ("sma_20",), "rsi_14"))
    assert [trace["name"] for trace in figure["data"]] == [
        "price",
        "SMA (20)",
        "volume",
        "RSI (14)",
    ]
    titles = [figure["layout"][axis]["title"]["text"] for axis in ("yaxis", "yaxis2", "yaxis3")]
    assert titles == ["price", "volume", "RSI (14)"]


def test_flagged_bars_are_marked_by_severity() -> None:
    flags = pd.DataFrame(
        {
            "ts": [pd.Timestamp("2024-01-05", tz="UTC")] * 2,
            "severity": ["error", "warning"],
            "text": ["split: a factor of 4", "outlier: 12 deviations"],
        }
    )
    figure = as_json(candlestick(candles(50), flags, (), None))
    marks = {t["name"]: t["text"] for t in figure["data"] if t["name"].startswith("flag")}
    assert marks == {
        "flag: error": ["split: a factor of 4"],
        "flag: warning": ["outlier: 12 deviations"],
    }


def test_six_hundred_candles_stay_small() -> None:
    figure = candlestick(candles(600), NO_FLAGS, ("sma_20",), "rsi_14")
    assert len(figure.to_json()) < 300_000


def test_the_axis_leaves_out_the_hours_when_the_market_is_closed() -> None:
    times = pd.to_datetime(["2024-03-01T20:00Z", "2024-03-04T14:30Z", "2024-03-04T14:45Z"])
    flags = pd.DataFrame({"ts": [times[1]], "severity": "info", "text": "x"})
    rows = candles(3).assign(ts=times)
    closing = candlestick(rows, flags, (), None)
    assert list(closing.data[0].x) == ["2024-03-01 20:00", "2024-03-04 14:30", "2024-03-04 14:45"]
    assert closing.layout.xaxis.type == "category"
    assert list(closing.data[-1].x) == ["2024-03-04 14:30"]
    open_always = candlestick(rows, flags, (), None, continuous=True)
    assert open_always.layout.xaxis.type is None
    assert list(pd.to_datetime(open_always.data[-1].x)) == [times[1].tz_localize(None)]


def without_third_day(severity: str = "error") -> tuple[pd.DataFrame, pd.DataFrame, pd.Series]:
    """Six daily candles without the third, which was quarantined, its flag and its time."""
    rows = candles(6)
    missing = rows["ts"].iloc[[2]].reset_index(drop=True)
    flags = pd.DataFrame({"ts": missing, "severity": severity, "text": "split"})
    return rows.drop(index=2).reset_index(drop=True), flags, missing


def test_a_flag_of_a_quarantined_bar_is_drawn_at_its_own_time() -> None:
    rows, flags, missing = without_third_day()
    closing = candlestick(rows, flags, (), None, missing=missing)
    assert list(closing.data[-1].x) == ["2024-01-03"]
    assert list(closing.data[-1].y) == [1.01 * 103]  # above the candle before
    assert list(closing.layout.xaxis.categoryarray) == [f"2024-01-0{day}" for day in range(1, 7)]
    always_open = candlestick(rows, flags, (), None, continuous=True, missing=missing)
    assert list(pd.to_datetime(always_open.data[-1].x)) == [pd.Timestamp("2024-01-03")]


def test_a_flag_within_a_merged_candle_is_drawn_on_it_and_names_its_bar() -> None:
    rows, flags, _ = without_third_day()
    mark = candlestick(rows, flags, (), None, bars_each=2).data[-1]
    assert list(mark.x) == ["2024-01-02"]
    assert list(mark.text) == ["in this candle, bar of 2024-01-03: split"]


@pytest.mark.parametrize("continuous", [False, True])
def test_a_missing_bar_is_a_hole_that_interrupts_lines(continuous: bool) -> None:
    rows, _, missing = without_third_day()
    figure = candlestick(
        rows, NO_FLAGS, ("sma_20",), "rsi_14", continuous=continuous, missing=missing
    )
    traces = {trace.name: trace for trace in figure.data}
    for name in ("SMA (20)", "RSI (14)"):
        assert list(pd.isna(pd.Series(traces[name].y))) == [False, False, True, False, False, False]
        assert pd.to_datetime(traces[name].x)[2] == pd.Timestamp("2024-01-03")
        assert not traces[name].connectgaps
    assert len(traces["price"].x) == 6
    assert pd.isna(traces["price"].close[2])
    assert list(pd.to_datetime(traces["missing bar"].x)) == [pd.Timestamp("2024-01-03")]


def test_a_hole_of_merged_candles_is_as_wide_as_the_candles_that_are_missing() -> None:
    rows = candles(10).iloc[[0, 3, 8]].reset_index(drop=True)  # of two bars each, ends unknown
    missing = pd.Series(pd.date_range("2024-01-05", periods=4, tz="UTC"))
    figure = candlestick(rows, NO_FLAGS, (), None, missing=missing, bars_each=2)
    assert list(figure.data[0].x) == [
        "2024-01-01",
        "2024-01-04",
        "2024-01-06",
        "2024-01-08",
        "2024-01-09",
    ]


def test_long_holes_are_shortened() -> None:
    rows = candles(5002).iloc[[0, 1, 5001]].reset_index(drop=True)
    missing = pd.Series(pd.date_range("2024-01-03", periods=4999, tz="UTC"))
    figure = candlestick(rows, NO_FLAGS, (), None, missing=missing)
    assert len(figure.data[0].x) == 3 + MAX_HOLES


@pytest.mark.parametrize("continuous", [False, True])
def test_an_empty_chart_has_no_axis(continuous: bool) -> None:
    figure = candlestick(candles(0), NO_FLAGS, ("sma_20",), None, continuous=continuous)
    assert figure.layout.xaxis.visible is figure.layout.yaxis.visible is False
    assert figure.layout.annotations[0].text == "no data"
    assert candlestick(candles(1), NO_FLAGS, (), None).layout.xaxis.visible is None


def events(*days: str, kind: str = "split") -> pd.DataFrame:
    times = pd.to_datetime(list(days), utc=True)
    return pd.DataFrame({"ts": times, "kind": kind, "text": [f"of {day}" for day in days]})


def marks(figure: Any, name: str = "split") -> list[tuple[str, str]]:
    (trace,) = [t for t in figure.data if t.name == name] or [None]
    return [] if trace is None else list(zip(trace.x, trace.text, strict=True))


def test_splits_and_dividends_are_marked_at_the_first_candle_that_shows_them() -> None:
    both = pd.concat(
        [
            events("2023-12-01", "2024-01-03", "2024-01-06", "2024-03-01"),
            events("2024-01-05", kind="dividend"),
        ],
        ignore_index=True,
    )
    weekend = candles(10)[lambda rows: ~rows["ts"].dt.day.isin([6, 7])]  # 2024-01-06 is a Saturday
    figure = candlestick(weekend, NO_FLAGS, (), None, events=both)
    assert marks(figure) == [("2024-01-03", "of 2024-01-03"), ("2024-01-08", "of 2024-01-06")]
    assert marks(figure, "dividend") == [("2024-01-05", "of 2024-01-05")]


def test_an_event_is_marked_at_the_candle_of_several_bars_that_holds_it() -> None:
    weekly = candles(70).iloc[::7].reset_index(drop=True)
    figure = candlestick(weekly, NO_FLAGS, (), None, bars_each=7, events=events("2024-01-11"))
    assert marks(figure) == [("2024-01-08", "of 2024-01-11")]


def hourly(start: str, end: str, zone: str) -> pd.DataFrame:
    times = pd.date_range(start, end, freq="h", tz="UTC").tz_convert(zone)
    return candles(len(times)).assign(ts=times)


@pytest.mark.parametrize(
    ("zone", "day", "repeated"),
    [
        ("Europe/Berlin", "2026-10-25", ["02:00+0200", "02:00+0100"]),
        ("America/New_York", "2026-11-01", ["01:00-0400", "01:00-0500"]),
        ("Australia/Sydney", "2026-04-05", ["02:00+1100", "02:00+1000"]),
        ("Pacific/Auckland", "2026-04-05", ["02:00+1300", "02:00+1200"]),
    ],
)
def test_the_hour_that_clocks_repeat_has_a_candle_for_each_of_its_bars(
    zone: str, day: str, repeated: list[str]
) -> None:
    middle = pd.Timestamp(day)
    rows = hourly(str(middle - pd.Timedelta(days=1)), str(middle + pd.Timedelta(days=1)), zone)
    figure = as_json(candlestick(rows, NO_FLAGS, (), None, continuous=True))
    times = figure["data"][0]["x"]
    assert len(set(times)) == len(rows)
    assert [time for time in times if len(time) > len("2026-10-25 00:00")] == [
        f"{day} {time}" for time in repeated
    ]
    assert figure["layout"]["xaxis"]["categoryarray"] == times


def test_a_day_without_an_hour_keeps_the_axis_of_dates() -> None:
    rows = hourly("2026-03-28 20:00", "2026-03-29 06:00", "Europe/Berlin")
    figure = as_json(candlestick(rows, NO_FLAGS, (), None, continuous=True))
    assert "categoryarray" not in figure["layout"]["xaxis"]
    assert len(set(figure["data"][0]["x"])) == len(rows)
