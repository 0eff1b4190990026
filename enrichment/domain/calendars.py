"""Which bars should exist: exchange sessions for stocks and ETFs, around the clock for crypto.

Stocks and ETFs follow the calendar of their exchange in `exchange_calendars` (holidays, half-days,
pauses at noon and daylight saving time included); their intraday bars start on the exchange's clock
and cover the regular session, so New York's first hourly bar starts at 09:00 although trading
starts at 09:30. Those of symbols with the session `extended` (`set_stock_sessions`) begin at 04:00
in New York and end four hours after the close. Crypto trades 24/7, in UTC.

The time is an argument, results are `datetime64[us]` arrays of bar starts. The only state is what
operators have declared: sessions that are closed, and symbols with extended hours.

>>> from datetime import UTC
>>> week = datetime(2024, 1, 12, tzinfo=UTC), datetime(2024, 1, 18, tzinfo=UTC)
>>> bar_starts(AssetClass.STOCK, Timeframe.D1, *week).astype("datetime64[D]").astype(str).tolist()
['2024-01-12', '2024-01-16', '2024-01-17']
>>> len(bar_starts(AssetClass.CRYPTO, Timeframe.H1, *week))
144
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from functools import lru_cache
from operator import attrgetter
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from enrichment.domain.bars import (
    Mask,
    Timestamps,
    between,
    isin_sorted,
    to_datetime,
    to_datetime64,
)
from enrichment.domain.exchanges import NEW_YORK, NEW_YORK_EXTENDED, Exchange, exchange_of
from enrichment.domain.model import AssetClass, SessionPart, StockSession, Timeframe

_DAY = np.timedelta64(1, "D").astype("timedelta64[us]")
_WEEK = 7 * _DAY
_MONDAY = np.datetime64("1970-01-05", "us")
_EMPTY_SERIES_BEHIND = 60 * _DAY
_FIRST_EXTENDED, _AFTER_CLOSE = np.timedelta64(4, "h"), np.timedelta64(4, "h")

Market = AssetClass | Exchange
"""Whose calendar: an exchange's; of an asset class New York's or, for crypto, all the time."""


def market_of(symbol: str, asset_class: AssetClass, timeframe: Timeframe | None = None) -> Market:
    """Where an instrument trades; for an intraday timeframe also in which hours.

    >>> market_of("7203.T", AssetClass.STOCK).mic
    'XTKS'
    >>> market_of("X:BTCUSD", AssetClass.CRYPTO)
    <AssetClass.CRYPTO: 'crypto'>
    """
    market = _market_of(symbol, asset_class)
    if timeframe is None or not timeframe.intraday or market is not NEW_YORK:
        return market
    extended = stock_session_of(symbol) is StockSession.EXTENDED
    return NEW_YORK_EXTENDED if extended else market


@lru_cache(maxsize=65_536)
def _market_of(symbol: str, asset_class: AssetClass) -> Market:
    return asset_class if asset_class is AssetClass.CRYPTO else exchange_of(symbol)


def _exchange(market: Market) -> Exchange:
    """The exchange, whatever its hours."""
    return market if isinstance(market, Exchange) and not market.extended else NEW_YORK


def is_extended(market: Market) -> bool:
    """Whether trading before the open and after the close counts, too."""
    return isinstance(market, Exchange) and market.extended


@dataclass(frozen=True, eq=False)
class _Sessions:
    """Sessions of an exchange, ascending; all columns in UTC."""

    label: Timestamps  # the session's date at 00:00 UTC
    midnight: Timestamps  # 00:00 of that date in local time
    open: Timestamps
    close: Timestamps
    break_start: Timestamps  # of a pause at noon; NaT where there is none
    break_end: Timestamps


_columns = attrgetter("label", "midnight", "open", "close", "break_start", "break_end")
_loading = threading.Lock()


def _read_only(column: Timestamps) -> Timestamps:
    column.setflags(write=False)
    return column


@lru_cache(maxsize=64)
def _sessions_of_years(exchange: Exchange, first: int, last: int) -> _Sessions:
    with _loading:  # one thread loads them, the others wait for the result
        return _load_sessions(exchange, first, last)


@lru_cache(maxsize=64)
def _load_sessions(exchange: Exchange, first_year: int, last_year: int) -> _Sessions:
    import exchange_calendars
    import pandas as pd

    first, last = f"{first_year}-01-01", f"{last_year}-12-31"
    with warnings.catch_warnings():  # of what newer versions of pandas deprecate
        warnings.simplefilter("ignore")
        if exchange is not NEW_YORK:  # others are known for some years only
            known = type(exchange_calendars.get_calendar(exchange.mic))
            first = max(first, str(known.bound_min() or first)[:10])
            last = min(last, str(known.bound_max() or last)[:10])
            last = max(last, f"{int(first[:4]) + 1}-12-31")  # where all it knows is later
        calendar = exchange_calendars.get_calendar(exchange.mic, start=first, end=last)
    labels = calendar.sessions
    midnight = labels.tz_localize(
        ZoneInfo(exchange.timezone), ambiguous=[True] * len(labels), nonexistent="shift_forward"
    ).tz_convert("UTC")

    def utc(index: pd.DatetimeIndex) -> Timestamps:
        naive = index.tz_localize(None) if index.tz is not None else index
        return _read_only(np.asarray(naive.to_numpy(dtype="datetime64[us]")))

    return _Sessions(
        utc(labels),
        utc(midnight),
        utc(pd.DatetimeIndex(calendar.opens)),
        utc(pd.DatetimeIndex(calendar.closes)),
        utc(pd.DatetimeIndex(calendar.break_starts)),
        utc(pd.DatetimeIndex(calendar.break_ends)),
    )


_closures: Mapping[str, tuple[date, ...]] = {}


def set_closures(closures: Mapping[str, Iterable[date]]) -> None:
    """Take sessions out of the calendars of this process, until the next call.

    >>> week = datetime(2024, 1, 8), datetime(2024, 1, 13)
    >>> set_closures({"XNYS": [date(2024, 1, 9)]})
    >>> len(bar_starts(AssetClass.STOCK, Timeframe.D1, *week))
    4
    >>> set_closures({})
    >>> len(bar_starts(AssetClass.STOCK, Timeframe.D1, *week))
    5

    Args:
        closures: MIC of an exchange → days on which it did not trade though its calendar has them.
    """
    global _closures
    days = {mic: tuple(sorted(closed)) for mic, closed in closures.items()}
    if days != _closures:
        _closures = days
        _newest_complete.cache_clear()


_default_session = StockSession.REGULAR
_sessions_of_symbols: Mapping[str, StockSession] = {}


def set_default_stock_session(session: StockSession) -> None:
    """Choose the hours of the stocks and ETFs in this process that have none of their own."""
    global _default_session
    _default_session = session


def set_stock_sessions(sessions: Mapping[str, StockSession]) -> None:
    """Choose the hours of single stocks and ETFs in this process, until the next call.

    >>> set_stock_sessions({"AAPL": StockSession.EXTENDED})
    >>> day = datetime(2024, 7, 3), datetime(2024, 7, 4)  # a half day
    >>> market = market_of("AAPL", AssetClass.STOCK, Timeframe.H1)
    >>> hours = bar_starts(market, Timeframe.H1, *day)
    >>> hours[[0, -1]].astype("datetime64[h]").astype(str).tolist()  # 04:00 to 17:00
    ['2024-07-03T08', '2024-07-03T20']
    >>> set_stock_sessions({})

    Args:
        sessions: Symbol → its hours.
    """
    global _sessions_of_symbols
    _sessions_of_symbols = dict(sessions)


def stock_session_of(symbol: str) -> StockSession:
    """The hours that are chosen for a stock or ETF; only New York's have extended ones."""
    return _sessions_of_symbols.get(symbol, _default_session)


