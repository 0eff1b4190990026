"""Features of bars: an ordered mapping from name to function, and `compute` for all of them.

A new feature is one function from `Bars` to a column and one line in `FEATURES`. Functions see only
usable rows in ascending order, look back and never ahead, and answer with a column of the same
length: float64 with NaN for NULL, or objects of str and None.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from enrichment.domain import Bars
from enrichment.features import averages, momentum, returns, structure, trend, volatility, volume

Column = NDArray[Any]

# Beyond these bounds, which no market comes near, ratios and sums could overflow.
_TINY, _HUGE = 1e-50, 1e50


@dataclass(frozen=True, slots=True)
class Feature:
    """How one column is computed.

    warmup: leading bars of a series whose value is NULL by definition (return_1d: may be NULL).
    memory: bars before a bar that its value depends on; with that many at hand it equals a full
    recompute to 1e-9 relative (the RSI: 1e-9 of its scale).
    """

    function: Callable[[Bars], Column]
    kind: Literal["number", "label"]
    warmup: int
    memory: int


_DAY = returns.MOST_BARS_A_DAY

# Wilder's averages forget by 13/14 a bar: after 700 bars a movement 1e13 times today's weighs less
# than 1e-9. The EMA of 26 forgets by 25/27, that of 12 by 11/13: room for jumps of 1e6 and more.
FEATURES: Mapping[str, Feature] = {
    "return_1": Feature(returns.over_bar, "number", 1, 1),
    "return_1d": Feature(returns.over_day, "number", _DAY, _DAY),
    "log_return": Feature(returns.logarithmic, "number", 1, 1),
    "volatility_20": Feature(partial(volatility.deviation, length=20), "number", 20, 20),
    "volatility_50": Feature(partial(volatility.deviation, length=50), "number", 50, 50),
    "atr_14": Feature(partial(volatility.average_true_range, length=14), "number", 14, 700),
    "rsi_14": Feature(partial(momentum.relative_strength, length=14), "number", 14, 700),
    "sma_20": Feature(partial(averages.simple, length=20), "number", 19, 19),
    "sma_50": Feature(partial(averages.simple, length=50), "number", 49, 49),
    "sma_200": Feature(partial(averages.simple, length=200), "number", 199, 199),
    "ema_12": Feature(partial(averages.exponential, length=12), "number", 11, 250),
    "ema_26": Feature(partial(averages.exponential, length=26), "number", 25, 500),
    "rolling_volume_20": Feature(partial(volume.average, length=20), "number", 19, 19),
    "trend_direction": Feature(trend.direction, "label", trend.WARMUP, trend.WARMUP),
    "market_structure": Feature(structure.swings, "label", structure.WARMUP, structure.MEMORY),
}

LOOKBACK = max(feature.memory for feature in FEATURES.values())


def compute(bars: Bars) -> dict[str, Column]:
    """Every feature of ascending bars, in the order of FEATURES, aligned with the bars.

    Rows whose prices or volume are not finite, or have no meaning (a price ≤ 0, a volume < 0), are
    left out as if they did not exist and get NULL; they change no other row's value.
    """
    usable = _usable(bars)
    complete = bool(usable.all())
    rows = bars if complete else bars.take(usable)
    columns = {name: feature.function(rows) for name, feature in FEATURES.items()}
    return columns if complete else {n: _align(c, usable) for n, c in columns.items()}


def _usable(bars: Bars) -> NDArray[np.bool_]:
    usable = (bars.volume >= 0) & (bars.volume <= _HUGE)
    for price in (bars.open, bars.high, bars.low, bars.close):
        usable &= (price >= _TINY) & (price <= _HUGE)
    return usable


def _align(column: Column, usable: NDArray[np.bool_]) -> Column:
    null = None if column.dtype == object else np.nan
    aligned = np.full(len(usable), null, dtype=column.dtype)
    aligned[usable] = column
    return aligned
