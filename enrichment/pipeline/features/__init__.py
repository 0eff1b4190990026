"""Features of bars: an ordered mapping from name to function, and `compute` for all of them.

A new feature is one function from `Bars` to a column and one line in `FEATURES`. Functions see only
usable rows in ascending order, never look ahead, and return a column of the same length: float64
with NaN for NULL, or objects of str and None.

Cumulative features (`CUMULATIVE`) depend on all earlier bars. If only the last bars are at hand,
they continue from their stored values at the first of these: see `compute`.

>>> close = np.array([100.0, 110.0, 99.0])
>>> bars = Bars.of(np.arange(3).astype("datetime64[D]"), close, close, close, close, volume=close)
>>> columns = compute(bars)
>>> columns["return_1"].round(2).tolist(), columns["obv"].tolist()
([nan, 0.1, -0.1], [100.0, 210.0, 111.0])
>>> compute(bars.take(slice(1, None)), {"obv": 210.0})["obv"].tolist()
[210.0, 111.0]
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from enrichment.domain.bars import Bars, Floats, Mask
from enrichment.domain.corporate_actions import scaled
from enrichment.pipeline.features import indicators

Column = NDArray[Any]
Scale = Literal["price", "volume", "ratio", "label"]


@dataclass(frozen=True, slots=True)
class Feature:
    """How one column is computed."""

    function: Callable[[Bars], Column | tuple[Column, ...]]
    kind: Literal["number", "label"]
    warmup: int  # leading bars of a series whose value is NULL (return_1d: may be NULL)
    # Bars before a bar that its value depends on; with these it equals a full recompute to 1e-9
    # relative (the RSI: 1e-9 of its scale, the MACD: 1e-9 of the price).
    lookback: int
    part: int | None = None  # index of the column, if the function returns several
    cumulative: bool = False  # depends on all earlier bars, by its value at the first one
    optional: bool = False  # NULL where inputs are missing (taker volume, trades): no deduction
    # How it follows a change of the share basis: with the price, with the volume, or not at all.
    scale: Scale = "ratio"

    def on_basis(self, column: Column, shares: Floats) -> Column:
        """The column on a basis of which `shares` are one share of each bar's own basis."""
        if self.scale == "price":
            return np.asarray(column / shares)
        return np.asarray(column * shares) if self.scale == "volume" else column


_DAY = indicators.MAX_BARS_PER_DAY
_BOLLINGER = partial(indicators.bollinger_bands, length=20, width=2.0)

# Lookbacks of recursive averages: Wilder's weights decay by 13/14 a bar, so that after 700 bars a
# movement 1e13 times today's weighs less than 1e-9. Those of the EMA of 26 decay by 25/27, of 12 by
# 11/13, which allows for jumps of 1e6 and more; the MACD's signal adds an average of 9, by 8/10.
FEATURES: Mapping[str, Feature] = {
    "return_1": Feature(indicators.simple_return, "number", 1, 1),
    "return_1d": Feature(indicators.daily_return, "number", _DAY, _DAY),
    "log_return": Feature(indicators.log_return, "number", 1, 1),
    "volatility_20": Feature(partial(indicators.log_return_std, length=20), "number", 20, 20),
    "volatility_50": Feature(partial(indicators.log_return_std, length=50), "number", 50, 50),
    "atr_14": Feature(
        partial(indicators.average_true_range, length=14), "number", 14, 700, scale="price"
    ),
    "rsi_14": Feature(partial(indicators.relative_strength_index, length=14), "number", 14, 700),
    "macd": Feature(indicators.macd, "number", indicators.MACD_WARMUP, 600, part=0, scale="price"),
    "macd_signal": Feature(
        indicators.macd, "number", indicators.MACD_WARMUP, 600, part=1, scale="price"
    ),
    "macd_histogram": Feature(
        indicators.macd, "number", indicators.MACD_WARMUP, 600, part=2, scale="price"
    ),
    "bollinger_upper": Feature(_BOLLINGER, "number", 19, 19, part=0, scale="price"),
    "bollinger_middle": Feature(_BOLLINGER, "number", 19, 19, part=1, scale="price"),
    "bollinger_lower": Feature(_BOLLINGER, "number", 19, 19, part=2, scale="price"),
    "sma_20": Feature(
        partial(indicators.simple_moving_average, length=20), "number", 19, 19, scale="price"
    ),
    "sma_50": Feature(
        partial(indicators.simple_moving_average, length=50), "number", 49, 49, scale="price"
    ),
    "sma_200": Feature(
        partial(indicators.simple_moving_average, length=200), "number", 199, 199, scale="price"
    ),
    "ema_12": Feature(
        partial(indicators.exponential_moving_average, length=12), "number", 11, 250, scale="price"
    ),
    "ema_26": Feature(
        partial(indicators.exponential_moving_average, length=26), "number", 25, 500, scale="price"
    ),
    "rolling_volume_20": Feature(
        partial(indicators.mean_volume, length=20), "number", 19, 19, scale="volume"
    ),
    "volume_ratio": Feature(
        partial(indicators.volume_ratio, length=20), "number", 19, 19, optional=True
    ),
    "obv": Feature(indicators.on_balance_volume, "number", 0, 1, cumulative=True, scale="volume"),
    "session_vwap": Feature(
        indicators.session_vwap, "number", 0, _DAY - 1, optional=True, scale="price"
    ),
    "delta": Feature(indicators.volume_delta, "number", 0, 0, optional=True, scale="volume"),
    "buy_sell_ratio": Feature(indicators.buy_sell_ratio, "number", 0, 0, optional=True),
    "trend_direction": Feature(
        indicators.trend_direction,
        "label",
        indicators.TREND_WARMUP,
        indicators.TREND_WARMUP,
        scale="label",
    ),
    "market_structure": Feature(
        indicators.market_structure,
        "label",
        indicators.STRUCTURE_WARMUP,
        indicators.STRUCTURE_LOOKBACK,
        scale="label",
    ),
}

