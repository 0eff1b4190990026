"""What a check is; the checks of single bars, and of bars with the same start.

>>> close = np.array([10.0, np.nan])
>>> bars = Bars.of(np.arange(2).astype("datetime64[D]"), close, close, close, close, volume=close)
>>> from datetime import UTC
>>> from enrichment.domain.model import AssetClass, Timeframe
>>> window = Window(datetime(1970, 1, 1, tzinfo=UTC), datetime(1970, 1, 3, tzinfo=UTC))
>>> request = ValidationRequest(AssetClass.CRYPTO, Timeframe.D1, window, now=window.end)
>>> non_finite_price(bars, request).tolist()
[False, True]
>>> BarCheck(CheckStage.BARS, Severity.ERROR, non_finite_price, "close is {close}").removes_bars
True
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum
from typing import TypeVar

import numpy as np

from enrichment.domain import calendars
from enrichment.domain.bars import (
    Bars,
    Floats,
    Mask,
    Timestamps,
    to_datetime64,
)
from enrichment.domain.calendars import Market
from enrichment.domain.corporate_actions import NO_SPLITS, Splits
from enrichment.domain.model import Severity, Timeframe, Window

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ValidationRequest:
    """The series and window that the bars were requested for."""

    market: Market
    timeframe: Timeframe
    window: Window
    now: datetime
    splits: Splits = NO_SPLITS  # that are known
    adjusted_until: datetime | None = None  # bars from before are adjusted for splits up to then
    # Start of a bar → median log return of the series of the exchange in it, where it is notable.
    market_returns: Mapping[np.datetime64, float] = field(default_factory=dict)


class CheckStage(IntEnum):
    """Order in which the checks of bars run; each stage sees what the one before left over."""

    DUPLICATES = 1
    BARS = 2  # one by one
    ORDER = 3  # and bars with the same start
    CALENDAR = 4


@dataclass(frozen=True, slots=True)
class BarCheck:
    """A check of bars as the vendor sent them."""

    stage: CheckStage
    severity: Severity
    function: Callable[[Bars, ValidationRequest], Mask]  # mask of the flagged bars
    message: str  # the flag's detail: a format string with the bar's columns as fields

    @property
    def removes_bars(self) -> bool:
        """Whether flagged bars are kept out of the series."""
        return self.severity is Severity.ERROR or self.stage is CheckStage.DUPLICATES


_EPOCH = np.datetime64("1970-01-01", "us")
_MONTH = np.timedelta64(31, "D")
_MIN_PRICE, _MAX_PRICE, _MAX_VOLUME = 1e-15, 1e15, 1e30


def all_valid(bars: Bars, request: ValidationRequest) -> bool:
    """Whether none of the checks below flags a bar: the usual case, decided fast."""
    return len(bars.ts) == 0 or (_values_valid(bars) and _starts_valid(bars, request))


def _values_valid(bars: Bars) -> bool:
    enclosed = (bars.low <= bars.open) & (bars.open <= bars.high)
    enclosed &= (bars.low <= bars.close) & (bars.close <= bars.high)
    prices = enclosed.all() and bars.low.min() >= _MIN_PRICE and bars.high.max() <= _MAX_PRICE
    return bool(prices and bars.volume.min() >= 0 and bars.volume.max() <= _MAX_VOLUME)


def _starts_valid(bars: Bars, request: ValidationRequest) -> bool:
    ts = bars.ts
    start, end, now = map(to_datetime64, (request.window.start, request.window.end, request.now))
    ascending = bool((ts[1:] > ts[:-1]).all())
    if not (ascending and ts[0] >= start and ts[-1] < end and ts[-1] <= now):
        return False
    return not (misaligned(bars, request).any() or no_session(bars, request).any())


def _prices(bars: Bars) -> Floats:
    return np.stack([bars.open, bars.high, bars.low, bars.close])


def duplicate(bars: Bars, request: ValidationRequest) -> Mask:
    """Every column equals that of a bar sent later."""
    flagged = np.zeros(len(bars), dtype=bool)
    repeated = np.flatnonzero(_has_repeated_start(bars.ts))
    if len(repeated):
        values = [c[repeated].astype("f8").view("i8") for c in bars.columns().values()]
        groups = np.unique(np.column_stack(values), axis=0, return_inverse=True)[1].ravel()
        last = np.zeros(groups.max() + 1, dtype=np.intp)
        np.maximum.at(last, groups, np.arange(len(groups)))
        flagged[repeated] = last[groups] != np.arange(len(groups))
    return flagged


def epoch_unit(bars: Bars, request: ValidationRequest) -> Mask:
    """All bars sent start in January 1970, which was not requested: 1.7e9 seconds, read as
    milliseconds, is 20 January 1970.
    """
    january = (bars.ts >= _EPOCH) & (bars.ts < _EPOCH + _MONTH)
    requested = to_datetime64(request.window.start) < _EPOCH + _MONTH
    return np.full(len(bars), bool(january.all()) and not requested)


def outside_window(bars: Bars, request: ValidationRequest) -> Mask:
    """ts < window.start or ts ≥ window.end or ts > now."""
    start, end, now = map(to_datetime64, (request.window.start, request.window.end, request.now))
    return np.asarray((bars.ts < start) | (bars.ts >= end) | (bars.ts > now))


def misaligned(bars: Bars, request: ValidationRequest) -> Mask:
    """ts is not a multiple of the timeframe (`calendars.is_aligned`)."""
    return ~calendars.is_aligned(request.market, request.timeframe, bars.ts)


def non_finite_price(bars: Bars, request: ValidationRequest) -> Mask:
    """Open, high, low or close is NaN or infinite."""
    return np.asarray(~np.isfinite(_prices(bars)).all(axis=0))


def non_positive_price(bars: Bars, request: ValidationRequest) -> Mask:
    """Open, high, low or close ≤ 0."""
    return np.asarray((_prices(bars) <= 0).any(axis=0))


def extreme_value(bars: Bars, request: ValidationRequest) -> Mask:
    """A finite price above 0 but not within [1e-15, 1e15], or a finite volume above 1e30: numbers
    that overflow in computations and occur in no market.
    """
    prices = _prices(bars)
    valid = np.isfinite(prices) & (prices > 0)
    extreme_price = valid & ((prices < _MIN_PRICE) | (prices > _MAX_PRICE))
    extreme_volume = np.isfinite(bars.volume) & (bars.volume > _MAX_VOLUME)
    return np.asarray(extreme_price.any(axis=0) | extreme_volume)


def ohlc(bars: Bars, request: ValidationRequest) -> Mask:
    """high < max(open, low, close) or low > min(open, high, close)."""
    highest = np.maximum(np.maximum(bars.open, bars.close), bars.low)
    lowest = np.minimum(np.minimum(bars.open, bars.close), bars.high)
    return np.asarray((bars.high < highest) | (bars.low > lowest))


def negative_volume(bars: Bars, request: ValidationRequest) -> Mask:
    """volume < 0, or not finite."""
    return ~(np.isfinite(bars.volume) & (bars.volume >= 0))


def conflict(bars: Bars, request: ValidationRequest) -> Mask:
    """A different valid bar with the same ts was sent later, which replaces it."""
    order = np.argsort(bars.ts, kind="stable")
    ts = bars.ts[order]
    flagged = np.zeros(len(bars), dtype=bool)
    flagged[order[:-1]] = ts[:-1] == ts[1:]
    return flagged


def out_of_order(bars: Bars, request: ValidationRequest) -> Mask:
    """ts < the largest ts sent before."""
    return np.asarray(bars.ts < np.maximum.accumulate(bars.ts))


def no_session(bars: Bars, request: ValidationRequest) -> Mask:
    """A daily or weekly bar where the calendar has no session."""
    if request.timeframe.intraday:
        return np.zeros(len(bars.ts), dtype=bool)
    return ~calendars.has_session(request.market, request.timeframe, bars.ts)


def _has_repeated_start(ts: Timestamps) -> Mask:
    order = np.argsort(ts, kind="stable")
    same = ts[order[1:]] == ts[order[:-1]]
    repeated = np.zeros(len(ts), dtype=bool)
    repeated[order[1:][same]] = repeated[order[:-1][same]] = True
    return repeated
