"""Checks of a bar against the bars before it, by statistics that outliers hardly change.

They look back only, at most CONTEXT_BARS, so that a nightly run, which sees the stored tail and the
new bars, flags the same as one run over the whole history.

>>> from datetime import UTC, datetime
>>> from enrichment.domain.model import Timeframe, Window
>>> window = Window(datetime(1970, 1, 1, tzinfo=UTC), datetime(1971, 1, 1, tzinfo=UTC))
>>> request = ValidationRequest(AssetClass.STOCK, Timeframe.D1, window, now=window.end)
>>> close = np.full(12, 10.0)
>>> volume = np.array([5.0] * 10 + [0.0] * 2)
>>> bars = Bars.of(np.arange(12).astype("datetime64[D]"), close, close, close, close, volume)
>>> zero_volume(SeriesContext(bars, first_checked=9), request).tolist()
[nan, 1.0, nan]
>>> close = np.array([100.0, 101.0, 50.5, 51.0])
>>> bars = Bars.of(np.arange(4).astype("datetime64[D]"), close, close, close, close, np.ones(4))
>>> split(SeriesContext(bars, first_checked=1), request).tolist()
[nan, 2.0, nan]
>>> column = np.append(np.arange(60.0), 1e6)
>>> median, deviation = rolling_median_mad(column, np.array([60]))
>>> float(median[0]), float(deviation[0]) == 15 * MAD_TO_STD
(29.5, True)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from enrichment.domain.bars import Bars, Floats, Mask, Timestamps, to_datetime, to_datetime64
from enrichment.domain.calendars import canonical
from enrichment.domain.corporate_actions import nearest_split_ratio
from enrichment.domain.model import AssetClass, Severity, Timeframe
from enrichment.pipeline.validation.bars import ValidationRequest

T = TypeVar("T")
CONTEXT_BARS = 690

_OUTLIER_Z = 10.0
_REVERSAL_Z = 6.0
_BASIS_POINT = 1e-4
_VOLUME_FACTOR = 10.0
_VOLUME_Z = 6.0
_STALE_BARS, _STALE_BARS_INTRADAY, _MAX_STALE_BARS = 5, 12, 192
_HISTORY_BARS, _MAX_RUN = 300, 380  # before a run, and of it, that stale_feed looks at
_LIVED_BARS = _HISTORY_BARS + _MAX_RUN  # before a bar, that show whether it has volume
_STALE_BARS_UNKNOWN = 20  # without a history to compare with
_CHANCE = 1e-3  # runs of a length that a history explains by chance
_CONFIRMING_FACTOR = 3.0  # of the usual volume and turnover, which make a large move credible
_MAX_CREDIBLE_MOVE = np.log(1.45)
_WICK_FACTOR = 8.0
_CONFIRMING_FACTOR_OF_WICKS = 2.0
_MAX_CREDIBLE_WICK = np.log(1.35)
_LOT_FACTOR, _LOT_Z = 1.6, 5.0
_RECENT_BARS = 100
_MAX_EMPTY_SHARE = 0.25

_MIN_TOLERANCE = 0.01
_MAX_TOLERANCE = 0.05  # half the distance of the closest neighbours, 9 and 10
_TOLERANCE_DEVIATIONS = 4.0
_MAX_TURNOVER_FACTOR = 3.0
_BARS_BEFORE_STEP = 5
_MIN_STEP = np.log(1.25)

WINDOW = 60
MIN_BARS = 20  # values that a window must have
MAD_TO_STD = 1.4826  # median absolute deviation → standard deviation of a normal distribution
_CHUNK = 2_048


@dataclass(frozen=True, eq=False)
class SeriesContext:
    """Good bars, ascending and unique, with those that precede them."""

    bars: Bars  # on the share basis of the newest one
    first_checked: int  # rows before it are context only
    as_traded: Bars | None = None  # the same before they were put on it; None: there was no split
    cache: dict[str, Any] = field(default_factory=dict)  # intermediate results of several checks

    def cached(self, name: str, compute: Callable[[], T]) -> T:
        """Result of `compute`, which is called once per name."""
        if name not in self.cache:
            self.cache[name] = compute()
        result: T = self.cache[name]
        return result

    @cached_property
    def checked_rows(self) -> NDArray[np.intp]:
        return np.arange(self.first_checked, len(self.bars.ts))


@dataclass(frozen=True, slots=True)
class SeriesCheck:
    """A check of bars against those before them; flagged bars stay in the series, errors too."""

    severity: Severity
    # The observed value at each checked row, NaN where it is not flagged. Looks back only, at
    # most CONTEXT_BARS bars.
    function: Callable[[SeriesContext, ValidationRequest], Floats]
    message: str  # the flag's detail: a format string with the bar's columns and `observed`


def outlier(series: SeriesContext, request: ValidationRequest) -> Floats:
    """|z| > 10 with z = (r - median) / (1.4826 · MAD) over the 60 log returns before the bar, and
    nothing that makes the move credible; observed: z.

    r = ln(close / previous close), corrected for a split at the bar that is not known, and for a
    known one that the price did not follow. The deviation is at least one
    basis point, so that a market may move again after a standstill; for intraday bars n bars apart
    (a night, an outage) it is multiplied by √n. The usual bound of 3.5 (Iglewicz & Hoaglin, How to
    Detect and Handle Outliers, 1993) assumes normal distributions; returns exceed it every month.
    The return after a bad price is as far out as the one before it, so both bars are flagged; where
    it takes back, to a quarter, one that was not traded on, from |z| > 6 on.

    A move is credible if the market made it, too: |z| ≤ 10 after the median return of all series of
    the exchange was subtracted from r; or if it was traded on (`large_move`).
    """
    z = _return_score(series, request)
    far = np.abs(z) > _OUTLIER_Z
    if far.any():
        far &= ~_is_traded_on(series)
    return np.where(far | _reverses(series, z), z, np.nan)


def _reverses(series: SeriesContext, z: Floats) -> Mask:
    """Whether the bar takes back the return of the bar before, both far out."""
    far = np.abs(z) > _REVERSAL_Z
    if not far.any():
        return far
    rows, returns = series.checked_rows, _log_returns(series.bars.close)
    last, before = returns[rows], returns[np.maximum(rows - 1, 0)]
    smaller = np.minimum(np.abs(last), np.abs(before))
    far &= smaller * np.abs(z) > _REVERSAL_Z * np.abs(last)  # the one before is as many away
    far &= (np.abs(last + before) < smaller / 4) & (last * before < 0)
    candidates = np.flatnonzero(far)
    far[candidates] &= ~_traded_on(series.bars, rows[candidates] - 1)
    return far


def large_move(series: SeriesContext, request: ValidationRequest) -> Floats:
    """A return as far out as an `outlier` that was traded on; observed: z.

    Volume and turnover (close · volume) are above 3 times the median of the 60 bars before, and the
    price changed by less than a factor of 1.45: a bad price comes with the usual volume.
    """
    z = _return_score(series, request)
    far = np.abs(z) > _OUTLIER_Z
    return np.where(far & _is_traded_on(series), z, np.nan) if far.any() else _none_flagged(series)


def _return_score(series: SeriesContext, request: ValidationRequest) -> Floats:
    return series.cached("return", lambda: _compute_return_score(series, request))


def _compute_return_score(series: SeriesContext, request: ValidationRequest) -> Floats:
    """The nearer to 0 of z with and without the market's return."""
    returns = _log_returns(series.bars.close)
    median, deviation = _usual_return(series, returns)
    ratio = split(series, request)
    undone = split_without_step(series, request)
    factor = np.where(np.isnan(ratio), 1.0, ratio) / np.where(np.isnan(undone), 1.0, undone)
    corrected = returns[series.checked_rows] + np.log(factor)
    deviation = np.maximum(deviation, _BASIS_POINT)
    if request.timeframe.intraday:
        deviation *= np.sqrt(_bars_apart(series, request))
    z = (corrected - median) / deviation
    if not request.market_returns or not (np.abs(z) > _OUTLIER_Z).any():
        return z
    market = [request.market_returns.get(ts, 0.0) for ts in series.bars.ts[series.checked_rows]]
    relative = z - np.array(market) / deviation
    return np.where(np.abs(relative) < np.abs(z), relative, z)


