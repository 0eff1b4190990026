"""Polygon's aggregates over the sandbox's series: /v2/aggs/ticker/…/range/…

Daily and weekly bars are stamped at midnight in New York (weeks start on Sunday), those of crypto
and currencies at midnight UTC. `limit` counts base aggregates: minutes below a day, else days.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any
from urllib.parse import urlencode

import numpy as np
import orjson
from flask import Blueprint, Response, request
from numpy.typing import NDArray

from enrichment.calendars import midnights
from enrichment.domain import (
    AssetClass,
    Bars,
    Timeframe,
    Timestamps,
    Window,
    to_datetime,
)
from enrichment.sandbox.connection import client_left, reset
from enrichment.sandbox.damage import damaged, literals
from enrichment.sandbox.faults import DAMAGES, DELAYS, Fault
from enrichment.sandbox.polygon_query import BadQueryError, Query, cursor, parse
from enrichment.sandbox.series import Series
from enrichment.sandbox.vendor import Vendor

Milliseconds = NDArray[np.int64]
_DAY = np.timedelta64(1, "D").astype("timedelta64[us]")
_SLACK = timedelta(days=9)  # canonical bar starts lie this near to the vendor's stamps
_FIRST, _LAST = datetime(1971, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)
_HTML = "<html><head><title>502 Bad Gateway</title></head><body><hr>nginx</body></html>"
_DENIED = (
    "You are not entitled to this data. Please upgrade your plan at https://polygon.io/pricing"
)
_TOO_MANY = (
    "You've exceeded the maximum requests per minute, please wait or upgrade your subscription "
    "to continue. https://polygon.io/pricing"
)


class PolygonFormat:
    """Answers requests in Polygon's words."""

    def __init__(self, vendor: Vendor) -> None:
        self._vendor = vendor
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
            return self._refusal(ticker, "unauthorized", 401, "Unknown API Key")
        wait = self._vendor.seconds_to_wait(key)
        if wait is not None:
            return self._too_many(ticker, "quota", wait)
        try:
            query = parse(ticker, multiplier, timespan, start, end, request.args)
        except BadQueryError as exc:
            return self._refusal(ticker, "bad_request", 400, str(exc))
        return self._answer(query)

    def _answer(self, query: Query) -> Response:
        struck, let_go = self._vendor.faults.draw(query.ticker)
        for fault in struck:
            if fault.kind in DELAYS:
                self._vendor.wait(fault.seconds, let_go, lambda: client_left(request.environ))
        damages = [fault for fault in struck if fault.kind in DAMAGES]
        last = struck[-1] if struck else None
        if last is None or last.kind in (*DELAYS, *DAMAGES):
            self._vendor.requests.count(query.ticker, last.kind if last else "ok")
            return _json(self._page(query, damages))
        return self._failure(query, last, damages)

    def _failure(self, query: Query, fault: Fault, damages: list[Fault]) -> Response:
        """The answer of a fault that answers by itself."""
        ticker, kind = query.ticker, fault.kind
        if kind == "rate_limit":
            return self._too_many(ticker, kind, fault.seconds)
        if kind == "unauthorized":
            return self._refusal(ticker, kind, 401, "Unknown API Key")
        if kind == "forbidden":
            return self._refusal(ticker, kind, 403, _DENIED, status="NOT_AUTHORIZED")
        if kind == "server_error":
            return self._refusal(ticker, kind, fault.status, "an internal error occurred")
        self._vendor.requests.count(ticker, kind)
        if kind == "reset":
            reset(request.environ)
            return Response(status=500)
        if kind == "html":
            return Response(_HTML, fault.status)
        if kind == "empty":
            return _json(orjson.dumps(self._envelope(query, None)))
        page = self._page(query, damages)
        return _json(page[: len(page) // 2])

    def _refusal(
        self, ticker: str, outcome: str, code: int, message: str, status: str = "ERROR"
    ) -> Response:
        self._vendor.requests.count(ticker, outcome)
        word = "error" if status == "ERROR" else "message"
        body = {"status": status, "request_id": self._request_id(), word: message}
        return _json(orjson.dumps(body), code)

    def _too_many(self, ticker: str, outcome: str, seconds: float) -> Response:
        response = self._refusal(ticker, outcome, 429, _TOO_MANY)
        response.headers["Retry-After"] = str(math.ceil(seconds))
        return response

    def _request_id(self) -> str:
        return f"{next(self._numbers):032x}"

    def _envelope(self, query: Query, series: Series | None) -> dict[str, Any]:
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

    def _page(self, query: Query, damages: list[Fault]) -> bytes:
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
            body["next_url"] = _next_url(cursor(query, int(_milliseconds(last)[0])))
        if rows or "next_url" in body:
            body["results"] = rows
        return _with_literals(body, literals(damages, starts), series.asset_class, query.timeframe)


def _key() -> str:
    authorization = request.headers.get("Authorization", "")
    scheme, _, token = authorization.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else request.args.get("apiKey", "")


def _next_url(packed: str) -> str:
    return f"{request.base_url}?{urlencode({'cursor': packed})}"


def _asked(series: Series, query: Query, now: datetime) -> tuple[Timestamps, Milliseconds]:
    """Canonical starts and the vendor's stamps of all bars that the query asks for."""
    first, last = (
        min(max(ms, int(_FIRST.timestamp() * 1000)), int(_LAST.timestamp() * 1000))
        for ms in (query.first_ms, query.last_ms)
    )
    start, end = (to_datetime(np.datetime64(ms, "ms")) for ms in (first, last))
    starts = series.starts(query.timeframe, Window(start - _SLACK, end + _SLACK), now)
    stamps = _stamps(series.asset_class, query.timeframe, starts)
    ms = _milliseconds(stamps)
    asked = (ms >= query.first_ms) & (ms <= query.last_ms)
    return starts[asked], ms[asked]


def _after(starts: Timestamps, stamps: Milliseconds, query: Query) -> Timestamps:
    """Starts of the bars that are still to be sent, in the order of sending."""
    if query.after is not None:
        starts = starts[stamps > query.after if query.ascending else stamps < query.after]
    return starts if query.ascending else starts[::-1]


def _bars(series: Series, query: Query, page: Timestamps, now: datetime) -> Bars:
    if len(page) == 0:
        return Bars.empty()
    window = Window(to_datetime(page.min()), to_datetime(page.max()) + timedelta(microseconds=1))
    bars = series.bars(query.timeframe, window, now)
    return bars if query.ascending else bars.take(slice(None, None, -1))


def _stamps(asset_class: AssetClass, timeframe: Timeframe, ts: Timestamps) -> Timestamps:
    if timeframe.intraday:
        return ts
    return midnights(asset_class, ts - _DAY if timeframe is Timeframe.W1 else ts)


def _milliseconds(ts: Timestamps) -> Milliseconds:
    return ts.astype("datetime64[ms]").astype(np.int64)


def _rows(bars: Bars, asset_class: AssetClass, timeframe: Timeframe) -> list[dict[str, Any]]:
    stamps = _milliseconds(_stamps(asset_class, timeframe, bars.ts)).tolist()
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
    stamps = _milliseconds(_stamps(asset_class, timeframe, keys)).tolist()
    by_stamp = dict(zip(stamps, texts.values(), strict=True))
    for row in body.get("results", ()):
        if row["t"] in by_stamp:
            row["c"] = f"\0{by_stamp[row['t']]}\0"
    packed = orjson.dumps(body)
    for text in set(texts.values()):
        packed = packed.replace(orjson.dumps(f"\0{text}\0"), text.encode())
    return packed


def _json(body: bytes, status: int = 200) -> Response:
    return Response(body, status, mimetype="application/json")
