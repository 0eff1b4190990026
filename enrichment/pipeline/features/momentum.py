"""Momentum: whether gains or losses prevail."""

from __future__ import annotations

import numpy as np

from enrichment.domain.bars import Bars, Floats
from enrichment.pipeline.features import windows

_FAST, _SLOW, _SIGNAL = 12, 26, 9

MACD_WARMUP = _SLOW + _SIGNAL - 2


def relative_strength_index(bars: Bars, *, length: int) -> Floats:
    """Wilder's relative strength index (1978), TA-Lib RSI: 100 · gains / (gains + losses), both
    smoothed as (previous · (length - 1) + this bar's) / length.

    NULL where the close did not move for 100 bars, or since the first one: there is neither gain
    nor loss to compare.
    """
    import talib

    value = np.asarray(talib.RSI(bars.close, length))
    value[windows.is_flat(bars.close, bars.close)] = np.nan
    return value


def macd(bars: Bars) -> tuple[Floats, Floats, Floats]:
    """Appel's moving average convergence/divergence (1979), TA-Lib MACD(12, 26, 9), in the currency
    of the price: (line, signal, histogram).

    line = EMA 12 - EMA 26 of the close; signal = EMA 9 of the line; histogram = line - signal. All
    three begin with the signal. TA-Lib starts both averages on bar 26, so that the line of a young
    series is not quite ema_12 - ema_26.
    """
    import talib

    line, signal, histogram = talib.MACD(bars.close, _FAST, _SLOW, _SIGNAL)
    return line, signal, histogram