def _usual_return(series: SeriesContext, returns: Floats) -> tuple[Floats, Floats]:
    """Median and deviation at the checked rows, of bars that are not dead: after a stale feed every
    return would be far out. Of all bars where the series never lived.
    """
    median, deviation = _with_dead_bars(
        series, lambda dead: np.stack(_return_of_alive(returns, dead, series.checked_rows))
    )
    return median, deviation


def _return_of_alive(returns: Floats, dead: Mask, rows: NDArray[np.intp]) -> tuple[Floats, Floats]:
    median, deviation = rolling_median_mad(_alive(returns, dead), rows)
    if dead.any():
        lived = np.append(0, np.cumsum(~dead))
        never = np.flatnonzero(lived[rows] - lived[np.maximum(rows - _LIVED_BARS, 0)] <= MIN_BARS)
        median[never], deviation[never] = rolling_median_mad(returns, rows[never])
    return median, deviation


def _is_traded_on(series: SeriesContext) -> Mask:
    return series.cached("traded_on", lambda: _traded_on(series.bars, series.checked_rows))


def _traded_on(bars: Bars, rows: NDArray[np.intp], factor: float = _CONFIRMING_FACTOR) -> Mask:
    previous = bars.close[np.maximum(rows - 1, 0)]
    far = np.flatnonzero(np.abs(np.log(bars.close[rows] / previous)) < _MAX_CREDIBLE_MOVE)
    for column in (bars.volume, bars.close * bars.volume):
        median = rolling_median(column, rows[far])
        far = far[column[rows[far]] > factor * median]
    traded = np.zeros(len(rows), dtype=bool)
    traded[far] = True
    return traded


