"""Splits: price steps that come from a change in the number of shares, not from the market."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from enrichment.domain.bars import Floats, Timestamps, to_datetime64
from enrichment.domain.splits import nearest_split_ratio
from enrichment.pipeline.validation import robust
from enrichment.pipeline.validation.check import Mask, SeriesContext, ValidationRequest

_NARROW = 0.01
_WIDE = 0.05  # half of what lies between the closest neighbours, 9 and 10
_SIGMAS = 4.0
_BUSY = 3.0
_RECENT = 5


def split(series: SeriesContext, request: ValidationRequest) -> Floats:
    """A price step near n:1, 1:n or 3:2; found is the ratio, new shares for an old one.

    Where splits are known, they decide: a step is one if its date is among them and
    |ln(ratio · close / previous close)| < |ln ratio| / 2, so that an adjusted series has none.
    Otherwise, with n the ratio nearest to previous close / open, all of these must hold:

    - the step is n and came between two sessions: |ln(n · open / previous close)| ≤ tolerance,
      which is 4 robust standard deviations of the last 60 steps from close to open, within
      [0.01, 0.05]; on intraday bars of stocks it is 0.05 and a new day must have begun;
    - it lasted until the close: |ln(n · close / previous close)| < |ln n| / 2;
    - it leads somewhere new: no close of the 5 bars before the previous one lies nearer to this one
      than to the previous one, as after a bad price;
    - nothing but the count of shares changed: close · volume ≤ 3 times the median of the last 60
      bars'. A fall by half that is real is sold in a multiple of the usual turnover. Intraday bars
      are not judged by it, since the first one of a day is always heavy.

    A weekly bar that opens before a split and closes after it is an outlier only.
    """
    return series.cached("split", lambda: _find_splits(series, request))


def _find_splits(series: SeriesContext, request: ValidationRequest) -> Floats:
    bars, rows = series.bars, series.checked_rows
    found = np.full(len(rows), np.nan)
    if len(bars) < 2:
        return found
    before = np.maximum(rows - 1, 0)
    held = np.log(bars.close[rows] / bars.close[before])
    if request.splits is not None:
        found = _known_ratios(bars.ts[rows], request)
        return np.where(np.abs(held + np.log(found)) < np.abs(np.log(found)) / 2, found, np.nan)
    opened = np.log(bars.open[rows] / bars.close[before])
    ratio = nearest_split_ratio(-opened)
    size = np.log(ratio)
    likely = (rows > 0) & (np.abs(opened + size) <= _WIDE) & (np.abs(held + size) < abs(size) / 2)
    likely &= _between_sessions(bars.ts, rows, request)
    if not likely.any():
        return found
    likely &= ~_reverts(bars.close, rows)
    if not request.timeframe.intraday:
        chosen = np.flatnonzero(likely)
        likely[chosen] &= np.abs(opened + size)[chosen] <= _tolerance(series, chosen)
        likely[chosen] &= ~_is_heavily_traded(series, chosen)
    return np.where(likely, ratio, np.nan)


def _known_ratios(ts: Timestamps, request: ValidationRequest) -> Floats:
    found = np.full(len(ts), np.nan)
    for moment, ratio in (request.splits or {}).items():
        found[ts == to_datetime64(moment)] = ratio
    found[~((found > 0) & (found != 1))] = np.nan
    return found


def _between_sessions(ts: Timestamps, rows: NDArray[np.intp], request: ValidationRequest) -> Mask:
    if not request.timeframe.intraday or request.asset_class == "crypto":
        return np.ones(len(rows), dtype=bool)
    day = ts.astype("datetime64[D]")
    return np.asarray(day[rows] > day[np.maximum(rows - 1, 0)])


def _reverts(close: Floats, rows: NDArray[np.intp]) -> Mask:
    """Whether the close goes back to where it was before the previous one."""
    level = np.log(close)
    now, previous = level[rows], level[np.maximum(rows - 1, 0)]
    found = np.zeros(len(rows), dtype=bool)
    for back in range(2, _RECENT + 2):
        then = level[np.maximum(rows - back, 0)]
        found |= (rows >= back) & (np.abs(then - now) < np.abs(then - previous))
    return found


def _tolerance(series: SeriesContext, chosen: NDArray[np.intp]) -> Floats:
    bars = series.bars
    steps = np.append(np.nan, np.log(bars.open[1:] / bars.close[:-1]))
    spread = robust.rolling_median_mad(steps, series.checked_rows[chosen])[1]
    return np.asarray(np.clip(_SIGMAS * np.nan_to_num(spread), _NARROW, _WIDE))


def _is_heavily_traded(series: SeriesContext, chosen: NDArray[np.intp]) -> Mask:
    turnover = series.bars.close * series.bars.volume
    rows = series.checked_rows[chosen]
    return np.asarray(turnover[rows] > _BUSY * robust.rolling_median_mad(turnover, rows)[0])
