"""Bars as traded and splits: laws of the stored features and of what is read on other bases."""

from __future__ import annotations

from dataclasses import replace
from datetime import date

import numpy as np
import pytest
import talib
from hypothesis import given, settings
from hypothesis import strategies as st

from enrichment.domain.bars import Bars, Floats, to_datetime
from enrichment.domain.corporate_actions import Split, Splits, scaled
from enrichment.domain.model import Timeframe
from enrichment.pipeline import features
from tests.helpers.fakes import FakePipeline, recorded_bars

RATIOS = (2.0, 3.0, 1.5, 7.0, 0.1, 1 / 3, 1.05, 20.0)
HISTORY = 420
SESSIONS = recorded_bars().ts[:HISTORY]


def walk(seed: int) -> Bars:
    """Sessions of a share on one basis, with uneven volume."""
    random = np.random.default_rng(seed)
    close = 100 * np.exp(np.cumsum(random.normal(0, 0.012, HISTORY)))
    open_ = close * np.exp(random.normal(0, 0.004, HISTORY))
    high, low = np.maximum(open_, close) * 1.003, np.minimum(open_, close) * 0.996
    volume = np.floor(1e6 * random.lognormal(0, 0.3, HISTORY))
    return Bars.of(SESSIONS, open_, high, low, close, volume)


def as_traded(adjusted: Bars, splits: list[Split]) -> Bars:
    """What was traded, of bars adjusted for the splits: computed day by day."""
    prices = {name: getattr(adjusted, name).copy() for name in ("open", "high", "low", "close")}
    volume = adjusted.volume.copy()
    for day, ratio in splits:
        before = adjusted.ts < np.datetime64(day)
        for column in prices.values():
            column[before] *= ratio
        volume[before] /= ratio
    return replace(adjusted, **prices, volume=volume)


@st.composite
def histories(draw: st.DrawFn) -> tuple[int, list[Split]]:
    """Seed of an adjusted series, and its splits: reverse ones, two in a week, one at the end."""
    seed = draw(st.integers(0, 10_000))
    bars = walk(seed)
    rows = draw(st.lists(st.integers(1, HISTORY - 1), min_size=1, max_size=4, unique=True))
    ratios = draw(st.lists(st.sampled_from(RATIOS), min_size=len(rows), max_size=len(rows)))
    days = [bars.ts[row].astype("datetime64[D]").item() for row in rows]
    return seed, sorted(zip(days, ratios, strict=True))


def stored_features(
    traded: Bars, splits: list[Split], nights: list[int]
) -> tuple[FakePipeline, dict[str, Floats]]:
    """The series as nightly runs store it, each knowing only the splits of its day and before."""
    fake = FakePipeline(traded)
    for count in nights:
        today = traded.ts[count - 1].astype("datetime64[D]").item()
        known = [split for split in splits if split[0] <= today]
        fake.store.current = replace(fake.store.current, splits=known)
        fake.run_at(count)
    return fake, fake.store.features


def talib_features(bars: Bars) -> dict[str, Floats]:
    """Reference values of features on a series, by TA-Lib."""
    close, volume = bars.close, bars.volume
    upper, middle, lower = talib.BBANDS(close, 20, 2.0, 2.0)
    return {
        "sma_20": talib.SMA(close, 20),
        "sma_200": talib.SMA(close, 200),
        "bollinger_upper": upper,
        "bollinger_middle": middle,
        "bollinger_lower": lower,
        "atr_14": talib.ATR(bars.high, bars.low, close, 14),
        "rsi_14": talib.RSI(close, 14),
        "rolling_volume_20": talib.SMA(volume, 20),
        "obv": talib.OBV(close, volume),
        "return_1": talib.ROCP(close, 1),
    }


def assert_close(actual: Floats, expected: Floats, scale: Floats, name: str) -> None:
    assert (np.isnan(actual) == np.isnan(expected)).all(), name
    error = np.abs(actual - expected) / np.maximum(np.abs(expected), scale)
    assert np.nanmax(error) <= 1e-9, (name, np.nanargmax(error), np.nanmax(error))


@given(histories(), st.lists(st.integers(30, HISTORY), max_size=3))
@settings(max_examples=25, deadline=None)
def test_features_read_on_the_newest_basis_are_those_of_the_adjusted_series(
    history: tuple[int, list[Split]], nights: list[int]
) -> None:
    seed, splits = history
    adjusted = walk(seed)
    traded = as_traded(adjusted, splits)
    _, stored = stored_features(traded, splits, sorted({*nights, HISTORY}))
    shares = Splits.of(splits, Timeframe.D1).shares(traded.ts)
    for name, expected in talib_features(adjusted).items():
        read = features.FEATURES[name].on_basis(stored[name], shares)
        scale = np.full(HISTORY, {"obv": adjusted.volume.max(), "return_1": 1e-3}.get(name, 1e-9))
        assert_close(np.asarray(read, float), expected, scale, name)


@given(histories(), st.integers(60, HISTORY - 1))
@settings(max_examples=25, deadline=None)
def test_a_split_between_two_nights_changes_no_stored_number(
    history: tuple[int, list[Split]], count: int
) -> None:
    seed, splits = history
    adjusted = walk(seed)
    day = adjusted.ts[count].astype("datetime64[D]").item()
    splits = sorted({**dict(splits), day: 4.0}.items())
    traded = as_traded(adjusted, splits)
    _, before = stored_features(traded, splits, [count])
    fake, after = stored_features(traded, splits, [count, min(count + 1, HISTORY)])
    np.testing.assert_array_equal(fake.store.bars.close[:count], traded.close[:count])
    for name, column in before.items():
        np.testing.assert_array_equal(after[name][:count], column, name)
    assert fake.store.corrections == []
    assert len(fake.vendor.windows) == 2


@pytest.mark.parametrize("timeframe", [Timeframe.D1, Timeframe.W1, Timeframe.H1])
def test_a_bar_is_on_the_basis_of_its_last_day(timeframe: Timeframe) -> None:
    splits = Splits.of([(date(2024, 6, 12), 10.0)], timeframe)  # a Wednesday
    starts = {
        Timeframe.D1: ["2024-06-11", "2024-06-12"],
        Timeframe.W1: ["2024-06-03", "2024-06-10"],
        Timeframe.H1: ["2024-06-11T19:00", "2024-06-12T13:00"],
    }[timeframe]
    assert splits.shares(np.array(starts, "datetime64[us]")).tolist() == [10.0, 1.0]


def test_scaled_bars_keep_what_is_no_price_or_volume() -> None:
    bars = walk(1).take(slice(3))
    bars = replace(bars, vwap=np.array([1.0, np.nan, 3.0]), trades=np.array([7.0, 8.0, 9.0]))
    halved = scaled(bars, np.full(3, 2.0))
    np.testing.assert_array_equal(halved.high, bars.high / 2)
    np.testing.assert_array_equal(halved.vwap, [0.5, np.nan, 1.5])
    np.testing.assert_array_equal(halved.volume, bars.volume * 2)
    np.testing.assert_array_equal(halved.trades, bars.trades)
    assert to_datetime(halved.ts[0]) == to_datetime(bars.ts[0])
