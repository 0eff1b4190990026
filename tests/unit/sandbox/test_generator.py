"""Simulated series: exact aggregation, random access, plausible bars."""

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import exchange_calendars
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enrichment.domain.bars import Bars, to_datetime
from enrichment.domain.model import Timeframe, Window
from enrichment.sandbox.generator import SimulatedSeries
from enrichment.sandbox.market import Market

NOW = datetime(2024, 7, 3, 15, 2, tzinfo=UTC)  # a half-day, while its session is on
TICKERS = st.sampled_from(["SIM1", "SIM42", "X:SIM7USD"])
PANDAS_RULES = {Timeframe.M15: "15min", Timeframe.M30: "30min", Timeframe.H1: "1h"}


def frame(bars: Bars) -> pd.DataFrame:
    return pd.DataFrame(bars.columns()).set_index("ts")


def aggregated(base: pd.DataFrame, keys: pd.Index) -> pd.DataFrame:
    """The aggregation of five-minute bars, as pandas does it."""
    groups = base.assign(traded=base.vwap * base.volume).groupby(keys)
    out = groups.agg(
        open=("open", "first"),
        high=("high", "max"),
        low=("low", "min"),
        close=("close", "last"),
        volume=("volume", "sum"),
        trades=("trades", "sum"),
        traded=("traded", "sum"),
    )
    out["vwap"] = out.pop("traded") / out.volume
    return out


def local(index: pd.Index) -> pd.DatetimeIndex:
    return pd.DatetimeIndex(index).tz_localize("UTC").tz_convert("America/New_York")


