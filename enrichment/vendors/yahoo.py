"""Yahoo's charts as bars: prices adjusted for splits, not for dividends, as Yahoo serves them.

Stocks' hourly bars begin at half past there, with the session; those here stand on the clock, so
stocks' 1h and 4h bars are built from half-hours, and crypto's 4h bars from hours. Yahoo keeps
half-hours and shorter for 60 days and hours for 730: an older part of a window is not asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import quote

import numpy as np

from enrichment.domain.bars import Bars, Timestamps
from enrichment.domain.bars import to_datetime64 as utc
from enrichment.domain.calendars import canonical, clock_floor
from enrichment.domain.clock import utc_now
from enrichment.domain.errors import MalformedResponse, ProviderError, UnknownSymbol
from enrichment.domain.model import AssetClass, FetchedBars, Timeframe, Window
from enrichment.vendors.http import HttpClient
from enrichment.vendors.parsing import moments, numbers
from enrichment.vendors.registry import VENDORS

_INTERVALS = {
    Timeframe.M5: "5m",
    Timeframe.M15: "15m",
    Timeframe.M30: "30m",
    Timeframe.H1: "60m",
    Timeframe.D1: "1d",
    Timeframe.W1: "1wk",
}
_MARGIN = timedelta(hours=1)  # Yahoo's clock decides what is too old
_PRICES = ("open", "high", "low", "close")


class YahooProvider:
    """Fetches bars, one request a window.

    name: as in the settings' order of providers. source: what is recorded as the bars' origin.
    now: the wall clock, for how far back Yahoo keeps intraday bars.
    """

    def __init__(
        self,
        client: HttpClient,
        *,
        name: str = "yahoo",
        source: str = "yahoo",
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self.name = name
        self.source = source
        self._client, self._now = client, now

    def fetch(
        self, symbol: str, asset_class: AssetClass, timeframe: Timeframe, window: Window
    ) -> FetchedBars:
        """The bars that start in the window, as far as Yahoo keeps them; ProviderError if it
        fails.
        """
        native = _native(asset_class, timeframe)
        start = window.start
        reach = VENDORS["yahoo"].reach(asset_class, timeframe)
        if reach is not None:
            start = max(start, self._now() - reach + _MARGIN)
        if start >= window.end:
            return FetchedBars(Bars.empty(), self.source, adjusted=True, requests=0)
        if not timeframe.intraday:
            start -= timedelta(days=7)  # days and weeks are stamped by the exchange's own clock
        answer = self._client.get_json(
            f"/v8/finance/chart/{quote(ticker(symbol), safe='')}",
            {
                "period1": _seconds(start),
                "period2": _seconds(window.end),
                "interval": _INTERVALS[native],
                "events": "div,splits",
                "includePrePost": "false",
            },
        )
        bars = parse(answer.body, symbol)
        bars = _on(canonical(asset_class, native, bars.ts), bars)
        if native is not timeframe:
            bars = _aggregated(bars, clock_floor(asset_class, timeframe, bars.ts))
        kept = (bars.ts >= utc(window.start)) & (bars.ts < utc(window.end))
        return FetchedBars(bars.take(kept), self.source, adjusted=True)


def ticker(symbol: str) -> str:
    """Yahoo's name of a symbol: BRK.B → BRK-B, X:BTCUSD → BTC-USD."""
    if symbol.startswith("X:"):
        name = symbol.removeprefix("X:")
        return f"{name[:-3]}-{name[-3:]}"
    return symbol.replace(".", "-")


def parse(body: Any, symbol: str) -> Bars:
    """A chart as bars on Yahoo's own timestamps. A bar without any price does not exist; a single
    missing price is NaN.
    """
    chart = _object(_object(body, "the answer").get("chart"), "'chart'")
    error = chart.get("error")
    if error is not None:
        raise _refusal(error, symbol)
    results = chart.get("result")
    if not isinstance(results, list) or not results:
        raise MalformedResponse("'result' is not a list with a chart")
    result = _object(results[0], "a chart")
    stamps = _list(result.get("timestamp") or [], "timestamp")
    quotes = _list(_object(result.get("indicators"), "'indicators'").get("quote"), "quote")
    if not stamps:
        return Bars.empty()
    quoted = _object(quotes[0] if quotes else None, "a quote")
    columns = {n: numbers(_list(quoted.get(n), n), n) for n in (*_PRICES, "volume")}
    if {len(column) for column in columns.values()} != {len(stamps)}:
        raise MalformedResponse("a quote's columns are not as long as 'timestamp'")
    bars = Bars.of(moments(stamps, "timestamp", "s"), *columns.values())
    missing = np.isnan(np.stack([columns[name] for name in _PRICES]))
    return bars.take(np.flatnonzero(~missing.all(axis=0)))


def _native(asset_class: AssetClass, timeframe: Timeframe) -> Timeframe:
    """The timeframe to ask for."""
    if asset_class is not AssetClass.CRYPTO and timeframe in (Timeframe.H1, Timeframe.H4):
        return Timeframe.M30
    return Timeframe.H1 if timeframe is Timeframe.H4 else timeframe


def _aggregated(bars: Bars, keys: Timestamps) -> Bars:
    """Bars of equal key as one bar that starts at the key; a NaN in one of them stays visible."""
    if len(bars) == 0:
        return bars
    order = np.argsort(bars.ts, kind="stable")
    bars, keys = bars.take(order), keys[order]
    first = np.concatenate([[0], np.flatnonzero(keys[1:] != keys[:-1]) + 1])
    last = np.append(first[1:], len(keys)) - 1
    return Bars.of(
        keys[first],
        bars.open[first],
        np.maximum.reduceat(bars.high, first),
        np.minimum.reduceat(bars.low, first),
        bars.close[last],
        np.add.reduceat(bars.volume, first),
    )


def _on(ts: Timestamps, bars: Bars) -> Bars:
    return Bars(**{**bars.columns(), "ts": ts})


def _seconds(moment: datetime) -> int:
    return int(moment.timestamp())


def _refusal(error: Any, symbol: str) -> ProviderError:
    said = error if isinstance(error, Mapping) else {}
    words = " ".join(str(said.get("description") or said.get("code") or "no reason given").split())
    if said.get("code") == "Not Found":
        return UnknownSymbol(f"Yahoo does not know {symbol} ({ticker(symbol)}): {words[:200]}")
    return ProviderError(f"Yahoo reports an error for {symbol}: {words[:200]}")


def _object(value: Any, what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise MalformedResponse(f"{what} is not an object")
    return value


def _list(value: Any, field: str) -> list[Any]:
    if not isinstance(value, list):
        raise MalformedResponse(f"'{field}' is not a list")
    return value
