"""Computing every feature: against plain pandas, and against bare TA-Lib where it has the function.

    python -m tests.benchmarks.features [--bars 1000000] [--rounds 5]

All three compute the same columns of the same bars of five minutes; pandas' results are compared
with the product's before anything is timed. All features in one call are timed on these bars and on
as many as a nightly run holds. Ratios are taken within a round and reported as medians.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
import talib
from rich.console import Console
from rich.table import Table

from enrichment.domain.bars import Bars
from enrichment.pipeline.features import FEATURES, LOOKBACK, compute
from tests.benchmarks.report import Figure, parser, tell

Peers = Mapping[str, Callable[[], Any]]


def walk(count: int, seed: int) -> Bars:
    random = np.random.default_rng(seed)
    close = 100 * np.exp(np.cumsum(random.normal(0, 0.001, count)))
    spread = close * random.uniform(0.0001, 0.001, count)
    ts = np.datetime64("2015-01-01", "us") + np.arange(count) * np.timedelta64(5, "m")
    volume = random.integers(1, 1_000_000, count).astype(float)
    taken = np.floor(volume * random.uniform(0, 1, count))
    return Bars.of(ts, close, close + spread, close - spread, close, volume, taker_buy_volume=taken)


def with_pandas(bars: Bars) -> Peers:
    """The usual one-liners, one feature at a time."""
    frame = pd.DataFrame({n: c for n, c in bars.columns().items() if n != "ts"})
    high, low, close = (frame[n] for n in ("high", "low", "close"))
    volume, taken = frame["volume"], frame["taker_buy_volume"]
    day = pd.Series(bars.ts).dt.floor("D")

    def log_return() -> Any:
        return np.log(close / close.shift())

    def true_range() -> Any:
        ranges = [high - low, (high - close.shift()).abs(), (low - close.shift()).abs()]
        return pd.concat(ranges, axis=1).max(axis=1)

    def wilder(column: Any) -> Any:
        return column.ewm(alpha=1 / 14, adjust=False).mean()

    def rsi() -> Any:
        change = close.diff()
        gains, losses = wilder(change.clip(lower=0)), wilder(-change.clip(upper=0))
        return 100 * gains / (gains + losses)

    def ema(column: Any, span: int) -> Any:
        return column.ewm(span=span, adjust=False).mean()

    def line() -> Any:
        return ema(close, 12) - ema(close, 26)

    def band(width: float) -> Any:
        rolling = close.rolling(20)
        return rolling.mean() + width * rolling.std(ddof=0)

    def session_vwap() -> Any:
        typical = (high + low + close) / 3
        return (typical * volume).groupby(day).cumsum() / volume.groupby(day).cumsum()

    def return_1d() -> Any:
        last = close.groupby(day).last().shift()
        return close / day.map(last) - 1

    def trend() -> Any:
        gap = close.rolling(20).mean() - close.rolling(50).mean()
        half = 0.5 * true_range().rolling(20).mean()
        return np.select([gap > half, gap < -half], ["up", "down"], "neutral")

    def step(extreme: Any) -> Any:
        pivot = extreme.shift(5)
        swing = (pivot > extreme.rolling(5).max().shift(6)) & (pivot >= extreme.rolling(5).max())
        found = pivot.where(swing).dropna()
        row = pd.Series(np.arange(len(extreme), dtype=float))
        before = row[found.index].shift().reindex(extreme.index).ffill()
        steps = np.sign(found.diff()).reindex(extreme.index).ffill()
        return steps.where(row - before < 90, 0.0)

    def structure() -> Any:
        up, down = step(high), step(-low)
        bullish, bearish = (up > 0) & (down < 0), (up < 0) & (down > 0)
        return np.select([bullish, bearish], ["bullish", "bearish"], "range")

    return {
        "return_1": close.pct_change,
        "return_1d": return_1d,
        "log_return": log_return,
        "volatility_20": lambda: log_return().rolling(20).std(ddof=0),
        "volatility_50": lambda: log_return().rolling(50).std(ddof=0),
        "atr_14": lambda: wilder(true_range()),
        "rsi_14": rsi,
        "macd": line,
        "macd_signal": lambda: ema(line(), 9),
        "macd_histogram": lambda: (m := line()) - ema(m, 9),
        "bollinger_upper": lambda: band(2.0),
        "bollinger_middle": lambda: close.rolling(20).mean(),
        "bollinger_lower": lambda: band(-2.0),
        "sma_20": lambda: close.rolling(20).mean(),
        "sma_50": lambda: close.rolling(50).mean(),
        "sma_200": lambda: close.rolling(200).mean(),
        "ema_12": lambda: ema(close, 12),
        "ema_26": lambda: ema(close, 26),
        "rolling_volume_20": lambda: volume.rolling(20).mean(),
        "volume_ratio": lambda: volume / volume.rolling(20).mean(),
        "obv": lambda: volume[0] + (np.sign(close.diff()).fillna(0) * volume).cumsum(),
        "session_vwap": session_vwap,
        "delta": lambda: 2 * taken - volume,
        "buy_sell_ratio": lambda: taken / (volume - taken).where(volume > taken),
        "trend_direction": trend,
        "market_structure": structure,
    }


def with_talib(bars: Bars) -> Peers:
    """TA-Lib's own functions, called bare; one call gives all three of MACD and of the bands."""
    high, low, close, volume = bars.high, bars.low, bars.close, bars.volume
    return {
        "return_1": lambda: talib.ROCP(close, 1),
        "atr_14": lambda: talib.ATR(high, low, close, 14),
        "rsi_14": lambda: talib.RSI(close, 14),
        "macd": lambda: talib.MACD(close, 12, 26, 9),
        "bollinger_upper": lambda: talib.BBANDS(close, 20),
        "sma_20": lambda: talib.SMA(close, 20),
        "sma_50": lambda: talib.SMA(close, 50),
        "sma_200": lambda: talib.SMA(close, 200),
        "ema_12": lambda: talib.EMA(close, 12),
        "ema_26": lambda: talib.EMA(close, 26),
        "rolling_volume_20": lambda: talib.SMA(volume, 20),
        "obv": lambda: talib.OBV(close, volume),
    }


