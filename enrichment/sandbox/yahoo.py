"""Yahoo's charts, /v8/finance/chart/…, as recorded.

Prices are adjusted for splits and sent as float32, whose last digit differs from request to
request. Stocks' days are stamped at the opening and their hours at half past; a week begins on the
weekday of `period1`. The newest day is a live quote, stamped with the last trade, and an intraday
answer ends with a flat row without volume. A bar without trades is nulls. Intraday bars reach back
60 or 730 days. Clients that do not look like a browser get a 429, and a fault lets it ask for its
cookie and crumb.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any, ClassVar
from zoneinfo import ZoneInfo

import numpy as np
import orjson
from flask import Blueprint, Response, request

from enrichment.domain.bars import Bars, Floats, Timestamps, to_datetime, to_datetime64
from enrichment.domain.calendars import Market, bar_starts, local_midnights, session_hours
from enrichment.domain.exchanges import NEW_YORK, Exchange
from enrichment.domain.model import AssetClass, Timeframe, Window
from enrichment.sandbox.counter_rng import random_bits, uniform
from enrichment.sandbox.data_faults import close_literals, with_faults
from enrichment.sandbox.faults import Fault
from enrichment.sandbox.series import SandboxSeries, aggregate, split_adjusted
from enrichment.sandbox.share_actions import in_force
from enrichment.sandbox.vendor import SandboxVendor
from enrichment.sandbox.wire_format import (
    Page,
    WireFormat,
    closes_with_placeholders,
    insert_literals,
    json_response,
)

_INTERVALS = {
    "5m": Timeframe.M5,
    "15m": Timeframe.M15,
    "30m": Timeframe.M30,
    "60m": Timeframe.H1,
    "1h": Timeframe.H1,
    "1d": Timeframe.D1,
    "1wk": Timeframe.W1,
}
_RANGES = {"1d": 1, "5d": 7, "1mo": 31, "3mo": 92, "6mo": 183, "1y": 366, "2y": 731, "5y": 1827}
_REACH_DAYS = {Timeframe.M5: 60, Timeframe.M15: 60, Timeframe.M30: 60, Timeframe.H1: 730}
_STAMP_MARGIN = timedelta(days=1)  # between a canonical bar start and the vendor's stamp
_OPENING = np.timedelta64(570, "m")  # 09:30 in New York
_HALF_HOUR = np.timedelta64(30, "m")
_SECOND, _DAY = np.timedelta64(1, "s"), np.timedelta64(1, "D")
_REPORTED = np.timedelta64(2, "s")  # from the close to the stamp of its last trade
_EXCHANGE_NAMES = {
    "XNYS": "NMS",
    "XLON": "LSE",
    "XTKS": "JPX",
    "XETR": "GER",
    "XTSE": "TOR",
    "XASX": "ASX",
}
_BROWSER = re.compile(
    r"Mozilla/5\.0 \([^)]+\) (AppleWebKit/\S+ \(KHTML, like Gecko\) .*Safari/\d|Gecko/\S+ Firefox/)"
)
_COOKIE, _CRUMB = "d=AQABBKk", "sX/b.2Jk1N0"
_SETTLED_LATER = 0.02  # of a day's volume is added to its live quote after midnight
_NOISE = 1e-7
_PRICES = ("open", "high", "low", "close")
_ERRORS = {
    "unauthorized": ("Unauthorized", "User is unable to access this feature"),
    "forbidden": ("Forbidden", "Access denied"),
    "rate_limit": ("Too Many Requests", "Too Many Requests"),
    "quota": ("Too Many Requests", "Too Many Requests"),
    "server_error": ("Internal Server Error", "Something went wrong"),
    "unknown": ("Not Found", "No data found, symbol may be delisted"),
    "bad_request": ("Bad Request", "Invalid input - interval or period is not supported"),
    "out_of_reach": (
        "Unprocessable Entity",
        "The requested range must be within the last 60 days (hours: 730 days).",
    ),
}


class YahooFormat(WireFormat):
    """Answers requests in Yahoo's wire format."""

    name: ClassVar[str] = "yahoo"

    def __init__(self, vendor: SandboxVendor) -> None:
        super().__init__(vendor)
        self._numbers = count()

    def blueprint(self) -> Blueprint:
        routes = Blueprint("yahoo", __name__)
        routes.add_url_rule("/v8/finance/chart/<symbol>", view_func=self.chart)
        routes.add_url_rule("/v1/test/getcrumb", view_func=self.crumb)
        routes.add_url_rule("/", view_func=self.cookie)
        return routes

    def cookie(self) -> Response:
        """The page of fc.yahoo.com, which is missing but sets the cookie."""
        response = Response("<html>404 Not Found</html>", 404, mimetype="text/html")
        expires = self._vendor.clock() + timedelta(days=365)
        response.set_cookie("A3", _COOKIE, expires=expires, secure=True, httponly=True)
        return response

    def crumb(self) -> Response:
        if request.cookies.get("A3") != _COOKIE:
            return json_response(_finance_error("Invalid Cookie"), 401)
        return Response(_CRUMB, mimetype="text/plain")

    def chart(self, symbol: str) -> Response:
        ticker = _ticker(symbol)
        if not _BROWSER.match(request.headers.get("User-Agent", "")):
            self._vendor.requests.count(ticker, "not_a_browser")
            return Response("Too Many Requests\r\n", 429, mimetype="text/plain")
        refused = self._over_quota(ticker, "yahoo")
        if refused is not None:
            return refused
        series = self._vendor.market.series(ticker)
        if series is None:
            return self._refusal(ticker, "unknown", 404)
        query = _query(symbol, self._vendor.clock())
        if query is None:
            return self._refusal(ticker, "bad_request", 400)
        days = _REACH_DAYS.get(query.timeframe)
        if days is not None and query.start < self._vendor.clock() - timedelta(days=days):
            return self._refusal(ticker, "out_of_reach", 422)
        return self._serve(
            ticker,
            lambda data_faults: self._page(series, query, data_faults),
            lambda: self._body(series, query, _Rows(Bars.empty(), np.empty(0, "datetime64[us]"))),
        )

    def _failure(
        self,
        ticker: str,
        fault: Fault,
        page: Page,
        data_faults: Sequence[Fault],
        empty: Callable[[], bytes],
    ) -> Response:
        if fault.kind != "crumb":
            return super()._failure(ticker, fault, page, data_faults, empty)
        if request.cookies.get("A3") == _COOKIE and request.args.get("crumb") == _CRUMB:
            self._vendor.requests.count(ticker, "ok")
            return json_response(page(data_faults))
        self._vendor.requests.count(ticker, "crumb")
        return json_response(_finance_error("Invalid Crumb"), 401)

    def _error_body(self, outcome: str) -> bytes:
        code, description = _ERRORS[outcome]
        return orjson.dumps(
            {"chart": {"result": None, "error": {"code": code, "description": description}}}
        )

    def _page(self, series: SandboxSeries, query: _Query, data_faults: Sequence[Fault]) -> bytes:
        live = _live_quote(series.market, self._vendor.clock())
        bars = _bars(series, query, live, self._vendor.clock())
        bars = bars.take(query.contains(_stamps(series.market, query.timeframe, bars.ts)))
        starts = bars.ts
        bars = with_faults(bars, data_faults, starts)
        rows = _Rows(bars, _stamps(series.market, query.timeframe, bars.ts))
        literals = close_literals(data_faults, starts)
        rows = _with_live_row(rows, series, query, live, self._vendor.clock())
        return insert_literals(self._body(series, query, rows, literals), list(literals.values()))

    def _body(
        self,
        series: SandboxSeries,
        query: _Query,
        rows: _Rows,
        literals: Mapping[int, str] | None = None,
    ) -> bytes:
        now = self._vendor.clock()
        live = _live_quote(series.market, now)
        bars = _with_noise(rows.bars, next(self._numbers))
        columns: dict[str, list[Any]] = {name: _with_nulls(getattr(bars, name)) for name in _PRICES}
        columns["close"] = closes_with_placeholders(bars, columns["close"], literals or {})
        columns["volume"] = _with_nulls(bars.volume, whole=True)
        indicators: dict[str, Any] = {"quote": [columns if len(bars) else {}]}
        if not query.timeframe.intraday:
            adjusted = _with_nulls(_adjusted_close(series, bars, now))
            indicators["adjclose"] = [{"adjclose": adjusted} if len(bars) else {}]
        meta = _meta(series.market, query, live, bars)
        result: dict[str, Any] = {"meta": meta, "indicators": indicators}
        if len(bars):
            result["timestamp"] = _seconds(rows.stamps)
        events = _events(series, query, now)
        if events:
            result["events"] = events
        return orjson.dumps({"chart": {"result": [result], "error": None}})


