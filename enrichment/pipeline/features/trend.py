"""The direction of the trend, from two moving averages."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from enrichment.domain.bars import Bars
from enrichment.pipeline.features import windows

_FAST, _SLOW = 20, 50
_BAND = 0.5
_ROUNDING = 1e-9
_WORDS = np.array(["neutral", "up", "down"], dtype=object)  # by code: 0, 1, -1

WARMUP = _SLOW - 1


def trend_direction(bars: Bars) -> NDArray[Any]:
    """'up' where sma_20 - sma_50 > band, 'down' where it is < -band, else 'neutral'.

    band = half the mean true range of the last 20 bars: the averages must stand apart by more than
    half of what one bar usually moves, at any price and timeframe. Two averages that cross: Murphy,
    Technical Analysis of the Financial Markets (1999), chapter 9; true range: Wilder (1978). The
    plain mean of true ranges stands in for atr_14 because it forgets entirely, so no label depends
    on where a history was cut.
    """
    import talib

    if len(bars) <= WARMUP:
        return np.full(len(bars), None, dtype=object)
    slow = windows.rolling(windows.mean, bars.close, _SLOW)
    gap = windows.rolling(windows.mean, bars.close, _FAST) - slow
    band = windows.rolling(windows.mean, talib.TRANGE(bars.high, bars.low, bars.close), _FAST)
    np.maximum(_BAND * band, _ROUNDING * slow, out=band)
    labels = _WORDS[(gap > band).astype(np.int8) - (gap < -band)]
    labels[:WARMUP] = None
    return labels
