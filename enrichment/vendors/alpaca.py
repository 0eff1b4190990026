"""Bars of US stocks and ETFs from Alpaca, as traded: not adjusted.

Alpaca's free plan answers for all exchanges (feed SIP), except for the newest 15 minutes: bars are
taken once they have ended that long ago. The feed IEX is one exchange with some 3 % of the volume.
Daily bars are stamped at midnight in New York.

>>> bar = {"t": "2022-03-01T05:00:00Z", "o": 1, "h": 3, "l": 1, "c": 2, "v": 100}
>>> parse({"bars": {"AAPL": [bar]}}, "AAPL").close
array([2.])
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from enrichment.domain.bars import Bars, Timestamps
from enrichment.domain.calendars import canonical, is_complete
from enrichment.domain.errors import MalformedResponse, RequestRefused, UnknownSymbol
from enrichment.domain.model import AssetClass, FetchedBars, Timeframe, Window
from enrichment.vendors.base import naming, require_fewer_bars, to_floats, within
from enrichment.vendors.http import HttpClient
from enrichment.vendors.spelling import vendor_spelling

_TIMEFRAMES = {
    Timeframe.M5: "5Min",
    Timeframe.M15: "15Min",
    Timeframe.M30: "30Min",
    Timeframe.H1: "1Hour",
    Timeframe.H4: "4Hour",
    Timeframe.D1: "1Day",
    Timeframe.W1: "1Week",
}
_WITHHELD = timedelta(minutes=16)  # from the free plan, with a minute for the clocks' difference
_MIDNIGHT = timedelta(hours=5)  # in New York, after midnight UTC, at most
_STAMP = re.compile(r"(?:19|20)\d\d-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?Z", re.ASCII)
_MAX_PAGES = 1_000


class AlpacaProvider:
    """Fetches bars page by page.

    Args:
        source: Recorded with the bars.
        limit: Bars of a page, at most 10,000.
        feed: `sip` or `iex`.
        now: The wall clock, by default the client's, which decides what Alpaca withholds.
    """

    name = "alpaca"

    def __init__(
        self,
        client: HttpClient,
        *,
        source: str = "alpaca",
        limit: int = 10_000,
        feed: str = "sip",
        now: Callable[[], datetime] | None = None,
    ) -> None:
        self.source = source
        self._client, self._limit, self._feed, self._now = client, limit, feed, now or client.now

    def fetch(
        self, symbol: str, asset_class: AssetClass, timeframe: Timeframe, window: Window
    ) -> FetchedBars:
        """Fetch the bars that start in the window, ascending, those of extended hours included.

        Raises:
            ProviderError: The answer could not be used.
        """
        if asset_class is AssetClass.CRYPTO:
            raise UnknownSymbol(f"Alpaca is asked for stocks and ETFs only, {symbol} is crypto")
        newest = self._now() - _WITHHELD
        end = min(window.end + _MIDNIGHT, newest)
        if window.start >= end:
            return FetchedBars(Bars.empty(), self.source, adjusted=False, requests=0)
        spelling = vendor_spelling(self.name, symbol)
        with naming(self.name, spelling):
            pages = self._pages(spelling, timeframe, Window(window.start, end))
        bars = Bars.empty().concat(*pages)
        bars = replace(bars, ts=canonical(asset_class, timeframe, bars.ts))
        bars = within(bars, window)
        bars = bars.take(is_complete(asset_class, timeframe, bars.ts, newest))
        return FetchedBars(bars, self.source, adjusted=False, requests=len(pages))

    def _pages(self, symbol: str, timeframe: Timeframe, asked: Window) -> list[Bars]:
        params: dict[str, str | int] = {
            "symbols": symbol,
            "timeframe": _TIMEFRAMES[timeframe],
            "start": _rfc3339(asked.start),
            "end": _rfc3339(asked.end),
            "limit": self._limit,
            "adjustment": "raw",
            "feed": self._feed,
            "sort": "asc",
        }
        pages: list[Bars] = []
        seen: set[str] = set()
        while True:
            body = self._page(params)
            pages.append(parse(body, symbol))
            require_fewer_bars(sum(map(len, pages)), asked, timeframe)
            token = _next_page_token(body)
            if token is None:
                return pages
            if token in seen or len(pages) >= _MAX_PAGES:
                raise MalformedResponse(f"'next_page_token' does not end after {len(pages)} pages")
            seen.add(token)
            params["page_token"] = token

    def _page(self, params: Mapping[str, str | int]) -> Mapping[str, Any]:
        try:
            body = self._client.get_json("/v2/stocks/bars", params).body
        except RequestRefused as exc:
            if "invalid symbol" in str(exc):
                raise UnknownSymbol("there is no such symbol") from exc
            raise
        if not isinstance(body, dict):
            raise MalformedResponse("the answer is not an object")
        return body


def parse(body: Mapping[str, Any], symbol: str) -> Bars:
    """The symbol's bars in one page, with Alpaca's own timestamps; empty if it has none."""
    by_symbol = {} if body.get("bars", ()) is None else body.get("bars")
    if not isinstance(by_symbol, dict):
        raise MalformedResponse("'bars' is not an object")
    if by_symbol.keys() - {symbol}:
        raise MalformedResponse(f"'bars' holds other symbols than {symbol}")
    rows = by_symbol.get(symbol, [])
    if not isinstance(rows, list) or any(type(row) is not dict for row in rows):
        raise MalformedResponse("the bars are not a list of objects")
    columns = {name: to_floats(_values(rows, name), name) for name in "ohlcv"}
    return Bars.of(
        _timestamps(_values(rows, "t")),
        *columns.values(),
        vwap=to_floats([row.get("vw") for row in rows], "vw"),
        trades=to_floats([row.get("n") for row in rows], "n"),
    )


def _values(rows: Sequence[Mapping[str, Any]], name: str) -> list[Any]:
    try:
        return [row[name] for row in rows]
    except KeyError:
        raise MalformedResponse(f"a bar has no {name!r}") from None


def _timestamps(values: Sequence[Any]) -> Timestamps:
    if any(type(value) is not str or not _STAMP.fullmatch(value) for value in values):
        raise MalformedResponse("'t' is not a time in UTC")
    try:
        return np.array([value[:-1] for value in values], "datetime64[us]")
    except ValueError:
        raise MalformedResponse("'t' is not a time in UTC") from None


def _next_page_token(body: Mapping[str, Any]) -> str | None:
    token = body.get("next_page_token")
    if token is not None and not isinstance(token, str):
        raise MalformedResponse("'next_page_token' is not text")
    return token or None


def _rfc3339(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"
