"""Share splits: the usual ratios, and the splits that adjusted closes imply.

>>> nearest_split_ratio(np.log([1.9, 0.34, 1.0])).round(3).tolist()
[2.0, 0.333, 1.5]
"""

from __future__ import annotations

from datetime import datetime

import numpy as np

from enrichment.domain.bars import Floats, Timestamps, to_datetime

# New shares for an old one, as companies choose them; reverse splits are the inverse whole ones.
_WHOLE = np.array([2, 3, 4, 5, 6, 7, 8, 9, 10, 15, 20, 25, 30, 40, 50, 100], dtype=float)
RATIOS = np.sort(np.concatenate([1 / _WHOLE, [1.5], _WHOLE]))
_MIDPOINTS = (np.log(RATIOS)[1:] + np.log(RATIOS)[:-1]) / 2  # between neighbours' logarithms
_TOLERANCE = 0.02


def implied_splits(ts: Timestamps, close: Floats, adjusted_close: Floats) -> dict[datetime, float]:
    """Splits that a column of adjusted closes implies: session → new shares for an old one.

    adjusted_close / close steps by the ratio of a split, or by that of a dividend, which is small:
    steps within 2 % of a usual ratio are splits.
    """
    steps = np.diff(np.log(adjusted_close / close))
    ratios = nearest_split_ratio(steps)
    rows = np.flatnonzero(np.abs(steps - np.log(ratios)) <= _TOLERANCE)
    return {to_datetime(ts[row + 1]): float(ratios[row]) for row in rows}


def nearest_split_ratio(log_steps: Floats) -> Floats:
    """The usual ratio whose logarithm is nearest to each step."""
    return np.asarray(RATIOS[np.searchsorted(_MIDPOINTS, log_steps)])