def volume_spike(series: SeriesContext, request: ValidationRequest) -> Floats:
    """volume > 10 times the usual and z > 6; observed: the multiple.

    The usual is the median of the 60 volumes before the bar that are not 0, z the robust z-score of
    ln(volume) among theirs.
    """
    multiple, z = _volume_score(series)
    return np.where((multiple > _VOLUME_FACTOR) & (z > _VOLUME_Z), multiple, np.nan)


def volume_collapse(series: SeriesContext, request: ValidationRequest) -> Floats:
    """0 < volume < 1/10 of the usual and z < -6, as for volume_spike; observed: the multiple.

    Only the first bar of a new level: the bar before had at least a fifth of the usual.
    """
    multiple, z = _volume_score(series)
    flagged = (multiple < 1 / _VOLUME_FACTOR) & (z < -_VOLUME_Z)
    if flagged.any():
        volume, rows = series.bars.volume, series.checked_rows
        before = volume[np.maximum(rows - 1, 0)] * multiple / volume[rows]
        flagged &= ~((before > 0) & (before < 2 / _VOLUME_FACTOR))
    return np.where(flagged, multiple, np.nan)


def zero_volume(series: SeriesContext, request: ValidationRequest) -> Floats:
    """volume = 0 where trading is usual; observed: the number of such bars in a row.

    A run is flagged at its 1st, 10th and 100th bar, if it follows a bar with volume and at most a
    quarter of the 100 bars before it had none: an instrument without volume, such as a currency, is
    never flagged, nor one that is traded occasionally.
    """
    empty = series.bars.volume == 0
    if not empty[series.first_checked :].any():
        return _none_flagged(series)
    length = run_lengths(empty)
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
    equal &= (bars.volume > 0) | ~_traded_within(bars.volume, _RECENT_BARS)
    length = run_lengths(equal) + 1
    shortest = _STALE_BARS_INTRADAY if request.timeframe.intraday else _STALE_BARS
    flagged_lengths = [n for n in shortest * 2 ** np.arange(7) if n <= _MAX_STALE_BARS]
    return _flagged(series, equal & np.isin(length, flagged_lengths), length)


