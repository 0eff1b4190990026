"""Whole days of the US stock market from Polygon's grouped daily bars (Massive's are the same).

https://polygon.io/docs/rest/stocks/aggregates/daily-market-summary

>>> row = {"T": "BRK.B", "t": 1709326800000, "o": 1, "h": 3, "l": 1, "c": 2, "v": 100, "vw": 2}
>>> parse([row], date(2024, 3, 1)).bars.ts
array(['2024-03-01T00:00:00.000000'], dtype='datetime64[us]')
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from datetime import date, datetime
from itertools import compress
from typing import Any

import numpy as np

from enrichment.domain.bars import Bars, to_datetime64
from enrichment.domain.calendars import canonical, local_midnights
from enrichment.domain.errors import AccessDenied, MalformedResponse, ProviderError
from enrichment.domain.market_days import MarketDay
from enrichment.domain.model import AssetClass, Timeframe
from enrichment.vendors.base import naming, to_timestamps
from enrichment.vendors.http import HttpClient
from enrichment.vendors.polygon import NOT_AUTHORIZED
from enrichment.vendors.spelling import symbol_at

_PRICES, _COUNTS = ("o", "h", "l", "c", "v"), ("vw", "n")
_TYPES = (int, float)
_MAX_VALUE = 1e50  # larger whole numbers may not fit a float


class PolygonDays:
    """Daily bars of all US stocks, as traded, one request a day.

    Args:
        client: Sends the requests.
        source: As of the bars that it sends symbol by symbol.
        now: The wall clock, by default the client's.
    """

    name = "polygon"

    def __init__(
        self, client: HttpClient, source: str = "polygon", now: Callable[[], datetime] | None = None
    ) -> None:
        self._client, self.source, self._now = client, source, now or client.now

    def fetch_day(self, day: date) -> MarketDay:
        """The bars of one session, of every symbol whose row can be used.

        Empty if the plan withholds the day until midnight in New York, or nobody traded.

        Raises:
            AccessDenied: The plan has no whole days, or none that old.
            ProviderError: The answer could not be used.
            Snooze: The vendor is not to be asked before some time has passed.
        """
        path = f"/v2/aggs/grouped/locale/us/market/stocks/{day}"
        with naming(self.name, f"all stocks of {day}"):
            try:
                return parse(_rows(self._client.get_json(path, {"adjusted": "false"}).body), day)
            except AccessDenied as exc:
                if exc.status == NOT_AUTHORIZED and self._is_withheld(day):
                    return MarketDay()
                raise

    def _is_withheld(self, day: date) -> bool:
        """Whether a free plan may not have the day yet."""
        following = np.array([np.datetime64(day) + 1], "datetime64[us]")
        return bool(to_datetime64(self._now()) < local_midnights(AssetClass.STOCK, following)[0])


def parse(rows: list[Any], day: date) -> MarketDay:
    """The rows of one day; of another day they are a MalformedResponse.

    Rows that can't be used are left out: with values that no bar has, of tickers that no symbol is
    spelt like, and all rows of a ticker that has several.
    """
    usable = [row for row in rows if _is_usable(row)]
    tickers = Counter(row["T"] for row in usable)
    named = [(symbol_at("polygon", row["T"]), row) for row in usable if tickers[row["T"]] == 1]
    kept = {symbol: row for symbol, row in named if symbol is not None}
    if not kept:
        return MarketDay()
    ts = to_timestamps([row["t"] for row in kept.values()], "t", "ms")
    days = canonical(AssetClass.STOCK, Timeframe.D1, ts)
    if (days.astype("datetime64[D]") != np.datetime64(day)).any():
        raise MalformedResponse(f"'t' is of another day than {day}")
    columns = {name: [row.get(name) for row in kept.values()] for name in (*_PRICES, *_COUNTS)}
    floats = {name: np.array(column, np.float64) for name, column in columns.items()}
    prices = (floats[name] for name in _PRICES)
    bars = Bars.of(days, *prices, vwap=floats["vw"], trades=floats["n"])
    possible = bars.usable_rows()
    possible &= (bars.high >= np.maximum(bars.open, bars.close)) & (bars.low <= bars.close)
    possible &= bars.low <= bars.open
    symbols = tuple(compress(kept, possible))
    return MarketDay(symbols, bars.take(possible))


def _rows(body: Any) -> list[Any]:
    if not isinstance(body, dict):
        raise MalformedResponse("the answer is not an object")
    if body.get("status") == NOT_AUTHORIZED:
        raise AccessDenied("the vendor refuses whole days", NOT_AUTHORIZED, 403)
    if body.get("status") == "ERROR":
        raise ProviderError("the vendor reports an error")
    if body.get("status") not in ("OK", "DELAYED"):
        raise MalformedResponse("'status' is none of OK, DELAYED, ERROR")
    if body.get("adjusted") is not False:
        raise MalformedResponse("'adjusted' is not false")
    rows = body.get("results") or []
    if not isinstance(rows, list):
        raise MalformedResponse("'results' is not a list")
    if body.get("resultsCount", len(rows)) != len(rows):
        raise MalformedResponse(f"'results' has {len(rows)} rows of {body['resultsCount']}")
    return rows


def _is_usable(row: Any) -> bool:
    if (
        not isinstance(row, Mapping)
        or type(row.get("T")) is not str
        or type(row.get("t")) is not int
    ):
        return False
    values: list[Any] = [row.get(name) for name in _PRICES]
    values += [row[name] for name in _COUNTS if row.get(name) is not None]
    return all(type(value) in _TYPES and abs(value) <= _MAX_VALUE for value in values)
