"""Bars from Yahoo's chart API, as they were traded, with the splits and dividends it lists.

Its prices are adjusted for splits, not for dividends: they are put back by the splits that the same
answer lists (`yahoo_events`), so shares are always asked for up to now.

Yahoo's hourly bars of stocks start at half past, with the session. Ours start on the clock, so
stocks' 1h and 4h bars are built from half-hours, and crypto's 4h bars from hours. A part of a
window that is older than Yahoo's reach is not requested. The newest row of an answer is a live
quote, stamped with the last trade: of days it is taken once its session has ended, of shorter bars
never.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import numpy as np

from enrichment.domain.bars import Bars, Floats, to_datetime
from enrichment.domain.calendars import (
    Market,
    canonical,
    in_session,
    is_aligned,
    is_complete,
    market_of,
)
from enrichment.domain.corporate_actions import CorporateAction
from enrichment.domain.errors import MalformedResponse, ProviderError, UnknownSymbol
from enrichment.domain.model import AssetClass, FetchedBars, Timeframe, Window
from enrichment.domain.statuses import HistoryLimit
from enrichment.vendors import yahoo_events
from enrichment.vendors.base import naming, to_floats, to_timestamps, within
from enrichment.vendors.canonical import build
from enrichment.vendors.http import HttpClient
from enrichment.vendors.registry import VENDORS
from enrichment.vendors.spelling import vendor_spelling
from enrichment.vendors.yahoo_session import YahooSession

_INTERVALS = {
    Timeframe.M5: "5m",
    Timeframe.M15: "15m",
    Timeframe.M30: "30m",
    Timeframe.H1: "60m",
    Timeframe.D1: "1d",
}
_SAME = {"60m": "1h"}  # one interval, called either in its answers
_REACH_MARGIN = timedelta(hours=1)  # Yahoo's clock decides what is too old
_QUOTE_DELAY = timedelta(minutes=20)  # a quote may show a stock's trades that much later
_NOISE = 5e-7  # relative: prices are sent as float32
_DAILY_MARGIN = timedelta(days=7)  # days and weeks are stamped by the exchange's own clock
_LISTING_MARGIN = timedelta(days=7)
_MAX_SECONDS = 2**33  # after which no instrument is listed
_PRICES = ("open", "high", "low", "close")


class YahooProvider:
    """Fetches bars, one request for each window.

    Args:
        source: Recorded with the bars.
        cookie_url: Address that sets the cookie that Yahoo may ask for.
        now: The wall clock, by default the client's, which decides what is within Yahoo's reach.
    """

    name = "yahoo"

    def __init__(
        self,
        client: HttpClient,
        *,
        source: str = "yahoo",
        cookie_url: str = "https://fc.yahoo.com",
        now: Callable[[], datetime] | None = None,
    ) -> None:
        self.source = source
        self._session, self._now = YahooSession(client, cookie_url), now or client.now

    def fetch(
        self, symbol: str, asset_class: AssetClass, timeframe: Timeframe, window: Window
    ) -> FetchedBars:
        """Fetch the bars that start in the window and lie within Yahoo's reach.

        Raises:
            ProviderError: The answer could not be used.
        """
        start = window.start
        reach = VENDORS[self.name].reach(asset_class, timeframe)
        if reach is not None:
            start = max(start, self._now() - reach + _REACH_MARGIN)
        served_from = start if start > window.start else None
        if start >= window.end:
            return FetchedBars(
                Bars.empty(),
                self.source,
                adjusted=False,
                requests=0,
                served_from=window.end,
                limit=HistoryLimit.VENDOR,
            )
        if not timeframe.intraday:
            start -= _DAILY_MARGIN
        served = Timeframe.H1 if timeframe is Timeframe.H4 else timeframe  # it has no 4h
        market = market_of(symbol, asset_class)
        spelling, crypto = vendor_spelling(self.name, symbol), asset_class is AssetClass.CRYPTO
        end = window.end if crypto else max(window.end, self._now())
        with naming(self.name, spelling):
            chart = self._chart(spelling, served, start, end)
            bars = within(parse(chart, spelling, _INTERVALS[served]), Window(start, end))
            actions = [] if crypto else self._actions(chart, symbol)
        bars = _without_quote(bars, market, served, self._now())
        bars = replace(bars, ts=canonical(market, served, bars.ts))
        bars = _tidy(yahoo_events.as_traded(bars, actions, served, market))
        cut = served_from is not None
        if served is not timeframe:
            bars = build(bars, market, served, timeframe, cut=cut)
        limit = HistoryLimit.VENDOR if cut else None
        bars = _last_of_each(bars.between(window.start, window.end))
        listed = _first_trade(chart)
        if (
            listed is not None
            and len(bars)
            and _begins_with(bars, listed, max(start, window.start))
        ):
            served_from, limit = to_datetime(bars.ts[0]), HistoryLimit.LISTED
        return FetchedBars(
            bars,
            self.source,
            adjusted=False,
            served_from=served_from,
            limit=limit,
            actions=actions,
        )

    def _actions(self, chart: Any, symbol: str) -> list[CorporateAction]:
        result = chart["chart"]["result"][0]
        currency = (result.get("meta") or {}).get("currency")
        events = _object(result.get("events") or {}, "'events'")
        return yahoo_events.parse(events, symbol, currency, self.source)

    def _chart(self, symbol: str, timeframe: Timeframe, start: datetime, end: datetime) -> Any:
        response = self._session.get_json(
            f"/v8/finance/chart/{quote(symbol, safe='')}",
            {
                "period1": int(start.timestamp()),
                "period2": int(end.timestamp()),
                "interval": _INTERVALS[timeframe],
                "events": "div,splits",
                "includePrePost": "false",
            },
        )
        return response.body


def _first_trade(chart: Any) -> datetime | None:
    """When the instrument was first traded, if the answer says so."""
    seconds = (chart["chart"]["result"][0].get("meta") or {}).get("firstTradeDate")
    if not isinstance(seconds, int) or abs(seconds) >= _MAX_SECONDS:
        return None
    return datetime.fromtimestamp(seconds, UTC)


def _begins_with(bars: Bars, listed: datetime, asked_from: datetime) -> bool:
    """Whether the bars begin on the day of the listing, after the start that was asked for."""
    late = listed - asked_from > _LISTING_MARGIN
    return late and abs(to_datetime(bars.ts[0]) - listed) <= _LISTING_MARGIN


def parse(body: Any, symbol: str, interval: str) -> Bars:
    """A chart's bars with Yahoo's own timestamps and basis.

    A row without any price is left out; a single missing price is NaN.

    Raises:
        UnknownSymbol: Yahoo does not know the symbol.
        MalformedResponse: It is no chart, or that of another symbol or interval.
    """
    chart = _object(_object(body, "the answer").get("chart"), "'chart'")
    error = chart.get("error")
    if error is not None:
        raise _error_of(error)
    results = chart.get("result")
    if not isinstance(results, list) or not results:
        raise MalformedResponse("'result' is not a list with a chart")
    result = _object(results[0], "a chart")
    _require_asked(_object(result.get("meta") or {}, "'meta'"), symbol, interval)
    stamps = _list(result.get("timestamp") or [], "timestamp")
    quotes = _list(_object(result.get("indicators"), "'indicators'").get("quote"), "quote")
    if not stamps:
        return Bars.empty()
    values = _object(quotes[0] if quotes else None, "a quote")
    columns = {n: to_floats(_list(values.get(n), n), n) for n in (*_PRICES, "volume")}
    if {len(column) for column in columns.values()} != {len(stamps)}:
        raise MalformedResponse("a quote's columns are not as long as 'timestamp'")
    columns |= {name: _without_noise(columns[name]) for name in _PRICES}
    bars = Bars.of(to_timestamps(stamps, "timestamp", "s"), *columns.values())
    missing = np.isnan(np.stack([columns[name] for name in _PRICES]))
    return bars.take(np.flatnonzero(~missing.all(axis=0)))


def _require_asked(meta: Mapping[str, Any], symbol: str, interval: str) -> None:
    """MalformedResponse if the chart says that it is not the one that was asked for."""
    for field, expected in {"symbol": symbol, "dataGranularity": interval}.items():
        sent = str(meta.get(field, expected))
        if _SAME.get(sent, sent).upper() != _SAME.get(expected, expected).upper():
            raise MalformedResponse(f"Yahoo sent {field} {sent!r} where {expected!r} was asked for")


def _without_quote(bars: Bars, market: Market, timeframe: Timeframe, now: datetime) -> Bars:
    """Without the live quote of a bar that has not ended."""
    if len(bars) == 0:
        return bars
    stock = market is not AssetClass.CRYPTO
    if timeframe.intraday:
        half_hours = stock and timeframe is Timeframe.H1  # where these begin
        grid = Timeframe.M30 if half_hours else timeframe
        newest = bars.ts == bars.ts.max()
        return bars.take(~newest | is_aligned(market, grid, bars.ts))
    days = canonical(market, timeframe, bars.ts)
    ended = is_complete(market, timeframe, days, now)
    if stock:
        settled = is_complete(market, timeframe, days, now - _QUOTE_DELAY)
        ended &= settled | ~in_session(market, bars.ts)
    return bars.take(ended)


def _tidy(bars: Bars) -> Bars:
    """Prices as they were quoted, without the noise that their way through float32 left."""
    open_, high, low, close = (_without_noise(getattr(bars, name)) for name in _PRICES)
    return replace(bars, open=open_, high=high, low=low, close=close)


def _without_noise(prices: Floats) -> Floats:
    """Prices with 2 decimals, or 4, where that is as good a reading of a float32.

    >>> _without_noise(np.array([220.57000732421875, 13.237000465393066])).tolist()
    [220.57, 13.237]
    """
    quoted = prices
    for decimals in (4, 2):
        rounded = np.round(prices, decimals)
        quoted = np.where(np.abs(rounded - prices) <= _NOISE * prices, rounded, quoted)
    return quoted


def _last_of_each(bars: Bars) -> Bars:
    """The last row of each start: today's quote stands beside the session's row for a while."""
    _, last = np.unique(bars.ts[::-1], return_index=True)
    return bars if len(last) == len(bars) else bars.take(np.sort(len(bars) - 1 - last))


def _error_of(error: Any) -> ProviderError:
    fields = error if isinstance(error, Mapping) else {}
    text = str(fields.get("description") or fields.get("code") or "no reason given")
    reason = " ".join(text.split())[:200]
    if fields.get("code") == "Not Found":
        return UnknownSymbol(f"Yahoo does not know it: {reason}")
    return ProviderError(f"Yahoo reports an error: {reason}")


def _object(value: Any, label: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise MalformedResponse(f"{label} is not an object")
    return value


def _list(value: Any, field: str) -> list[Any]:
    if not isinstance(value, list):
        raise MalformedResponse(f"'{field}' is not a list")
    return value
