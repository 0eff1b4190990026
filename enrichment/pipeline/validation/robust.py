"""Medians over the bars before a bar, which nothing that comes later can change."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from enrichment.domain.bars import Floats

WINDOW = 60
MIN_BARS = 20  # values that a window must hold to say what is usual
MAD_TO_STD = 1.4826  # median absolute deviation → standard deviation of a normal distribution

_CHUNK = 2_048


def rolling_median_mad(column: Floats, rows: NDArray[np.intp]) -> tuple[Floats, Floats]:
    """Median, and 1.4826 · median absolute deviation from it, of the 60 values before each row.

    NaN are left out; both are NaN where fewer than 20 values are left.
    """
    middle, spread = np.full((2, len(rows)), np.nan)
    padded = np.append(np.full(WINDOW, np.nan), column)
    windows = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)
    for first in range(0, len(rows), _CHUNK):
        part = slice(first, first + _CHUNK)
        values = windows[rows[part]]
        values.sort(axis=1)
        count = _count_numbers(values)
        middle[part] = np.where(count >= MIN_BARS, _median_of_sorted(values, count), np.nan)
        values -= middle[part, None]
        np.abs(values, out=values).sort(axis=1)
        spread[part] = np.where(
            count >= MIN_BARS, MAD_TO_STD * _median_of_sorted(values, count), np.nan
        )
    return middle, spread


def median(values: Floats) -> Floats:
    """Median of each line without its NaN; NaN where it has nothing else."""
    ordered = np.sort(values, axis=1)
    return _median_of_sorted(ordered, _count_numbers(ordered))


def _count_numbers(ordered: Floats) -> NDArray[np.intp]:
    """How many values of each ordered line are numbers; NaN stand last."""
    lines, length = ordered.shape
    if not np.isnan(ordered[:, -1]).any():
        return np.full(lines, length)
    return np.asarray(np.count_nonzero(~np.isnan(ordered), axis=1))


def _median_of_sorted(ordered: Floats, count: NDArray[np.intp]) -> Floats:
    """Median of the first `count` values of each ordered line; NaN where it has none."""
    line = np.arange(len(ordered))
    lower = ordered[line, np.maximum(count - 1, 0) // 2]
    upper = ordered[line, np.minimum(count // 2, ordered.shape[1] - 1)]
    return np.asarray(np.where(count % 2 == 1, lower, (lower + upper) / 2))


def run_lengths(mask: NDArray[np.bool_]) -> NDArray[np.intp]:
    """At each row, how many rows up to it are True without a break."""
    rows = np.arange(1, len(mask) + 1)
    return np.asarray(rows - np.maximum.accumulate(np.where(mask, 0, rows)))
