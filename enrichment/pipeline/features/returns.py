"""Returns, as fractions: 0.01 is one percent.

>>> close = np.array([100.0, 110.0, 99.0])
>>> bars = Bars.of(np.arange(3).astype("datetime64[D]"), close, close, close, close, volume=close)
>>> simple_return(bars).round(4).tolist()
[nan, 0.1, -0.1]
"""

from __future__ import annotations

import numpy as np

from enrichment.domain.bars import Bars, Floats
from enrichment.pipeline.features.days import day_start_rows


def simple_return(bars: Bars) -> Floats:
    """close / previous close - 1 (TA-Lib ROCP over one bar)."""
    import talib

    return np.asarray(talib.ROCP(bars.close, 1))


def daily_return(bars: Bars) -> Floats:
    """close / last close of the previous UTC day that has bars - 1.

    A regular session lies within one UTC day. For daily and weekly bars it equals `simple_return`.
    """
    out = np.full(len(bars), np.nan)
    starts = day_start_rows(bars.ts)[1:]
    if len(starts):
        lengths = np.diff(starts, append=len(bars))
        previous = np.repeat(bars.close[starts - 1], lengths)
        out[starts[0] :] = (bars.close[starts[0] :] - previous) / previous
    return out


def log_return(bars: Bars) -> Floats:
    """ln(close / previous close)."""
    out = np.full(len(bars), np.nan)
    np.log(bars.close[1:] / bars.close[:-1], out=out[1:])
    return out
