"""The check for splits: price steps that come from a change in the number of shares.

>>> from datetime import UTC, datetime
>>> from enrichment.domain.bars import Bars
>>> from enrichment.domain.model import Timeframe, Window
>>> window = Window(datetime(1970, 1, 1, tzinfo=UTC), datetime(1971, 1, 1, tzinfo=UTC))
>>> request = ValidationRequest(AssetClass.STOCK, Timeframe.D1, window, now=window.end)
>>> close, volume = np.array([100.0, 101.0, 50.5, 51.0]), np.full(4, 1e6)
>>> bars = Bars.of(np.arange(4).astype("datetime64[D]"), close, close, close, close, volume)
>>> split(SeriesContext(bars, first_checked=1), request).tolist()
[nan, 2.0, nan]
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from enrichment.domain.bars import Floats, Mask, Timestamps, to_datetime64
from enrichment.domain.model import AssetClass
from enrichment.domain.splits import nearest_split_ratio
from enrichment.pipeline.validation import robust
from enrichment.pipeline.validation.check import SeriesContext, ValidationRequest

_MIN_TOLERANCE = 0.01
_MAX_TOLERANCE = 0.05  # half the distance of the closest neighbours, 9 and 10
_TOLERANCE_DEVIATIONS = 4.0
_MAX_TURNOVER_FACTOR = 3.0
_RECENT_BARS = 5


def split(series: SeriesContext, request: ValidationRequest) -> Floats:
    """A price step near n:1, 1:n or 3:2; observed: the ratio, new shares for an old one.

    Where splits are known, they decide: a step is one if its date is among them and
    |ln(ratio · close / previous close)| < |ln ratio| / 2, so that an adjusted series has none.
    Otherwise, with n the ratio nearest to previous close / open, all of these must hold:

    - the step is n and came between two sessions: |ln(n · open / previous close)| ≤ tolerance,
      which is 4 robust standard deviations of the last 60 steps from close to open, within
      [0.01, 0.05]; on intraday bars of stocks it is 0.05 and a new day must have begun;
    - it lasted until the close: |ln(n · close / previous close)| < |ln n| / 2;
    - the price level is new: no close of the 5 bars before the previous one lies nearer to this one
      than to the previous one, as after a bad price;
    - the turnover is usual: close · volume ≤ 3 times the median of the last 60 bars. In a real
      fall by half it is a multiple of that. Intraday bars are not judged by it, since the first one
      of a day always has a high volume.

    A weekly bar that opens before a split and closes after it is an outlier only.
    """
    return series.cached("split", lambda: _find_splits(series, request))


def _find_splits(series: SeriesContext, request: ValidationRequest) -> Floats:
    bars, rows = series.bars, series.checked_rows
    if len(bars) < 2:
        return np.full(len(rows), np.nan)
    previous_close = bars.close[np.maximum(rows - 1, 0)]
    to_close = np.log(bars.close[rows] / previous_close)
    if request.splits is not None:
        known = _known_ratios(bars.ts[rows], request)
        return np.where(np.abs(to_close + np.log(known)) < np.abs(np.log(known)) / 2, known, np.nan)
    to_open = np.log(bars.open[rows] / previous_close)
    ratio = nearest_split_ratio(-to_open)
    size = np.log(ratio)
    error = np.abs(to_open + size)
    likely = (rows > 0) & (error <= _MAX_TOLERANCE) & (np.abs(to_close + size) < abs(size) / 2)
    likely &= _between_sessions(bars.ts, rows, request)
    if not likely.any():
        return np.full(len(rows), np.nan)
    likely &= ~_reverts(bars.close, rows)
    if not request.timeframe.intraday:
        candidates = np.flatnonzero(likely)
        likely[candidates] &= error[candidates] <= _tolerance(series, candidates)
        likely[candidates] &= ~_has_high_turnover(series, candidates)
    return np.where(likely, ratio, np.nan)


def _known_ratios(ts: Timestamps, request: ValidationRequest) -> Floats:
    ratios = np.full(len(ts), np.nan)
    for moment, ratio in (request.splits or {}).items():
        ratios[ts == to_datetime64(moment)] = ratio
    ratios[~((ratios > 0) & (ratios != 1))] = np.nan
    return ratios


def _between_sessions(ts: Timestamps, rows: NDArray[np.intp], request: ValidationRequest) -> Mask:
    if not request.timeframe.intraday or request.asset_class is AssetClass.CRYPTO:
        return np.ones(len(rows), dtype=bool)
    day = ts.astype("datetime64[D]")
    return np.asarray(day[rows] > day[np.maximum(rows - 1, 0)])


def _reverts(close: Floats, rows: NDArray[np.intp]) -> Mask:
    """Whether the close returns to the level of before the previous one."""
    level = np.log(close)
    current, previous = level[rows], level[np.maximum(rows - 1, 0)]
    reverts = np.zeros(len(rows), dtype=bool)
    for back in range(2, _RECENT_BARS + 2):
        earlier = level[np.maximum(rows - back, 0)]
        reverts |= (rows >= back) & (np.abs(earlier - current) < np.abs(earlier - previous))
    return reverts


def _tolerance(series: SeriesContext, candidates: NDArray[np.intp]) -> Floats:
    bars = series.bars
    to_open = np.append(np.nan, np.log(bars.open[1:] / bars.close[:-1]))
    _, deviation = robust.rolling_median_mad(to_open, series.checked_rows[candidates])
    tolerance = _TOLERANCE_DEVIATIONS * np.nan_to_num(deviation)
    return np.asarray(np.clip(tolerance, _MIN_TOLERANCE, _MAX_TOLERANCE))


def _has_high_turnover(series: SeriesContext, candidates: NDArray[np.intp]) -> Mask:
    turnover = series.bars.close * series.bars.volume
    rows = series.checked_rows[candidates]
    median, _ = robust.rolling_median_mad(turnover, rows)
    return np.asarray(turnover[rows] > _MAX_TURNOVER_FACTOR * median)
