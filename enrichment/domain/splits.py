"""Splits of shares: the usual ratios, and the splits that a column of adjusted closes implies."""

from __future__ import annotations

from datetime import datetime

import numpy as np

from enrichment.domain.bars import Floats, Timestamps, to_datetime

# New shares for an old one, as companies choose them; reverse splits are the whole ones' inverses.
_WHOLE = np.array([2, 3, 4, 5, 6, 7, 8, 9, 10, 15, 20, 25, 30, 40, 50, 100], dtype=float)
RATIOS = np.sort(np.concatenate([1 / _WHOLE, [1.5], _WHOLE]))
_HALFWAY = (np.log(RATIOS)[1:] + np.log(RATIOS)[:-1]) / 2  # between neighbours' logarithms


def implied_splits(ts: Timestamps, close: Floats, adjusted: Floats) -> dict[datetime, float]:
    """Splits that a column of adjusted closes implies: session → new shares for an old one.

    adjusted / close steps by the ratio of a split, or by that of a dividend, which is small: steps
    within 2 % of a usual ratio are splits.
    """
    factor = np.log(adjusted / close)
    steps = np.diff(factor)
    ratios = nearest_split_ratio(steps)
    rows = np.flatnonzero(np.abs(steps - np.log(ratios)) <= 0.02)
    return {to_datetime(ts[row + 1]): float(ratios[row]) for row in rows}


def nearest_split_ratio(steps: Floats) -> Floats:
    """The ratio whose logarithm is nearest to each step."""
    return np.asarray(RATIOS[np.searchsorted(_HALFWAY, steps)])
