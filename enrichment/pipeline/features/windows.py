"""Means, deviations and stillness over sliding windows that depend on nothing but the window.

TA-Lib's SMA adds what enters a running sum and subtracts what leaves it, so one huge value leaves
its rounding error behind for ever: after a volume of 1e12 the mean of twenty zeros is 1.6e-5 and
later means are off by 3e-7; after one jump of 1e6 its STDDEV of 50 returns is off by 2e-8. Here
each window is added up by itself, in a fixed tree of doubling spans (about log2(length) additions
a row), so the result is the same to the last bit wherever a history is cut.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from enrichment.domain.bars import Floats

_CHUNK = 16_384  # rows whose intermediate columns stay in the processor's cache
FLAT_BARS = 100


def rolling(kernel: Callable[[Floats, int], Floats], column: Floats, length: int) -> Floats:
    """The kernel over each window of `length` rows; NaN on the first length - 1 rows."""
    out = np.full(len(column), np.nan)
    for first in range(length - 1, len(column), _CHUNK):
        last = first + _CHUNK
        out[first:last] = kernel(column[first - length + 1 : last], length)
    return out


def mean(column: Floats, length: int) -> Floats:
    """Σ x / length of every whole window."""
    rows = len(column) - length + 1
    total = np.zeros(rows)
    part, span, taken = column, 1, 0
    while span <= length:
        if length & span:
            total += part[taken : taken + rows]
            taken += span
        part = part[:-span] + part[span:]
        span *= 2
    total /= length
    return total


def std(column: Floats, length: int) -> Floats:
    """Population standard deviation √(mean(x²) - mean(x)²) of every whole window.

    Meant for returns, whose mean is small beside their deviation.
    """
    average = mean(column, length)
    variance = mean(column * column, length) - average * average
    np.maximum(variance, 0.0, out=variance)
    return np.sqrt(variance, out=variance)


def mean_and_std(column: Floats, length: int) -> tuple[Floats, Floats]:
    """Mean and population standard deviation of every whole window, for any column.

    The sums of squares are those around each span's own mean, put together span by span (Chan,
    Golub & LeVeque, 1979): prices move little beside their level, and the difference of their
    squares would lose half of the digits.
    """
    rows = len(column) - length + 1
    total, squares, taken = np.zeros(rows), np.zeros(rows), 0
    part, around, span = column, np.zeros(len(column)), 1
    while span <= length:
        if length & span:
            mine, theirs = slice(taken, taken + rows), taken * span / (taken + span)
            if taken:
                squares += theirs * (part[mine] / span - total / taken) ** 2
            squares += around[mine]
            total += part[mine]
            taken += span
        step = part[span:] - part[:-span]
        around = around[:-span] + around[span:] + step * step / (2 * span)
        part = part[:-span] + part[span:]
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


def is_flat(high: Floats, low: Floats, steps: int = FLAT_BARS) -> NDArray[np.bool_]:
    """Where no price has differed from the others for `steps` bars, or since the first bar."""
    import talib

    still = np.asarray(talib.MAX(high, steps + 1) == talib.MIN(low, steps + 1))
    still[:steps] = np.maximum.accumulate(high[:steps]) == np.minimum.accumulate(low[:steps])
    return still
