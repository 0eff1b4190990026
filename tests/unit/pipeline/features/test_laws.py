"""What holds for every feature: where a history is cut, what comes later and what is broken in it
change nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import talib
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from enrichment.domain.bars import Bars
from enrichment.pipeline.features import CUMULATIVE, FEATURES, LOOKBACK, compute

_DAY = np.timedelta64(1, "D")
RSI_SCALE = 100.0
OF_PRICE = {"macd", "macd_signal", "macd_histogram", "bollinger_lower"}


def assert_same(
    actual: dict[str, NDArray[Any]],
    expected: dict[str, NDArray[Any]],
    price: NDArray[np.float64],
    rtol: float = 1e-9,
) -> None:
    """Equal to rtol; where gains and losses cancel out, to rtol of what they are made of."""
    for name, column in actual.items():
        if FEATURES[name].kind == "label":
            assert column.tolist() == expected[name].tolist(), name
            continue
        scale = RSI_SCALE if name == "rsi_14" else price if name in OF_PRICE else 0.0
        error = np.abs(column - expected[name])
        allowed = rtol * np.maximum(np.abs(expected[name]), scale)
        nulls = np.isnan(column) & np.isnan(expected[name])
        assert (nulls | (error <= allowed)).all(), (name, np.nanmax(error))


def seed_at(bars: Bars, row: int) -> dict[str, float]:
    """Stored values of the cumulative features at a row."""
    whole = compute(bars)
    return {name: float(whole[name][row]) for name in CUMULATIVE}


def rows(columns: dict[str, NDArray[Any]], selection: Any) -> dict[str, NDArray[Any]]:
    return {name: column[selection] for name, column in columns.items()}


_HISTORIES = {
    "seed": st.integers(0, 2**32),
    "count": st.integers(LOOKBACK + 20, LOOKBACK + 700),
    "size": st.sampled_from([1e-4, 1e-3, 0.03]),
    "steady": st.lists(
        st.tuples(st.floats(0, 1), st.integers(1, 400), st.sampled_from([0.0, 1e-3])), max_size=3
    ),
    "jump": st.tuples(
        st.floats(0, 1), st.sampled_from([1, 3, 100]), st.sampled_from([1.0, 0.5, 1e6])
    ),
    "spread": st.sampled_from([0.0, 1e-3]),
    "step": st.sampled_from([np.timedelta64(5, "m"), np.timedelta64(1, "h"), _DAY]),
}


def history(
    seed: int,
    count: int,
    size: float,
    steady: list[tuple[float, int, float]],
    jump: tuple[float, int, float],
    spread: float,
    step: np.timedelta64,
) -> Bars:
    """A walk with a jump up to 1e6, standstills, steady growth and bars without volume."""
    random = np.random.default_rng(seed)
    moves = random.normal(0, size, count)
    for where, length, move in steady:
        moves[int(where * count) :][:length] = move
    close = 100.0 * np.exp(np.cumsum(moves))
    where, length, factor = jump
    close[int(where * count) :][:length] *= factor
    volume = random.integers(0, 1_000, count).astype(float)
    volume[int(where * (count - 1))] = 1e12
    taken = np.where(random.random(count) < 0.9, np.floor(volume * random.random(count)), np.nan)
    ts = np.datetime64("2020-01-01", "us") + np.arange(count) * step
    high, low = close * (1 + spread), close * (1 - spread)
    return Bars.of(
        ts, close, high, low, close, volume,
        vwap=np.where(random.random(count) < 0.5, close, np.nan), taker_buy_volume=taken,
    )  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(at=st.floats(0, 1), bars=st.builds(history, **_HISTORIES))
def test_a_history_may_be_cut_anywhere(at: float, bars: Bars) -> None:
    cut = LOOKBACK + int(at * (len(bars) - 1 - LOOKBACK))
    part = compute(bars.take(slice(cut - LOOKBACK, None)), seed_at(bars, cut - LOOKBACK))
    late = slice(cut, None)
    assert_same(rows(part, slice(LOOKBACK, None)), rows(compute(bars), late), bars.close[late])


@pytest.mark.parametrize("cut", [LOOKBACK, LOOKBACK + 1, 1_000, 2_000])
def test_recorded_bars_may_be_cut_anywhere(stocks: dict[str, Bars], cut: int) -> None:
    for symbol in ("AAPL", "IBM", "MSFT"):
        bars = stocks[symbol]
        part = compute(bars.take(slice(cut - LOOKBACK, None)), seed_at(bars, cut - LOOKBACK))
        late = slice(cut, None)
        assert_same(rows(part, slice(LOOKBACK, None)), rows(compute(bars), late), bars.close[late])


@pytest.mark.parametrize("name", FEATURES)
def test_each_feature_needs_no_more_than_its_lookback(stocks: dict[str, Bars], name: str) -> None:
    bars, lookback = stocks["AAPL"], FEATURES[name].lookback
    for cut in range(lookback, len(bars), 233):
        seed = seed_at(bars, cut - lookback)
        part = compute(bars.take(slice(cut - lookback, cut + 1)), seed)
        whole = compute(bars.take(slice(None, cut + 1)))
        last = bars.close[cut : cut + 1]
        assert_same({name: part[name][-1:]}, {name: whole[name][-1:]}, last)


def test_a_jump_by_a_million_before_the_lookback_has_no_effect(stocks: dict[str, Bars]) -> None:
    bars = stocks["IBM"]
    columns = bars.columns()
    for price in ("open", "high", "low", "close", "volume"):
        columns[price] = columns[price].copy()
        columns[price][100:103] *= 1e6
    broken, late = Bars(**columns), slice(103 + LOOKBACK, None)
    # On-balance volume never forgets: from there on its steps are compared.
    first = late.start
    part = compute(broken.take(late), seed_at(bars, first))
    expected = compute(bars.take(late), seed_at(bars, first))
    assert part["obv"].tolist() == expected["obv"].tolist()
    actual = {n: c for n, c in compute(broken).items() if n not in CUMULATIVE}
    assert_same(rows(actual, late), rows(compute(bars), late), bars.close[late])


@settings(max_examples=40, deadline=None)
@given(bars=st.builds(history, **_HISTORIES))
def test_equal_to_talib_on_extreme_bars(bars: Bars) -> None:
    """Where TA-Lib has no drift of its own to be equal to."""
    close = bars.close
    macd, signal, histogram = talib.MACD(close, 12, 26, 9)
    peers = {
        "return_1": talib.ROCP(close, 1),
        "macd": macd,
        "macd_signal": signal,
        "macd_histogram": histogram,
        "obv": talib.OBV(close, bars.volume),
        "ema_12": talib.EMA(close, 12),
        "ema_26": talib.EMA(close, 26),
    }
    actual = compute(bars)
    assert_same({name: actual[name] for name in peers}, peers, close)
    level = np.full_like(close, close.max())
    drifting = {"sma_20": talib.SMA(close, 20), "sma_200": talib.SMA(close, 200)}
    drifting["bollinger_middle"] = talib.BBANDS(close, 20)[1]
    for name, expected in drifting.items():
        np.testing.assert_allclose(actual[name] / level, expected / level, rtol=0, atol=1e-9)


@settings(max_examples=30, deadline=None)
@given(at=st.floats(0, 1), bars=st.builds(history, **_HISTORIES))
def test_no_feature_looks_ahead(at: float, bars: Bars) -> None:
    cut = int(at * len(bars))
    before, early = compute(bars.take(slice(cut))), slice(cut)
    assert_same(before, rows(compute(bars), early), bars.close[early], rtol=1e-15)


BROKEN = [
    ("close", np.nan), ("open", np.inf), ("high", -np.inf), ("volume", np.nan),
    ("low", 0.0), ("close", -1.0), ("volume", -1.0), ("high", 1e300),
]  # fmt: skip


@pytest.mark.parametrize(("column", "value"), BROKEN)
def test_a_broken_row_is_null_and_changes_no_other(
    stocks: dict[str, Bars], column: str, value: float
) -> None:
    bars = stocks["FB"]
    broken = np.zeros(len(bars), dtype=bool)
    broken[[0, 60, 61, 150, len(bars) - 1]] = True
    columns = bars.columns()
    columns[column] = np.where(broken, value, columns[column])
    actual = compute(Bars(**columns))
    usable = bars.take(~broken)
    assert_same(rows(actual, ~broken), compute(usable), usable.close, rtol=1e-15)
    for name, values in rows(actual, broken).items():
        assert all(v is None or np.isnan(v) for v in values), name


@pytest.mark.parametrize("count", [0, 1, 2, 5, 6, 11, 14, 15, 20, 49, 50, 51, 200, 400])
@pytest.mark.parametrize("volume", [0.0, 5.0])
@pytest.mark.parametrize("price", [0.01, 0.1, 1e-8, 123_456.789])
def test_constant_prices_are_finite_or_null(count: int, volume: float, price: float) -> None:
    close = np.full(count, price)
    ts = np.datetime64("2020-01-01", "us") + np.arange(count) * np.timedelta64(1, "D")
    computed = compute(Bars.of(ts, close, close, close, close, np.full(count, volume)))
    for name, column in computed.items():
        assert len(column) == count
        if FEATURES[name].kind == "number":
            assert column.dtype == np.float64
            assert not np.isinf(column).any(), name
        else:
            assert set(column) <= {None, "neutral", "range"}


@settings(max_examples=30, deadline=None)
@given(
    cut=st.integers(1, 190),
    broken=st.sets(st.integers(0, 195), max_size=20),
)
def test_the_seed_belongs_to_the_first_usable_row(
    stocks: dict[str, Bars], cut: int, broken: set[int]
) -> None:
    columns = stocks["FB"].columns()
    columns["close"] = columns["close"].copy()
    columns["close"][sorted(broken)] = np.nan
    bars = Bars(**columns)
    whole = compute(bars)["obv"]
    usable = np.flatnonzero(~np.isnan(whole[cut:]))
    seed = {"obv": float(whole[cut:][usable[0]])} if len(usable) else {}
    part = compute(bars.take(slice(cut, None)), seed)["obv"]
    np.testing.assert_array_equal(part, whole[cut:])


def test_seeded_fractional_volumes_are_exact_to_a_billionth() -> None:
    random = np.random.default_rng(5)
    bars = history(7, LOOKBACK + 300, 0.01, [], (0.0, 1, 1.0), 1e-3, np.timedelta64(1, "h"))
    columns = bars.columns() | {"volume": random.lognormal(0, 3, len(bars))}
    bars = Bars(**columns)
    whole = compute(bars)["obv"]
    part = compute(bars.take(slice(200, None)), {"obv": float(whole[200])})["obv"]
    np.testing.assert_allclose(part, whole[200:], rtol=0, atol=1e-12 * bars.volume.sum())


@pytest.mark.parametrize("seed", [{"obv": np.nan}, {"volume": 1.0}])
def test_a_missing_seed_is_an_error(stocks: dict[str, Bars], seed: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="compute the series from its first bar"):
        compute(stocks["FB"], seed)


def test_nothing_but_broken_rows() -> None:
    nothing = np.full(30, np.nan)
    ts = np.datetime64("2020-01-01", "us") + np.arange(30) * np.timedelta64(1, "D")
    computed = compute(Bars.of(ts, nothing, nothing, nothing, nothing, nothing))
    assert all(v is None or np.isnan(v) for column in computed.values() for v in column)


def test_bars_are_not_changed_in_place(stocks: dict[str, Bars]) -> None:
    bars = stocks["FB"]
    before = {name: column.copy() for name, column in bars.columns().items()}
    for column in bars.columns().values():
        column.flags.writeable = False
    compute(bars)
    for name, column in bars.columns().items():
        np.testing.assert_array_equal(column, before[name])
        column.flags.writeable = True


def test_lookback_covers_every_feature() -> None:
    assert max(f.lookback for f in FEATURES.values()) == LOOKBACK
    assert all(0 <= f.warmup <= f.lookback for f in FEATURES.values())
