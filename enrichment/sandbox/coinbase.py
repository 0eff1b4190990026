"""Coinbase Exchange's candles of crypto, /products/…/candles.

Newest first, `end` included, at most 300, with one candle from before `start`. Its granularities of
one minute and six hours are not served here.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import orjson
from flask import Blueprint, Response, request

from enrichment.domain.bars import Bars
from enrichment.domain.model import AssetClass, Timeframe, Window
from enrichment.sandbox.data_faults import close_literals, with_faults
from enrichment.sandbox.faults import Fault
from enrichment.sandbox.series import SandboxSeries
from enrichment.sandbox.wire_format import (
    WireFormat,
    closes_with_placeholders,
    insert_literals,
    milliseconds,
)

_MAX_CANDLES = 300
_GRANULARITIES = {
    "300": Timeframe.M5,
    "900": Timeframe.M15,
    "3600": Timeframe.H1,
    "86400": Timeframe.D1,
}
_MESSAGES = {
    "unknown": "NotFound",
    "granularity": "Unsupported granularity",
    "range": "granularity too small for the requested time range. "
    "Count of aggregations requested exceeds 300",
    "time": "start and end must be valid times",
    "quota": "Public rate limit exceeded",
    "rate_limit": "Public rate limit exceeded",
    "unauthorized": "Unauthorized.",
    "forbidden": "Forbidden",
    "server_error": "Internal server error",
}


class CoinbaseFormat(WireFormat):
    """Answers requests in Coinbase's wire format."""

    name: ClassVar[str] = "coinbase"

    def blueprint(self) -> Blueprint:
        routes = Blueprint("coinbase", __name__)
        routes.add_url_rule("/products/<product>/candles", view_func=self.candles)
        return routes

    def candles(self, product: str) -> Response:
        ticker = f"X:{product.replace('-', '')}"
        refused = self._over_quota(ticker, "coinbase")
        if refused is not None:
            return refused
        series = self._vendor.market.series(ticker)
        if series is None or series.asset_class is not AssetClass.CRYPTO:
            return self._refusal(ticker, "unknown", 404)
        timeframe = _GRANULARITIES.get(request.args.get("granularity", ""))
        if timeframe is None:
            return self._refusal(ticker, "granularity", 400)
        try:
            window = _window(timeframe, self._vendor.clock())
        except ValueError:
            return self._refusal(ticker, "time", 400)
        if window.end - window.start > (_MAX_CANDLES + 1) * timeframe.duration:
            return self._refusal(ticker, "range", 400)
        return self._serve(
            ticker,
            lambda data_faults: self._page(series, timeframe, window, data_faults),
            lambda: b"[]",
        )

    def _error_body(self, outcome: str) -> bytes:
        return orjson.dumps({"message": _MESSAGES[outcome]})

    def _page(
        self,
        series: SandboxSeries,
        timeframe: Timeframe,
        window: Window,
        data_faults: Sequence[Fault],
    ) -> bytes:
        now = self._vendor.clock()
        starts = series.starts(timeframe, window, now)
        bars = with_faults(series.bars(timeframe, window, now), data_faults, starts)
        literals = close_literals(data_faults, starts)
        newest_first = bars.take(slice(None, None, -1))
        rows = _rows(newest_first, literals)
        return insert_literals(orjson.dumps(rows), list(literals.values()))


def _window(timeframe: Timeframe, now: datetime) -> Window:
    """From a candle before `start` up to and with `end`; without both, up to now."""
    if {"start", "end"} <= request.args.keys():
        start, end = (_moment(request.args[name]) for name in ("start", "end"))
    else:
        start, end = now - (_MAX_CANDLES - 1) * timeframe.duration, now
    if start > end:
        raise ValueError("start is later than end")
    return Window(start - timeframe.duration, end + timedelta(microseconds=1))


def _moment(text: str) -> datetime:
    if text.isdecimal():
        return datetime.fromtimestamp(min(int(text), 4_102_444_800), UTC)
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _rows(bars: Bars, literals: dict[int, str]) -> list[list[Any]]:
    closes = closes_with_placeholders(bars, bars.close.tolist(), literals)
    columns = (
        (milliseconds(bars.ts) // 1000).tolist(),
        *(column.tolist() for column in (bars.low, bars.high, bars.open)),
        closes,
        bars.volume.tolist(),
    )
    return [list(row) for row in zip(*columns, strict=True)]
