"""Rolling windows of a fixed number of rows, and UTC days, as the features need them.

TA-Lib's SMA updates a running sum, so that one huge value leaves its rounding error in all later
ones: after a volume of 1e12 the mean of twenty zeros is 1.6e-5 and later means are off by 3e-7;
after one jump of 1e6 its STDDEV of 50 returns is off by 2e-8. Here each window is summed by itself,
in a fixed tree of doubling spans (about log2(length) additions a row), so that the result is the
same to the last bit wherever a history is cut.

A regular session lies within one UTC day; crypto has UTC days by convention.

>>> rolling(mean, np.array([1.0, 3.0, 5.0]), 2).tolist()
[nan, 2.0, 4.0]
>>> [column.tolist() for column in rolling_mean_and_std(np.array([1.0, 3.0, 5.0]), 3)][0]
[nan, nan, 3.0]
>>> ts = np.array(["2024-01-02T09", "2024-01-02T10", "2024-01-03T09"], "datetime64[us]")
>>> daily_cumsum(ts, np.array([1.0, 2.0, 4.0]))[0].tolist()
[1.0, 3.0, 4.0]
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from enrichment.domain.bars import Floats, Mask, Timestamps

_CHUNK = 16_384  # rows whose intermediate columns stay in the processor's cache
FLAT_BARS = 100
MAX_BARS_PER_DAY = 288  # bars of five minutes
_DAY = 86_400_000_000  # microseconds
_BLOCK = 16_384  # rows summed at a time, to limit memory


def rolling(kernel: Callable[[Floats, int], Floats], column: Floats, length: int) -> Floats:
    """The kernel applied to each window of `length` rows; NaN on the first length - 1 rows."""
    out = np.full(len(column), np.nan)
    for first in range(length - 1, len(column), _CHUNK):
        last = first + _CHUNK
        out[first:last] = kernel(column[first - length + 1 : last], length)
    return out


def mean(column: Floats, length: int) -> Floats:
    """Σ x / length of every complete window."""
    rows = len(column) - length + 1
    total = np.zeros(rows)
    span_sum, span, covered = column, 1, 0
    while span <= length:
        if length & span:
            total += span_sum[covered : covered + rows]
            covered += span
        span_sum = span_sum[:-span] + span_sum[span:]
        span *= 2
    total /= length
    return total


def std(column: Floats, length: int) -> Floats:
    """Population standard deviation √(mean(x²) - mean(x)²) of every complete window.

    For returns, whose mean is small compared with their deviation.
    """
    average = mean(column, length)
    variance = mean(column * column, length) - average * average
    np.maximum(variance, 0.0, out=variance)
    return np.sqrt(variance, out=variance)


def mean_and_std(column: Floats, length: int) -> tuple[Floats, Floats]:
    """Mean and population standard deviation of every complete window, for any column.

    Sums of squared deviations from each span's own mean are merged span by span (Chan, Golub &
    LeVeque, 1979): prices move little compared with their level, and the difference of their
    squares would lose half of the digits.
    """
    rows = len(column) - length + 1
    total, squares, covered = np.zeros(rows), np.zeros(rows), 0
    span_sum, span_squares, span = column, np.zeros(len(column)), 1
    while span <= length:
        if length & span:
            new, weight = slice(covered, covered + rows), covered * span / (covered + span)
            if covered:
                squares += weight * (span_sum[new] / span - total / covered) ** 2
            squares += span_squares[new]
            total += span_sum[new]
            covered += span
        step = span_sum[span:] - span_sum[:-span]
        span_squares = span_squares[:-span] + span_squares[span:] + step * step / (2 * span)
        span_sum = span_sum[:-span] + span_sum[span:]
        span *= 2
    return total / length, np.sqrt(squares / length)


def rolling_mean_and_std(column: Floats, length: int) -> tuple[Floats, Floats]:
    """Mean and standard deviation over each window; NaN on the first length - 1 rows."""
    means, deviations = np.full((2, len(column)), np.nan)
    for first in range(length - 1, len(column), _CHUNK):
        rows = slice(first, first + _CHUNK)
        window = column[first - length + 1 : first + _CHUNK]
        means[rows], deviations[rows] = mean_and_std(window, length)
    return means, deviations


def is_flat(high: Floats, low: Floats, steps: int = FLAT_BARS) -> Mask:
    """Whether all prices of the last `steps` + 1 bars, or of all so far, are equal."""
    import talib

    flat = np.asarray(talib.MAX(high, steps + 1) == talib.MIN(low, steps + 1))
    flat[:steps] = np.maximum.accumulate(high[:steps]) == np.minimum.accumulate(low[:steps])
    return flat


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
