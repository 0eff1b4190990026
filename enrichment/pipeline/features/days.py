"""Days of UTC that hold bars: where they begin, and running sums within each.

A regular session lies within one UTC day; crypto's day is UTC's by convention.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from enrichment.domain.bars import Floats, Timestamps

MAX_BARS_PER_DAY = 288  # bars of five minutes

_DAY = 86_400_000_000  # microseconds
_BLOCK = 16_384  # rows that are summed up at once


def day_start_rows(ts: Timestamps) -> NDArray[np.intp]:
    """Rows at which a UTC day begins, the first row among them."""
    day = ts.astype(np.int64) // _DAY
    return np.flatnonzero(np.diff(day, prepend=day[:1] - 1))


def daily_cumsum(ts: Timestamps, *columns: Floats) -> tuple[Floats, ...]:
    """Each column's sum from the day's first bar up to and including each bar.

    Every day is summed up by itself: a running sum over all days would leave the rounding error of
    one huge volume in every later day.
    """
    starts = day_start_rows(ts)
    if len(starts) == len(ts):
        return columns
    bounds = np.append(starts, len(ts))
    sums = tuple(np.empty(len(ts)) for _ in columns)
    # The rows of a block begin where the first day that begins in it does.
    firsts = np.unique(np.searchsorted(starts, np.arange(0, len(ts), _BLOCK)))
    for first, last in zip(firsts, [*firsts[1:], len(starts)], strict=True):
        rows = slice(bounds[first], bounds[last])
        lengths = np.diff(bounds[first : last + 1])
        filled = np.arange(lengths.max()) < lengths[:, None]
        for column, out in zip(columns, sums, strict=True):
            table = np.zeros(filled.shape)
            table[filled] = column[rows]
            out[rows] = np.cumsum(table, axis=1)[filled]
    return sums
