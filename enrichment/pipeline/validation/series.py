"""Checks of a bar against the bars before it.

They look back only, at most CONTEXT_BARS, so that a nightly run, which sees the stored tail and the
new bars, flags the same as one run over the whole history.

>>> from datetime import UTC, datetime
>>> from enrichment.domain.bars import Bars
>>> from enrichment.domain.model import AssetClass, Timeframe, Window
>>> window = Window(datetime(1970, 1, 1, tzinfo=UTC), datetime(1971, 1, 1, tzinfo=UTC))
>>> request = ValidationRequest(AssetClass.STOCK, Timeframe.D1, window, now=window.end)
>>> close = np.full(12, 10.0)
>>> volume = np.array([5.0] * 10 + [0.0] * 2)
>>> bars = Bars.of(np.arange(12).astype("datetime64[D]"), close, close, close, close, volume)
>>> zero_volume(SeriesContext(bars, first_checked=9), request).tolist()
[nan, 1.0, nan]
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from enrichment.domain.bars import Floats, Mask
from enrichment.pipeline.validation import robust
from enrichment.pipeline.validation.check import SeriesContext, ValidationRequest
from enrichment.pipeline.validation.splits import split

CONTEXT_BARS = 320

_OUTLIER_Z = 10.0
_BASIS_POINT = 1e-4
_VOLUME_FACTOR = 10.0
_VOLUME_Z = 6.0
_STALE_BARS, _STALE_BARS_INTRADAY, _MAX_STALE_BARS = 5, 12, 192
_RECENT_BARS = 100
_MAX_EMPTY_SHARE = 0.25


def outlier(series: SeriesContext, request: ValidationRequest) -> Floats:
    """|z| > 10 with z = (r - median) / (1.4826 · MAD) over the 60 log returns before the bar;
    observed: z.

    r = ln(close / previous close), corrected for a split at the bar. The deviation is at least one
    basis point, so that a market may move again after a standstill; for intraday bars n bars apart
    (a night, an outage) it is multiplied by √n. The usual bound of 3.5 (Iglewicz & Hoaglin, How to
    Detect and Handle Outliers, 1993) assumes normal distributions; returns exceed it every month.
    The return after a bad price is as far out as the one before it, so both bars are flagged.
    """
    returns = _log_returns(series.bars.close)
    median, deviation = robust.rolling_median_mad(returns, series.checked_rows)
    ratio = split(series, request)
    corrected = returns[series.checked_rows] + np.log(np.where(np.isnan(ratio), 1.0, ratio))
    z = (corrected - median) / np.maximum(deviation, _BASIS_POINT)
    if request.timeframe.intraday:
        z /= np.sqrt(_bars_apart(series, request))
    return np.where(np.abs(z) > _OUTLIER_Z, z, np.nan)


def volume_spike(series: SeriesContext, request: ValidationRequest) -> Floats:
    """volume > 10 times the usual and z > 6; observed: the multiple.

    The usual is the median of the 60 volumes before the bar that are not 0, z the robust z-score of
    ln(volume) among theirs.
    """
    multiple, z = _volume_score(series)
    return np.where((multiple > _VOLUME_FACTOR) & (z > _VOLUME_Z), multiple, np.nan)


def volume_collapse(series: SeriesContext, request: ValidationRequest) -> Floats:
    """0 < volume < 1/10 of the usual and z < -6, as for volume_spike; observed: the multiple."""
    multiple, z = _volume_score(series)
    return np.where((multiple < 1 / _VOLUME_FACTOR) & (z < -_VOLUME_Z), multiple, np.nan)


def zero_volume(series: SeriesContext, request: ValidationRequest) -> Floats:
    """volume = 0 where trading is usual; observed: the number of such bars in a row.

    A run is flagged at its 1st, 10th and 100th bar, if it follows a bar with volume and at most a
    quarter of the 100 bars before it had none: an instrument without volume, such as a currency, is
    never flagged, nor one that is traded occasionally.
    """
    empty = series.bars.volume == 0
    if not empty[series.first_checked :].any():
        return _none_flagged(series)
    length = robust.run_lengths(empty)
    begins = np.arange(len(empty)) - length + 1
    count = np.append(0, np.cumsum(empty))
    since = np.maximum(begins - _RECENT_BARS, 0)
    empty_before = count[begins] - count[since]
    usually_traded = (begins > 0) & (empty_before <= _MAX_EMPTY_SHARE * (begins - since))
    return _flagged(series, empty & usually_traded & np.isin(length, (1, 10, 100)), length)


def stale_run(series: SeriesContext, request: ValidationRequest) -> Floats:
    """Open, high, low and close all equal those of the bar before; observed: the number of equal
    bars in a row.

    Flagged at 5 bars (intraday 12) and at each doubling up to 192. Bars with volume 0 count only
    where none of the 100 bars before had any: elsewhere nobody traded, which is not stale.
    """
    bars = series.bars
    equal = np.append(False, bars.close[1:] == bars.close[:-1])
    if not equal[series.first_checked :].any():
        return _none_flagged(series)
    for price in (bars.open, bars.high, bars.low):
        equal[1:] &= price[1:] == price[:-1]
    equal &= (bars.volume > 0) | ~_traded_recently(bars.volume)
    length = robust.run_lengths(equal) + 1
    shortest = _STALE_BARS_INTRADAY if request.timeframe.intraday else _STALE_BARS
    flagged_lengths = [n for n in shortest * 2 ** np.arange(7) if n <= _MAX_STALE_BARS]
    return _flagged(series, equal & np.isin(length, flagged_lengths), length)


def _log_returns(price: Floats) -> Floats:
    """ln(price / previous price); NaN on the first row."""
    return np.append(np.full(len(price[:1]), np.nan), np.log(price[1:] / price[:-1]))


def _bars_apart(series: SeriesContext, request: ValidationRequest) -> Floats:
    """Time from the previous bar to each, in bars."""
    ts, rows = series.bars.ts, series.checked_rows
    elapsed = ts[rows] - ts[np.maximum(rows - 1, 0)]
    return np.maximum(elapsed / np.timedelta64(request.timeframe.duration), 1.0)


def _volume_score(series: SeriesContext) -> tuple[Floats, Floats]:
    """Volume as a multiple of the usual, and its robust z-score, at the checked rows."""
    return series.cached("volume", lambda: _compute_volume_score(series))


def _compute_volume_score(series: SeriesContext) -> tuple[Floats, Floats]:
    volume = series.bars.volume
    log_volume = np.log(np.where(volume > 0, volume, np.nan))
    median, deviation = robust.rolling_median_mad(log_volume, series.checked_rows)
    difference = log_volume[series.checked_rows] - median
    return np.exp(difference), difference / np.maximum(deviation, _BASIS_POINT)


def _traded_recently(volume: Floats) -> Mask:
    """Whether any of the 100 bars before each had volume."""
    count = np.append(0, np.cumsum(volume > 0))
    rows = np.arange(len(volume))
    return np.asarray(count[rows] > count[np.maximum(rows - _RECENT_BARS, 0)])


def _none_flagged(series: SeriesContext) -> Floats:
    return np.full(len(series.bars) - series.first_checked, np.nan)


def _flagged(series: SeriesContext, flagged: Mask, observed: NDArray[np.intp]) -> Floats:
    return np.where(flagged, observed, np.nan)[series.first_checked :]
