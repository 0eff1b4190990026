"""Checks of fetched bars: what is wrong is flagged, what is bad is set apart with its reason.

A check is a function from bars to a mask of those it objects to, and one line in `CHECKS`. Checks
run in four stages, each on what the one before left over: rows sent twice are dropped, bad bars are
quarantined, then of contradicting bars all but the last sent; what remains is kept, and remarked on
where that is due.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from enrichment import calendars
from enrichment.domain import (
    AssetClass,
    Bars,
    Checked,
    Flag,
    Quarantined,
    Severity,
    Timeframe,
    Timestamps,
    Window,
    to_datetime,
    to_datetime64,
)

Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked for, and when: what a check may know beside the bars."""

    asset_class: AssetClass
    timeframe: Timeframe
    window: Window
    now: datetime


class Stage(IntEnum):
    REPEATS = 1
    BARS = 2
    ORDER = 3
    REMARKS = 4


@dataclass(frozen=True, slots=True)
class Check:
    """find: bars and request → mask of the bars that it objects to. says: the flag's detail, with
    the bar's columns as fields.
    """

    stage: Stage
    severity: Severity
    find: Callable[[Bars, Request], Mask]
    says: str

    @property
    def drops(self) -> bool:
        """Whether the bars that it objects to are taken out."""
        return self.severity is Severity.ERROR or self.stage is Stage.REPEATS


def duplicate(bars: Bars, request: Request) -> Mask:
    """Every column equals that of a bar sent later."""
    found = np.zeros(len(bars), dtype=bool)
    shared = np.flatnonzero(_shares_ts(bars.ts))
    if len(shared):
        values = [c[shared].astype("f8").view("i8") for c in bars.columns().values()]
        kinds = np.unique(np.column_stack(values), axis=0, return_inverse=True)[1].ravel()
        newest = np.zeros(kinds.max() + 1, dtype=np.intp)
        np.maximum.at(newest, kinds, np.arange(len(kinds)))
        found[shared] = newest[kinds] != np.arange(len(kinds))
    return found


def outside_window(bars: Bars, request: Request) -> Mask:
    """ts < window.start or ts ≥ window.end or ts > now."""
    start, end, now = map(to_datetime64, (request.window.start, request.window.end, request.now))
    return np.asarray((bars.ts < start) | (bars.ts >= end) | (bars.ts > now))


def misaligned(bars: Bars, request: Request) -> Mask:
    """ts is not on the timeframe's clock (`calendars.on_clock`)."""
    return ~calendars.on_clock(request.asset_class, request.timeframe, bars.ts)


def non_finite_price(bars: Bars, request: Request) -> Mask:
    """Open, high, low or close is NaN or infinite."""
    prices = np.stack([bars.open, bars.high, bars.low, bars.close])
    return np.asarray(~np.isfinite(prices).all(axis=0))


def non_positive_price(bars: Bars, request: Request) -> Mask:
    """Open, high, low or close ≤ 0."""
    prices = np.stack([bars.open, bars.high, bars.low, bars.close])
    return np.asarray((prices <= 0).any(axis=0))


def ohlc(bars: Bars, request: Request) -> Mask:
    """high < max(open, low, close) or low > min(open, high, close)."""
    above = np.maximum(np.maximum(bars.open, bars.close), bars.low)
    below = np.minimum(np.minimum(bars.open, bars.close), bars.high)
    return np.asarray((bars.high < above) | (bars.low > below))


def negative_volume(bars: Bars, request: Request) -> Mask:
    """volume < 0, or not finite."""
    return ~(np.isfinite(bars.volume) & (bars.volume >= 0))


def conflict(bars: Bars, request: Request) -> Mask:
    """A different good bar with the same ts was sent later: the last word counts."""
    order = np.argsort(bars.ts, kind="stable")
    ts = bars.ts[order]
    found = np.zeros(len(bars), dtype=bool)
    found[order[:-1]] = ts[:-1] == ts[1:]
    return found


def out_of_order(bars: Bars, request: Request) -> Mask:
    """ts < the largest ts sent before."""
    return np.asarray(bars.ts < np.maximum.accumulate(bars.ts))


def zero_volume(bars: Bars, request: Request) -> Mask:
    """volume = 0: nobody traded, or the market reports no volume."""
    return np.asarray(bars.volume == 0)


def no_session(bars: Bars, request: Request) -> Mask:
    """A daily or weekly bar where the calendar has no session."""
    if request.timeframe.intraday or len(bars) == 0:
        return np.zeros(len(bars), dtype=bool)
    start, end = to_datetime(bars.ts.min()), to_datetime(bars.ts.max() + np.timedelta64(1, "D"))
    known = calendars.bar_starts(request.asset_class, request.timeframe, start, end)
    return ~np.isin(bars.ts, known)


