"""Volatility: how much prices move, up or down."""

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
    """Wilder's average true range (New Concepts in Technical Trading Systems, 1978), TA-Lib ATR.

    true range = max(high, previous close) - min(low, previous close);
    atr = (previous atr · (length - 1) + true range) / length, from the mean of the first ones.
    In the currency of the price. 0 where no price moved for 100 bars: what is left of older
    movements by then would never be forgotten entirely.
    """
    import talib

    value = talib.ATR(bars.high, bars.low, bars.close, length)
    return np.asarray(value * ~windows.is_flat(bars.high, bars.low))


def bollinger_bands(bars: Bars, *, length: int, width: float) -> tuple[Floats, Floats, Floats]:
    """Bollinger's bands (2001), TA-Lib BBANDS but free of its drift: (upper, middle, lower).

    middle = mean of the last `length` closes; upper and lower = middle ± width · their population
    standard deviation. In the currency of the price.
    """
    middle, spread = windows.rolling_mean_and_std(bars.close, length)
    spread *= width
    return middle + spread, middle, middle - spread
