"""UTC days that have bars: where they begin, and running sums within each.

A regular session lies within one UTC day; crypto has UTC days by convention.

>>> ts = np.array(["2024-01-02T09", "2024-01-02T10", "2024-01-03T09"], "datetime64[us]")
>>> day_start_rows(ts).tolist()
[0, 2]
>>> daily_cumsum(ts, np.array([1.0, 2.0, 4.0]))[0].tolist()
[1.0, 3.0, 4.0]
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from enrichment.domain.bars import Floats, Timestamps

MAX_BARS_PER_DAY = 288  # bars of five minutes

_DAY = 86_400_000_000  # microseconds
_BLOCK = 16_384  # rows summed at a time, to limit memory


def day_start_rows(ts: Timestamps) -> NDArray[np.intp]:
    """Rows at which a UTC day begins, including the first row."""
    day = ts.astype(np.int64) // _DAY
    return np.flatnonzero(np.diff(day, prepend=day[:1] - 1))


def daily_cumsum(ts: Timestamps, *columns: Floats) -> tuple[Floats, ...]:
    """Cumulative sum of each column within each day.

    Every day is summed by itself: a running sum over all days would leave the rounding error of one
    huge volume in every later day.
    """
    starts = day_start_rows(ts)
    if len(starts) == len(ts):
        return columns
    bounds = np.append(starts, len(ts))
    sums = tuple(np.empty(len(ts)) for _ in columns)
    # Blocks consist of whole days.
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