def session_of(market: Market) -> StockSession:
    """The hours of a market's bars."""
    return StockSession.EXTENDED if is_extended(market) else StockSession.REGULAR


def is_session(exchange: Exchange, day: date) -> bool:
    """Whether the exchange's calendar has a session on that day of 1990 to 2099, declared closed
    or not.
    """
    if not 1990 <= day.year < 2100:
        return False
    label = np.datetime64(day, "us")
    labels = _sessions_of_years(exchange, 1990, day.year // 10 * 10 + 9).label
    return bool(isin_sorted(np.array([label]), labels)[0])


def day_bounds(exchange: Exchange, day: date) -> tuple[datetime, datetime]:
    """Beginning and end of a day on the exchange's clock, in UTC."""
    days = np.array([day, day + timedelta(days=1)], "datetime64[us]")
    start, end = (to_datetime(ts) for ts in local_midnights(exchange, days))
    return start, end


@lru_cache(maxsize=64)
def _open_sessions(
    exchange: Exchange, first: int, last: int, closed: tuple[date, ...]
) -> _Sessions:
    sessions = _sessions_of_years(exchange, first, last)
    kept = ~np.isin(sessions.label, np.array(closed, "datetime64[us]"))
    return _Sessions(*(_read_only(column[kept]) for column in _columns(sessions)))


def _sessions(market: Market, start: np.datetime64, end: np.datetime64) -> _Sessions:
    """Sessions of the decades around [start, end], so that few calls miss the cache."""
    first = int(start.astype("datetime64[Y]").astype(int)) + 1970
    last = int(end.astype("datetime64[Y]").astype(int)) + 1970
    exchange = _exchange(market)
    years = min(first // 10 * 10, 1990), (last + 1) // 10 * 10 + 9
    if closed := _closures.get(exchange.mic):
        return _open_sessions(exchange, *years, closed)
    return _sessions_of_years(exchange, *years)


def in_session(market: Market, ts: Timestamps) -> Mask:
    """Whether each start lies in [open, close) of a session, of extended hours where these count;
    always, for crypto.

    >>> starts = np.array(["2024-07-03T13:00", "2024-07-03T13:30", "2024-07-03T17:00"])
    >>> in_session(AssetClass.STOCK, starts.astype("datetime64[us]")).tolist()  # a half day
    [False, True, False]
    """
    if market is AssetClass.CRYPTO or len(ts) == 0:
        return np.ones(len(ts), dtype=bool)
    sessions = _with_hours(market, _sessions(market, ts.min(), ts.max()))
    row = sessions.open.searchsorted(ts, side="right") - 1
    inside = (row >= 0) & (ts < sessions.close[np.maximum(row, 0)])
    paused = (ts >= sessions.break_start[row]) & (ts < sessions.break_end[row])  # NaT: False
    return np.asarray(inside & ~paused)


def _with_hours(market: Market, sessions: _Sessions) -> _Sessions:
    """The sessions with the first and last time of extended hours where these count."""
    if not is_extended(market):
        return sessions
    first, last = sessions.midnight + _FIRST_EXTENDED, sessions.close + _AFTER_CLOSE
    return replace(sessions, open=first, close=last)


def session_parts(market: Market, timeframe: Timeframe, ts: Timestamps) -> NDArray[np.object_]:
    """The `SessionPart` of each intraday bar of a stock or ETF; None for all others.

    `regular` is every bar of which a part lies in the regular session.

    >>> starts = np.array(["2024-07-03T13", "2024-07-03T17"], "datetime64[us]")  # a half day
    >>> [str(part) for part in session_parts(NEW_YORK, Timeframe.H1, starts)]
    ['regular', 'post']
    """
    if market is AssetClass.CRYPTO or not timeframe.intraday or len(ts) == 0:
        return np.full(len(ts), None, dtype=object)
    sessions = _sessions(market, ts.min(), ts.max())
    row = sessions.midnight.searchsorted(ts, side="right") - 1
    parts = np.full(len(ts), SessionPart.REGULAR, dtype=object)
    parts[ts + np.timedelta64(timeframe.duration) <= sessions.open[row]] = SessionPart.PRE
    parts[ts >= sessions.close[row]] = SessionPart.POST
    return parts


def session_hours(
    labels: Timestamps, market: Market = AssetClass.STOCK
) -> tuple[Timestamps, Timestamps]:
    """Opens and closes, in UTC, of a market's sessions with these labels, of the same shape.

    >>> day = np.array(["2024-07-03"], "datetime64[us]")
    >>> [hours.astype(str).tolist() for hours in session_hours(day)]
    [['2024-07-03T13:30:00.000000'], ['2024-07-03T17:00:00.000000']]
    """
    if len(labels) == 0:
        return labels, labels
    sessions = _with_hours(market, _sessions(market, labels.min(), labels.max()))
    rows = sessions.label.searchsorted(labels)
    return sessions.open[rows], sessions.close[rows]


def monday_of(ts: Timestamps) -> Timestamps:
    """Monday 00:00 of the week of each timestamp."""
    return np.asarray(_MONDAY + (ts - _MONDAY) // _WEEK * _WEEK)


def bar_starts(market: Market, timeframe: Timeframe, start: datetime, end: datetime) -> Timestamps:
    """Starts of the bars that should exist with start ≤ ts < end, ascending."""
    ts, _ = _grid(market, timeframe, to_datetime64(start), to_datetime64(end))
    return between(ts, start, end)


def has_session(market: Market, timeframe: Timeframe, ts: Timestamps) -> Mask:
    """Whether the calendar has a bar that starts at each timestamp."""
    if len(ts) == 0:
        return np.ones(0, dtype=bool)
    return isin_sorted(ts, _grid(market, timeframe, ts.min(), ts.max())[0])


def last_complete(market: Market, timeframe: Timeframe, now: datetime) -> np.datetime64:
    """Start of the newest bar that has ended by `now`."""
    return _newest_complete(market, timeframe, now.replace(second=0, microsecond=0))


@lru_cache(maxsize=64)
def _newest_complete(market: Market, timeframe: Timeframe, minute: datetime) -> np.datetime64:
    """Cached by minute: bars end on whole ones, and a night asks for many series."""
    at = to_datetime64(minute)
    ts, ends = _grid(market, timeframe, at - 3 * _WEEK, at + _DAY)
    newest: np.datetime64 = ts[ends <= at][-1]
    return newest


def is_complete(market: Market, timeframe: Timeframe, ts: Timestamps, now: datetime) -> Mask:
    """Whether each bar has ended by `now`; False for the one still forming."""
    newest = last_complete(market, timeframe, now)
    if not timeframe.intraday:
        return np.asarray(ts <= newest)
    return np.asarray(ts + np.timedelta64(timeframe.duration) <= to_datetime64(now))


def is_forming(market: Market, timeframe: Timeframe, ts: Timestamps, now: datetime) -> Mask:
    """Whether each bar has begun by `now` and not ended."""
    complete = is_complete(market, timeframe, ts, now)
    return np.asarray(~complete & (ts <= to_datetime64(now)))


def ended_bar_starts(
    market: Market, timeframe: Timeframe, start: datetime, now: datetime
) -> Timestamps:
    """Starts of the bars that should exist with start ≤ ts and have ended by `now`, ascending."""
    lower, at = to_datetime64(start), to_datetime64(now)
    ts, ends = _grid(market, timeframe, lower, at)
    return ts[ts.searchsorted(lower) : ends.searchsorted(at, side="right")]


def sessions_behind(
    market: Market, timeframe: Timeframe, newest: datetime | None, now: datetime
) -> int:
    """Number of sessions that ended by `now` and have bars newer than `newest`; 0 is fresh.

    A session is a trading day (crypto: a UTC day), or a week for weekly bars.
    """
    unit = timeframe if timeframe is Timeframe.W1 else Timeframe.D1
    at = to_datetime64(now)
    since = at - _EMPTY_SERIES_BEHIND if newest is None else to_datetime64(newest)
    ts, ends = _grid(market, unit, since - _WEEK, at + _DAY)
    ended = ts[ends <= at]
    if timeframe.intraday:
        # After-hours bars in New York start on the next day of UTC.
        return int(np.count_nonzero(ended > canonical(market, unit, since.reshape(1))))
    return int(np.count_nonzero(ended > since))


def canonical(market: Market, timeframe: Timeframe, ts: Timestamps) -> Timestamps:
    """Bar starts of a vendor as the keys of `Bars`.

    Daily bars, which vendors start at local midnight or at the open, get their session's date;
    weekly ones, which some start on Sunday, the Monday of their week. Intraday bars are unchanged.
    """
    if timeframe.intraday:
        return ts
    day = ts if market is AssetClass.CRYPTO else _to_local(market, ts)
    day = day.astype("datetime64[D]").astype("datetime64[us]")
    return day if timeframe is Timeframe.D1 else monday_of(day + _DAY)


def is_aligned(market: Market, timeframe: Timeframe, ts: Timestamps) -> Mask:
    """Whether each start is a multiple of the timeframe.

    Intraday: a whole number of bars after midnight of the exchange or, for crypto, of UTC. Daily:
    00:00 UTC. Weekly: Monday 00:00 UTC.
    """
    if timeframe is Timeframe.W1:
        return np.asarray(monday_of(ts) == ts)
    return np.asarray(clock_floor(market, timeframe, ts) == ts)


def clock_floor(market: Market, timeframe: Timeframe, ts: Timestamps) -> Timestamps:
    """Start of the bar that contains each timestamp, aligned as for `is_aligned`; up to daily."""
    at_exchange = market is not AssetClass.CRYPTO and timeframe.intraday
    local = at_exchange and (timeframe is Timeframe.H4 or _exchange(market) is not NEW_YORK)
    clock = _to_local(market, ts) if local else ts
    since_midnight = clock - clock.astype("datetime64[D]")
    return np.asarray(ts - since_midnight % np.timedelta64(timeframe.duration))


def in_local_time(market: Market, ts: Timestamps) -> Timestamps:
    """Starts on a clock whose days are the trading days: the exchange's, where UTC's are not.

    Regular sessions of New York do not reach into another day of UTC.
    """
    utc = market is AssetClass.CRYPTO or (_exchange(market) is NEW_YORK and not is_extended(market))
    return ts if utc else _to_local(market, ts)


def _to_local(market: Market, ts: Timestamps) -> Timestamps:
    """UTC timestamps in the exchange's local time."""
    changes, offsets = _utc_offsets(_exchange(market).timezone)
    return np.asarray(ts + offsets[changes.searchsorted(ts, side="right")])


def local_midnights(market: Market, labels: Timestamps) -> Timestamps:
    """Local midnight, in UTC, of the given dates: where vendors start daily and weekly bars."""
    if market is AssetClass.CRYPTO:
        return labels
    changes, offsets = _utc_offsets(_exchange(market).timezone)
    nearly = labels - offsets[changes.searchsorted(labels, side="right")]
    return np.asarray(labels - offsets[changes.searchsorted(nearly, side="right")])


@lru_cache(maxsize=64)
def _utc_offsets(timezone: str) -> tuple[Timestamps, NDArray[np.timedelta64]]:
    """Changes of the exchange's UTC offset from 1900 to 2099, n timestamps in UTC, and the n + 1
    offsets before, between and after them. Looking them up is far faster than converting by pandas.
    """
    days = np.arange("1900-01-01", "2100-01-01", dtype="datetime64[D]")
    days_of_change = days[np.flatnonzero(np.diff(_utc_offset(timezone, days)))]
    hours = days_of_change[:, None] + np.arange(25).astype("timedelta64[h]")
    hourly = _utc_offset(timezone, hours.ravel()).reshape(hours.shape)
    day, hour = np.nonzero(hourly[:, 1:] != hourly[:, :-1])
    changes = hours[day, hour + 1].astype("datetime64[us]")
    return changes, np.append(hourly[0, 0], hourly[day, hour + 1])


def _utc_offset(timezone: str, utc: NDArray[np.datetime64]) -> NDArray[np.timedelta64]:
    import pandas as pd

    aware = pd.DatetimeIndex(utc).tz_localize("UTC")
    local = aware.tz_convert(ZoneInfo(timezone)).tz_localize(None)
    return np.asarray((local - aware.tz_localize(None)).to_numpy(dtype="timedelta64[us]"))


def _grid(
    market: Market, timeframe: Timeframe, lower: np.datetime64, upper: np.datetime64
) -> tuple[Timestamps, Timestamps]:
    """Starts and ends of all bars in [lower, upper], and of some around it."""
    if market is AssetClass.CRYPTO:
        return _clock_grid(timeframe, lower, upper)
    sessions = _sessions(market, lower, upper)
    first, last = sessions.label.searchsorted([lower - _WEEK, upper + _WEEK])
    rows = slice(int(first), int(last) + 1)
    nearby = _Sessions(*(column[rows] for column in _columns(sessions)))
    if timeframe is Timeframe.D1:
        return nearby.label, nearby.close
    if timeframe is Timeframe.W1:
        return _weekly_grid(nearby)
    return _intraday_grid(_with_hours(market, nearby), np.timedelta64(timeframe.duration))


def _clock_grid(
    timeframe: Timeframe, lower: np.datetime64, upper: np.datetime64
) -> tuple[Timestamps, Timestamps]:
    step = np.timedelta64(timeframe.duration)
    first = _MONDAY + (lower - _MONDAY) // step * step
    ts = np.arange(first, upper + step, step, dtype="datetime64[us]")
    return ts, np.asarray(ts + step, dtype="datetime64[us]")


def _weekly_grid(sessions: _Sessions) -> tuple[Timestamps, Timestamps]:
    mondays = monday_of(sessions.label)
    last_of_week = np.flatnonzero(np.append(mondays[1:] != mondays[:-1], True))
    complete = last_of_week[:-1]  # the last week may be cut off by the end of the range
    return mondays[complete], sessions.close[complete]


def _intraday_grid(sessions: _Sessions, step: np.timedelta64) -> tuple[Timestamps, Timestamps]:
    first = sessions.midnight + (sessions.open - sessions.midnight) // step * step
    counts = -(-(sessions.close - first) // step)
    base = np.repeat(first, counts)
    number = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    ts = base + number * step
    if np.isnat(sessions.break_start).all():
        return ts, ts + step
    starts, ends = (
        np.repeat(column, counts) for column in (sessions.break_start, sessions.break_end)
    )
    traded = ~((ts >= starts) & (ts + step <= ends))  # NaT: True
    return ts[traded], ts[traded] + step
