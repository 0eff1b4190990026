"""Bars from Binance's klines: crypto only, days in UTC, weeks from Monday.

A symbol in US dollars stands for Binance's market in USDT; other quote currencies stay as they are.
A bar without trades can be missing, so a page with fewer rows than asked for need not be the last.

>>> parse([[1717200000000, "1", "3", "1", "2", "10", 0, "20", 5, "4", "8", "0"]]).vwap
array([2.])
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import numpy as np

from enrichment.domain.bars import Bars, Timestamps, safe_divide, to_datetime64
from enrichment.domain.calendars import canonical
from enrichment.domain.errors import (
    AccessDenied,
    MalformedResponse,
    RequestRefused,
    UnknownSymbol,
)
from enrichment.domain.model import AssetClass, FetchedBars, Timeframe, Window
from enrichment.vendors.base import (
    naming,
    require_fewer_bars,
    text_to_floats,
    to_floats,
    to_timestamps,
)
from enrichment.vendors.http import HttpClient, JsonResponse
from enrichment.vendors.spelling import vendor_spelling

WEIGHT_PER_MINUTE = 6000  # Binance's limit of request weight for one address
_MAX_ROWS = 1000  # klines in one response
_INVALID_SYMBOL = -1121
_FIELDS = 12
_MAX_PAGES = 10_000
_LATEST_MS = 4_102_444_800_000  # the year 2100; anything beyond is in microseconds
_PUBLIC_DATA = "https://data-api.binance.vision"


class BinanceProvider:
    """Fetches bars page by page.

    Args:
        source: Recorded with the bars.
        limit: Klines of a page, at most 1,000.
    """

    name = "binance"

    def __init__(
        self, client: HttpClient, *, source: str = "binance", limit: int = _MAX_ROWS
    ) -> None:
        self.source = source
        self._client, self._limit = client, limit

    def fetch(
        self, symbol: str, asset_class: AssetClass, timeframe: Timeframe, window: Window
    ) -> FetchedBars:
        """Fetch the bars that start in the window.

        They count as adjusted, since coins have no splits.

        Raises:
            ProviderError: The answer could not be used.
        """
        if asset_class is not AssetClass.CRYPTO:
            raise UnknownSymbol(f"Binance trades crypto only, {symbol} is a {asset_class}")
        spelling = vendor_spelling(self.name, symbol)
        with naming(self.name, spelling):
            pages, response = self._pages(spelling, timeframe, window)
        bars = Bars.empty().concat(*pages)
        return FetchedBars(
            replace(bars, ts=canonical(asset_class, timeframe, bars.ts)),
            self.source,
            adjusted=True,
            requests=len(pages),
            quota_remaining=_quota_remaining(response.headers),
        )

    def _pages(
        self, symbol: str, timeframe: Timeframe, window: Window
    ) -> tuple[list[Bars], JsonResponse]:
        """The bars of each request, and the last response."""
        start, end = _milliseconds(window.start), _milliseconds(window.end) - 1
        step = timeframe.duration // timedelta(milliseconds=1)
        pages: list[Bars] = []
        last: int | None = None
        while len(pages) < _MAX_PAGES:
            params: dict[str, str | int] = {
                "symbol": symbol,
                "interval": timeframe.value,
                "startTime": min(start, end),
                "endTime": end,
                "limit": self._limit,
            }
            response = self._page(params)
            pages.append(parse(response.body))
            require_fewer_bars(sum(map(len, pages)), window, timeframe)
            if len(pages[-1]):
                newest = _newest(pages[-1])
                if newest < start:
                    raise MalformedResponse("'openTime' does not advance from page to page")
            else:  # a hole as long as a page, or the end
                newest = start + (self._limit - 1) * step
                if last is None and newest + step <= end:
                    del params["startTime"]  # the newest there is
                    response = self._page(params | {"limit": 1})
                    last = _newest(parse(response.body))
                    pages.append(Bars.empty())
                if last is None or last < newest:
                    return pages, response
            start = newest + 1
            if newest + step > end:
                return pages, response
        raise MalformedResponse(f"the klines do not end after {_MAX_PAGES} pages")

    def _page(self, params: Mapping[str, str | int]) -> JsonResponse:
        try:
            return self._client.get_json("/api/v3/klines", params)
        except AccessDenied as exc:
            raise AccessDenied(
                f"{exc}; Binance refuses some countries, the US among them: "
                f"BINANCE_BASE_URL={_PUBLIC_DATA} serves the same public data"
            ) from exc
        except RequestRefused as exc:
            if exc.code == _INVALID_SYMBOL:
                raise UnknownSymbol("there is no such market") from exc
            raise


def parse(rows: Any) -> Bars:
    """The bars of klines, whose prices and volumes are text; vwap is quote volume / volume."""
    if not isinstance(rows, list):
        raise MalformedResponse("the klines are not a list")
    if not rows:
        return Bars.empty()
    if any(type(row) is not list or len(row) < _FIELDS - 1 for row in rows):
        raise MalformedResponse(f"a kline is not a list of {_FIELDS} values")
    start, o, h, low, c, v, _, quote, trades, taker, *_ = zip(*rows, strict=False)
    volume = text_to_floats(list(v), "volume")
    return Bars.of(
        _open_times(start),
        text_to_floats(list(o), "open"),
        text_to_floats(list(h), "high"),
        text_to_floats(list(low), "low"),
        text_to_floats(list(c), "close"),
        volume,
        vwap=safe_divide(text_to_floats(list(quote), "quoteVolume"), volume),
        trades=to_floats(list(trades), "trades"),
        taker_buy_volume=text_to_floats(list(taker), "takerBuyBase"),
    )


def _newest(bars: Bars) -> int:
    """The newest open time, in milliseconds; 0 without bars."""
    return int(bars.ts.max().astype("datetime64[ms]").astype(int)) if len(bars) else 0


def _open_times(values: Sequence[Any]) -> Timestamps:
    """Milliseconds since 1970, or microseconds as in Binance's archives since 2025."""
    in_ms = [v // 1000 if type(v) is int and v > _LATEST_MS else v for v in values]
    return to_timestamps(in_ms, "openTime", "ms")


def _milliseconds(moment: datetime) -> int:
    """The first whole millisecond at or after the moment."""
    return int(-((to_datetime64(moment) - np.datetime64(0, "us")) // -np.timedelta64(1, "ms")))


def _quota_remaining(headers: Mapping[str, str]) -> int | None:
    used = headers.get("X-MBX-USED-WEIGHT-1M", "").strip()
    if not (used.isascii() and used.isdigit() and len(used) < 10):
        return None
    return max(0, WEIGHT_PER_MINUTE - int(used))
