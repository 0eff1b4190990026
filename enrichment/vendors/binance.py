"""Binance's klines as bars: crypto only, on the UTC clock, weeks from Monday.

`X:BTCUSD` is asked for as BTCUSDT, the market that stands for dollars there; other quotes stay as
they are (`X:ETHBTC` → ETHBTC).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from enrichment.domain.bars import Bars, safe_divide
from enrichment.domain.bars import to_datetime64 as utc
from enrichment.domain.calendars import canonical
from enrichment.domain.errors import MalformedResponse, RequestRefused, UnknownSymbol
from enrichment.domain.model import AssetClass, FetchedBars, Timeframe, Window
from enrichment.vendors.http import HttpClient, JsonResponse
from enrichment.vendors.parsing import decimals, moments, numbers

WEIGHT_PER_MINUTE = 6000  # Binance's limit of request weight for one address
_MAX_ROWS = 1000  # klines an answer
_INVALID_SYMBOL = -1121
_FIELDS = 12
_MAX_PAGES = 10_000


class BinanceProvider:
    """Fetches bars page by page.

    name: as in the settings' order of providers. source: what is recorded as the bars' origin.
    limit: klines a page, at most 1,000.
    """

    def __init__(
        self,
        client: HttpClient,
        *,
        name: str = "binance",
        source: str = "binance",
        limit: int = _MAX_ROWS,
    ) -> None:
        self.name = name
        self.source = source
        self._client, self._limit = client, limit

    def fetch(
        self, symbol: str, asset_class: AssetClass, timeframe: Timeframe, window: Window
    ) -> FetchedBars:
        """The bars that start in the window; ProviderError if it fails.

        Coins have no splits, so the bars count as adjusted.
        """
        if asset_class is not AssetClass.CRYPTO:
            raise UnknownSymbol(f"Binance trades crypto only, {symbol} is a {asset_class}")
        answers = self._pages(symbol, timeframe, window)
        bars = parse([row for answer in answers for row in answer.body])
        ts = canonical(asset_class, timeframe, bars.ts)
        return FetchedBars(
            Bars(**{**bars.columns(), "ts": ts}),
            self.source,
            adjusted=True,
            requests=len(answers),
            quota_remaining=_quota_remaining(answers[-1].headers),
        )

    def _pages(self, symbol: str, timeframe: Timeframe, window: Window) -> list[JsonResponse]:
        start, end = _milliseconds(window.start), _milliseconds(window.end) - 1
        answers: list[JsonResponse] = []
        while len(answers) < _MAX_PAGES:
            params: dict[str, str | int] = {
                "symbol": market(symbol),
                "interval": timeframe.value,
                "startTime": min(start, end),
                "endTime": end,
                "limit": self._limit,
            }
            answers.append(self._ask(symbol, params))
            rows = _rows(answers[-1].body)
            if len(rows) < self._limit:
                return answers
            newest = int(moments([_opened(rows[-1])], "openTime", "ms").astype(np.int64)[0]) // 1000
            if newest < start:
                raise MalformedResponse("'openTime' does not advance from page to page")
            start = newest + 1
            if start > end:
                return answers
        raise MalformedResponse(f"the klines do not end after {_MAX_PAGES} pages")

    def _ask(self, symbol: str, params: Mapping[str, str | int]) -> JsonResponse:
        try:
            return self._client.get_json("/api/v3/klines", params)
        except RequestRefused as exc:
            if exc.code == _INVALID_SYMBOL:
                raise UnknownSymbol(f"Binance has no market {market(symbol)} ({symbol})") from exc
            raise


def market(symbol: str) -> str:
    """Binance's name of a crypto symbol."""
    name = symbol.removeprefix("X:").replace("-", "")
    return f"{name}T" if name.endswith("USD") else name


def parse(rows: list[Any]) -> Bars:
    """Klines as bars: prices and volumes are text, vwap is quote volume over volume."""
    if not rows:
        return Bars.empty()
    if any(type(row) is not list or len(row) < _FIELDS - 1 for row in rows):
        raise MalformedResponse(f"a kline is not a list of {_FIELDS} values")
    opened, o, h, low, c, v, _, quote, trades, taker, *_ = zip(*rows, strict=False)
    volume = decimals(list(v), "volume")
    return Bars.of(
        moments(list(opened), "openTime", "ms"),
        decimals(list(o), "open"),
        decimals(list(h), "high"),
        decimals(list(low), "low"),
        decimals(list(c), "close"),
        volume,
        vwap=safe_divide(decimals(list(quote), "quoteVolume"), volume),
        trades=numbers(list(trades), "trades"),
        taker_buy_volume=decimals(list(taker), "takerBuyBase"),
    )


def _rows(body: Any) -> list[Any]:
    if not isinstance(body, list):
        raise MalformedResponse("the klines are not a list")
    return body


def _opened(row: Any) -> Any:
    if not isinstance(row, list) or not row:
        raise MalformedResponse(f"a kline is not a list of {_FIELDS} values")
    return row[0]


def _milliseconds(moment: Any) -> int:
    """The first whole millisecond at or after the moment."""
    return int(-((utc(moment) - np.datetime64(0, "us")) // -np.timedelta64(1, "ms")))


def _quota_remaining(headers: Mapping[str, str]) -> int | None:
    used = headers.get("X-MBX-USED-WEIGHT-1M", "").strip()
    if not (used.isascii() and used.isdigit() and len(used) < 10):
        return None
    return max(0, WEIGHT_PER_MINUTE - int(used))
