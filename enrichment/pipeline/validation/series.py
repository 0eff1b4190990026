"""Checks of a bar against the bars before it.

They look back only, at most MEMORY bars, so that a nightly run which sees the stored tail and the
new bars flags what one run over the whole history would flag.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from enrichment.domain.bars import Floats
from enrichment.pipeline.validation import robust
from enrichment.pipeline.validation.check import Mask, SeriesContext, ValidationRequest
from enrichment.pipeline.validation.splits import split

CONTEXT_BARS = 320

_FAR = 10.0
_BASIS_POINT = 1e-4
_FACTOR = 10.0
_FAR_VOLUME = 6.0
_STALE, _STALE_INTRADAY = 5, 12
_LATELY = 100
_THIN = 0.25


def outlier(series: SeriesContext, request: ValidationRequest) -> Floats:
    """|z| > 10 with z = (r - median) / (1.4826 · MAD) over the 60 log returns before the bar; found
    is z.

    r = ln(close / previous close), freed of a split found at the bar. The deviation counts as one
    basis point at least, so that a market that stood still may move again; between intraday bars
    that lie n bars' time apart, over a night or an outage, it counts √n times. 3.5, the usual bound
    (Iglewicz & Hoaglin, How to Detect and Handle Outliers, 1993), is meant for normal
    distributions; returns exceed it every month. The return from a bad price is as far out as the
    one to it, so both bars are flagged.
    """
    returns = _log_returns(series.bars.close)
    middle, spread = robust.rolling_median_mad(returns, series.checked_rows)
    ratio = split(series, request)
    freed = returns[series.checked_rows] + np.log(np.where(np.isnan(ratio), 1.0, ratio))
    z = (freed - middle) / np.maximum(spread, _BASIS_POINT)
    if request.timeframe.intraday:
        z /= np.sqrt(_bars_apart(series, request))
    return np.where(np.abs(z) > _FAR, z, np.nan)


def volume_spike(series: SeriesContext, request: ValidationRequest) -> Floats:
    """volume > 10 times the usual and z > 6; found is the multiple.

    The usual is the median of the 60 volumes before the bar that are not 0, and z the robust
    z-score of ln(volume) among theirs.
    """
    multiple, z = _volume_score(series)
    return np.where((multiple > _FACTOR) & (z > _FAR_VOLUME), multiple, np.nan)


def volume_collapse(series: SeriesContext, request: ValidationRequest) -> Floats:
    """0 < volume < 1/10 of the usual and z < -6, as for volume_spike; found is the multiple."""
    multiple, z = _volume_score(series)
    return np.where((multiple < 1 / _FACTOR) & (z < -_FAR_VOLUME), multiple, np.nan)


def zero_volume(series: SeriesContext, request: ValidationRequest) -> Floats:
    """volume = 0 where trading is usual; found is the number of such bars in a row.

    A run is remarked on at its 1st, 10th and 100th bar, if it follows a bar with volume and at most
    a quarter of the 100 bars before it had none: an instrument without volume, such as a currency,
    is never remarked on, nor one that is traded now and then.
    """
    empty = series.bars.volume == 0
    if not empty[series.first_checked :].any():
        return _no_findings(series)
    length = robust.run_lengths(empty)
    begins = np.arange(len(empty)) - length + 1
    count = np.append(0, np.cumsum(empty))
    earlier = np.maximum(begins - _LATELY, 0)
    before = count[begins] - count[earlier]
    usual = (begins > 0) & (before <= _THIN * (begins - earlier))
    due = empty & usual & np.isin(length, (1, 10, 100))
    return _findings(series, due, length)


def stale_run(series: SeriesContext, request: ValidationRequest) -> Floats:
    """Open, high, low and close all equal those of the bar before, and so on; found is the number
    of equal bars in a row.

    Remarked on at 5 bars (intraday 12) and at each doubling up to 192. Bars with volume 0 count
    only where none of the 100 bars before had any: elsewhere nobody traded, which is not stale.
    """
    bars = series.bars
    equal = np.append(False, bars.close[1:] == bars.close[:-1])
    if not equal[series.first_checked :].any():
        return _no_findings(series)
    for price in (bars.open, bars.high, bars.low):
        equal[1:] &= price[1:] == price[:-1]
    equal &= (bars.volume > 0) | ~_traded_recently(bars.volume)
    length = robust.run_lengths(equal) + 1
    least = _STALE_INTRADAY if request.timeframe.intraday else _STALE
    due = equal & np.isin(length, [n for n in least * 2 ** np.arange(7) if n <= 192])
    return _findings(series, due, length)


def _log_returns(price: Floats) -> Floats:
    """ln(price / previous price); NaN on the first row."""
    return np.append(np.full(len(price[:1]), np.nan), np.log(price[1:] / price[:-1]))


def _bars_apart(series: SeriesContext, request: ValidationRequest) -> Floats:
    """Time from the previous bar to each, in bars."""
    ts, rows = series.bars.ts, series.checked_rows
    elapsed = ts[rows] - ts[np.maximum(rows - 1, 0)]
    return np.maximum(elapsed / np.timedelta64(request.timeframe.duration), 1.0)


def _volume_score(series: SeriesContext) -> tuple[Floats, Floats]:
    """Volume as a multiple of the usual, and its robust z-score, at the rows to be judged."""
    return series.cached("volume", lambda: _compute_volume_score(series))


def _compute_volume_score(series: SeriesContext) -> tuple[Floats, Floats]:
    volume = series.bars.volume
    logarithm = np.log(np.where(volume > 0, volume, np.nan))
    middle, spread = robust.rolling_median_mad(logarithm, series.checked_rows)
    away = logarithm[series.checked_rows] - middle
    return np.exp(away), away / np.maximum(spread, _BASIS_POINT)


def _traded_recently(volume: Floats) -> Mask:
    """Whether any of the 100 bars before each had volume."""
    count = np.append(0, np.cumsum(volume > 0))
    rows = np.arange(len(volume))
    return np.asarray(count[rows] > count[np.maximum(rows - _LATELY, 0)])


def _no_findings(series: SeriesContext) -> Floats:
    return np.full(len(series.bars) - series.first_checked, np.nan)


def _findings(series: SeriesContext, due: Mask, found: NDArray[np.intp]) -> Floats:
    return np.where(due, found, np.nan)[series.first_checked :]