def require_same(bars: Bars, peers: Peers) -> None:
    """The peers compute the same thing: equal past the warm-up, but for pandas' own drift."""
    assert list(peers) == list(FEATURES)
    for name, column in compute(bars).items():
        late = slice(1_000, None)
        found, expected = np.asarray(peers[name]())[late], column[late]
        if FEATURES[name].kind == "label":
            assert np.mean(found == expected) > 0.9999, name
        else:
            np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6, err_msg=name)


def families(names: Peers) -> dict[str, list[str]]:
    """Features by function: those that one function answers with are timed together."""
    found: dict[Any, list[str]] = {}
    for name in names:
        found.setdefault(FEATURES[name].function, []).append(name)
    return {" ".join(members): members for members in found.values()}


def seconds(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def measure(bars: Bars, peers: Peers, rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Features → (own seconds, the peer's) of each round."""
    groups = families(peers)
    times: dict[str, list[tuple[float, float]]] = {title: [] for title in groups}
    for _ in range(rounds):
        for title, names in groups.items():
            own = seconds(lambda n=names[0]: FEATURES[n].function(bars))  # type: ignore[misc]
            times[title].append((own, sum(seconds(peers[name]) for name in names)))
    return times


def comparison(title: str, times: Mapping[str, list[tuple[float, float]]], peer: str) -> Table:
    table = Table("feature", "ms", f"{peer}, ms", f"{peer} / own", title=title)
    for name, pairs in times.items():
        own, theirs = (statistics.median(side) * 1e3 for side in zip(*pairs, strict=True))
        ratio = statistics.median(theirs / own for own, theirs in pairs)
        table.add_row(name, f"{own:.1f}", f"{theirs:.1f}", f"{ratio:.2g}")
    rounds = [tuple(map(sum, zip(*pairs, strict=True))) for pairs in zip(*times.values())]  # noqa: B905
    own, theirs = (statistics.median(side) * 1e3 for side in zip(*rounds, strict=True))
    ratio = statistics.median(theirs / own for own, theirs in rounds)
    table.add_section()
    table.add_row("one by one", f"{own:.0f}", f"{theirs:.0f}", f"{ratio:.2g}")
    return table


def at_once(bars: Bars, rounds: int) -> Iterator[Figure]:
    """All features in one call, against all of pandas'."""
    peers = with_pandas(bars)
    compute(bars)
    pairs = [
        (
            seconds(lambda: compute(bars)),
            seconds(lambda: {name: peer() for name, peer in peers.items()}),
        )
        for _ in range(rounds)
    ]
    own = statistics.median(own for own, _ in pairs) * 1e3
    ratio = statistics.median(theirs / own for own, theirs in pairs)
    what = f"all features of {len(bars):,} bars"
    yield Figure(what, own, "ms")
    yield Figure(f"{what}, pandas / own", ratio, "×", "≥", 1)


def main() -> None:
    parsing = parser(__doc__)
    parsing.add_argument("--bars", type=int, default=1_000_000)
    parsing.add_argument("--rounds", type=int, default=5)
    arguments = parsing.parse_args()
    sample = walk(20_000, seed=2)
    require_same(sample, with_pandas(sample))
    bars, rounds = walk(arguments.bars, seed=1), arguments.rounds
    Console(width=100).print(
        comparison(f"{len(bars):,} bars", measure(bars, with_pandas(bars), rounds), "pandas"),
        comparison("TA-Lib alone", measure(bars, with_talib(bars), rounds), "TA-Lib"),
    )
    night = walk(LOOKBACK + 10, seed=3)
    tell("features", [*at_once(bars, rounds), *at_once(night, 20 * rounds)], arguments)


if __name__ == "__main__":
    main()
