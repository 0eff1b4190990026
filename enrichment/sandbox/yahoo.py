"""Yahoo's charts, /v8/finance/chart/…

Like Yahoo, it adjusts prices for splits (those of recorded series are derived from their adjusted
closes), fills a bar without trades with nulls, stamps stocks' days at the opening and their hours
at half past, and refuses clients that do not look like a browser.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import numpy as np
import orjson
from flask import Blueprint, Response, request

from enrichment.domain.bars import Bars, Timestamps, to_datetime, to_datetime64
from enrichment.domain.calendars import local_midnights
from enrichment.domain.model import AssetClass, Timeframe, Window
from enrichment.sandbox.data_faults import close_literals, rescaled, with_faults
from enrichment.sandbox.faults import Fault
from enrichment.sandbox.series import SandboxSeries
from enrichment.sandbox.wire_format import WireFormat, closes_with_placeholders, insert_literals

_INTERVALS = {
    "5m": Timeframe.M5,
    "15m": Timeframe.M15,
    "30m": Timeframe.M30,
    "60m": Timeframe.H1,
    "1h": Timeframe.H1,
    "1d": Timeframe.D1,
    "1wk": Timeframe.W1,
}
_STAMP_MARGIN = timedelta(days=1)  # between a canonical bar start and the vendor's stamp
_OPENING = np.timedelta64(570, "m")  # 09:30 in New York
_HALF_HOUR = np.timedelta64(30, "m")
_ERRORS = {
    "unauthorized": ("Unauthorized", "User is unable to access this feature"),
    "forbidden": ("Forbidden", "Access denied"),
    "rate_limit": ("Too Many Requests", "Too Many Requests"),
    "quota": ("Too Many Requests", "Too Many Requests"),
    "server_error": ("Internal Server Error", "Something went wrong"),
    "unknown": ("Not Found", "No data found, symbol may be delisted"),
    "bad_request": ("Bad Request", "Invalid input - interval or period is not supported"),
}


class YahooFormat(WireFormat):
    """Answers requests in Yahoo's wire format."""

    name: ClassVar[str] = "yahoo"

    def blueprint(self) -> Blueprint:
        routes = Blueprint("yahoo", __name__)
        routes.add_url_rule("/v8/finance/chart/<symbol>", view_func=self.chart)
        return routes

    def chart(self, symbol: str) -> Response:
        ticker = _ticker(symbol)
        if not request.headers.get("User-Agent", "").startswith("Mozilla/"):
            return self._refusal(ticker, "forbidden", 403)
        refused = self._over_quota(ticker, "yahoo")
        if refused is not None:
            return refused
        series = self._vendor.market.series(ticker)
        if series is None:
            return self._refusal(ticker, "unknown", 404)
        timeframe = _INTERVALS.get(request.args.get("interval", "1d"))
        try:
            first, last = (int(request.args[name]) for name in ("period1", "period2"))
        except (KeyError, ValueError):
            return self._refusal(ticker, "bad_request", 400)
        if timeframe is None or first > last:
            return self._refusal(ticker, "bad_request", 400)
        return self._serve(
            ticker,
            lambda data_faults: self._page(symbol, series, timeframe, first, last, data_faults),
            lambda: orjson.dumps(_chart(symbol, series, Bars.empty(), [], {})),
        )

    def _error_body(self, outcome: str) -> bytes:
        code, description = _ERRORS[outcome]
        return orjson.dumps(
            {"chart": {"result": None, "error": {"code": code, "description": description}}}
        )

    def _page(
        self,
        symbol: str,
        series: SandboxSeries,
        timeframe: Timeframe,
        first: int,
        last: int,
        data_faults: Sequence[Fault],
    ) -> bytes:
        start, end = (datetime.fromtimestamp(min(t, 4_102_444_800), UTC) for t in (first, last))
        window = Window(start - _STAMP_MARGIN, end + _STAMP_MARGIN)
        bars = series.bars(timeframe, window, self._vendor.clock())
        stamps = _stamps(series.asset_class, timeframe, bars.ts)
        requested = (stamps >= to_datetime64(start)) & (stamps < to_datetime64(end))
        starts = bars.ts[requested]
        bars = bars.take(requested)
        for day, ratio in series.splits.items():
            bars = rescaled(bars, bars.ts < day, 1.0 / ratio)
        bars = with_faults(bars, data_faults, starts)
        stamps = _stamps(series.asset_class, timeframe, bars.ts)
        literals = close_literals(data_faults, starts)
        body = orjson.dumps(_chart(symbol, series, bars, _seconds(stamps), literals))
        return insert_literals(body, list(literals.values()))


def _ticker(symbol: str) -> str:
    """The ticker of a symbol: X:SIM1USD for SIM1-USD, BRK.B for BRK-B."""
    name, dash, quote = symbol.rpartition("-")
    if dash and len(quote) == 3:
        return f"X:{name}{quote}"
    return symbol.replace("-", ".")


def _stamps(asset_class: AssetClass, timeframe: Timeframe, ts: Timestamps) -> Timestamps:
    if asset_class is AssetClass.CRYPTO or len(ts) == 0:
        return ts
    if timeframe is Timeframe.D1:
        return np.asarray(local_midnights(asset_class, ts) + _OPENING)
    if timeframe is Timeframe.W1:
        return local_midnights(asset_class, ts)
    return np.asarray(ts + _HALF_HOUR) if timeframe is Timeframe.H1 else ts


def _seconds(stamps: Timestamps) -> list[int]:
    return stamps.astype("datetime64[s]").astype(np.int64).tolist()  # type: ignore[no-any-return]


def _chart(
    symbol: str, series: SandboxSeries, bars: Bars, stamps: list[int], literals: dict[int, str]
) -> dict[str, Any]:
    crypto = series.asset_class is AssetClass.CRYPTO
    columns: dict[str, list[Any]] = {
        name: _with_nulls(getattr(bars, name))
        for name in ("open", "high", "low", "close", "volume")
    }
    columns["close"] = closes_with_placeholders(bars, columns["close"], literals)
    result: dict[str, Any] = {
        "meta": {
            "symbol": symbol,
            "currency": "USD",
            "exchangeTimezoneName": "UTC" if crypto else "America/New_York",
            "gmtoffset": 0 if crypto else -18000,
        },
        "indicators": {"quote": [columns], "adjclose": [{"adjclose": columns["close"]}]},
    }
    if stamps:
        result["timestamp"] = stamps
    if series.splits:
        result["events"] = {"splits": _splits(series, bars.ts)}
    return {"chart": {"result": [result], "error": None}}


def _splits(series: SandboxSeries, ts: Timestamps) -> dict[str, Any]:
    in_range = {d: r for d, r in series.splits.items() if len(ts) and ts[0] <= d <= ts[-1]}
    return {
        str(int(to_datetime(day).timestamp())): {
            "date": int(to_datetime(day).timestamp()),
            "numerator": ratio,
            "denominator": 1,
        }
        for day, ratio in in_range.items()
    }


def _with_nulls(column: Any) -> list[Any]:
    return [None if value != value else value for value in column.tolist()]
