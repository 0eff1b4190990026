"""Which bars should exist: exchange sessions for stocks and ETFs, every hour of every day for
crypto.

Stocks and ETFs follow XNYS of `exchange_calendars` (holidays, half-days and daylight saving time
included); their intraday bars stand on the New York clock and cover the regular session, so the
first hourly bar starts at 09:00 although trading starts at 09:30. Crypto trades around the clock,
in UTC.

All functions are pure: moments are arguments, results are `datetime64[us]` arrays of bar starts.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from operator import attrgetter
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from enrichment.domain.bars import Timestamps, to_datetime64
from enrichment.domain.model import AssetClass, Timeframe

_DAY = np.timedelta64(1, "D").astype("timedelta64[us]")
_WEEK = 7 * _DAY
_MONDAY = np.datetime64("1970-01-05", "us")
_ZONE = ZoneInfo("America/New_York")


@dataclass(frozen=True, eq=False)
class _Sessions:
    """An exchange's sessions: label (date at 00:00), local midnight, open and close, all in UTC."""

    label: Timestamps
    midnight: Timestamps
    open: Timestamps
    close: Timestamps


_columns = attrgetter("label", "midnight", "open", "close")
_building = threading.Lock()


def _shared(column: Timestamps) -> Timestamps:
    """The column, which nobody may change any more."""
    column.setflags(write=False)
    return column


@lru_cache(maxsize=4)
def _xnys(first_year: int, last_year: int) -> _Sessions:
    with _building:  # by one thread, the others wait for it
        return _built(first_year, last_year)


@lru_cache(maxsize=4)
def _built(first_year: int, last_year: int) -> _Sessions:
    import exchange_calendars
    import pandas as pd

    calendar = exchange_calendars.get_calendar(
        "XNYS", start=f"{first_year}-01-01", end=f"{last_year}-12-31"
    )
    labels = calendar.sessions
    midnight = labels.tz_localize(_ZONE).tz_convert("UTC")

    def utc(index: pd.DatetimeIndex) -> Timestamps:
        naive = index.tz_localize(None) if index.tz is not None else index
        return _shared(np.asarray(naive.to_numpy(dtype="datetime64[us]")))

    return _Sessions(
        utc(labels),
        utc(midnight),
        utc(pd.DatetimeIndex(calendar.opens)),
        utc(pd.DatetimeIndex(calendar.closes)),
    )


