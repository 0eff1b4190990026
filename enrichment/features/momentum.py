"""Momentum: whether gains or losses prevail."""

from __future__ import annotations

import numpy as np
import talib

from enrichment.domain import Bars, Floats
from enrichment.features import windows


def relative_strength(bars: Bars, *, length: int) -> Floats:
    """Wilder's relative strength index (1978), TA-Lib RSI: 100 · gains / (gains + losses), both
    smoothed as (previous · (length - 1) + this bar's) / length.

    NULL where the close did not move for 100 bars, or since the first one: there is neither gain
    nor loss to compare.
    """
    value = np.asarray(talib.RSI(bars.close, length))
    value[windows.unmoved(bars.close, bars.close)] = np.nan
    return value
