"""Returns, as fractions: 0.01 is one percent."""

from __future__ import annotations

import numpy as np

from enrichment.domain.bars import Bars, Floats
from enrichment.pipeline.features.days import day_start_rows


def simple_return(bars: Bars) -> Floats:
    """close / previous close - 1 (TA-Lib ROCP over one bar)."""
    import talib

    return np.asarray(talib.ROCP(bars.close, 1))


def daily_return(bars: Bars) -> Floats:
    """close / last close of the previous day - 1, days being those of UTC that hold bars.

    A regular session lies within one UTC day. Daily and weekly bars are alone on their day, so the
    return is the one over the last bar.
    """
    out = np.full(len(bars), np.nan)
    starts = day_start_rows(bars.ts)[1:]
    if len(starts):
        lengths = np.diff(starts, append=len(bars))
        before = np.repeat(bars.close[starts - 1], lengths)
        out[starts[0] :] = (bars.close[starts[0] :] - before) / before
    return out


def log_return(bars: Bars) -> Floats:
    """ln(close / previous close)."""
    out = np.full(len(bars), np.nan)
    np.log(bars.close[1:] / bars.close[:-1], out=out[1:])
    return out
