"""The same bars from every vendor: of the symbol's session, longer bars built from shorter ones.

Vendors disagree on weeks (Yahoo's begin on the weekday that was asked for, Polygon's on Sunday) and
on stocks' hours (Polygon's first mixes pre-market trades with the open, Yahoo's begin at half past,
and Yahoo adds an empty row at the close). So neither is asked for: weeks are built from days, and
stocks' bars of 30 minutes and longer from half-hours of the session, regular or extended.

>>> source_timeframe(AssetClass.STOCK, Timeframe.W1)
<Timeframe.D1: '1d'>
>>> source_timeframe(AssetClass.STOCK, Timeframe.H4)
<Timeframe.M30: '30m'>
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from enrichment.domain.bars import Bars, Floats, Timestamps, safe_divide, to_datetime, to_datetime64
from enrichment.domain.calendars import (
    Market,
    bar_starts,
    clock_floor,
    in_session,
    is_aligned,
    is_extended,
    market_of,
    monday_of,
    session_parts,
)
from enrichment.domain.clock import utc_now
from enrichment.domain.corporate_actions import Split, Splits, reported_splits, scaled, union
from enrichment.domain.errors import MalformedResponse, UnknownSymbol
from enrichment.domain.exchanges import Exchange
from enrichment.domain.model import AssetClass, FetchedBars, SessionPart, Timeframe, Window
from enrichment.domain.statuses import HistoryLimit
from enrichment.vendors.base import Provider, naming, within
from enrichment.vendors.spelling import spelling_or_symbol, substituted_quote

_CLOSED_AT_MOST = timedelta(days=7)  # of an exchange
_LONGEST_RUN = timedelta(hours=1)  # of one item, waiting for its vendor included
_QUARTER_PAST = {"XBOM"}  # exchanges that open at a quarter past, where Yahoo's half-hours begin
_SHORTEST_PLAN_YEARS = 2
_MIN_STARTS = 20  # of which all can lie on a longer timeframe's grid by chance once in a million
_MAX_MISALIGNED = 0.25
_DENSE_SHARE = 0.9  # of its parts, in a series in which a missing one is not one without trades


class CanonicalProvider:
    """A vendor whose bars are those that every other vendor would give.

    Args:
        provider: The vendor itself, asked for the timeframes that `source_timeframe` names.
        now: The wall clock; nothing beyond it is asked for.
        splits: (symbol) → its known splits, for weeks within which shares were split.
        extended_hours: Whether the vendor has bars of stocks before the open and after the close.
    """

    def __init__(
        self,
        provider: Provider,
        now: Callable[[], datetime] = utc_now,
        splits: Callable[[str], Sequence[Split]] = lambda symbol: (),
        *,
        extended_hours: bool = True,
    ) -> None:
        self._provider, self._now, self._splits = provider, now, splits
        self._extended_hours = extended_hours
        self.name = provider.name
        self.source = provider.source

    def fetch(
        self, symbol: str, asset_class: AssetClass, timeframe: Timeframe, window: Window
    ) -> FetchedBars:
        """The bars that start in the window; ProviderError if the vendor fails."""
        market = market_of(symbol, asset_class, timeframe)
        source = source_timeframe(market, timeframe)
        now = self._now()
        asked = asked_window(window, market, timeframe, now)
        spelling = spelling_or_symbol(self.name, symbol)
        with naming(self.name, spelling):
            if is_extended(market) and not self._extended_hours:
                raise UnknownSymbol("it has no bars of extended hours; choose the session regular")
            fetched = self._provider.fetch(symbol, asset_class, source, asked)
            require_granularity(fetched.bars, market, source)
            bars = of_session(within(fetched.bars, asked), market, source)
            if timeframe is Timeframe.W1 and asset_class is not AssetClass.CRYPTO:
                known = union(reported_splits(fetched.actions, now.date()), self._splits(symbol))
                bars = on_basis_of_week(bars, known)
            if source is not timeframe:
                limit = (
                    fetched.limit or _reach(replace(fetched, bars=bars), source, asked, now).limit
                )
                cut = fetched.served_from is not None or limit is HistoryLimit.PLAN
                listed = not cut and limit is HistoryLimit.VENDOR
                bars = build(bars, market, source, timeframe, cut=cut, listed=listed)
                bars = within(bars, window)
            quotes = substituted_quote(self.name, symbol)
            substitution = f"{quotes[1]} for {quotes[0]}" if quotes else None
            fetched = replace(fetched, bars=bars, substitution=substitution, spelling=spelling)
        return fetched if fetched.limit else _reach(fetched, timeframe, window, now)


def on_basis_of_week(days: Bars, splits: Sequence[Split]) -> Bars:
    """Daily bars as traded on the share basis of the last day of their week."""
    if not splits or len(days) == 0:
        return days
    daily, weekly = (Splits.of(splits, timeframe) for timeframe in (Timeframe.D1, Timeframe.W1))
    return scaled(days, daily.shares(days.ts) / weekly.shares(monday_of(days.ts)))


def _reach(
    fetched: FetchedBars, timeframe: Timeframe, window: Window, now: datetime
) -> FetchedBars:
    """The answer with the start of what the vendor has, if that lies within the window.

    A plan's reach is not announced: a range that goes back further is cut without a word. So the
    limit is the plan if the answer begins a whole number of years ago, else the vendor.
    """
    ts = fetched.bars.ts
    first = to_datetime(ts.min()) if len(ts) else window.end
    if first - window.start <= _CLOSED_AT_MOST + timeframe.duration:
        return fetched
    years = (now - first) / timedelta(days=365.25)
    whole = round(years)
    by_plan = len(ts) > 0 and whole >= _SHORTEST_PLAN_YEARS
    by_plan = by_plan and abs(years - whole) * 365.25 <= _CLOSED_AT_MOST / timedelta(days=1)
    limit = HistoryLimit.PLAN if by_plan else HistoryLimit.VENDOR
    return replace(fetched, served_from=first, limit=limit)


def source_timeframe(market: Market, timeframe: Timeframe) -> Timeframe:
    """The timeframe to ask a vendor for."""
    if timeframe is Timeframe.W1:
        return Timeframe.D1
    if market is AssetClass.CRYPTO or timeframe not in (Timeframe.M30, Timeframe.H1, Timeframe.H4):
        return timeframe
    quarters = isinstance(market, Exchange) and market.mic in _QUARTER_PAST
    return Timeframe.M15 if quarters else Timeframe.M30


def source_window(window: Window, market: Market, timeframe: Timeframe) -> Window:
    """The window widened to whole bars of the timeframe, so that none is built of a part."""
    if source_timeframe(market, timeframe) is timeframe:
        return window
    edges = np.array([to_datetime64(window.start), to_datetime64(window.end)])
    start, end = (to_datetime(ts) for ts in _floor(market, timeframe, edges))
    return Window(start, end if end == window.end else end + timeframe.duration)


def asked_window(window: Window, market: Market, timeframe: Timeframe, now: datetime) -> Window:
    """What is asked of a vendor for a window: `source_window`, without the future.

    All windows of a run end when it began, so that its timeframes ask for the same bars, even if
    one of them had to wait until the next hour for its turn.
    """
    asked = source_window(window, market, timeframe)
    return asked if asked.end <= now - _LONGEST_RUN else Window(asked.start, window.end)


def of_session(bars: Bars, market: Market, timeframe: Timeframe) -> Bars:
    """Without intraday bars that start before the session, at its end or after it."""
    if not timeframe.intraday:
        return bars
    kept = in_session(market, bars.ts)
    return bars if kept.all() else bars.take(kept)


def require_granularity(bars: Bars, market: Market, timeframe: Timeframe) -> None:
    """MalformedResponse if the bars' starts are those of a shorter or a longer timeframe.

    Shorter: many are not aligned, or most days have several different bars. Longer: all starts are
    aligned to a multiple of the timeframe.
    """
    if len(bars) < 2:
        return
    misaligned = ~is_aligned(market, timeframe, bars.ts)
    starts = np.unique(bars.ts)
    prices = np.unique(np.column_stack([bars.ts.astype("i8"), bars.close.view("i8")]), axis=0)
    if misaligned.mean() > _MAX_MISALIGNED or len(prices) > 2 * len(starts):
        raise MalformedResponse(f"the bars are shorter than {timeframe}")
    steps = np.diff(starts) // np.timedelta64(timeframe.duration)
    if len(starts) >= _MIN_STARTS and np.gcd.reduce(steps.astype(np.int64)) > 1:
        raise MalformedResponse(f"the bars are longer than {timeframe}")


def build(
    bars: Bars,
    market: Market,
    source: Timeframe,
    timeframe: Timeframe,
    *,
    cut: bool = False,
    listed: bool = False,
) -> Bars:
    """Longer bars from shorter ones.

    Of rows with one start the last one sent counts. A part that can't be right makes the bar NaN,
    so that validation keeps it out. A bar is left out while its last part is missing at the newest
    end; and where any part is missing, if hardly any of the series are, since then a missing part
    was not one without trades. A week of few that were sent is left out then, too.

    Args:
        bars: The parts, in any order.
        cut: Whether the vendor's reach begins within the window, maybe within a bar.
        listed: Whether the first part is the first there ever was, maybe in mid-week.
    """
    if len(bars) == 0:
        return bars
    parts = _last_sent(bars)
    built = aggregate(_without_nonsense(parts), _floor(market, timeframe, parts.ts))
    return built.take(
        _complete(parts.ts, built.ts, market, source, timeframe, cut=cut, listed=listed)
    )


def _last_sent(bars: Bars) -> Bars:
    """Ascending, of rows with the same start the last one."""
    bars = bars.ascending()
    return bars.take(np.append(bars.ts[1:] != bars.ts[:-1], True))


def _without_nonsense(bars: Bars) -> Bars:
    """With NaN for what no bar can be."""
    highest, lowest = np.maximum(bars.open, bars.close), np.minimum(bars.open, bars.close)
    right = bars.usable_rows() & (bars.high >= highest) & (bars.low <= lowest)
    if right.all():
        return bars
    columns = bars.columns()
    spoiled = {name: np.where(right, columns[name], np.nan) for name in columns if name != "ts"}
    return replace(bars, **spoiled)


def _complete(
    parts: Timestamps,
    built: Timestamps,
    market: Market,
    source: Timeframe,
    timeframe: Timeframe,
    *,
    cut: bool,
    listed: bool,
) -> NDArray[np.bool_]:
    weekly = timeframe is Timeframe.W1
    end = to_datetime(built[-1]) + timeframe.duration
    expected = bar_starts(market, source, to_datetime(built[0]), end)
    if is_extended(market):  # outside of the regular session mostly nobody trades
        expected = expected[session_parts(market, source, expected) == SessionPart.REGULAR]
    if weekly:  # a hole of whole weeks says nothing of the others
        expected = expected[np.isin(_floor(market, timeframe, expected), built)]
    missing = expected[~np.isin(expected, parts)]
    inner = (missing > parts[0]) & (missing < parts[-1])
    few_missing = inner.sum() <= (1 - _DENSE_SHARE) * len(expected)
    dense = few_missing if len(expected) >= _MIN_STARTS else weekly
    if not dense:
        missing = missing[~inner]
    if listed or not (weekly or cut):
        missing = missing[missing > parts[0]]
    incomplete = np.isin(built, _floor(market, timeframe, missing))
    return np.asarray(~incomplete)


def _floor(market: Market, timeframe: Timeframe, ts: Timestamps) -> Timestamps:
    """Start of the bar that contains each timestamp."""
    if timeframe is Timeframe.W1:
        return monday_of(ts)
    return clock_floor(market, timeframe, ts)


def aggregate(bars: Bars, starts: Timestamps) -> Bars:
    """One bar for each distinct start, ascending; a NaN in one of its parts makes the value NaN.

    >>> day = np.array(["2024-05-30T14", "2024-05-30T15", "2024-05-31T14"], "datetime64[us]")
    >>> hours = Bars.of(day, *([np.array([3.0, 1.0, 2.0])] * 4), np.ones(3))
    >>> days = aggregate(hours, day.astype("datetime64[D]").astype("datetime64[us]"))
    >>> days.high.tolist(), days.close.tolist(), days.volume.tolist()
    ([3.0, 2.0], [1.0, 2.0], [2.0, 1.0])

    First open, highest high, lowest low, last close; volume and counts are summed, and the VWAP is
    the mean of the parts', weighted by volume.

    Args:
        bars: n bars in any order.
        starts: For each of them the start of the longer bar it belongs to, shape (n,).
    """
    if len(bars) == 0:
        return bars
    order = np.argsort(bars.ts, kind="stable")
    bars, starts = bars.take(order), starts[order]
    first = np.concatenate([[0], np.flatnonzero(starts[1:] != starts[:-1]) + 1])
    last = np.append(first[1:], len(starts)) - 1
    volume = np.add.reduceat(bars.volume, first)
    return Bars.of(
        starts[first],
        bars.open[first],
        np.maximum.reduceat(bars.high, first),
        np.minimum.reduceat(bars.low, first),
        bars.close[last],
        volume,
        vwap=_mean_price(bars, first, volume),
        trades=np.add.reduceat(bars.trades, first),
        taker_buy_volume=np.add.reduceat(bars.taker_buy_volume, first),
    )


def _mean_price(bars: Bars, first: NDArray[np.intp], volume: Floats) -> Floats:
    turnover = np.where(bars.volume == 0, 0.0, bars.vwap * bars.volume)
    return safe_divide(np.add.reduceat(turnover, first), volume)
