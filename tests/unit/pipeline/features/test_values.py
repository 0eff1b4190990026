"""Values of the features: against TA-Lib, called here independently, and against the formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
import talib

from enrichment.domain.bars import Bars, Floats
from enrichment.pipeline.features import FEATURES, compute

SYMBOLS = ("AAPL", "FB", "GOOG", "IBM", "MSFT")
ORDER = [
    "return_1", "return_1d", "log_return", "volatility_20", "volatility_50", "atr_14", "rsi_14",
    "macd", "macd_signal", "macd_histogram", "bollinger_upper", "bollinger_middle",
    "bollinger_lower", "sma_20", "sma_50", "sma_200", "ema_12", "ema_26", "rolling_volume_20",
    "volume_ratio", "obv", "session_vwap", "delta", "buy_sell_ratio", "trend_direction",
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
    macd, signal, histogram = talib.MACD(bars.close, 12, 26, 9)
    upper, middle, lower = talib.BBANDS(bars.close, 20, 2.0, 2.0)
    for name, expected in {
        "return_1": talib.ROCP(bars.close, 1),
        "return_1d": talib.ROCP(bars.close, 1),
        "log_return": np.append(np.nan, returns),
        "volatility_20": np.append(np.nan, talib.STDDEV(returns, 20)),
        "volatility_50": np.append(np.nan, talib.STDDEV(returns, 50)),
        "atr_14": talib.ATR(bars.high, bars.low, bars.close, 14),
        "rsi_14": talib.RSI(bars.close, 14),
        "macd": macd,
        "macd_signal": signal,
        "macd_histogram": histogram,
        "bollinger_upper": upper,
        "bollinger_middle": middle,
        "bollinger_lower": lower,
        "obv": talib.OBV(bars.close, bars.volume),
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
        if name in ("delta", "buy_sell_ratio"):
            assert np.isnan(column).all()
            continue
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


def test_windows_do_not_depend_on_earlier_values() -> None:
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


def test_constant_prices() -> None:
    moving = 100.0 + np.tile([0.0, 1.0], 50)
    computed = compute(_series(np.append(moving, np.full(150, 100.0))))
    assert (computed["atr_14"][14:199] > 0).all()
    assert not np.isnan(computed["rsi_14"][14:199]).any()
    assert (computed["atr_14"][201:] == 0).all()
    assert np.isnan(computed["rsi_14"][201:]).all()


@pytest.mark.parametrize("level", [1.0, 1e5, 1e-5])
@pytest.mark.parametrize("move", [1e-2, 1e-6, 1e-9, 0.0])
def test_bollinger_bands_of_almost_constant_prices(level: float, move: float) -> None:
    random = np.random.default_rng(3)
    close = level * (1 + move * random.normal(size=300))
    close[100] = level * 1e6
    computed = compute(_series(close))
    for row in (19, 119, 120, 299):
        window = [float(x) for x in close[row - 19 : row + 1]]
        mean = math.fsum(window) / 20
        spread = math.sqrt(math.fsum((x - mean) ** 2 for x in window) / 20)
        for name, expected in (("upper", mean + 2 * spread), ("lower", mean - 2 * spread)):
            actual = computed[f"bollinger_{name}"][row]
            assert actual == pytest.approx(expected, rel=1e-14, abs=1e-13 * mean), (name, row)
        width = computed["bollinger_upper"][row] - computed["bollinger_lower"][row]
        assert width == pytest.approx(4 * spread, abs=1e-13 * mean)


def test_volume_ratio() -> None:
    volume = np.append(np.full(20, 5.0), [10.0, 0.0])
    bars = _series(np.full(22, 7.0))
    bars = Bars.of(bars.ts, bars.open, bars.high, bars.low, bars.close, volume)
    actual = compute(bars)["volume_ratio"]
    assert np.isnan(actual[:19]).all()
    assert actual[19:].tolist() == pytest.approx([1.0, 10 / 5.25, 0.0])
    nothing = compute(_series(np.full(22, 7.0), volume=0.0))
    assert np.isnan(nothing["volume_ratio"]).all()


def test_session_vwap_restarts_every_day() -> None:
    ts = np.array(
        ["2024-01-05T20:00", "2024-01-08T14:00", "2024-01-08T15:00", "2024-01-08T16:00"],
        dtype="datetime64[us]",
    )
    high, low, close = np.full(4, 12.0), np.full(4, 6.0), np.array([9.0, 9.0, 12.0, 9.0])
    volume = np.array([1.0, 0.0, 10.0, 30.0])
    vwap = np.array([np.nan, 8.0, np.nan, 7.0])
    bars = Bars.of(ts, close, high, low, close, volume, vwap=vwap)
    actual = compute(bars)["session_vwap"]
    np.testing.assert_allclose(actual, [9.0, np.nan, 10.0, (10 * 10 + 30 * 7) / 40], rtol=1e-15)


@pytest.mark.parametrize("vwap", [np.nan, np.inf, 0.0, -1.0, 13.0])
def test_an_impossible_vwap_is_replaced_by_the_typical_price(vwap: float) -> None:
    one = np.ones(1)
    ts = np.array(["2024-01-05"], dtype="datetime64[us]")
    bars = Bars.of(ts, one * 9, one * 12, one * 6, one * 9, one * 4, vwap=one * vwap)
    assert compute(bars)["session_vwap"].tolist() == [9.0]


def test_session_vwap_of_many_days_of_uneven_length() -> None:
    random = np.random.default_rng(11)
    minutes = np.flatnonzero(random.random(288 * 400) < 0.6) * 5
    ts = np.datetime64("2023-01-01", "us") + minutes.astype("timedelta64[m]")
    close = 100 * np.exp(np.cumsum(random.normal(0, 0.001, len(ts))))
    volume = random.integers(1, 1_000, len(ts)).astype(float)
    volume[50] = 1e14
    bars = Bars.of(ts, close, close * 1.01, close * 0.97, close, volume)
    actual = compute(bars)["session_vwap"]
    typical = (bars.high + bars.low + bars.close) / 3
    days = ts.astype("datetime64[D]")
    for row in range(0, len(ts), 997):
        today = np.flatnonzero((days == days[row]) & (np.arange(len(ts)) <= row))
        paid = math.fsum(typical[today] * volume[today])
        assert actual[row] == pytest.approx(paid / math.fsum(volume[today]), rel=1e-13)


def test_delta_and_buy_sell_ratio() -> None:
    bought = np.array([7.0, 10.0, 0.0, np.nan, 11.0, -1.0])
    ts = np.datetime64("2024-01-01", "us") + np.arange(6) * np.timedelta64(1, "h")
    price, volume = np.full(6, 3.0), np.full(6, 10.0)
    computed = compute(Bars.of(ts, price, price, price, price, volume, taker_buy_volume=bought))
    unknown = [np.nan] * 3
    np.testing.assert_array_equal(computed["delta"], [4.0, 10.0, -10.0, *unknown])
    np.testing.assert_array_equal(computed["buy_sell_ratio"], [7 / 3, np.nan, 0.0, *unknown])
