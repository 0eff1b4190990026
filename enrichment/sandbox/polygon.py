"""Polygon's aggregates, /v2/aggs/ticker/…/range/…, as recorded.

Daily and weekly bars are stamped at midnight in New York (weeks start on Sunday), those of crypto
and currencies at midnight UTC. `limit` counts base aggregates: minutes below a day, else days.
Stocks' intraday bars run from 04:00 to 20:00 in New York, and `next_url` names the vendor's other
host. What a plan allows is in `polygon_plan`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any, ClassVar
from urllib.parse import urlencode

import numpy as np
import orjson
from flask import Blueprint, Response, request

from enrichment.domain.bars import Bars, Timestamps, to_datetime, to_datetime64
from enrichment.domain.calendars import local_midnights
from enrichment.domain.model import AssetClass, Timeframe, Window
from enrichment.sandbox.data_faults import close_literals, with_faults
from enrichment.sandbox.extended_hours import extended_bars, extended_starts
from enrichment.sandbox.faults import Fault
from enrichment.sandbox.market import Market
from enrichment.sandbox.polygon_plan import BurstQuota, Plan
from enrichment.sandbox.polygon_query import AggregatesQuery, BadQueryError, cursor, parse
from enrichment.sandbox.polygon_reference import (
    day_of,
    dividends,
    grouped_day,
    selected,
    splits,
    ticker_details,
)
from enrichment.sandbox.series import SandboxSeries, split_adjusted
from enrichment.sandbox.vendor import SandboxVendor
from enrichment.sandbox.wire_format import (
    Milliseconds,
    WireFormat,
    insert_literals,
    json_response,
    milliseconds,
    placeholder,
)

_DAY = np.timedelta64(1, "D").astype("timedelta64[us]")
_ANNOUNCED = timedelta(days=30)  # before splits and dividends take effect
_STAMP_MARGIN = timedelta(days=9)  # between a canonical bar start and the vendor's stamp
_FIRST, _LAST = datetime(1971, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)
_MARKET = "MARKET"  # in place of a ticker, for faults and counts of whole-market requests
_IDENTITY = ("name", "composite_figi", "cik")
_OTHER_HOST = "https://api.massive.com"
_DENIED = (
    "Your plan doesn't include this data timeframe. Please upgrade your plan at "
    "https://polygon.io/pricing"
)
_TOO_MANY_REQUESTS = (
    "You've exceeded the maximum requests per minute, please wait or upgrade your subscription "
    "to continue. https://polygon.io/pricing"
)
_MESSAGES = {
    "unauthorized": "Unknown API Key",
    "rate_limit": _TOO_MANY_REQUESTS,
    "quota": _TOO_MANY_REQUESTS,
    "server_error": "an internal error occurred",
}


class PolygonFormat(WireFormat):
    """Answers requests in Polygon's wire format."""

    name: ClassVar[str] = "polygon"

    def __init__(self, vendor: SandboxVendor) -> None:
        super().__init__(vendor)
        self._numbers = count(1)
        self._plan: Plan = vendor.plan
        self._burst = BurstQuota(self._plan.per_minute)

    def blueprint(self) -> Blueprint:
        routes = Blueprint("polygon", __name__)
        path = "/v2/aggs/ticker/<ticker>/range/<multiplier>/<timespan>/<start>/<end>"
        routes.add_url_rule(path, view_func=self.aggregates)
        routes.get("/v2/aggs/grouped/locale/us/market/stocks/<day>")(self.grouped)
        routes.get("/stocks/v1/splits")(self.splits)
        routes.get("/stocks/v1/dividends")(self.dividends)
        routes.get("/v3/reference/tickers/<ticker>")(self.ticker)
        routes.get("/vX/reference/tickers/<ticker>/events")(self.events)
        routes.register_error_handler(BadQueryError, self._bad_query)
        return routes

    def aggregates(
        self, ticker: str, multiplier: str, timespan: str, start: str, end: str
    ) -> Response:
        refused = self._refused(ticker)
        if refused is not None:
            return refused
        query = parse(ticker, multiplier, timespan, start, end, request.args)
        bounds = self._plan.clipped(query.first_ms, query.last_ms, self._vendor.clock())
        if bounds is None:
            return self._refusal(ticker, "forbidden", 403)
        allowed = replace(query, first_ms=bounds[0], last_ms=bounds[1])
        return self._serve(
            ticker,
            lambda data_faults: self._page(allowed, list(data_faults)),
            lambda: orjson.dumps(self._envelope(allowed)),
        )

    def grouped(self, day: str) -> Response:
        refused = self._refused(_MARKET)
        if refused is not None:
            return refused
        date, now = day_of(day), self._vendor.clock()
        stamp = _midnight_ms(date)
        if self._plan.clipped(stamp, stamp, now) is None:
            return self._refusal(_MARKET, "forbidden", 403)
        adjusted = request.args.get("adjusted", "true").lower() == "true"

        def body(rows: list[dict[str, Any]]) -> bytes:
            counts = dict.fromkeys(("queryCount", "resultsCount", "count"), len(rows))
            fields = {"adjusted": adjusted, **self._success(), **counts}
            return orjson.dumps({**fields, "results": rows} if rows else fields)

        def faults(ticker: str) -> list[Fault]:
            return self._vendor.faults.data_faults(ticker, self.name)

        market = self._vendor.market
        return self._serve(
            _MARKET,
            lambda _: body(grouped_day(market, date, now, faults, adjusted=adjusted)),
            lambda: body([]),
        )

    def splits(self) -> Response:
        return self._actions(splits, "execution_date")

    def dividends(self) -> Response:
        return self._actions(dividends, "ex_dividend_date")

    def _actions(
        self, actions: Callable[[Market, datetime], Iterator[dict[str, Any]]], date_field: str
    ) -> Response:
        refused = self._refused(_MARKET)
        if refused is not None:
            return refused
        now = self._vendor.clock()
        earliest, announced = self._plan.earliest(now), now + _ANNOUNCED
        rows, following = selected(
            actions(self._vendor.market, announced),
            date_field,
            request.args,
            earliest and earliest.date(),
        )
        body = {**self._success(), "results": rows}
        if following is not None:
            body["next_url"] = _next_url(**{**request.args, "cursor": str(following)})
        content = orjson.dumps(body)
        empty = orjson.dumps({**self._success(), "results": []})
        return self._serve(_MARKET, lambda _: content, lambda: empty)

    def ticker(self, ticker: str) -> Response:
        """What the ticker is, or was on the date asked for."""
        date = request.args.get("date")
        at = day_of(date) + timedelta(days=1) if date else self._vendor.clock()
        return self._reference(ticker, ticker_details(self._vendor.market, ticker, at))

    def events(self, ticker: str) -> Response:
        """The ticker's changes; those of the sandbox have had one ticker since they were listed."""
        details = ticker_details(self._vendor.market, ticker, self._vendor.clock())
        if details is not None:
            change = {"type": "ticker_change", "ticker_change": {"ticker": ticker}}
            identity = {key: details[key] for key in _IDENTITY if key in details}
            details = {**identity, "events": [{**change, "date": details.get("list_date")}]}
        return self._reference(ticker, details)

    def _reference(self, ticker: str, details: dict[str, Any] | None) -> Response:
        refused = self._refused(ticker)
        if refused is not None:
            return refused
        if details is None:
            self._vendor.requests.count(ticker, "unknown")
            return json_response(self._error_response("NOT_FOUND", "Ticker not found."), 404)
        body = orjson.dumps({**self._success(), "results": details})
        return self._serve(ticker, lambda _: body, lambda: body)

    def _success(self) -> dict[str, Any]:
        return {"status": self._plan.status, "request_id": self._request_id()}

    def _bad_query(self, exc: Exception) -> Response:
        self._vendor.requests.count((request.view_args or {}).get("ticker", _MARKET), "bad_request")
        return json_response(self._error_response("ERROR", str(exc)), 400)

    def _refused(self, ticker: str) -> Response | None:
        """A 401 or 429 if the key is wrong or over its quota."""
        key = _key()
        if not self._vendor.accepts_key(key):
            return self._refusal(ticker, "unauthorized", 401)
        if not self._burst.allows(key, self._vendor.clock()):
            return self._refusal(ticker, "quota", 429)
        return self._over_quota(ticker, key)

    def _error_body(self, outcome: str) -> bytes:
        if outcome == "forbidden":
            return self._error_response("NOT_AUTHORIZED", _DENIED)
        return self._error_response("ERROR", _MESSAGES[outcome])

    def _error_response(self, status: str, message: str) -> bytes:
        field = "error" if status == "ERROR" else "message"
        return orjson.dumps({"status": status, "request_id": self._request_id(), field: message})

    def _request_id(self) -> str:
        return f"{next(self._numbers):032x}"

    def _envelope(self, query: AggregatesQuery) -> dict[str, Any]:
        return {
            "ticker": query.ticker,
            "queryCount": 0,
            "resultsCount": 0,
            "adjusted": query.adjusted,
            **self._success(),
            "count": 0,
        }

    def _page(self, query: AggregatesQuery, data_faults: list[Fault]) -> bytes:
        series = self._vendor.market.series(query.ticker)
        body = self._envelope(query)
        if series is None:
            return orjson.dumps(body)
        now = self._vendor.clock()
        starts, stamps = _requested(series, query, now)
        remaining = _remaining(starts, stamps, query)
        page = remaining[: query.bars_per_page]
        bars = _bars(series, query, page, now)
        rows = _rows(with_faults(bars, data_faults, starts), series.asset_class, query.timeframe)
        body["queryCount"] = len(page) * query.base_aggregates
        body["resultsCount"] = body["count"] = len(rows)
        if len(remaining) > len(page):
            last = _stamps(series.asset_class, query.timeframe, page[-1:])
            body["next_url"] = _next_url(cursor=cursor(query, int(milliseconds(last)[0])))
        if rows or "next_url" in body:
            body["results"] = rows
        literals = close_literals(data_faults, starts)
        return _encoded(body, literals, series.asset_class, query.timeframe)


