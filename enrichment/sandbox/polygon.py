"""Polygon's aggregates over the sandbox's series: /v2/aggs/ticker/…/range/…

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
from enrichment.sandbox.data_faults import damaged, literals
from enrichment.sandbox.faults import Fault
from enrichment.sandbox.polygon_query import AggregatesQuery, BadQueryError, cursor, parse
from enrichment.sandbox.series import SandboxSeries
from enrichment.sandbox.vendor import SandboxVendor
from enrichment.sandbox.wire_format import (
    Milliseconds,
    WireFormat,
    json_response,
    marked,
    milliseconds,
    with_literals,
)

_DAY = np.timedelta64(1, "D").astype("timedelta64[us]")
_SLACK = timedelta(days=9)  # canonical bar starts lie this near to the vendor's stamps
_FIRST, _LAST = datetime(1971, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)
_DENIED = (
    "You are not entitled to this data. Please upgrade your plan at https://polygon.io/pricing"
)
_TOO_MANY = (
    "You've exceeded the maximum requests per minute, please wait or upgrade your subscription "
    "to continue. https://polygon.io/pricing"
)
_MESSAGES = {
    "unauthorized": "Unknown API Key",
    "rate_limit": _TOO_MANY,
    "quota": _TOO_MANY,
    "server_error": "an internal error occurred",
}


class PolygonFormat(WireFormat):
    """Answers requests in Polygon's words."""

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
        if not self._vendor.accepts(key):
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
            lambda damages: self._page(query, list(damages)),
            lambda: orjson.dumps(self._envelope(query, None)),
        )

    def _error_body(self, outcome: str) -> bytes:
        if outcome == "forbidden":
            return self._error_response("NOT_AUTHORIZED", _DENIED)
        return self._error_response("ERROR", _MESSAGES[outcome])

    def _error_response(self, status: str, message: str) -> bytes:
        word = "error" if status == "ERROR" else "message"
        return orjson.dumps({"status": status, "request_id": self._request_id(), word: message})

    def _request_id(self) -> str:
        return f"{next(self._numbers):032x}"

    def _envelope(self, query: AggregatesQuery, series: SandboxSeries | None) -> dict[str, Any]:
        # Recorded prices are not split-adjusted, whatever was asked for.
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

    def _page(self, query: AggregatesQuery, damages: list[Fault]) -> bytes:
        series = self._vendor.market.series(query.ticker)
        body = self._envelope(query, series)
        if series is None:
            return orjson.dumps(body)
        now = self._vendor.clock()
        starts, stamps = _asked(series, query, now)
        left = _after(starts, stamps, query)
        page = left[: query.bars_per_page]
        bars = _bars(series, query, page, now)
        rows = _rows(damaged(bars, damages, starts), series.asset_class, query.timeframe)
        body["queryCount"] = len(page) * query.base_aggregates
        body["resultsCount"] = body["count"] = len(rows)
        if len(left) > len(page):
            last = _stamps(series.asset_class, query.timeframe, page[-1:])
            body["next_url"] = _next_url(cursor(query, int(milliseconds(last)[0])))
        if rows or "next_url" in body:
            body["results"] = rows
        return _with_literals(body, literals(damages, starts), series.asset_class, query.timeframe)


def _key() -> str:
    authorization = request.headers.get("Authorization", "")
    scheme, _, token = authorization.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else request.args.get("apiKey", "")


def _next_url(packed: str) -> str:
    return f"{request.base_url}?{urlencode({'cursor': packed})}"


def _asked(
    series: SandboxSeries, query: AggregatesQuery, now: datetime
) -> tuple[Timestamps, Milliseconds]:
    """Canonical starts and the vendor's stamps of all bars that the query asks for."""
    first, last = (
        min(max(ms, int(_FIRST.timestamp() * 1000)), int(_LAST.timestamp() * 1000))
        for ms in (query.first_ms, query.last_ms)
    )
    start, end = (to_datetime(np.datetime64(ms, "ms")) for ms in (first, last))
    starts = series.starts(query.timeframe, Window(start - _SLACK, end + _SLACK), now)
    stamps = _stamps(series.asset_class, query.timeframe, starts)
    ms = milliseconds(stamps)
    asked = (ms >= query.first_ms) & (ms <= query.last_ms)
    return starts[asked], ms[asked]


def _after(starts: Timestamps, stamps: Milliseconds, query: AggregatesQuery) -> Timestamps:
    """Starts of the bars that are still to be sent, in the order of sending."""
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


def _with_literals(
    body: dict[str, Any], texts: dict[int, str], asset_class: AssetClass, timeframe: Timeframe
) -> bytes:
    """The body as JSON, with what is not JSON in place of the struck bars' closes."""
    if not texts:
        return orjson.dumps(body)
    keys = np.array(list(texts), dtype="datetime64[us]")
    stamps = milliseconds(_stamps(asset_class, timeframe, keys)).tolist()
    by_stamp = dict(zip(stamps, texts.values(), strict=True))
    for row in body.get("results", ()):
        if row["t"] in by_stamp:
            row["c"] = marked(by_stamp[row["t"]])
    return with_literals(orjson.dumps(body), list(texts.values()))