def _sessions(start: np.datetime64, end: np.datetime64) -> _Sessions:
    """Sessions of the years around [start, end]; the bounds move in decades so that they cache."""
    first = int(start.astype("datetime64[Y]").astype(int)) + 1970
    last = int(end.astype("datetime64[Y]").astype(int)) + 1970
    return _xnys(min(first // 10 * 10, 1990), (last + 1) // 10 * 10 + 9)


def monday_of(ts: Timestamps) -> Timestamps:
    """The Monday, at 00:00, of each moment's week."""
    return np.asarray(_MONDAY + (ts - _MONDAY) // _WEEK * _WEEK)


def bar_starts(
    asset_class: AssetClass, timeframe: Timeframe, start: datetime, end: datetime
) -> Timestamps:
    """Starts of the bars that should exist with start ≤ ts < end, ascending."""
    lower, upper = to_datetime64(start), to_datetime64(end)
    ts = _grid(asset_class, timeframe, lower, upper)[0]
    return ts[slice(*ts.searchsorted([lower, upper]))]


def last_complete(asset_class: AssetClass, timeframe: Timeframe, now: datetime) -> np.datetime64:
    """Start of the newest bar that has ended by `now`."""
    return _newest(asset_class, timeframe, now.replace(second=0, microsecond=0))


@lru_cache(maxsize=64)
def _newest(asset_class: AssetClass, timeframe: Timeframe, minute: datetime) -> np.datetime64:
    """Bars end on whole minutes, so that all series of one minute share the answer."""
    at = to_datetime64(minute)
    ts, ends = _grid(asset_class, timeframe, at - 3 * _WEEK, at + _DAY)
    newest: np.datetime64 = ts[ends <= at][-1]
    return newest


def is_complete(
    asset_class: AssetClass, timeframe: Timeframe, ts: Timestamps, now: datetime
) -> NDArray[np.bool_]:
    """Whether each bar has ended by `now`: the one still forming is False."""
    newest = last_complete(asset_class, timeframe, now)
    if not timeframe.intraday:
        return np.asarray(ts <= newest)
    return np.asarray(ts + np.timedelta64(timeframe.duration) <= to_datetime64(now))


def sessions_behind(
    asset_class: AssetClass, timeframe: Timeframe, newest: datetime | None, now: datetime
) -> int:
    """Sessions that ended by `now` and hold bars newer than `newest`; 0 is fresh.

    A session is a trading day (crypto: a UTC day), or a week for weekly bars.
    """
    unit = timeframe if timeframe is Timeframe.W1 else Timeframe.D1
    at = to_datetime64(now)
    since = at - 60 * _DAY if newest is None else to_datetime64(newest)
    ts, ends = _grid(asset_class, unit, since - _WEEK, at + _DAY)
    done = ts[ends <= at]
    if timeframe.intraday:
        # After hours in New York it is already tomorrow in UTC.
        return int(np.count_nonzero(done > canonical(asset_class, unit, since.reshape(1))))
    return int(np.count_nonzero(done > since))


def canonical(asset_class: AssetClass, timeframe: Timeframe, ts: Timestamps) -> Timestamps:
    """Vendors' bar starts as the keys used here.

    Daily bars, which vendors start at local midnight or at the opening, get their session's date;
    weekly ones, which some start on Sunday, the Monday of their week. Intraday bars stay as they
    are.
    """
    if timeframe.intraday:
        return ts
    day = ts if asset_class is AssetClass.CRYPTO else _local(ts)
    day = day.astype("datetime64[D]").astype("datetime64[us]")
    return day if timeframe is Timeframe.D1 else monday_of(day + _DAY)


def is_aligned(asset_class: AssetClass, timeframe: Timeframe, ts: Timestamps) -> NDArray[np.bool_]:
    """Whether each start stands on the timeframe's clock.

    Intraday: a whole number of bars after midnight, the exchange's or, for crypto, UTC's. Daily:
    00:00 UTC; weekly: a Monday's.
    """
    if timeframe is Timeframe.W1:
        return np.asarray(monday_of(ts) == ts)
    return np.asarray(clock_floor(asset_class, timeframe, ts) == ts)


def clock_floor(asset_class: AssetClass, timeframe: Timeframe, ts: Timestamps) -> Timestamps:
    """Start of the bar, of a day at most, that each moment lies in, on the clock of `on_clock`."""
    local = timeframe is Timeframe.H4 and asset_class is not AssetClass.CRYPTO
    clock = _local(ts) if local else ts
    since_midnight = clock - clock.astype("datetime64[D]")
    return np.asarray(ts - since_midnight % np.timedelta64(timeframe.duration))


def _local(ts: Timestamps) -> Timestamps:
    """UTC moments on the exchange's wall clock."""
    switches, ahead = _clock()
    return np.asarray(ts + ahead[switches.searchsorted(ts, side="right")])


def local_midnights(asset_class: AssetClass, labels: Timestamps) -> Timestamps:
    """Local midnight, in UTC, of the given days: how vendors stamp daily and weekly bars."""
    if asset_class is AssetClass.CRYPTO:
        return labels
    switches, ahead = _clock()
    # The clock is never set in the hours between midnight in UTC and the local one.
    return np.asarray(labels - ahead[switches.searchsorted(labels, side="right")])


@lru_cache(maxsize=1)
def _clock() -> tuple[Timestamps, NDArray[np.timedelta64]]:
    """The moments from 1900 to 2099 at which the exchange's clock is set, and how far ahead of UTC
    it is before the first and after each of them.
    """
    days = np.arange("1900-01-01", "2100-01-01", dtype="datetime64[D]")
    that_day = days[np.flatnonzero(np.diff(_ahead(days)))]
    hours = that_day[:, None] + np.arange(25).astype("timedelta64[h]")
    ahead = _ahead(hours.ravel()).reshape(hours.shape)
    day, hour = np.nonzero(ahead[:, 1:] != ahead[:, :-1])
    switches = hours[day, hour + 1].astype("datetime64[us]")
    return switches, np.append(ahead[0, 0], ahead[day, hour + 1])


def _ahead(moments: NDArray[np.datetime64]) -> NDArray[np.timedelta64]:
    import pandas as pd

    utc = pd.DatetimeIndex(moments).tz_localize("UTC")
    local = utc.tz_convert(_ZONE).tz_localize(None)
    return np.asarray((local - utc.tz_localize(None)).to_numpy(dtype="timedelta64[us]"))


def _grid(
    asset_class: AssetClass, timeframe: Timeframe, lower: np.datetime64, upper: np.datetime64
) -> tuple[Timestamps, Timestamps]:
    """Starts and ends of all bars that may touch [lower, upper]; callers trim."""
    if asset_class is AssetClass.CRYPTO:
        return _clock_grid(timeframe, lower, upper)
    sessions = _sessions(lower, upper)
    first, last = sessions.label.searchsorted([lower - _WEEK, upper + _WEEK])
    near = slice(int(first), int(last) + 1)
    chosen = _Sessions(*(column[near] for column in _columns(sessions)))
    if timeframe is Timeframe.D1:
        return chosen.label, chosen.close
    if timeframe is Timeframe.W1:
        return _weekly_grid(chosen)
    return _intraday_grid(chosen, np.timedelta64(timeframe.duration))


def _clock_grid(
    timeframe: Timeframe, lower: np.datetime64, upper: np.datetime64
) -> tuple[Timestamps, Timestamps]:
    step = np.timedelta64(timeframe.duration)
    origin = _MONDAY
    first = origin + (lower - origin) // step * step
    ts = np.arange(first, upper + step, step, dtype="datetime64[us]")
    return ts, np.asarray(ts + step, dtype="datetime64[us]")


def _weekly_grid(sessions: _Sessions) -> tuple[Timestamps, Timestamps]:
    mondays = monday_of(sessions.label)
    last_of_week = np.flatnonzero(np.append(mondays[1:] != mondays[:-1], True))
    # The last week at hand may be cut: it counts only if a later session proves it whole.
    whole = last_of_week[:-1]
    return mondays[whole], sessions.close[whole]


def _intraday_grid(sessions: _Sessions, step: np.timedelta64) -> tuple[Timestamps, Timestamps]:
    first = sessions.midnight + (sessions.open - sessions.midnight) // step * step
    counts = -(-(sessions.close - first) // step)
    base = np.repeat(first, counts)
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    ts = base + within * step
    return ts, ts + step
