"""Features of bars: an ordered mapping from name to function, and `compute` for all of them.

A new feature is one function from `Bars` to a column and one line in `FEATURES`. Functions see only
usable rows in ascending order, look back and never ahead, and answer with a column of the same
length: float64 with NaN for NULL, or objects of str and None.

A cumulative feature (`CARRIED`) has no end to its memory. What is computed from the last bars only
goes on from its stored value at the first of them: see `compute`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from enrichment.domain.bars import Bars
from enrichment.pipeline.features import (
    averages,
    days,
    momentum,
    returns,
    structure,
    trend,
    volatility,
    volume,
)

Column = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Feature:
    """How one column is computed.

    warmup: leading bars of a series whose value is NULL by definition (return_1d: may be NULL).
    memory: bars before a bar that its value depends on; with that many at hand it equals a full
    recompute to 1e-9 relative (the RSI: 1e-9 of its scale, the MACD: 1e-9 of the price).
    part: which column to take of a function that answers with several, computed once for all.
    carried: cumulative, so that it depends on every earlier bar through its value at the first one.
    optional: NULL where its inputs say nothing (no taker volume, nothing traded), so that NULL past
    the warm-up is no defect of the series.
    """

    function: Callable[[Bars], Column | tuple[Column, ...]]
    kind: Literal["number", "label"]
    warmup: int
    lookback: int
    part: int | None = None
    cumulative: bool = False
    optional: bool = False


_DAY = days.MAX_BARS_PER_DAY
_BOLLINGER = partial(volatility.bollinger_bands, length=20, width=2.0)

# Wilder's averages forget by 13/14 a bar: after 700 bars a movement 1e13 times today's weighs less
# than 1e-9. The EMA of 26 forgets by 25/27, that of 12 by 11/13: room for jumps of 1e6 and more.
# The MACD's signal averages once more, over 9 bars, and forgets by 8/10.
FEATURES: Mapping[str, Feature] = {
    "return_1": Feature(returns.simple_return, "number", 1, 1),
    "return_1d": Feature(returns.daily_return, "number", _DAY, _DAY),
    "log_return": Feature(returns.log_return, "number", 1, 1),
    "volatility_20": Feature(partial(volatility.log_return_std, length=20), "number", 20, 20),
    "volatility_50": Feature(partial(volatility.log_return_std, length=50), "number", 50, 50),
    "atr_14": Feature(partial(volatility.average_true_range, length=14), "number", 14, 700),
    "rsi_14": Feature(partial(momentum.relative_strength_index, length=14), "number", 14, 700),
    "macd": Feature(momentum.macd, "number", momentum.MACD_WARMUP, 600, part=0),
    "macd_signal": Feature(momentum.macd, "number", momentum.MACD_WARMUP, 600, part=1),
    "macd_histogram": Feature(momentum.macd, "number", momentum.MACD_WARMUP, 600, part=2),
    "bollinger_upper": Feature(_BOLLINGER, "number", 19, 19, part=0),
    "bollinger_middle": Feature(_BOLLINGER, "number", 19, 19, part=1),
    "bollinger_lower": Feature(_BOLLINGER, "number", 19, 19, part=2),
    "sma_20": Feature(partial(averages.simple_moving_average, length=20), "number", 19, 19),
    "sma_50": Feature(partial(averages.simple_moving_average, length=50), "number", 49, 49),
    "sma_200": Feature(partial(averages.simple_moving_average, length=200), "number", 199, 199),
    "ema_12": Feature(partial(averages.exponential_moving_average, length=12), "number", 11, 250),
    "ema_26": Feature(partial(averages.exponential_moving_average, length=26), "number", 25, 500),
    "rolling_volume_20": Feature(partial(volume.mean_volume, length=20), "number", 19, 19),
    "volume_ratio": Feature(
        partial(volume.volume_ratio, length=20), "number", 19, 19, optional=True
    ),
    "obv": Feature(volume.on_balance_volume, "number", 0, 1, cumulative=True),
    "session_vwap": Feature(volume.session_vwap, "number", 0, _DAY - 1, optional=True),
    "delta": Feature(volume.volume_delta, "number", 0, 0, optional=True),
    "buy_sell_ratio": Feature(volume.buy_sell_ratio, "number", 0, 0, optional=True),
    "trend_direction": Feature(trend.trend_direction, "label", trend.WARMUP, trend.WARMUP),
    "market_structure": Feature(
        structure.market_structure, "label", structure.WARMUP, structure.LOOKBACK
    ),
}

LOOKBACK = max(feature.lookback for feature in FEATURES.values())
CUMULATIVE: tuple[str, ...] = tuple(
    name for name, feature in FEATURES.items() if feature.cumulative
)


def compute(bars: Bars, cumulative_seed: Mapping[str, float] | None = None) -> dict[str, Column]:
    """Every feature of ascending bars, in the order of FEATURES, aligned with the bars.

    Rows whose prices or volume are not finite, or have no meaning (a price ≤ 0, a volume < 0), are
    left out as if they did not exist and get NULL; they change no other row's value.

    bars: a whole series, or its last bars: at least LOOKBACK before the first row that matters.
    carried: for the last bars of a series, the stored value of every feature in CARRIED at the
    first usable row of `bars`, which is the first row unless that is a broken one. That row and
    all before it must be as they were when the value was stored. Without `carried` (or with an
    empty one) the bars are taken for the beginning of their series.

    Raises ValueError where `carried` lacks a feature or holds a value that is not finite, as after
    a feature was added to a database that holds bars: compute such a series from its first bar.
    """
    usable = bars.usable_rows()
    complete = bool(usable.all())
    rows = bars if complete else bars.take(usable)
    columns = _compute_columns(rows)
    if cumulative_seed and len(rows):
        for name in CUMULATIVE:
            columns[name] = _apply_seed(name, columns[name], cumulative_seed.get(name, np.nan))
    return columns if complete else {n: _insert_nulls(c, usable) for n, c in columns.items()}


def _compute_columns(rows: Bars) -> dict[str, Column]:
    functions = dict.fromkeys(feature.function for feature in FEATURES.values())
    answers = {function: function(rows) for function in functions}
    columns: dict[str, Column] = {}
    for name, feature in FEATURES.items():
        answer = answers[feature.function]
        columns[name] = np.asarray(answer if feature.part is None else answer[feature.part])
    return columns


def _apply_seed(name: str, column: Column, value: float) -> Column:
    """The cumulative column moved so that it begins with its stored value."""
    if not np.isfinite(value):
        raise ValueError(
            f"no stored value of {name} at the first bar: compute the series from its first bar"
        )
    return np.asarray(column - column[0] + value)


def _insert_nulls(column: Column, usable: NDArray[np.bool_]) -> Column:
    null = None if column.dtype == object else np.nan
    aligned = np.full(len(usable), null, dtype=column.dtype)
    aligned[usable] = column
    return aligned
