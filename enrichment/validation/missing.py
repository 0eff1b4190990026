"""Bars that should be there: which are missing, and which of those nobody traded."""

from __future__ import annotations

from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from enrichment import calendars
from enrichment.domain import AssetClass, Floats, Timeframe, Timestamps, to_datetime

_NEARBY = 100  # expected bars on either side that tell how thinly a stretch is traded
_DENSE = 0.9
_CHANCE = 0.01
_HEAVY = 3.0


def missing_bars(
    asset_class: AssetClass,
    timeframe: Timeframe,
    stored: Timestamps,
    start: datetime,
    now: datetime,
) -> Timestamps:
    """Bars that the calendar expects in [start, now), that have ended by `now`, and that are not
    among the stored ones.
    """
    expected = calendars.bar_starts(asset_class, timeframe, start, now)
    expected = expected[calendars.is_complete(asset_class, timeframe, expected, now)]
    return expected[~np.isin(expected, stored)]


def classify_missing(
    missing: Timestamps,
    stored: Timestamps,
    volume: Floats,
    asset_class: AssetClass,
    timeframe: Timeframe,
) -> tuple[Timestamps, Timestamps]:
    """Missing bars told apart: (gaps, untraded), both ascending.

    missing: expected bars that are not stored, as `missing_bars` finds them; stored, volume: the
    stored bars' starts and their volumes, ascending, around them.

    Vendors send no bar where nobody traded. A run of missing expected bars, L long, is called
    untraded if the timeframe is intraday or the asset class crypto, and all of this holds for the
    100 expected bars on either side of it, as far as the stored bars reach:

    - the stretch is thin: the share p of them that is present is below 0.9;
    - the run is no longer than chance makes it: 200 · (1 - p)^L ≥ 0.01, the number of such runs to
      expect among 200 bars that trade with probability p each;
    - it was quiet: neither neighbour's volume exceeds 3 times the median of the stretch's.

    Everything else is a gap: every daily stock bar, a hole in a dense series, a long outage of a
    thin one, and what lies before the first or after the last stored bar.
    """
    nothing = missing[:0]
    if len(missing) == 0 or len(stored) == 0 or not _may_rest(asset_class, timeframe):
        return missing, nothing
    last = to_datetime(stored[-1] + np.timedelta64(1, "us"))
    expected = calendars.bar_starts(asset_class, timeframe, to_datetime(stored[0]), last)
    present = np.isin(expected, stored)
    traded = np.zeros(len(expected))
    traded[present] = volume[np.searchsorted(stored, expected[present])]
    quiet = np.zeros(len(expected), dtype=bool)
    for first, end in _runs(~present):
        quiet[first:end] = _untraded(present, traded, first, end)
    untraded = np.isin(missing, expected[quiet])
    return missing[~untraded], missing[untraded]


def _may_rest(asset_class: AssetClass, timeframe: Timeframe) -> bool:
    return timeframe.intraday or asset_class is AssetClass.CRYPTO


def _runs(mask: NDArray[np.bool_]) -> NDArray[np.intp]:
    """First row and end of every run of True, as rows of two."""
    edges = np.diff(mask, prepend=False, append=False)
    return np.flatnonzero(edges).reshape(-1, 2)


def _untraded(present: NDArray[np.bool_], traded: Floats, first: int, end: int) -> bool:
    near = np.r_[max(0, first - _NEARBY) : first, end : min(len(present), end + _NEARBY)]
    there = near[present[near]]
    share = len(there) / max(1, len(near))
    if share == 0 or share >= _DENSE or 2 * _NEARBY * (1 - share) ** (end - first) < _CHANCE:
        return False
    beside = traded[[n for n in (first - 1, end) if 0 <= n < len(traded)]]
    return bool((beside <= _HEAVY * np.median(traded[there])).all())
