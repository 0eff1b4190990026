"""Expected bars that are missing: gaps, and bars in which nobody traded.

>>> from datetime import UTC
>>> stored = np.array(["2024-01-08", "2024-01-10"], "datetime64[us]")
>>> start, now = datetime(2024, 1, 8, tzinfo=UTC), datetime(2024, 1, 11, tzinfo=UTC)
>>> missing_bars(AssetClass.STOCK, Timeframe.D1, stored, start, now).astype(str).tolist()
['2024-01-09T00:00:00.000000']
"""

from __future__ import annotations

from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from enrichment.domain import calendars
from enrichment.domain.bars import Floats, Mask, Timestamps, isin_sorted, to_datetime
from enrichment.domain.calendars import Market
from enrichment.domain.model import AssetClass, SessionPart, Timeframe
from enrichment.pipeline.validation.series import row_medians

_NEIGHBOURS = 100  # expected bars on either side that show how thinly a series is traded
_DENSE_SHARE = 0.9
_MIN_EXPECTED_RUNS = 0.01
_MAX_VOLUME_FACTOR = 3.0
_CHUNK = 8_192


def missing_bars(
    market: Market,
    timeframe: Timeframe,
    stored: Timestamps,
    start: datetime,
    now: datetime,
) -> Timestamps:
    """Bars that the calendar has in [start, now), ended by `now` and are not among the stored."""
    expected = calendars.ended_bar_starts(market, timeframe, start, now)
    return expected[~isin_sorted(expected, stored)]


def classify_missing(
    missing: Timestamps,
    stored: Timestamps,
    volume: Floats,
    market: Market,
    timeframe: Timeframe,
) -> tuple[Timestamps, Timestamps]:
    """Separates missing bars into gaps and untraded ones, both ascending.

    Vendors send no bar where nobody traded. A run of missing expected bars, L long, is untraded if
    the timeframe is intraday or the asset class crypto, and all of this holds for the 100 expected
    bars on either side of it, as far as the stored bars reach:

    - the series is thin there: the share p of them that is present is below 0.9;
    - the run is no longer than chance explains: 200 · (1 - p)^L ≥ 0.01, the number of such runs to
      expect among 200 bars that trade with probability p each;
    - trading was quiet: neither neighbour's volume exceeds 3 times their median.

    Of stocks with extended hours, bars outside of the regular session are judged among themselves,
    and may be few: there a missing bar is a gap only where such bars are mostly traded.

    Everything else is a gap: every daily stock bar, a hole in a dense series, a long outage of a
    thin one, and whatever precedes the first or follows the last stored bar.

    Args:
        missing: expected bars that are not stored, as `missing_bars` returns them.
        stored: ascending starts of the stored bars around them.
        volume: of the stored bars.
        market: of the series.
        timeframe: of the series.
    """
    may_be_untraded = timeframe.intraday or market is AssetClass.CRYPTO
    if len(missing) == 0 or len(stored) == 0 or not may_be_untraded:
        return missing, missing[:0]
    end = to_datetime(stored[-1] + np.timedelta64(1, "us"))
    expected = calendars.bar_starts(market, timeframe, to_datetime(stored[0]), end)
    if not calendars.is_extended(market):
        untraded = _untraded(expected, stored, volume)
    else:
        newest = max(end, to_datetime(missing[-1] + np.timedelta64(1, "us")))
        whole = calendars.bar_starts(market, timeframe, to_datetime(stored[0]), newest)
        regular, outside = (
            calendars.session_parts(market, timeframe, starts) == SessionPart.REGULAR
            for starts in (expected, whole)
        )
        untraded = np.union1d(
            _untraded(expected[regular], stored, volume),
            _untraded(whole[~outside], stored, volume, least_share=-1.0),
        )
    found = isin_sorted(missing, untraded)
    return missing[~found], missing[found]


def _untraded(
    expected: Timestamps, stored: Timestamps, volume: Floats, least_share: float = 0.0
) -> Timestamps:
    """Those of the expected bars that are not stored because nobody traded, ascending.

    least_share: of its neighbours, above which that is decided.
    """
    present = isin_sorted(expected, stored)
    volumes = np.full(len(expected), np.nan)
    volumes[present] = volume[np.searchsorted(stored, expected[present])]
    runs = _runs(~present)
    untraded_runs = runs[_is_untraded(volumes, runs[:, 0], runs[:, 1], least_share)]
    edges = np.zeros(len(expected) + 1, dtype=np.int8)
    edges[untraded_runs[:, 0]] = 1
    edges[untraded_runs[:, 1]] = -1
    return expected[np.cumsum(edges[:-1]) > 0]


def _runs(mask: Mask) -> NDArray[np.intp]:
    """First row and end of every run of True, shape (runs, 2)."""
    edges = np.diff(mask, prepend=False, append=False)
    return np.flatnonzero(edges).reshape(-1, 2)


def _is_untraded(
    volumes: Floats, first: NDArray[np.intp], end: NDArray[np.intp], least_share: float
) -> Mask:
    """Whether nobody traded in each run [first, end) of missing bars.

    volumes: of the expected bars, NaN where missing.
    """
    margin = np.full(_NEIGHBOURS, np.nan)
    padded = np.concatenate([margin, volumes, margin])
    windows = np.lib.stride_tricks.sliding_window_view(padded, _NEIGHBOURS)
    untraded = np.zeros(len(first), dtype=bool)
    for begin in range(0, len(first), _CHUNK):
        part = slice(begin, begin + _CHUNK)
        left, right = first[part], end[part]
        around = np.hstack([windows[left], windows[right + _NEIGHBOURS]])
        reach = np.minimum(left, _NEIGHBOURS) + np.minimum(len(volumes) - right, _NEIGHBOURS)
        share = np.count_nonzero(~np.isnan(around), axis=1) / np.maximum(reach, 1)
        expected_runs = 2 * _NEIGHBOURS * (1 - share) ** (right - left)
        adjacent = np.stack([padded[left + _NEIGHBOURS - 1], padded[right + _NEIGHBOURS]])
        busy = (adjacent > _MAX_VOLUME_FACTOR * row_medians(around)).any(axis=0)
        thin = (share > least_share) & (share < _DENSE_SHARE)
        untraded[part] = thin & (expected_runs >= _MIN_EXPECTED_RUNS) & ~busy
    return untraded