def _key() -> str:
    authorization = request.headers.get("Authorization", "")
    scheme, _, token = authorization.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else request.args.get("apiKey", "")


def _next_url(**parameters: str) -> str:
    return f"{_OTHER_HOST}{request.path}?{urlencode(parameters)}"


def _midnight_ms(day: datetime) -> int:
    midnight = local_midnights(AssetClass.STOCK, np.array([to_datetime64(day)]))
    return int(milliseconds(midnight)[0])


def _requested(
    series: SandboxSeries, query: AggregatesQuery, now: datetime
) -> tuple[Timestamps, Milliseconds]:
    """The canonical starts and the vendor's stamps of all bars of the query, on all pages."""
    first, last = (
        min(max(ms, int(_FIRST.timestamp() * 1000)), int(_LAST.timestamp() * 1000))
        for ms in (query.first_ms, query.last_ms)
    )
    start, end = (to_datetime(np.datetime64(ms, "ms")) for ms in (first, last))
    window = Window(start - _STAMP_MARGIN, end + _STAMP_MARGIN)
    starts = (
        extended_starts(query.timeframe, window, now)
        if _is_extended(series, query.timeframe)
        else series.starts(query.timeframe, window, now)
    )
    stamps = _stamps(series.asset_class, query.timeframe, starts)
    ms = milliseconds(stamps)
    requested = (ms >= query.first_ms) & (ms <= query.last_ms)
    return starts[requested], ms[requested]


