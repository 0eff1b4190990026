"""Volatility: how much prices move, up or down.

>>> close = np.array([10.0, 12.0, 14.0])
>>> bars = Bars.of(np.arange(3).astype("datetime64[D]"), close, close, close, close, volume=close)
>>> [band.tolist()[-1] for band in bollinger_bands(bars, length=2, width=2.0)]
[15.0, 13.0, 11.0]
"""

from __future__ import annotations

import numpy as np

from enrichment.domain.bars import Bars, Floats
from enrichment.pipeline.features import windows
from enrichment.pipeline.features.returns import log_return


def log_return_std(bars: Bars, *, length: int) -> Floats:
    """Standard deviation of the last `length` log returns, per bar (not annualised).

    The population's: √(Σ (r - mean)² / length), as TA-Lib's STDDEV of the log returns.
    """
    out = np.full(len(bars), np.nan)
    out[1:] = windows.rolling(windows.std, log_return(bars)[1:], length)
    return out


def average_true_range(bars: Bars, *, length: int) -> Floats:
    """Average true range (Wilder, New Concepts in Technical Trading Systems, 1978), TA-Lib ATR, in
    the currency of the price.

    true range = max(high, previous close) - min(low, previous close);
    atr = (previous atr · (length - 1) + true range) / length, beginning with the mean of the first
    `length`. 0 where no price moved for 100 bars, since older movements would never reach 0.
    """
    import talib

    value = talib.ATR(bars.high, bars.low, bars.close, length)
    return np.asarray(value * ~windows.is_flat(bars.high, bars.low))


def bollinger_bands(bars: Bars, *, length: int, width: float) -> tuple[Floats, Floats, Floats]:
    """Bollinger bands (2001), TA-Lib BBANDS without its rounding drift: (upper, middle, lower).

    middle = mean of the last `length` closes; upper and lower = middle ± width · their population
    standard deviation. In the currency of the price.
    """
    middle, deviation = windows.rolling_mean_and_std(bars.close, length)
    deviation *= width
    return middle + deviation, middle, middle - deviation
