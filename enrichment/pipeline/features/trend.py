"""Direction of the trend, from two moving averages.

>>> close = np.arange(100.0, 160.0)
>>> bars = Bars.of(np.arange(60).astype("datetime64[D]"), close, close, close, close, volume=close)
>>> trend_direction(bars)[[0, 59]].tolist()
[None, 'up']
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from enrichment.domain.bars import Bars
from enrichment.pipeline.features import windows

_FAST, _SLOW = 20, 50
_BAND = 0.5
_ROUNDING = 1e-9
_LABELS = np.array(["neutral", "up", "down"], dtype=object)  # indexed by 0, 1, -1

WARMUP = _SLOW - 1


def trend_direction(bars: Bars) -> NDArray[Any]:
    """'up' where sma_20 - sma_50 > band, 'down' where it is < -band, else 'neutral'.

    band = half the mean true range of the last 20 bars: the averages must differ by more than half
    of the usual range of a bar, at any price and timeframe. Crossing averages: Murphy, Technical
    Analysis of the Financial Markets (1999), chapter 9; true range: Wilder (1978). The mean of true
    ranges is used instead of atr_14 because its memory is finite, so that no label depends on where
    a history was cut.
    """
    import talib

    if len(bars) <= WARMUP:
        return np.full(len(bars), None, dtype=object)
    slow = windows.rolling(windows.mean, bars.close, _SLOW)
    difference = windows.rolling(windows.mean, bars.close, _FAST) - slow
    band = windows.rolling(windows.mean, talib.TRANGE(bars.high, bars.low, bars.close), _FAST)
    np.maximum(_BAND * band, _ROUNDING * slow, out=band)
    labels = _LABELS[(difference > band).astype(np.int8) - (difference < -band)]
    labels[:WARMUP] = None
    return labels
