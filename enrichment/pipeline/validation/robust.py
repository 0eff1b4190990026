"""Robust statistics over the bars before a bar, which later bars can't change.

>>> column = np.append(np.arange(60.0), 1e6)
>>> median, deviation = rolling_median_mad(column, np.array([60]))
>>> float(median[0]), float(deviation[0]) == 15 * MAD_TO_STD
(29.5, True)
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from enrichment.domain.bars import Floats, Mask

WINDOW = 60
MIN_BARS = 20  # values that a window must have
MAD_TO_STD = 1.4826  # median absolute deviation → standard deviation of a normal distribution

_CHUNK = 2_048


def rolling_median_mad(column: Floats, rows: NDArray[np.intp]) -> tuple[Floats, Floats]:
    """Median, and 1.4826 · median absolute deviation from it, of the 60 values before each row.

    NaN are ignored; both are NaN where fewer than 20 values are left.
    """
    medians, deviations = np.full((2, len(rows)), np.nan)
    padded = np.append(np.full(WINDOW, np.nan), column)
    windows = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)
    for first in range(0, len(rows), _CHUNK):
        part = slice(first, first + _CHUNK)
        values = windows[rows[part]]
        values.sort(axis=1)
        count = _count_numbers(values)
        medians[part] = np.where(count >= MIN_BARS, _median_of_sorted(values, count), np.nan)
        values -= medians[part, None]
        np.abs(values, out=values).sort(axis=1)
        deviations[part] = np.where(
            count >= MIN_BARS, MAD_TO_STD * _median_of_sorted(values, count), np.nan
        )
    return medians, deviations


def median(values: Floats) -> Floats:
    """Median of each row of a table, ignoring NaN; NaN where it has nothing else."""
    ordered = np.sort(values, axis=1)
    return _median_of_sorted(ordered, _count_numbers(ordered))


def _count_numbers(ordered: Floats) -> NDArray[np.intp]:
    """Number of values that are not NaN in each sorted row; NaN are sorted last."""
    rows, length = ordered.shape
    if not np.isnan(ordered[:, -1]).any():
        return np.full(rows, length)
    return np.asarray(np.count_nonzero(~np.isnan(ordered), axis=1))


def _median_of_sorted(ordered: Floats, count: NDArray[np.intp]) -> Floats:
    """Median of the first `count` values of each sorted row; NaN where it has none."""
    row = np.arange(len(ordered))
    lower = ordered[row, np.maximum(count - 1, 0) // 2]
    upper = ordered[row, np.minimum(count // 2, ordered.shape[1] - 1)]
    return np.asarray(np.where(count % 2 == 1, lower, (lower + upper) / 2))


def run_lengths(mask: Mask) -> NDArray[np.intp]:
    """At each row, the number of consecutive True up to and including it."""
    rows = np.arange(1, len(mask) + 1)
    return np.asarray(rows - np.maximum.accumulate(np.where(mask, 0, rows)))
