"""Bars from Coinbase Exchange's candles: crypto only, days in UTC, no key needed.

Bars of 30 minutes and 4 hours, which Coinbase does not have, are built from its quarters of an hour
and its hours. A bar without trades is missing. Candles have no VWAP and no number of trades.

>>> parse([[1717200000, 1, 3, 1, 2, 10]]).high
array([3.])
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from enrichment.domain.bars import Bars
from enrichment.domain.calendars import canonical
from enrichment.domain.errors import MalformedResponse, UnknownSymbol
from enrichment.domain.model import AssetClass, FetchedBars, Timeframe, Window
from enrichment.vendors.base import naming, require_fewer_bars, to_floats, to_timestamps, within
from enrichment.vendors.canonical import build
from enrichment.vendors.http import HttpClient
from enrichment.vendors.spelling import vendor_spelling

MAX_CANDLES = 300  # in one response; a longer range is refused
_BUILT_FROM = {Timeframe.M30: Timeframe.M15, Timeframe.H4: Timeframe.H1, Timeframe.W1: Timeframe.D1}
_OPENED = datetime(2015, 1, 1, tzinfo=UTC)  # no candle is older
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIELDS = 6


class CoinbaseProvider:
    """Fetches bars in ranges of at most 300 candles.

    Args:
        source: Recorded with the bars.
        limit: Candles of one range, 2 to 300.
    """

    name = "coinbase"

    def __init__(
        self, client: HttpClient, *, source: str = "coinbase", limit: int = MAX_CANDLES
    ) -> None:
        self.source = source
        self._client, self._limit = client, limit

    def fetch(
        self, symbol: str, asset_class: AssetClass, timeframe: Timeframe, window: Window
    ) -> FetchedBars:
        """Fetch the bars that start in the window, ascending.

        They count as adjusted, since coins have no splits.

        Raises:
            ProviderError: The answer could not be used.
        """
        if asset_class is not AssetClass.CRYPTO:
            raise UnknownSymbol(f"Coinbase trades crypto only, {symbol} is a {asset_class}")
        served = _BUILT_FROM.get(timeframe, timeframe)
        ranges = list(self._ranges(timeframe, served, window))
        product = vendor_spelling(self.name, symbol)
        with naming(self.name, product):
            pages = [self._candles(product, served, asked) for asked in ranges]
        bars = Bars.empty().concat(*pages)
        bars = replace(bars, ts=canonical(asset_class, served, bars.ts))
        if served is not timeframe:
            bars = build(bars, asset_class, served, timeframe)
        return FetchedBars(within(bars, window), self.source, adjusted=True, requests=len(ranges))

    def _ranges(self, timeframe: Timeframe, served: Timeframe, window: Window) -> Iterator[Window]:
        """The window in whole bars, in ranges of which each ends where the next begins.

        Whether Coinbase counts a range's end in is not documented: 300 candles are the most either
        way.
        """
        start = max(_floor(window.start, timeframe), _OPENED)
        end = _floor(window.end, timeframe)
        end = end if end == window.end else end + timeframe.duration
        while start < end:
            stop = min(start + (self._limit - 1) * served.duration, end)
            yield Window(start, stop)
            start = stop

    def _candles(self, product: str, timeframe: Timeframe, asked: Window) -> Bars:
        """The range's bars, ascending, without candles outside of it, which Coinbase may add."""
        response = self._client.get_json(
            f"/products/{quote(product, safe='')}/candles",
            {
                "granularity": int(timeframe.duration.total_seconds()),
                "start": f"{asked.start:%Y-%m-%dT%H:%M:%SZ}",
                "end": f"{asked.end:%Y-%m-%dT%H:%M:%SZ}",
            },
        )
        bars = parse(response.body)
        require_fewer_bars(len(bars), asked, timeframe)
        return within(bars.take(slice(None, None, -1)), asked)


def parse(rows: Any) -> Bars:
    """The bars of candles [time, low, high, open, close, volume], in the vendor's order."""
    if not isinstance(rows, list):
        raise MalformedResponse("the candles are not a list")
    if not rows:
        return Bars.empty()
    if any(type(row) is not list or len(row) < _FIELDS for row in rows):
        raise MalformedResponse(f"a candle is not a list of {_FIELDS} values")
    start, low, high, open_, close, volume, *_ = zip(*rows, strict=False)
    return Bars.of(
        to_timestamps(start, "time", "s"),
        to_floats(open_, "open"),
        to_floats(high, "high"),
        to_floats(low, "low"),
        to_floats(close, "close"),
        to_floats(volume, "volume"),
    )


def _floor(moment: datetime, timeframe: Timeframe) -> datetime:
    return moment - (moment - _EPOCH) % timeframe.duration
