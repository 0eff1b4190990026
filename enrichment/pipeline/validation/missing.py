"""Bars that should be there: which are missing, and which of those nobody traded."""

from __future__ import annotations

from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from enrichment.domain import calendars
from enrichment.domain.bars import Floats, Timestamps, isin_sorted, to_datetime
from enrichment.domain.model import AssetClass, Timeframe
from enrichment.pipeline.validation import robust

_NEARBY = 100  # expected bars on either side that tell how thinly a stretch is traded
_DENSE = 0.9
_CHANCE = 0.01
_HEAVY = 3.0
_CHUNK = 8_192


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
    return expected[~isin_sorted(expected, stored)]


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
    if len(missing) == 0 or len(stored) == 0 or not _may_have_untraded_bars(asset_class, timeframe):
        return missing, nothing
    last = to_datetime(stored[-1] + np.timedelta64(1, "us"))
    expected = calendars.bar_starts(asset_class, timeframe, to_datetime(stored[0]), last)
    present = isin_sorted(expected, stored)
    traded = np.full(len(expected), np.nan)
    traded[present] = volume[np.searchsorted(stored, expected[present])]
    runs = _runs(~present)
    chosen = runs[_is_untraded(traded, runs[:, 0], runs[:, 1])]
    edges = np.zeros(len(expected) + 1, dtype=np.int8)
    edges[chosen[:, 0]] = 1
    edges[chosen[:, 1]] = -1
    quiet = np.cumsum(edges[:-1]) > 0
    untraded = isin_sorted(missing, expected[quiet])
    return missing[~untraded], missing[untraded]


def _may_have_untraded_bars(asset_class: AssetClass, timeframe: Timeframe) -> bool:
    return timeframe.intraday or asset_class is AssetClass.CRYPTO


def _runs(mask: NDArray[np.bool_]) -> NDArray[np.intp]:
    """First row and end of every run of True, as rows of two."""
    edges = np.diff(mask, prepend=False, append=False)
    return np.flatnonzero(edges).reshape(-1, 2)


def _is_untraded(
    traded: Floats, first: NDArray[np.intp], end: NDArray[np.intp]
) -> NDArray[np.bool_]:
    """Whether each run [first, end) of missing bars went untraded; traded: NaN where missing."""
    nothing = np.full(_NEARBY, np.nan)
    around = np.concatenate([nothing, traded, nothing])
    windows = np.lib.stride_tricks.sliding_window_view(around, _NEARBY)
    found = np.zeros(len(first), dtype=bool)
    for begin in range(0, len(first), _CHUNK):
        part = slice(begin, begin + _CHUNK)
        left, right = first[part], end[part]
        near = np.hstack([windows[left], windows[right + _NEARBY]])
        reach = np.minimum(left, _NEARBY) + np.minimum(len(traded) - right, _NEARBY)
        share = np.count_nonzero(~np.isnan(near), axis=1) / np.maximum(reach, 1)
        chance = 2 * _NEARBY * (1 - share) ** (right - left)
        beside = np.stack([around[left + _NEARBY - 1], around[right + _NEARBY]])
        heavy = (beside > _HEAVY * robust.median(near)).any(axis=0)
        found[part] = (share > 0) & (share < _DENSE) & (chance >= _CHANCE) & ~heavy
    return found
