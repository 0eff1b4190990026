"""Checks of single bars, and of bars sent for the same start."""

from __future__ import annotations

import numpy as np

from enrichment.domain import calendars
from enrichment.domain.bars import Bars, Timestamps, isin_sorted, to_datetime, to_datetime64
from enrichment.pipeline.validation.check import Mask, ValidationRequest

_EPOCH = np.datetime64("1970-01-01", "us")
_LEAST, _MOST, _MOST_VOLUME = 1e-15, 1e15, 1e30


def all_valid(bars: Bars, request: ValidationRequest) -> bool:
    """Whether none of the checks below objects to any bar: so it is as a rule, and soon seen."""
    return len(bars) == 0 or (_values_valid(bars) and _starts_valid(bars, request))


def _values_valid(bars: Bars) -> bool:
    enclosed = (bars.low <= bars.open) & (bars.open <= bars.high)
    enclosed &= (bars.low <= bars.close) & (bars.close <= bars.high)
    prices = enclosed.all() and bars.low.min() >= _LEAST and bars.high.max() <= _MOST
    return bool(prices and bars.volume.min() >= 0 and bars.volume.max() <= _MOST_VOLUME)


def _starts_valid(bars: Bars, request: ValidationRequest) -> bool:
    ts = bars.ts
    start, end, now = map(to_datetime64, (request.window.start, request.window.end, request.now))
    ascending = bool((ts[1:] > ts[:-1]).all())
    if not (ascending and ts[0] >= start and ts[-1] < end and ts[-1] <= now):
        return False
    return not (misaligned(bars, request).any() or no_session(bars, request).any())


def duplicate(bars: Bars, request: ValidationRequest) -> Mask:
    """Every column equals that of a bar sent later."""
    found = np.zeros(len(bars), dtype=bool)
    shared = np.flatnonzero(_is_repeated(bars.ts))
    if len(shared):
        values = [c[shared].astype("f8").view("i8") for c in bars.columns().values()]
        kinds = np.unique(np.column_stack(values), axis=0, return_inverse=True)[1].ravel()
        newest = np.zeros(kinds.max() + 1, dtype=np.intp)
        np.maximum.at(newest, kinds, np.arange(len(kinds)))
        found[shared] = newest[kinds] != np.arange(len(kinds))
    return found


def epoch_unit(bars: Bars, request: ValidationRequest) -> Mask:
    """All bars sent start in January 1970, none of which was asked for: 1.7e9 seconds, read as
    milliseconds, is 20 January 1970.
    """
    january = (bars.ts >= _EPOCH) & (bars.ts < _EPOCH + np.timedelta64(31, "D"))
    asked = to_datetime64(request.window.start) < _EPOCH + np.timedelta64(31, "D")
    return np.full(len(bars), bool(january.all()) and not asked)


def outside_window(bars: Bars, request: ValidationRequest) -> Mask:
    """ts < window.start or ts ≥ window.end or ts > now."""
    start, end, now = map(to_datetime64, (request.window.start, request.window.end, request.now))
    return np.asarray((bars.ts < start) | (bars.ts >= end) | (bars.ts > now))


def misaligned(bars: Bars, request: ValidationRequest) -> Mask:
    """ts is not on the timeframe's clock (`calendars.on_clock`)."""
    return ~calendars.is_aligned(request.asset_class, request.timeframe, bars.ts)


def non_finite_price(bars: Bars, request: ValidationRequest) -> Mask:
    """Open, high, low or close is NaN or infinite."""
    prices = np.stack([bars.open, bars.high, bars.low, bars.close])
    return np.asarray(~np.isfinite(prices).all(axis=0))


def non_positive_price(bars: Bars, request: ValidationRequest) -> Mask:
    """Open, high, low or close ≤ 0."""
    prices = np.stack([bars.open, bars.high, bars.low, bars.close])
    return np.asarray((prices <= 0).any(axis=0))


def extreme_value(bars: Bars, request: ValidationRequest) -> Mask:
    """A finite price above 0 but not within [1e-15, 1e15], or a finite volume above 1e30: near the
    limits of the number format, not of any market.
    """
    prices = np.stack([bars.open, bars.high, bars.low, bars.close])
    real = np.isfinite(prices) & (prices > 0)
    extreme = real & ((prices < _LEAST) | (prices > _MOST))
    much = np.isfinite(bars.volume) & (bars.volume > _MOST_VOLUME)
    return np.asarray(extreme.any(axis=0) | much)


def ohlc(bars: Bars, request: ValidationRequest) -> Mask:
    """high < max(open, low, close) or low > min(open, high, close)."""
    above = np.maximum(np.maximum(bars.open, bars.close), bars.low)
    below = np.minimum(np.minimum(bars.open, bars.close), bars.high)
    return np.asarray((bars.high < above) | (bars.low > below))


def negative_volume(bars: Bars, request: ValidationRequest) -> Mask:
    """volume < 0, or not finite."""
    return ~(np.isfinite(bars.volume) & (bars.volume >= 0))


def conflict(bars: Bars, request: ValidationRequest) -> Mask:
    """A different good bar with the same ts was sent later: the last word counts."""
    order = np.argsort(bars.ts, kind="stable")
    ts = bars.ts[order]
    found = np.zeros(len(bars), dtype=bool)
    found[order[:-1]] = ts[:-1] == ts[1:]
    return found


def out_of_order(bars: Bars, request: ValidationRequest) -> Mask:
    """ts < the largest ts sent before."""
    return np.asarray(bars.ts < np.maximum.accumulate(bars.ts))


def no_session(bars: Bars, request: ValidationRequest) -> Mask:
    """A daily or weekly bar where the calendar has no session."""
    if request.timeframe.intraday or len(bars) == 0:
        return np.zeros(len(bars), dtype=bool)
    start, end = to_datetime(bars.ts.min()), to_datetime(bars.ts.max() + np.timedelta64(1, "D"))
    known = calendars.bar_starts(request.asset_class, request.timeframe, start, end)
    return ~isin_sorted(bars.ts, known)


def _is_repeated(ts: Timestamps) -> Mask:
    order = np.argsort(ts, kind="stable")
    same = ts[order[1:]] == ts[order[:-1]]
    shares = np.zeros(len(ts), dtype=bool)
    shares[order[1:][same]] = shares[order[:-1][same]] = True
    return shares