def stale_feed(series: SeriesContext, request: ValidationRequest) -> Floats:
    """No sign of life for longer than this series ever was without: a run of dead bars beyond its
    own history; observed: the length of the run so far.

    A bar is dead if its volume is 0 or all its columns equal those of the bar before; where none of
    the 680 bars before the checked one had volume, as of a currency, only in the latter case.
    A run is beyond the history, the 300 bars before it, of which a share p was dead, from this
    length L on:

    - L ≥ 5 bars, intraday 12; where the history has fewer than 20 bars, 20;
    - L > 2 · the longest dead run of the history;
    - 300 · p^L < 0.001, with p three standard errors higher: chance explains no run of that length
      in a thinly traded series; not judged where it has fewer than 100 bars and p is above 1/4;
    - after 380 bars in any case.
    """
    shortest = _STALE_BARS_INTRADAY if request.timeframe.intraday else _STALE_BARS
    return _with_dead_bars(series, lambda dead: _beyond_history(series, dead, shortest))


def _beyond_history(series: SeriesContext, dead: Mask, shortest: int) -> Floats:
    if not dead[series.first_checked :].any():
        return _none_flagged(series)
    checked = run_lengths(dead)[series.first_checked :]
    if not (checked >= shortest).any():
        return _none_flagged(series)
    begins = series.checked_rows - checked + 1
    limit = np.full(len(checked), _MAX_RUN)
    for begin in np.unique(begins[checked >= shortest]):
        limit[begins == begin] = _longest_credible_run(dead, int(begin), shortest)
    return np.where(checked >= np.minimum(limit, _MAX_RUN), checked, np.nan)


def newest_sign_of_life(bars: Bars) -> datetime | None:
    """Start of the newest bar that is not dead, as `stale_feed` sees it; None if all are."""
    traded = (bars.volume[-_LIVED_BARS:] > 0).any()
    alive = np.flatnonzero(~(_repeated(bars) | ((bars.volume == 0) & traded)))
    return to_datetime(bars.ts[alive[-1]]) if len(alive) else None


def _with_dead_bars(series: SeriesContext, compute: Callable[[Mask], Floats]) -> Floats:
    """What `compute` makes, at the checked rows (its last axis), of a mask of the dead bars.

    Whether bars without volume are dead depends on the checked row alone, not on how far before
    each of them bars are at hand: they are where any of the 680 bars before the row had volume.
    """
    repeated = _repeated_bars(series)
    volume = series.bars.volume
    empty = volume == 0
    traded = _traded_within(volume, _LIVED_BARS)[series.first_checked :]
    if not empty.any() or not traded.any():
        return compute(repeated)
    if traded.all():
        return compute(repeated | empty)
    return np.where(traded, compute(repeated | empty), compute(repeated))


def _repeated_bars(series: SeriesContext) -> Mask:
    return series.cached("repeated", lambda: _repeated(series.bars))


def _repeated(bars: Bars) -> Mask:
    """Whether all columns equal those of the bar before."""
    same = np.append(np.zeros(len(bars.ts[:1]), dtype=bool), bars.close[1:] == bars.close[:-1])
    if same.any():
        for column in (bars.open, bars.high, bars.low, bars.volume):
            same[1:] &= column[1:] == column[:-1]
    return same


def _alive(column: Floats, dead: Mask) -> Floats:
    """The column, NaN at dead bars."""
    return np.where(dead, np.nan, column) if dead.any() else column


def _longest_credible_run(dead: Mask, begin: int, shortest: int) -> int:
    """From which length on a run of dead bars that begins at a row is beyond its history."""
    history = dead[max(0, begin - _HISTORY_BARS) : begin]
    share = history.mean() if begin else 0.0
    if len(history) < MIN_BARS:
        return _MAX_RUN if share else _STALE_BARS_UNKNOWN
    if len(history) < _RECENT_BARS and share > _MAX_EMPTY_SHARE:
        return _MAX_RUN  # too short to show how thinly it trades
    share = min(share + 3 * np.sqrt(share * (1 - share) / len(history)), 0.99)
    by_chance = np.log(_CHANCE / _HISTORY_BARS) / np.log(share) if share > 0 else 0.0
    return max(shortest, 2 * int(run_lengths(history).max()) + 1, int(np.ceil(by_chance)))