LOOKBACK = max(feature.lookback for feature in FEATURES.values())
CUMULATIVE: tuple[str, ...] = tuple(
    name for name, feature in FEATURES.items() if feature.cumulative
)


def compute(
    bars: Bars, cumulative_seed: Mapping[str, float] | None = None, shares: Floats | None = None
) -> dict[str, Column]:
    """Every feature of ascending bars, in the order of FEATURES, aligned with the bars.

    A value is on the share basis of its own bar, computed from a past that is put on that basis: a
    later split changes no value. All features scale with the price, with the volume or not at all,
    so they are computed on the newest basis and put back.

    Unusable rows (`Bars.usable_rows`) are left out as if they did not exist and get NULL.

    Args:
        bars: a whole series, or its last bars: at least LOOKBACK before the first row of interest.
        cumulative_seed: for the last bars of a series, the stored value of every feature in
            CUMULATIVE at the first usable row of `bars`. That row and all before it must be
            unchanged since. None or empty: the series begins with `bars`.
        shares: for each bar, how many shares of the newest basis one of its shares has become;
            None: there was no split.

    Raises:
        ValueError: the seed lacks a feature or its value is not finite, as after a feature was
            added: compute such a series from its first bar.
    """
    if shares is not None:
        return _compute_across_splits(bars, cumulative_seed or {}, shares)
    usable = bars.usable_rows()
    all_usable = bool(usable.all())
    rows = bars if all_usable else bars.take(usable)
    columns = _compute_columns(rows)
    if cumulative_seed and len(rows):
        for name in CUMULATIVE:
            columns[name] = _apply_seed(name, columns[name], cumulative_seed.get(name, np.nan))
    return columns if all_usable else {n: _insert_nulls(c, usable) for n, c in columns.items()}


def _compute_across_splits(
    bars: Bars, cumulative_seed: Mapping[str, float], shares: Floats
) -> dict[str, Column]:
    usable = np.flatnonzero(bars.usable_rows())
    first = shares[usable[:1]]
    seed = {
        name: float(FEATURES[name].on_basis(np.array([value]), first)[0])
        for name, value in cumulative_seed.items()
        if len(first)
    }
    columns = compute(scaled(bars, shares), seed)
    return {name: FEATURES[name].on_basis(c, 1 / shares) for name, c in columns.items()}


def _compute_columns(rows: Bars) -> dict[str, Column]:
    functions = dict.fromkeys(feature.function for feature in FEATURES.values())
    results = {function: function(rows) for function in functions}  # each once
    columns: dict[str, Column] = {}
    for name, feature in FEATURES.items():
        result = results[feature.function]
        columns[name] = np.asarray(result if feature.part is None else result[feature.part])
    return columns


def _apply_seed(name: str, column: Column, seed: float) -> Column:
    """The cumulative column shifted so that it begins with the seed."""
    if not np.isfinite(seed):
        raise ValueError(
            f"no stored value of {name} at the first bar: compute the series from its first bar"
        )
    return np.asarray(column - column[0] + seed)


def _insert_nulls(column: Column, usable: Mask) -> Column:
    null = None if column.dtype == object else np.nan
    aligned = np.full(len(usable), null, dtype=column.dtype)
    aligned[usable] = column
    return aligned


def coverage(bars_before: int, features: Mapping[str, Column]) -> tuple[int, int]:
    """Feature values past each feature's warm-up, and how many of them are NULL: (cells, nulls).

    Optional features, which are NULL wherever their inputs are missing, do not count.

    Args:
        bars_before: bars of the series that precede the first row of the columns.
        features: name → column.
    """
    cells = nulls = 0
    for name, column in features.items():
        if FEATURES[name].optional:
            continue
        warm = column[max(0, FEATURES[name].warmup - bars_before) :]
        null = warm == np.array(None) if warm.dtype == object else np.isnan(warm)
        cells += len(warm)
        nulls += int(np.count_nonzero(null))
    return cells, nulls