def keys_of(ticker: str, timeframe: Timeframe, index: pd.Index) -> pd.Index:
    """The bar that each five-minute bar belongs to, on the wall clock of the market."""
    clock = pd.DatetimeIndex(index) if ticker.startswith("X:") else local(index).tz_localize(None)
    if timeframe is Timeframe.D1:
        return clock.normalize()
    if timeframe is Timeframe.W1:
        return (clock - pd.to_timedelta(clock.day_of_week, unit="D")).normalize()
    hours = pd.to_timedelta(clock.hour // 4 * 4, unit="h")
    floor = (
        clock.normalize() + hours
        if timeframe is Timeframe.H4
        else clock.floor(PANDAS_RULES[timeframe])
    )
    if ticker.startswith("X:"):
        return floor
    return floor.tz_localize("America/New_York").tz_convert("UTC").tz_localize(None)


@settings(max_examples=40, deadline=None)
@given(
    ticker=TICKERS,
    timeframe=st.sampled_from([t for t in Timeframe if t is not Timeframe.M5]),
    monday=st.integers(0, 1270),
)
def test_longer_bars_are_the_aggregation_of_the_five_minute_bars(
    ticker: str, timeframe: Timeframe, monday: int
) -> None:
    start = datetime(2000, 1, 3, tzinfo=UTC) + timedelta(weeks=monday)
    window = Window(start, start + timedelta(weeks=1))
    series = SimulatedSeries(ticker, seed=0)
    base = frame(series.bars(Timeframe.M5, window, NOW))
    made = frame(series.bars(timeframe, window, NOW))
    expected = aggregated(base, keys_of(ticker, timeframe, base.index))
    assert list(made.index) == list(expected.index)
    for column in ("open", "high", "low", "close", "volume", "trades"):
        assert made[column].tolist() == expected[column].tolist(), column
    np.testing.assert_allclose(made.vwap, expected.vwap, atol=5.1e-5, rtol=0)


@settings(max_examples=60, deadline=None)
@given(
    ticker=TICKERS,
    timeframe=st.sampled_from(list(Timeframe)),
    minutes=st.tuples(st.integers(0, 60 * 24 * 700), st.integers(0, 60 * 24 * 90)),
)
def test_a_bar_is_the_same_whatever_the_request(
    ticker: str, timeframe: Timeframe, minutes: tuple[int, int]
) -> None:
    year = Window(datetime(2022, 8, 1, tzinfo=UTC), datetime(2024, 12, 1, tzinfo=UTC))
    start = year.start + timedelta(minutes=minutes[0])
    part = Window(start, start + timedelta(minutes=minutes[1]))
    whole = frame(SimulatedSeries(ticker, seed=0).bars(timeframe, year, NOW))
    cut = frame(SimulatedSeries(ticker, seed=0).bars(timeframe, part, NOW))
    inside = (whole.index >= part.start.replace(tzinfo=None)) & (
        whole.index < part.end.replace(tzinfo=None)
    )
    pd.testing.assert_frame_equal(cut, whole[inside], check_exact=True, check_freq=False)


def test_the_bars_are_the_same_in_every_process() -> None:
    script = (
        "from datetime import *; from enrichment.domain.model import *;"
        "from enrichment.sandbox.generator import SimulatedSeries as S;"
        "w = Window(datetime(2024, 1, 2, tzinfo=UTC), datetime(2024, 1, 9, tzinfo=UTC));"
        "print(S('SIM1', 0).bars(Timeframe.D1, w, datetime(2025, 1, 1, tzinfo=UTC)).close.tolist())"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    window = Window(datetime(2024, 1, 2, tzinfo=UTC), datetime(2024, 1, 9, tzinfo=UTC))
    here = SimulatedSeries("SIM1", 0).bars(Timeframe.D1, window, NOW).close.tolist()
    assert outputs == {f"{here}\n"}
    assert len(here) == 5


@pytest.mark.parametrize(
    ("ticker", "low", "high"), [("SIM1", 0.008, 0.025), ("X:SIM7USD", 0.02, 0.06)]
)
def test_bars_are_plausible(ticker: str, low: float, high: float) -> None:
    window = Window(datetime(2000, 1, 1, tzinfo=UTC), datetime(2030, 1, 1, tzinfo=UTC))
    bars = frame(SimulatedSeries(ticker, seed=0).bars(Timeframe.D1, window, NOW))
    prices = bars[["open", "high", "low", "close"]]
    assert (prices > 0).all(axis=None)
    assert (bars.high == prices.max(axis=1)).all()
    assert (bars.low == prices.min(axis=1)).all()
    assert bars.vwap.between(bars.low, bars.high).all()
    assert (bars.volume >= 1).all()
    assert (bars.trades >= 1).all()
    assert (prices.round(4) == prices).all(axis=None)
    assert low < np.log(bars.close).diff().std() < high


def test_daily_bars_are_those_of_the_exchange() -> None:
    window = Window(datetime(2020, 1, 1, tzinfo=UTC), datetime(2024, 7, 3, tzinfo=UTC))
    bars = SimulatedSeries("SIM1", seed=0).bars(Timeframe.D1, window, NOW)
    sessions = exchange_calendars.get_calendar("XNYS").sessions_in_range("2020-01-01", "2024-07-02")
    assert bars.ts.tolist() == [day.to_pydatetime() for day in sessions]


def test_volume_is_heavy_at_the_open_and_the_close() -> None:
    window = Window(datetime(2024, 1, 2, tzinfo=UTC), datetime(2024, 6, 1, tzinfo=UTC))
    bars = frame(SimulatedSeries("SIM1", seed=0).bars(Timeframe.M30, window, NOW))
    by_time = bars.volume.groupby(local(bars.index).strftime("%H:%M")).mean()
    assert by_time["09:30"] > 1.3 * by_time["12:30"]
    assert by_time["15:30"] > 1.3 * by_time["12:30"]


def test_the_forming_bar_is_made_of_the_past_only() -> None:
    series = SimulatedSeries("SIM1", seed=0)
    today = Window(datetime(2024, 7, 3, tzinfo=UTC), datetime(2024, 7, 9, tzinfo=UTC))
    base = series.bars(Timeframe.M5, today, NOW)
    assert base.ts[-1] == np.datetime64("2024-07-03T14:55")
    (day,) = [series.bars(Timeframe.D1, today, NOW)]
    assert day.ts.tolist() == [datetime(2024, 7, 3)]  # noqa: DTZ001 - numpy's own, naive UTC
    assert day.close[0] == base.close[-1]
    assert day.volume[0] == base.volume.sum()
    before_open = series.bars(Timeframe.D1, today, NOW.replace(hour=12))
    assert len(before_open) == 0


def test_a_forming_bar_ends_as_the_complete_one() -> None:
    series, day = (
        SimulatedSeries("SIM1", seed=0),
        Window(NOW.replace(hour=0), NOW + timedelta(hours=3)),
    )
    early = series.bars(Timeframe.H1, day, NOW)
    late = series.bars(Timeframe.H1, day, NOW + timedelta(hours=3))
    assert late.take(slice(0, 2)).close.tolist() == early.take(slice(0, 2)).close.tolist()
    assert len(late) == 4  # 9:00 to 12:00 on the New York clock: the session ends at 13:00


@pytest.mark.parametrize("timeframe", [Timeframe.D1, Timeframe.W1])
def test_a_market_caches_short_results_unchanged(timeframe: Timeframe) -> None:
    market, newest = Market(NOW), Window(NOW - timedelta(days=30), NOW)
    starts = SimulatedSeries("SIM1", seed=0).starts(timeframe, newest, NOW)
    for part in (starts, starts[1:], starts[:-1], starts[-1:]):
        window = Window(to_datetime(part[0]), to_datetime(part[-1]) + timedelta(microseconds=1))
        for now in (NOW, NOW + timedelta(hours=2), NOW + timedelta(days=8)):
            series = market.series("SIM1")
            assert series is not None
            found = frame(series.bars(timeframe, window, now))
            alone = frame(SimulatedSeries("SIM1", seed=0).bars(timeframe, window, now))
            pd.testing.assert_frame_equal(found, alone)


def test_seeds_and_tickers_make_different_series() -> None:
    window = Window(datetime(2024, 1, 2, tzinfo=UTC), datetime(2024, 1, 3, tzinfo=UTC))
    closes = {
        SimulatedSeries(ticker, seed).bars(Timeframe.D1, window, NOW).close[0]
        for ticker in ("SIM1", "SIM2", "SIM01")
        for seed in (0, 1)
    }
    assert len(closes) == 6
