"""Moving averages of the close, in the currency of the price."""

from __future__ import annotations

import numpy as np

from enrichment.domain.bars import Bars, Floats
from enrichment.pipeline.features import windows


def simple_moving_average(bars: Bars, *, length: int) -> Floats:
    """Mean of the last `length` closes, as TA-Lib's SMA but free of its drift."""
    return windows.rolling(windows.mean, bars.close, length)


def exponential_moving_average(bars: Bars, *, length: int) -> Floats:
    """previous + 2 / (length + 1) · (close - previous), from the mean of the first `length`
    closes (TA-Lib EMA).
    """
    import talib

    return np.asarray(talib.EMA(bars.close, length))
