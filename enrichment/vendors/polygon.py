"""Bars from Polygon's aggregates (Massive's are the same).

Polygon stamps daily bars at midnight in New York and weekly ones on the Sunday before. A window of
canonical bar starts is requested by these stamps, in milliseconds, both ends included.

>>> parse([{"t": 1717041600000, "o": 1, "h": 3, "l": 1, "c": 2, "v": 100}]).close
array([2.])
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from operator import attrgetter
from typing import Any, TypedDict
from urllib.parse import quote

import msgspec
import numpy as np
import orjson

from enrichment.domain.bars import Bars, to_datetime64
from enrichment.domain.calendars import canonical, local_midnights
from enrichment.domain.errors import AccessDenied, MalformedResponse, ProviderError
from enrichment.domain.model import AssetClass, FetchedBars, Timeframe, Window
from enrichment.domain.statuses import HistoryLimit
from enrichment.vendors.base import naming, require_fewer_bars, to_floats, to_timestamps
from enrichment.vendors.http import HttpClient, JsonResponse
from enrichment.vendors.registry import SHORTEST_PLAN
from enrichment.vendors.spelling import vendor_spelling

_RANGES = {
    Timeframe.M5: "5/minute",
    Timeframe.M15: "15/minute",
    Timeframe.M30: "30/minute",
    Timeframe.H1: "1/hour",
    Timeframe.H4: "4/hour",
    Timeframe.D1: "1/day",
    Timeframe.W1: "1/week",
}
_NAMES = ("ts", "open", "high", "low", "close", "volume", "vwap", "trades")
_FIELDS = ("t", "o", "h", "l", "c", "v", "vw", "n")
_MIN_PAGES, _PAGES_PER_LIMIT = 20, 20  # pages of a tenth of the limit were seen
_DAY = np.timedelta64(1, "D")
NOT_AUTHORIZED = "NOT_AUTHORIZED"  # for a window beyond the plan's reach, and for a whole product
_WITHHELD = timedelta(days=1)  # a free plan has the day in New York once it is over


class PolygonProvider:
    """Fetches bars page by page.

    Args:
        source: Recorded with the bars.
        limit: Base aggregates of a page (minutes for intraday bars), at most 50,000.
        now: The wall clock, by default the client's; nothing beyond it is asked for, and it decides
            what every plan has.
    """

    name = "polygon"

    def __init__(
        self,
        client: HttpClient,
        *,
        source: str = "polygon",
        limit: int = 50_000,
        now: Callable[[], datetime] | None = None,
    ) -> None:
        self.source = source
        self._client, self._limit, self._now = client, limit, now or client.now

    def fetch(
        self, symbol: str, asset_class: AssetClass, timeframe: Timeframe, window: Window
    ) -> FetchedBars:
        """Fetch the bars that start in the window, in the vendor's order.

        Raises:
            ProviderError: The answer could not be used.
        """
        now = self._now()
        if window.start >= now:
            return FetchedBars(Bars.empty(), self.source, adjusted=False, requests=0)
        ticker = vendor_spelling(self.name, symbol)
        try:
            with naming(self.name, ticker):
                first, *others = self._pages(ticker, asset_class, timeframe, window)
        except AccessDenied as exc:
            within = window.end > now - SHORTEST_PLAN and window.start < now - _WITHHELD
            if exc.status != NOT_AUTHORIZED or within:
                raise
            return FetchedBars(
                Bars.empty(),
                self.source,
                adjusted=False,
                served_from=window.end,
                limit=HistoryLimit.PLAN,
            )
        if any(page.adjusted is not first.adjusted for page in others):
            raise MalformedResponse("'adjusted' differs between the pages of one answer")
        bars = first.bars.concat(*[page.bars for page in others]) if others else first.bars
        return FetchedBars(
            replace(bars, ts=canonical(asset_class, timeframe, bars.ts)),
            self.source,
            first.adjusted,
            requests=1 + len(others),
            quota_remaining=[first, *others][-1].quota_remaining,
        )

    def _pages(
        self, symbol: str, asset_class: AssetClass, timeframe: Timeframe, window: Window
    ) -> list[_Page]:
        """The pages up to the last, or to one that the plan does not include."""
        path = _path(symbol, asset_class, timeframe, window, self._now())
        unit = timedelta(minutes=1) if timeframe.intraday else timedelta(days=1)
        limits = (window.end - window.start) // unit // self._limit
        at_most = _MIN_PAGES + _PAGES_PER_LIMIT * limits
        params: dict[str, str | int] = {"adjusted": "false", "sort": "asc", "limit": self._limit}
        pages = [_page(self._client.get_json(path, params, decode=decode), symbol)]
        seen: set[str] = set()
        while (url := pages[-1].next_url) is not None:
            if url in seen or len(pages) >= at_most:
                raise MalformedResponse(
                    f"'next_url' does not end after {len(pages)} pages of {symbol}"
                )
            seen.add(url)
            try:
                pages.append(_page(self._client.get_json(url, decode=decode), symbol))
            except AccessDenied as exc:
                if exc.status == NOT_AUTHORIZED:
                    return pages
                raise
            require_fewer_bars(sum(len(page.bars) for page in pages), window, timeframe)
        return pages


@dataclass(frozen=True, slots=True)
class _Page:
    """One response, its rows as columns, which take a tenth of the memory."""

    bars: Bars
    adjusted: bool
    next_url: str | None
    quota_remaining: int | None


def _page(response: JsonResponse, symbol: str) -> _Page:
    body = response.body
    adjusted = _adjusted(body, symbol)
    return _Page(parse(_rows(body)), adjusted, _next_url(body), _quota_remaining(response.headers))


class Row(msgspec.Struct, gc=False, rename=dict(zip(_NAMES, _FIELDS, strict=True))):
    """A result row whose fields all have the right type."""

    ts: int
    open: float | None
    high: float | None
    low: float | None
    close: float | None
    volume: float | None
    vwap: float | None = None
    trades: float | None = None


class _Body(TypedDict, total=False):
    ticker: Any
    status: Any
    adjusted: Any
    error: Any
    message: Any
    next_url: Any
    results: list[Row] | None


_decoder = msgspec.json.Decoder(_Body)


def decode(content: bytearray) -> Any:
    """A page with `Row`s as its rows, or with plain JSON if one of them has a wrong type.

    Typed rows take 60 % of the time and memory of plain ones.
    """
    try:
        return _decoder.decode(content)
    except (ValueError, RecursionError):
        return orjson.loads(content)


def parse(rows: list[Any]) -> Bars:
    """The bars of result rows, typed or plain JSON, with the vendor's own timestamps.

    A null price is NaN.
    """
    if not rows:
        return Bars.empty()
    if type(rows[0]) is Row:
        ts, *floats = [list(map(attrgetter(name), rows)) for name in _NAMES]
        *prices, vwap, trades = [np.array(column, np.float64) for column in floats]
        return Bars.of(to_timestamps(ts, "t", "ms"), *prices, vwap=vwap, trades=trades)
    if set(map(type, rows)) != {dict}:
        raise MalformedResponse("'results' holds something that is not an object")
    return Bars.of(
        to_timestamps(_required(rows, "t"), "t", "ms"),
        *(to_floats(_required(rows, name), name) for name in "ohlcv"),
        vwap=to_floats([row.get("vw") for row in rows], "vw"),
        trades=to_floats([row.get("n") for row in rows], "n"),
    )


def _path(
    symbol: str, asset_class: AssetClass, timeframe: Timeframe, window: Window, now: datetime
) -> str:
    first, end = _stamps(asset_class, timeframe, window)
    last = min(end - 1, int(now.timestamp() * 1000))
    ticker = quote(symbol, safe=":")
    return f"/v2/aggs/ticker/{ticker}/range/{_RANGES[timeframe]}/{min(first, last)}/{last}"


def _stamps(asset_class: AssetClass, timeframe: Timeframe, window: Window) -> list[int]:
    """The vendor's stamps, in milliseconds, of the first bars at or after the window's ends."""
    ends = np.array([to_datetime64(window.start), to_datetime64(window.end)])
    if not timeframe.intraday:
        days = (ends + (_DAY - np.timedelta64(1, "us"))).astype("datetime64[D]")
        labels = days - _DAY if timeframe is Timeframe.W1 else days
        ends = local_midnights(asset_class, labels.astype("datetime64[us]"))
    milliseconds: list[int] = (-(ends.astype(np.int64) // -1000)).tolist()
    return milliseconds


def _adjusted(body: Any, symbol: str) -> bool:
    """Whether the page's prices are adjusted; ProviderError unless it is a page of this symbol."""
    status = body.get("status") if isinstance(body, dict) else None
    if status == NOT_AUTHORIZED:
        raise AccessDenied(f"the vendor refuses {symbol}: {_error_text(body)}", status)
    if status == "ERROR":
        raise ProviderError(f"the vendor reports an error for {symbol}: {_error_text(body)}")
    if status not in ("OK", "DELAYED"):
        raise MalformedResponse("'status' is none of OK, DELAYED, ERROR")
    if body.get("ticker", symbol) != symbol:
        raise MalformedResponse(f"'ticker' is not {symbol}")
    if not isinstance(body.get("adjusted"), bool):
        raise MalformedResponse("'adjusted' is not true or false")
    return bool(body["adjusted"])


def _error_text(body: Mapping[str, Any]) -> str:
    text = str(body.get("error") or body.get("message") or "no reason given")
    return " ".join(text.split())[:200]


def _rows(body: Mapping[str, Any]) -> list[Any]:
    rows = body.get("results")
    if rows is None:
        return []
    if not isinstance(rows, list):
        raise MalformedResponse("'results' is not a list")
    return rows


def _next_url(body: Any) -> str | None:
    url = body.get("next_url") if isinstance(body, dict) else None
    if url is not None and not isinstance(url, str):
        raise MalformedResponse("'next_url' is not a string")
    return url or None


def _required(rows: list[dict[str, Any]], field: str) -> list[Any]:
    # One column at a time, since a tuple for each row costs time in the garbage collector.
    try:
        return [row[field] for row in rows]
    except KeyError as exc:
        raise MalformedResponse(f"'{field}' is missing in a bar") from exc


def _quota_remaining(headers: Mapping[str, str]) -> int | None:
    text = headers.get("X-RateLimit-Remaining", "").strip()
    return int(text) if text.isascii() and text.isdigit() else None
