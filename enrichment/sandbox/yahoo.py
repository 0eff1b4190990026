"""Yahoo's charts over the sandbox's series: /v8/finance/chart/…

As Yahoo does, it adjusts quotes for splits (the recorded ones too, by the factors that their
adjusted closes tell of), fills an untraded bar with nulls, starts stocks' days at the opening and
their hours at half past, and turns away clients that do not look like a browser.
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
from enrichment.sandbox.data_faults import damaged, literals, on_basis
from enrichment.sandbox.faults import Fault
from enrichment.sandbox.series import SandboxSeries
from enrichment.sandbox.wire_format import WireFormat, closes_with_marks, with_literals

_INTERVALS = {
    "5m": Timeframe.M5,
    "15m": Timeframe.M15,
    "30m": Timeframe.M30,
    "60m": Timeframe.H1,
    "1h": Timeframe.H1,
    "1d": Timeframe.D1,
    "1wk": Timeframe.W1,
}
_SLACK = timedelta(days=1)  # canonical bar starts lie this near to the vendor's stamps
_OPENS = np.timedelta64(570, "m")  # 09:30 in New York
_HALF_HOUR = np.timedelta64(30, "m")
_REFUSALS = {
    "unauthorized": ("Unauthorized", "User is unable to access this feature"),
    "forbidden": ("Forbidden", "Access denied"),
    "rate_limit": ("Too Many Requests", "Too Many Requests"),
    "quota": ("Too Many Requests", "Too Many Requests"),
    "server_error": ("Internal Server Error", "Something went wrong"),
    "unknown": ("Not Found", "No data found, symbol may be delisted"),
    "bad_request": ("Bad Request", "Invalid input - interval or period is not supported"),
}


class YahooFormat(WireFormat):
    """Answers requests in Yahoo's words."""

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
            lambda damages: self._page(symbol, series, timeframe, first, last, damages),
            lambda: orjson.dumps(_chart(symbol, series, Bars.empty(), [], {})),
        )

    def _error_body(self, outcome: str) -> bytes:
        code, words = _REFUSALS[outcome]
        return orjson.dumps(
            {"chart": {"result": None, "error": {"code": code, "description": words}}}
        )

    def _page(
        self,
        symbol: str,
        series: SandboxSeries,
        timeframe: Timeframe,
        first: int,
        last: int,
        damages: Sequence[Fault],
    ) -> bytes:
        start, end = (datetime.fromtimestamp(min(t, 4_102_444_800), UTC) for t in (first, last))
        near = Window(start - _SLACK, end + _SLACK)
        bars = series.bars(timeframe, near, self._vendor.clock())
        stamps = _stamps(series.asset_class, timeframe, bars.ts)
        asked = (stamps >= to_datetime64(start)) & (stamps < to_datetime64(end))
        starts = bars.ts[asked]
        bars = bars.take(asked)
        for day, ratio in series.splits.items():
            bars = on_basis(bars, bars.ts < day, 1.0 / ratio)
        bars = damaged(bars, damages, starts)
        stamps = _stamps(series.asset_class, timeframe, bars.ts)
        texts = literals(damages, starts)
        body = orjson.dumps(_chart(symbol, series, bars, _seconds(stamps), texts))
        return with_literals(body, list(texts.values()))


def _ticker(symbol: str) -> str:
    """X:SIM1USD for SIM1-USD; stocks' classes are written BRK-B there."""
    name, dash, quote = symbol.rpartition("-")
    if dash and len(quote) == 3:
        return f"X:{name}{quote}"
    return symbol.replace("-", ".")


def _stamps(asset_class: AssetClass, timeframe: Timeframe, ts: Timestamps) -> Timestamps:
    if asset_class is AssetClass.CRYPTO or len(ts) == 0:
        return ts
    if timeframe is Timeframe.D1:
        return np.asarray(local_midnights(asset_class, ts) + _OPENS)
    if timeframe is Timeframe.W1:
        return local_midnights(asset_class, ts)
    return np.asarray(ts + _HALF_HOUR) if timeframe is Timeframe.H1 else ts


def _seconds(stamps: Timestamps) -> list[int]:
    return stamps.astype("datetime64[s]").astype(np.int64).tolist()  # type: ignore[no-any-return]


def _chart(
    symbol: str, series: SandboxSeries, bars: Bars, stamps: list[int], texts: dict[int, str]
) -> dict[str, Any]:
    crypto = series.asset_class is AssetClass.CRYPTO
    columns: dict[str, list[Any]] = {
        name: _nulls(getattr(bars, name)) for name in ("open", "high", "low", "close", "volume")
    }
    columns["close"] = closes_with_marks(bars, columns["close"], texts)
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
    within = {d: r for d, r in series.splits.items() if len(ts) and ts[0] <= d <= ts[-1]}
    return {
        str(int(to_datetime(day).timestamp())): {
            "date": int(to_datetime(day).timestamp()),
            "numerator": ratio,
            "denominator": 1,
        }
        for day, ratio in within.items()
    }


def _nulls(column: Any) -> list[Any]:
    return [None if value != value else value for value in column.tolist()]