def _finance_error(description: str) -> bytes:
    error = {"code": "Unauthorized", "description": description}
    return orjson.dumps({"finance": {"result": None, "error": error}})


@dataclass(frozen=True, slots=True)
class _Query:
    symbol: str
    interval: str
    timeframe: Timeframe
    start: datetime
    end: datetime

    def contains(self, stamps: Timestamps) -> np.ndarray[Any, np.dtype[np.bool_]]:
        first, end = to_datetime64(self.start), to_datetime64(self.end)
        return np.asarray((stamps >= first) & (stamps < end))


@dataclass(frozen=True, slots=True)
class _Rows:
    """Bars, and the vendor's stamp of each."""

    bars: Bars
    stamps: Timestamps


@dataclass(frozen=True, slots=True)
class _LiveQuote:
    """The newest session: its date, its last trade, and how far it is."""

    label: np.datetime64
    last_trade: np.datetime64
    ended: bool
    today: bool
    """Whether it is still the session's day at the exchange."""
    doubled: bool
    """Whether the session's own row stands beside the quote."""


def _query(symbol: str, now: datetime) -> _Query | None:
    """The parameters of the request; None if one is wrong."""
    interval = request.args.get("interval", "1d")
    try:
        seconds = int(now.timestamp())
        days = _RANGES.get(request.args.get("range", ""), 0)
        times = {"period1": seconds - days * 86_400, "period2": seconds} if days else request.args
        first, last = (int(times[name]) for name in ("period1", "period2"))
        start, end = (datetime.fromtimestamp(min(t, 4_102_444_800), UTC) for t in (first, last))
    except (KeyError, ValueError, OverflowError, OSError):
        return None
    if interval not in _INTERVALS or start > end:
        return None
    return _Query(symbol, interval, _INTERVALS[interval], start, end)


