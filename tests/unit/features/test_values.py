"""Values of the features: against TA-Lib, called here independently, and against the formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
import talib

from enrichment.domain import Bars, Floats
from enrichment.features import FEATURES, compute

SYMBOLS = ("AAPL", "FB", "GOOG", "IBM", "MSFT")
ORDER = [
    "return_1", "return_1d", "log_return", "volatility_20", "volatility_50", "atr_14", "rsi_14",
    "sma_20", "sma_50", "sma_200", "ema_12", "ema_26", "rolling_volume_20", "trend_direction",
    "market_structure",
]  # fmt: skip


def test_the_columns_and_their_order() -> None:
    assert list(FEATURES) == ORDER
    assert list(compute(Bars.empty())) == ORDER
    assert [n for n, f in FEATURES.items() if f.kind == "label"] == ORDER[-2:]


@pytest.mark.parametrize("symbol", SYMBOLS)
def test_equal_to_talib(stocks: dict[str, Bars], symbol: str) -> None:
    bars = stocks[symbol]
    computed = compute(bars)
    returns = np.log(bars.close[1:] / bars.close[:-1])
    for name, expected in {
        "return_1": talib.ROCP(bars.close, 1),
        "return_1d": talib.ROCP(bars.close, 1),
        "log_return": np.append(np.nan, returns),
        "volatility_20": np.append(np.nan, talib.STDDEV(returns, 20)),
        "volatility_50": np.append(np.nan, talib.STDDEV(returns, 50)),
        "atr_14": talib.ATR(bars.high, bars.low, bars.close, 14),
        "rsi_14": talib.RSI(bars.close, 14),
        "sma_20": talib.SMA(bars.close, 20),
        "sma_50": talib.SMA(bars.close, 50),
        "sma_200": talib.SMA(bars.close, 200),
        "ema_12": talib.EMA(bars.close, 12),
        "ema_26": talib.EMA(bars.close, 26),
        "rolling_volume_20": talib.SMA(bars.volume, 20),
    }.items():
        np.testing.assert_allclose(computed[name], expected, rtol=1e-9, atol=0, err_msg=name)


@pytest.mark.parametrize("symbol", SYMBOLS)
def test_warm_up_is_null_and_nothing_else_is(stocks: dict[str, Bars], symbol: str) -> None:
    for name, column in compute(stocks[symbol]).items():
        warmup = 1 if name == "return_1d" else FEATURES[name].warmup
        nulls = [v is None or v != v for v in column]
        assert nulls == [row < warmup for row in range(len(column))], name


def _series(close: Floats, step: str = "1D", volume: float = 1.0) -> Bars:
    ts = np.datetime64("2024-01-01", "us") + np.arange(len(close)) * np.timedelta64(
        int(step[:-1]), step[-1]
    )
    return Bars.of(ts, close, close, close, close, np.full(len(close), volume))


def test_return_over_a_day_of_hourly_bars() -> None:
    close = 100.0 + np.arange(72)
    expected = np.full(72, np.nan)
    expected[24:48] = close[24:48] / close[23] - 1
    expected[48:] = close[48:] / close[47] - 1
    computed = compute(_series(close, "1h"))["return_1d"]
    np.testing.assert_allclose(computed, expected, rtol=1e-13)


def test_return_over_a_day_reaches_across_days_without_bars() -> None:
    ts = np.array(
        ["2024-01-05T20:00", "2024-01-08T14:00", "2024-01-08T15:00"], dtype="datetime64[us]"
    )
    close = np.array([100.0, 110.0, 120.0])
    computed = compute(Bars.of(ts, close, close, close, close, close))["return_1d"]
    np.testing.assert_allclose(computed, [np.nan, 0.10, 0.20], rtol=1e-12)


def test_return_over_the_last_weekly_bar() -> None:
    close = np.array([100.0, 110.0, 99.0])
    ts = np.array(["2024-01-01", "2024-01-08", "2024-01-15"], dtype="datetime64[us]")
    computed = compute(Bars.of(ts, close, close, close, close, close))
    np.testing.assert_array_equal(computed["return_1d"], computed["return_1"])


def test_windows_remember_nothing_that_has_left_them() -> None:
    volume = np.full(400, 1 / 7)
    volume[100] = 1e12
    volume[200:300] = 0.0
    close = np.full(400, 100.1)
    close[100] = 1e8
    bars = _series(close)
    bars = Bars.of(bars.ts, close, close, close, close, volume)
    computed = compute(bars)
    assert (computed["rolling_volume_20"][220:300] == 0.0).all()
    exact = math.fsum(volume[320:340]) / 20
    assert computed["rolling_volume_20"][339] == pytest.approx(exact, rel=1e-15)
    assert computed["sma_200"][399] == pytest.approx(100.1, rel=1e-14)
    assert (computed["volatility_50"][160:] == 0.0).all()


def test_a_market_that_stands_still() -> None:
    moving = 100.0 + np.tile([0.0, 1.0], 50)
    computed = compute(_series(np.append(moving, np.full(150, 100.0))))
    assert (computed["atr_14"][14:199] > 0).all()
    assert not np.isnan(computed["rsi_14"][14:199]).any()
    assert (computed["atr_14"][201:] == 0).all()
    assert np.isnan(computed["rsi_14"][201:]).all()
