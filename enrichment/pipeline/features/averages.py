"""Moving averages of the close, in the currency of the price.

>>> close = np.array([1.0, 2.0, 3.0, 6.0])
>>> bars = Bars.of(np.arange(4).astype("datetime64[D]"), close, close, close, close, volume=close)
>>> simple_moving_average(bars, length=2).tolist()
[nan, 1.5, 2.5, 4.5]
"""

from __future__ import annotations

import numpy as np

from enrichment.domain.bars import Bars, Floats
from enrichment.pipeline.features import windows


def simple_moving_average(bars: Bars, *, length: int) -> Floats:
    """Mean of the last `length` closes: TA-Lib SMA without its rounding drift."""
    return windows.rolling(windows.mean, bars.close, length)


def exponential_moving_average(bars: Bars, *, length: int) -> Floats:
    """TA-Lib EMA: previous + 2 / (length + 1) · (close - previous), beginning with the mean of the
    first `length` closes.
    """
    import talib

    return np.asarray(talib.EMA(bars.close, length))