_OHLC = "open {open}, high {high}, low {low}, close {close}"

CHECKS: Mapping[str, Check] = {
    "duplicate": Check(
        Stage.REPEATS, Severity.WARNING, duplicate, "the same bar was sent more than once"
    ),
    "outside_window": Check(
        Stage.BARS, Severity.ERROR, outside_window, "starts at {ts} UTC, outside what was asked for"
    ),
    "misaligned": Check(
        Stage.BARS, Severity.ERROR, misaligned, "starts at {ts} UTC, off the timeframe's clock"
    ),
    "non_finite_price": Check(
        Stage.BARS, Severity.ERROR, non_finite_price, "a price is not a number: " + _OHLC
    ),
    "non_positive_price": Check(
        Stage.BARS, Severity.ERROR, non_positive_price, "a price is not above 0: " + _OHLC
    ),
    "ohlc": Check(
        Stage.BARS, Severity.ERROR, ohlc, "high and low do not enclose the bar: " + _OHLC
    ),
    "negative_volume": Check(
        Stage.BARS, Severity.ERROR, negative_volume, "volume {volume} is negative or not a number"
    ),
    "conflict": Check(
        Stage.ORDER, Severity.ERROR, conflict, "a different bar was sent later for {ts} UTC"
    ),
    "out_of_order": Check(
        Stage.ORDER, Severity.WARNING, out_of_order, "sent after a bar that starts later"
    ),
    "zero_volume": Check(Stage.REMARKS, Severity.INFO, zero_volume, "volume is 0"),
    "no_session": Check(
        Stage.REMARKS, Severity.WARNING, no_session, "the exchange has no session at {ts} UTC"
    ),
}


def validate(
    bars: Bars, *, asset_class: AssetClass, timeframe: Timeframe, window: Window, now: datetime
) -> Checked:
    """The good bars, ascending and unique, with what was found and what was set apart.

    The bar that is still forming at `now` is left out without a flag: the next run brings it.
    """
    request = Request(asset_class, timeframe, window, now)
    left = bars.take(~_forming(bars.ts, request))
    flags: list[Flag] = []
    quarantined: list[Quarantined] = []
    for stage in Stage:
        left, found, apart = _run(stage, left, request)
        flags += found
        quarantined += apart
    return Checked(
        left.take(np.argsort(left.ts, kind="stable")),
        tuple(sorted(flags, key=lambda flag: flag.ts)),
        tuple(sorted(quarantined, key=lambda kept: kept.ts)),
    )


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


def _run(stage: Stage, bars: Bars, request: Request) -> tuple[Bars, list[Flag], list[Quarantined]]:
    """The bars that a stage leaves over, what it found, and what it set apart."""
    flags: list[Flag] = []
    quarantined: list[Quarantined] = []
    bad = np.zeros(len(bars), dtype=bool)
    for name, check in CHECKS.items():
        if check.stage is not stage:
            continue
        found = check.find(bars, request)
        flags += _flags(bars, found, name, check)
        if check.severity is Severity.ERROR:
            quarantined += _set_apart(bars, found & ~bad, name, check)
        if check.drops:
            bad |= found
    return bars.take(~bad), flags, quarantined


def _forming(ts: Timestamps, request: Request) -> Mask:
    ended = calendars.is_complete(request.asset_class, request.timeframe, ts, request.now)
    return np.asarray(~ended & (ts <= to_datetime64(request.now)))


def _shares_ts(ts: Timestamps) -> Mask:
    order = np.argsort(ts, kind="stable")
    same = ts[order[1:]] == ts[order[:-1]]
    shares = np.zeros(len(ts), dtype=bool)
    shares[order[1:][same]] = shares[order[:-1][same]] = True
    return shares


def _flags(bars: Bars, found: Mask, name: str, check: Check) -> Iterator[Flag]:
    """One flag per start, however many bars share it."""
    rows = np.flatnonzero(found)
    for row in rows[np.unique(bars.ts[rows], return_index=True)[1]]:
        yield Flag(to_datetime(bars.ts[row]), name, check.severity, _detail(bars, row, check))


def _set_apart(bars: Bars, found: Mask, name: str, check: Check) -> Iterator[Quarantined]:
    for row in np.flatnonzero(found):
        columns = {n: float(c[row]) for n, c in bars.columns().items() if n != "ts"}
        sent = {n: value if np.isfinite(value) else None for n, value in columns.items()}
        yield Quarantined(to_datetime(bars.ts[row]), name, _detail(bars, row, check), sent)


def _detail(bars: Bars, row: np.intp, check: Check) -> str:
    row_values = {n: f"{c[row]:.10g}" for n, c in bars.columns().items() if n != "ts"}
    return check.says.format(ts=f"{to_datetime(bars.ts[row]):%Y-%m-%d %H:%M:%S}", **row_values)
