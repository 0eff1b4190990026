"""Polygon's aggregates, /v2/aggs/ticker/…/range/…

Daily and weekly bars are stamped at midnight in New York (weeks start on Sunday), those of crypto
and currencies at midnight UTC. `limit` counts base aggregates: minutes below a day, else days.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any, ClassVar
from urllib.parse import urlencode

import numpy as np
import orjson
from flask import Blueprint, Response, request

from enrichment.domain.bars import Bars, Timestamps, to_datetime
from enrichment.domain.calendars import local_midnights
from enrichment.domain.model import AssetClass, Timeframe, Window
from enrichment.sandbox.data_faults import close_literals, with_faults
from enrichment.sandbox.faults import Fault
from enrichment.sandbox.polygon_query import AggregatesQuery, BadQueryError, cursor, parse
from enrichment.sandbox.series import SandboxSeries
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
_STAMP_MARGIN = timedelta(days=9)  # between a canonical bar start and the vendor's stamp
_FIRST, _LAST = datetime(1971, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)
_DENIED = (
    "You are not entitled to this data. Please upgrade your plan at https://polygon.io/pricing"
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

    def blueprint(self) -> Blueprint:
        routes = Blueprint("polygon", __name__)
        path = "/v2/aggs/ticker/<ticker>/range/<multiplier>/<timespan>/<start>/<end>"
        routes.add_url_rule(path, view_func=self.aggregates)
        return routes

    def aggregates(
        self, ticker: str, multiplier: str, timespan: str, start: str, end: str
    ) -> Response:
        key = _key()
        if not self._vendor.accepts_key(key):
            return self._refusal(ticker, "unauthorized", 401)
        refused = self._over_quota(ticker, key)
        if refused is not None:
            return refused
        try:
            query = parse(ticker, multiplier, timespan, start, end, request.args)
        except BadQueryError as exc:
            self._vendor.requests.count(ticker, "bad_request")
            return json_response(self._error_response("ERROR", str(exc)), 400)
        return self._serve(
            ticker,
            lambda data_faults: self._page(query, list(data_faults)),
            lambda: orjson.dumps(self._envelope(query, None)),
        )

    def _error_body(self, outcome: str) -> bytes:
        if outcome == "forbidden":
            return self._error_response("NOT_AUTHORIZED", _DENIED)
        return self._error_response("ERROR", _MESSAGES[outcome])

    def _error_response(self, status: str, message: str) -> bytes:
        field = "error" if status == "ERROR" else "message"
        return orjson.dumps({"status": status, "request_id": self._request_id(), field: message})

    def _request_id(self) -> str:
        return f"{next(self._numbers):032x}"

    def _envelope(self, query: AggregatesQuery, series: SandboxSeries | None) -> dict[str, Any]:
        # Recorded prices are not split-adjusted, even if the request asks for that.
        adjusted = query.adjusted and (series is None or series.simulated)
        return {
            "ticker": query.ticker,
            "queryCount": 0,
            "resultsCount": 0,
            "adjusted": adjusted,
            "status": "OK",
            "request_id": self._request_id(),
            "count": 0,
        }

    def _page(self, query: AggregatesQuery, data_faults: list[Fault]) -> bytes:
        series = self._vendor.market.series(query.ticker)
        body = self._envelope(query, series)
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
            body["next_url"] = _next_url(cursor(query, int(milliseconds(last)[0])))
        if rows or "next_url" in body:
            body["results"] = rows
        literals = close_literals(data_faults, starts)
        return _encoded(body, literals, series.asset_class, query.timeframe)


def _key() -> str:
    authorization = request.headers.get("Authorization", "")
    scheme, _, token = authorization.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else request.args.get("apiKey", "")


def _next_url(page: str) -> str:
    return f"{request.base_url}?{urlencode({'cursor': page})}"


def _requested(
    series: SandboxSeries, query: AggregatesQuery, now: datetime
) -> tuple[Timestamps, Milliseconds]:
    """The canonical starts and the vendor's stamps of all bars of the query, on all pages."""
    first, last = (
        min(max(ms, int(_FIRST.timestamp() * 1000)), int(_LAST.timestamp() * 1000))
        for ms in (query.first_ms, query.last_ms)
    )
    start, end = (to_datetime(np.datetime64(ms, "ms")) for ms in (first, last))
    starts = series.starts(query.timeframe, Window(start - _STAMP_MARGIN, end + _STAMP_MARGIN), now)
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
    bars = series.bars(query.timeframe, window, now)
    return bars if query.ascending else bars.take(slice(None, None, -1))


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