def repeated_bar(series: SeriesContext, request: ValidationRequest) -> Floats:
    """A bar that traded, at more than one price, with all the numbers of the bar before, as at most
    one of the 300 before did; observed: the volume.
    """
    bars, rows = series.bars, series.checked_rows
    same = _repeated_bars(series) & (bars.volume > 0) & (bars.high > bars.low)
    if not same[series.first_checked :].any():
        return _none_flagged(series)
    begins = same & ~np.append(False, same[:-1])  # a stale feed counts once
    count = np.append(0, np.cumsum(begins))
    usual = count[rows] > count[np.maximum(rows - _HISTORY_BARS, 0)] + 1
    return np.where(same[rows] & ~usual, bars.volume[rows], np.nan)


def spike(series: SeriesContext, request: ValidationRequest) -> Floats:
    """A high or low that lies further outside open and close than 8 times the median of
    ln(high / low) of the 60 bars before; observed: the multiple. Up to 35 % are credible where
    volume and turnover are above twice the median.
    """
    bars, rows = series.bars, series.checked_rows
    above = np.log(bars.high[rows] / np.maximum(bars.open[rows], bars.close[rows]))
    below = np.log(np.minimum(bars.open[rows], bars.close[rows]) / bars.low[rows])
    wick = np.maximum(above, below)
    recent = slice(max(0, series.first_checked - WINDOW), None)
    narrow = np.log(bars.high[recent] / bars.low[recent]) < wick.max() / _WICK_FACTOR
    if np.count_nonzero(narrow) < MIN_BARS // 2:  # too few for a median below
        return _none_flagged(series)
    wicks = np.log(bars.high / bars.low)
    median = _with_dead_bars(series, lambda dead: rolling_median(_alive(wicks, dead), rows))
    multiple = wick / np.maximum(median, _BASIS_POINT)
    far = multiple > _WICK_FACTOR
    if not far.any():
        return _none_flagged(series)
    credible = wick < _MAX_CREDIBLE_WICK
    credible &= _traded_on(bars, rows, _CONFIRMING_FACTOR_OF_WICKS)
    return np.where(far & ~credible, multiple, np.nan)


def volume_per_trade(series: SeriesContext, request: ValidationRequest) -> Floats:
    """Units per trade below 1/1.6 or above 1.6 times the median of the 60 bars before and of the
    bar before, and more than 5 robust deviations of its logarithm from the median; observed: the
    multiple.

    Volume and trades rise and fall together; a volume that is counted by half, or twice, does so
    alone. Not judged where the vendor sends no trades.
    """
    bars, rows = series.bars, series.checked_rows
    counted = (bars.trades > 0) & (bars.volume > 0)
    if not counted[rows].any():
        return _none_flagged(series)
    size = np.log(np.where(counted, bars.volume, np.nan) / np.where(counted, bars.trades, np.nan))
    median, deviation = rolling_median_mad(size, rows)
    difference = size[rows] - median
    far = np.abs(difference) > np.maximum(np.log(_LOT_FACTOR), _LOT_Z * deviation)
    before = size[np.maximum(rows - 1, 0)]
    far &= ~(np.abs(size[rows] - before) <= np.log(_LOT_FACTOR))  # not where a new level stays
    return np.where(far, np.exp(difference), np.nan)


def split(series: SeriesContext, request: ValidationRequest) -> Floats:
    """A price step near n:1, 1:n or 3:2; observed: the ratio, new shares for an old one.

    Bars are on one share basis here, so that a known split makes no step. With n the ratio nearest
    to previous close / open, all of these must hold:

    - the step is n and came between two sessions: |ln(n · open / previous close)| ≤ tolerance,
      which is 4 robust standard deviations of the last 60 steps from close to open, within
      [0.01, 0.05]; on intraday bars of stocks it is 0.05 and a new day must have begun;
    - it lasted until the close: |ln(n · close / previous close)| < |ln n| / 2;
    - the price level is new: no close of the 5 bars before the previous one lies nearer to this one
      than to the previous one, as after a bad price;
    - the turnover is usual: close · volume ≤ 3 times the median of the last 60 bars. In a real
      fall by half it is a multiple of that. Intraday bars are not judged by it, since the first one
      of a day always has a high volume.

    A known split that the price did not follow is `split_without_step`, and not flagged again.
    """
    return series.cached("split", lambda: _find_splits(series, request))