def _live_quote(market: Market, now: datetime) -> _LiveQuote:
    at = to_datetime64(now).astype("datetime64[s]").astype("datetime64[us]")
    if market is AssetClass.CRYPTO:
        today = at.astype("datetime64[D]").astype("datetime64[us]")
        return _LiveQuote(today, at, ended=False, today=True, doubled=False)
    window = now - timedelta(days=10), now + timedelta(days=1)
    labels = bar_starts(market, Timeframe.D1, *window)
    opens, closes = session_hours(labels, market)
    row = np.flatnonzero(opens <= at)[-1]
    ended = bool(closes[row] <= at)
    return _LiveQuote(
        labels[row],
        closes[row] + _REPORTED if ended else at,
        ended,
        today=to_datetime(labels[row]).date() == now.astimezone(_zone(market)).date(),
        doubled=bool(closes[row] + 2 * _HALF_HOUR <= at),
    )


def _bars(series: SandboxSeries, query: _Query, live: _LiveQuote, now: datetime) -> Bars:
    """The bars around the query's window; weeks start on the weekday of its first day."""
    source = Timeframe.D1 if query.timeframe is Timeframe.W1 else query.timeframe
    window = Window(query.start - _STAMP_MARGIN, query.end + _STAMP_MARGIN)
    bars = series.bars(source, window, now)
    bars = split_adjusted(bars, series.splits, now)
    if source is query.timeframe:
        return bars
    first = to_datetime64(query.start).astype("datetime64[D]").astype("datetime64[us]")
    bars = bars.take((bars.ts >= first) & ~(live.today & (bars.ts == live.label)))
    return aggregate(bars, first + (bars.ts - first) // (7 * _DAY) * (7 * _DAY))


def _with_live_row(
    rows: _Rows, series: SandboxSeries, query: _Query, live: _LiveQuote, now: datetime
) -> _Rows:
    if query.timeframe.intraday:
        return _with_closing_row(rows, query, live)
    if not live.today:
        return rows
    window = Window(to_datetime(live.label), to_datetime(live.label + _DAY))
    quote = series.bars(Timeframe.D1, window, now)
    days = rows.bars.ts != live.label
    if query.timeframe is Timeframe.D1:
        quote = rows.bars.take(~days)
        if not live.doubled:
            rows = _Rows(rows.bars.take(days), rows.stamps[days])
    quote = replace(quote, volume=np.rint(quote.volume * (1 - _SETTLED_LATER)))
    return _appended(rows, query, quote, live.last_trade)


def _with_closing_row(rows: _Rows, query: _Query, live: _LiveQuote) -> _Rows:
    """With a flat row at the close or, during the session, at the last trade."""
    newest = rows.bars.ts >= live.label
    if not newest.any():
        return rows
    last = rows.bars.take(newest).take(slice(-1, None))
    price = last.close
    flat = Bars.of(last.ts, price, price, price, price, np.zeros(1))
    stamp = live.last_trade - _REPORTED if live.ended else live.last_trade
    return _appended(rows, query, flat, stamp)


def _appended(rows: _Rows, query: _Query, bars: Bars, stamp: np.datetime64) -> _Rows:
    stamps = np.full(len(bars), stamp)
    kept = query.contains(stamps)
    return _Rows(rows.bars.concat(bars.take(kept)), np.append(rows.stamps, stamps[kept]))


def _with_noise(bars: Bars, number: int) -> Bars:
    """As float32, each row scaled by a factor next to 1 that depends on the request's number."""
    bits = random_bits(number, 0, np.arange(len(bars)))
    scale = 1 + _NOISE * (2 * uniform(bits, 0) - 1)
    prices = {
        name: (getattr(bars, name) * scale).astype(np.float32).astype(np.float64)
        for name in _PRICES
    }
    return replace(bars, **prices)


def _adjusted_close(series: SandboxSeries, bars: Bars, now: datetime) -> Floats:
    """The closes adjusted for later dividends too."""
    factor = np.ones(len(bars))
    for day, amount in series.dividends.items():
        row = int(np.searchsorted(bars.ts, day))
        if 0 < row < len(bars):
            ratio = 1 - _split_adjusted(series, day, amount, now) / bars.close[row - 1]
            factor[:row] *= ratio
    return np.asarray((bars.close * factor).astype(np.float32).astype(np.float64))


def _split_adjusted(
    series: SandboxSeries, day: np.datetime64, amount: float, now: datetime
) -> float:
    splits = in_force(series.splits, to_datetime64(now))
    later = [ratio for split, ratio in splits.items() if split > day]
    return float(amount / np.prod(later))


def _ticker(symbol: str) -> str:
    """The ticker of a symbol: X:SIM1USD for SIM1-USD, BRK.B for BRK-B, BACpL for BAC-PL."""
    name, dash, suffix = symbol.rpartition("-")
    if dash and len(suffix) == 3:
        return f"X:{name}{suffix}"
    if dash and len(suffix) == 2 and suffix.startswith("P"):
        return f"{name}p{suffix[1]}"
    return symbol.replace("-", ".")


def _exchange(market: Market) -> Exchange:
    return market if isinstance(market, Exchange) else NEW_YORK


def _zone(market: Market) -> ZoneInfo:
    return ZoneInfo("UTC" if market is AssetClass.CRYPTO else _exchange(market).timezone)


def _stamps(market: Market, timeframe: Timeframe, ts: Timestamps) -> Timestamps:
    if market is AssetClass.CRYPTO or len(ts) == 0:
        return ts
    abroad = _exchange(market) is not NEW_YORK
    if timeframe is Timeframe.D1:
        if abroad:
            return session_hours(ts, market)[0]
        return np.asarray(local_midnights(market, ts) + _OPENING)
    if timeframe is Timeframe.W1:
        return local_midnights(market, ts)
    if abroad:
        return ts
    return np.asarray(ts + _HALF_HOUR) if timeframe is Timeframe.H1 else ts


def _seconds(stamps: Timestamps) -> list[int]:
    return stamps.astype("datetime64[s]").astype(np.int64).tolist()  # type: ignore[no-any-return]


def _meta(market: Market, query: _Query, live: _LiveQuote, bars: Bars) -> dict[str, Any]:
    crypto, exchange, zone = market is AssetClass.CRYPTO, _exchange(market), _zone(market)
    local = to_datetime(live.last_trade).astimezone(zone)
    offset = local.utcoffset() or timedelta()
    meta: dict[str, Any] = {
        "currency": "USD" if crypto else exchange.currency,
        "symbol": query.symbol,
        "exchangeName": "CCC" if crypto else _EXCHANGE_NAMES.get(exchange.mic, exchange.mic),
        "instrumentType": "CRYPTOCURRENCY" if crypto else "EQUITY",
        "regularMarketTime": int(local.timestamp()),
        "hasPrePostMarketData": not crypto,
        "gmtoffset": int(offset.total_seconds()),
        "timezone": local.tzname(),
        "exchangeTimezoneName": str(zone),
        "priceHint": 2,
        "dataGranularity": "1h" if query.interval == "60m" else query.interval,
        "range": "",
        "validRanges": ["1d", "5d", "1mo", "3mo", "6mo", "1y", "2y", "5y", "10y", "ytd", "max"],
    }
    if len(bars) and np.isfinite(bars.close[-1]):
        meta["regularMarketPrice"] = round(float(bars.close[-1]), 2)
    return meta


def _events(series: SandboxSeries, query: _Query, now: datetime) -> dict[str, Any]:
    """The splits and dividends in the window that the request asks for."""
    wanted = re.split(r"[,|]", request.args.get("events", ""))
    events = {
        "dividends": {
            key: {"amount": round(_split_adjusted(series, day, amount, now), 6), "date": int(key)}
            for key, day, amount in _dated(series.dividends, query)
            if {"div", "dividends"} & set(wanted)
        },
        "splits": {
            key: {"date": int(key), **_ratio(ratio)}
            for key, _, ratio in _dated(series.splits, query)
            if {"split", "splits"} & set(wanted)
        },
    }
    return {name: entries for name, entries in events.items() if entries}


def _dated(
    events: Mapping[np.datetime64, float], query: _Query
) -> list[tuple[str, np.datetime64, float]]:
    days = np.array(list(events), dtype="datetime64[us]")
    stamps = _stamps(AssetClass.STOCK, Timeframe.D1, days)
    rows = zip(_seconds(stamps), days, events.values(), query.contains(stamps), strict=True)
    return [(str(second), day, value) for second, day, value, contained in rows if contained]


def _ratio(ratio: float) -> dict[str, Any]:
    new, old = (ratio, 1.0) if ratio >= 1 else (1.0, 1 / ratio)
    return {"numerator": new, "denominator": old, "splitRatio": f"{new:g}:{old:g}"}


def _with_nulls(column: Floats, *, whole: bool = False) -> list[Any]:
    values = np.rint(column).tolist() if whole else column.tolist()
    return [None if v != v else int(v) if whole else v for v in values]
