"""Momentum: whether gains or losses prevail.

>>> close = np.append(np.arange(100.0, 115.0), 113.0)
>>> bars = Bars.of(np.arange(16).astype("datetime64[D]"), close, close, close, close, volume=close)
>>> relative_strength_index(bars, length=14)[13:].round(2).tolist()
[nan, 100.0, 92.86]
"""

from __future__ import annotations

import numpy as np

from enrichment.domain.bars import Bars, Floats
from enrichment.pipeline.features import windows

_FAST, _SLOW, _SIGNAL = 12, 26, 9

MACD_WARMUP = _SLOW + _SIGNAL - 2


def relative_strength_index(bars: Bars, *, length: int) -> Floats:
    """Relative strength index in [0, 100] (Wilder, 1978), TA-Lib RSI: 100 · gains / (gains +
    losses), both smoothed as (previous · (length - 1) + this bar's) / length.

    NULL where the close did not move for 100 bars, or since the first one: there are neither gains
    nor losses.
    """
    import talib

    value = np.asarray(talib.RSI(bars.close, length))
    value[windows.is_flat(bars.close, bars.close)] = np.nan
    return value


def macd(bars: Bars) -> tuple[Floats, Floats, Floats]:
    """Moving average convergence/divergence (Appel, 1979), TA-Lib MACD(12, 26, 9), in the currency
    of the price: (line, signal, histogram).

    line = EMA 12 - EMA 26 of the close; signal = EMA 9 of the line; histogram = line - signal. All
    three begin with the signal. TA-Lib starts both averages on bar 26, so that the line of a young
    series differs slightly from ema_12 - ema_26.
    """
    import talib

    line, signal, histogram = talib.MACD(bars.close, _FAST, _SLOW, _SIGNAL)
    return line, signal, histogram