def _find_splits(series: SeriesContext, request: ValidationRequest) -> Floats:
    bars, rows = series.bars, series.checked_rows
    if len(bars.ts) < 2:
        return np.full(len(rows), np.nan)
    previous_close = bars.close[np.maximum(rows - 1, 0)]
    to_close = np.log(bars.close[rows] / previous_close)
    to_open = np.log(bars.open[rows] / previous_close)
    ratio = nearest_split_ratio(-to_open)
    size = np.log(ratio)
    error = np.abs(to_open + size)
    likely = (rows > 0) & (error <= _MAX_TOLERANCE) & (np.abs(to_close + size) < abs(size) / 2)
    likely &= _between_sessions(bars.ts, rows, request)
    likely &= np.isnan(split_without_step(series, request))
    if not likely.any():
        return np.full(len(rows), np.nan)
    likely &= ~_reverts(bars.close, rows)
    if not request.timeframe.intraday:
        candidates = np.flatnonzero(likely)
        likely[candidates] &= error[candidates] <= _tolerance(series, candidates)
        likely[candidates] &= ~_has_high_turnover(series, candidates)
    return np.where(likely, ratio, np.nan)


def split_without_step(series: SeriesContext, request: ValidationRequest) -> Floats:
    """The first bar after a known split of at least 5:4 or 4:5 whose close, as traded, is nearer to
    the previous one than to what the split makes of it; observed: the ratio.

    |ln(ratio · close / previous close)| > |ln ratio| / 2
    """
    observed = _none_flagged(series)
    bars, splits = series.as_traded, request.splits
    if bars is None:
        return observed
    rows = bars.ts.searchsorted(splits.first_ts)
    for row, first_ts, ratio in zip(rows, splits.first_ts, splits.ratios, strict=True):
        until = request.adjusted_until
        if until is not None and first_ts <= to_datetime64(until):
            continue
        if max(series.first_checked, 1) <= row < len(bars) and abs(np.log(ratio)) >= _MIN_STEP:
            step = np.log(ratio * bars.close[row] / bars.close[row - 1])
            if abs(step) > abs(np.log(ratio)) / 2:
                observed[row - series.first_checked] = ratio
    return observed


def _between_sessions(ts: Timestamps, rows: NDArray[np.intp], request: ValidationRequest) -> Mask:
    if not request.timeframe.intraday or request.market is AssetClass.CRYPTO:
        return np.ones(len(rows), dtype=bool)
    day = canonical(request.market, Timeframe.D1, ts)
    return np.asarray(day[rows] > day[np.maximum(rows - 1, 0)])


def _reverts(close: Floats, rows: NDArray[np.intp]) -> Mask:
    """Whether the close returns to the level of before the previous one."""
    level = np.log(close)
    current, previous = level[rows], level[np.maximum(rows - 1, 0)]
    reverts = np.zeros(len(rows), dtype=bool)
    for back in range(2, _BARS_BEFORE_STEP + 2):
        earlier = level[np.maximum(rows - back, 0)]
        reverts |= (rows >= back) & (np.abs(earlier - current) < np.abs(earlier - previous))
    return reverts


def _tolerance(series: SeriesContext, candidates: NDArray[np.intp]) -> Floats:
    bars = series.bars
    to_open = np.append(np.nan, np.log(bars.open[1:] / bars.close[:-1]))
    _, deviation = rolling_median_mad(to_open, series.checked_rows[candidates])
    tolerance = _TOLERANCE_DEVIATIONS * np.nan_to_num(deviation)
    return np.asarray(np.clip(tolerance, _MIN_TOLERANCE, _MAX_TOLERANCE))


def _has_high_turnover(series: SeriesContext, candidates: NDArray[np.intp]) -> Mask:
    turnover = series.bars.close * series.bars.volume
    rows = series.checked_rows[candidates]
    median = rolling_median(turnover, rows)
    return np.asarray(turnover[rows] > _MAX_TURNOVER_FACTOR * median)


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
    median, deviation = _with_dead_bars(
        series,
        lambda dead: np.stack(rolling_median_mad(_alive(log_volume, dead), series.checked_rows)),
    )
    difference = log_volume[series.checked_rows] - median
    return np.exp(difference), difference / np.maximum(deviation, _BASIS_POINT)