def _remaining(starts: Timestamps, stamps: Milliseconds, query: AggregatesQuery) -> Timestamps:
    """The starts of the bars after the cursor, in the order of the query."""
    if query.after is not None:
        starts = starts[stamps > query.after if query.ascending else stamps < query.after]
    return starts if query.ascending else starts[::-1]


def _bars(series: SandboxSeries, query: AggregatesQuery, page: Timestamps, now: datetime) -> Bars:
    if len(page) == 0:
        return Bars.empty()
    window = Window(to_datetime(page.min()), to_datetime(page.max()) + timedelta(microseconds=1))
    bars = (
        extended_bars(query.ticker, series, query.timeframe, window, now)
        if _is_extended(series, query.timeframe)
        else series.bars(query.timeframe, window, now)
    )
    if query.adjusted:
        bars = split_adjusted(bars, series.splits, now)
    return bars if query.ascending else bars.take(slice(None, None, -1))


def _is_extended(series: SandboxSeries, timeframe: Timeframe) -> bool:
    return timeframe.intraday and series.simulated and series.asset_class is AssetClass.STOCK


def _stamps(asset_class: AssetClass, timeframe: Timeframe, ts: Timestamps) -> Timestamps:
    if timeframe.intraday:
        return ts
    return local_midnights(asset_class, ts - _DAY if timeframe is Timeframe.W1 else ts)


def _rows(bars: Bars, asset_class: AssetClass, timeframe: Timeframe) -> list[dict[str, Any]]:
    stamps = milliseconds(_stamps(asset_class, timeframe, bars.ts)).tolist()
    prices = [c.tolist() for c in (bars.open, bars.close, bars.high, bars.low)]
    if np.isnan(bars.vwap).any():
        return [
            {"v": v, "o": o, "c": c, "h": h, "l": low, "t": t}
            for v, o, c, h, low, t in zip(bars.volume.tolist(), *prices, stamps, strict=True)
        ]
    columns = (bars.volume.tolist(), bars.vwap.tolist(), *prices, stamps)
    trades = bars.trades.astype(np.int64).tolist()
    return [
        {"v": v, "vw": vw, "o": o, "c": c, "h": h, "l": low, "t": t, "n": n}
        for v, vw, o, c, h, low, t, n in zip(*columns, trades, strict=True)
    ]


def _encoded(
    body: dict[str, Any], literals: dict[int, str], asset_class: AssetClass, timeframe: Timeframe
) -> bytes:
    """The body as JSON, with literals in place of some closes."""
    if not literals:
        return orjson.dumps(body)
    keys = np.array(list(literals), dtype="datetime64[us]")
    stamps = milliseconds(_stamps(asset_class, timeframe, keys)).tolist()
    by_stamp = dict(zip(stamps, literals.values(), strict=True))
    for row in body.get("results", ()):
        if row["t"] in by_stamp:
            row["c"] = placeholder(by_stamp[row["t"]])
    return insert_literals(orjson.dumps(body), list(literals.values()))