def _traded_within(volume: Floats, bars: int) -> Mask:
    """Whether any of the given number of bars before each had volume."""
    count = np.append(0, np.cumsum(volume > 0))
    rows = np.arange(len(volume))
    return np.asarray(count[rows] > count[np.maximum(rows - bars, 0)])


def _none_flagged(series: SeriesContext) -> Floats:
    return np.full(len(series.checked_rows), np.nan)


def _flagged(series: SeriesContext, flagged: Mask, observed: NDArray[np.intp]) -> Floats:
    return np.where(flagged, observed, np.nan)[series.first_checked :]


def rolling_median_mad(column: Floats, rows: NDArray[np.intp]) -> tuple[Floats, Floats]:
    """Median, and 1.4826 · median absolute deviation from it, of the 60 values before each row.

    NaN are ignored; both are NaN where fewer than 20 values are left.
    """
    medians, deviations = np.full((2, len(rows)), np.nan)
    for part, values, count in _sorted_windows(column, rows):
        medians[part] = np.where(count >= MIN_BARS, _median_of_sorted(values, count), np.nan)
        values -= medians[part, None]
        np.abs(values, out=values).sort(axis=1)
        deviations[part] = np.where(
            count >= MIN_BARS, MAD_TO_STD * _median_of_sorted(values, count), np.nan
        )
    return medians, deviations


def rolling_median(column: Floats, rows: NDArray[np.intp]) -> Floats:
    """The median alone."""
    medians = np.full(len(rows), np.nan)
    for part, values, count in _sorted_windows(column, rows):
        medians[part] = np.where(count >= MIN_BARS, _median_of_sorted(values, count), np.nan)
    return medians


def _sorted_windows(
    column: Floats, rows: NDArray[np.intp]
) -> Iterator[tuple[slice, Floats, NDArray[np.intp]]]:
    """The 60 values before each row in ascending order, and how many are not NaN, in parts."""
    if len(rows) == 0:
        return
    first = max(0, int(rows[0]) - WINDOW)  # rows ascend
    padded = np.full(WINDOW + int(rows[-1]) - first, np.nan)
    padded[WINDOW:] = column[first : rows[-1]]
    windows = np.lib.stride_tricks.sliding_window_view(np.append(padded, np.nan), WINDOW)
    for begin in range(0, len(rows), _CHUNK):
        part = slice(begin, begin + _CHUNK)
        values = windows[rows[part] - first]
        values.sort(axis=1)
        yield part, values, _count_numbers(values)


def row_medians(values: Floats) -> Floats:
    """Median of each row of a table, ignoring NaN; NaN where it has nothing else."""
    ordered = np.sort(values, axis=1)
    return _median_of_sorted(ordered, _count_numbers(ordered))


def _count_numbers(ordered: Floats) -> NDArray[np.intp]:
    """Number of values that are not NaN in each sorted row; NaN are sorted last."""
    rows, length = ordered.shape
    if not np.isnan(ordered[:, -1]).any():
        return np.full(rows, length)
    return np.asarray(np.count_nonzero(~np.isnan(ordered), axis=1))


def _median_of_sorted(ordered: Floats, count: NDArray[np.intp]) -> Floats:
    """Median of the first `count` values of each sorted row; NaN where it has none."""
    row = np.arange(len(ordered))
    lower = ordered[row, np.maximum(count - 1, 0) // 2]
    upper = ordered[row, np.minimum(count // 2, ordered.shape[1] - 1)]
    return np.asarray(np.where(count % 2 == 1, lower, (lower + upper) / 2))


def run_lengths(mask: Mask) -> NDArray[np.intp]:
    """At each row, the number of consecutive True up to and including it."""
    rows = np.arange(1, len(mask) + 1)
    return np.asarray(rows - np.maximum.accumulate(np.where(mask, 0, rows)))
