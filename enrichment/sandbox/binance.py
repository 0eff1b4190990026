"""Binance's klines of crypto, /api/v3/klines.

A page covers `limit` bar starts: where bars are missing, it has fewer rows and is not the last.
Without `startTime` it holds the newest bars. With X-MBX-TIME-UNIT: MICROSECOND, times are in
microseconds. The header of the used weight counts the requests of a minute.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import numpy as np
import orjson
from flask import Blueprint, Response, request

from enrichment.domain.bars import Bars, to_datetime
from enrichment.domain.model import AssetClass, Timeframe, Window
from enrichment.sandbox.data_faults import close_literals, with_faults
from enrichment.sandbox.faults import Fault
from enrichment.sandbox.series import SandboxSeries
from enrichment.sandbox.vendor import SandboxVendor
from enrichment.sandbox.wire_format import (
    WireFormat,
    closes_with_placeholders,
    insert_literals,
    milliseconds,
)

_MAX_ROWS, _DEFAULT_ROWS = 1000, 500
_WEIGHT = 2  # request weight of one request
_IGNORED = 5  # refused requests in a row that get the address banned
_BAN = timedelta(minutes=2)
_FIRST, _LAST = datetime(1971, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)
_ERRORS = {
    "interval": {"code": -1120, "msg": "Invalid interval."},
    "symbol": {"code": -1121, "msg": "Invalid symbol."},
    "parameter": {"code": -1100, "msg": "Illegal characters found in a parameter."},
    "quota": {"code": -1003, "msg": "Too many requests; current limit is exceeded."},
    "rate_limit": {"code": -1003, "msg": "Too many requests; current limit is exceeded."},
    "ban": {"code": -1003, "msg": "Way too many requests; IP banned."},
    "unauthorized": {"code": -2015, "msg": "Invalid API-key, IP, or permissions for action."},
    "forbidden": {"code": 0, "msg": "Service unavailable from a restricted location."},
    "server_error": {"code": -1000, "msg": "An unknown error occurred."},
}
_STATUSES = {"ban": 418, "forbidden": 451}


class BinanceFormat(WireFormat):
    """Answers requests in Binance's wire format."""

    name: ClassVar[str] = "binance"

    def __init__(self, vendor: SandboxVendor) -> None:
        super().__init__(vendor)
        self._refused = 0
        self._banned_until = _FIRST
        self._minute, self._used_weight = _FIRST, 0

    def blueprint(self) -> Blueprint:
        routes = Blueprint("binance", __name__)
        routes.add_url_rule("/api/v3/klines", view_func=self.klines)
        return routes

    def klines(self) -> Response:
        symbol = request.args.get("symbol", "")
        ticker = _ticker(symbol)
        refused = self._over_quota(ticker, "binance")
        if refused is not None:
            return refused
        series = self._vendor.market.series(ticker)
        if series is None or series.asset_class is not AssetClass.CRYPTO:
            return self._refusal(ticker, "symbol", 400)
        if request.args.get("interval") not in list(Timeframe):
            return self._refusal(ticker, "interval", 400)
        try:
            window, limit = _window(), min(_MAX_ROWS, int(request.args.get("limit", _DEFAULT_ROWS)))
        except ValueError:
            return self._refusal(ticker, "parameter", 400)
        timeframe = Timeframe(request.args["interval"])
        response = self._serve(
            ticker,
            lambda data_faults: self._page(series, timeframe, window, limit, data_faults),
            lambda: b"[]",
        )
        response.headers["X-MBX-USED-WEIGHT-1M"] = str(self._weight())
        return response

    def _weight(self) -> int:
        """The weight used in this minute, this request's included."""
        minute = self._vendor.clock().replace(second=0, microsecond=0)
        if minute != self._minute:
            self._minute, self._used_weight = minute, 0
        self._used_weight += _WEIGHT
        return self._used_weight

    def _over_quota(self, ticker: str, key: str) -> Response | None:
        """A 429, or a 418 for some time to a client that ignores them."""
        now = self._vendor.clock()
        if now < self._banned_until:
            return self._too_many_requests(
                ticker, "ban", (self._banned_until - now).total_seconds()
            )
        refused = super()._over_quota(ticker, key)
        self._refused = 0 if refused is None else self._refused + 1
        if self._refused >= _IGNORED:
            self._refused, self._banned_until = 0, now + _BAN
        return refused

    def _refusal(self, ticker: str, outcome: str, code: int) -> Response:
        return super()._refusal(ticker, outcome, _STATUSES.get(outcome, code))

    def _error_body(self, outcome: str) -> bytes:
        return orjson.dumps(_ERRORS[outcome])

    def _page(
        self,
        series: SandboxSeries,
        timeframe: Timeframe,
        window: Window,
        limit: int,
        data_faults: Sequence[Fault],
    ) -> bytes:
        starts = series.starts(timeframe, window, self._vendor.clock())
        starts = starts[:limit] if "startTime" in request.args else starts[-limit:]
        if len(starts) == 0:
            return b"[]"
        page = Window(to_datetime(starts[0]), to_datetime(starts[-1]) + timedelta(microseconds=1))
        bars = with_faults(series.bars(timeframe, page, self._vendor.clock()), data_faults, starts)
        literals = close_literals(data_faults, starts)
        rows = _rows(bars, timeframe, literals)
        return insert_literals(orjson.dumps(rows), list(literals.values()))


def _ticker(symbol: str) -> str:
    """The ticker of a market: X:SIM1USD for SIM1USDT."""
    return f"X:{symbol[:-1] if symbol.endswith('USDT') else symbol}"


def _window() -> Window:
    first = int(request.args.get("startTime", _milliseconds(_FIRST)))
    last = int(request.args.get("endTime", _milliseconds(_LAST)))
    low, high = _milliseconds(_FIRST), _milliseconds(_LAST)
    start, end = (datetime.fromtimestamp(min(max(t, low), high) / 1000, UTC) for t in (first, last))
    return Window(start, end + timedelta(milliseconds=1))


def _milliseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def _rows(bars: Bars, timeframe: Timeframe, literals: dict[int, str]) -> list[list[Any]]:
    micros = request.headers.get("X-MBX-TIME-UNIT", "").upper() == "MICROSECOND"
    unit = 1000 if micros else 1
    open_times = milliseconds(bars.ts) * unit
    close_times = open_times + timeframe.duration // timedelta(milliseconds=1) * unit - 1
    quote = bars.volume * np.where(np.isnan(bars.vwap), bars.close, bars.vwap)
    trades = np.nan_to_num(bars.trades).astype(np.int64)
    closes = closes_with_placeholders(bars, [_decimal(x) for x in bars.close.tolist()], literals)
    columns = (
        open_times.tolist(),
        *([_decimal(x) for x in c.tolist()] for c in (bars.open, bars.high, bars.low)),
        closes,
        [_decimal(x) for x in bars.volume.tolist()],
        close_times.tolist(),
        [_decimal(x) for x in quote.tolist()],
        trades.tolist(),
        [_decimal(x) for x in bars.taker_buy_volume.tolist()],
        [_decimal(x) for x in (bars.taker_buy_volume * quote / bars.volume).tolist()],
        ["0"] * len(bars),
    )
    return [list(row) for row in zip(*columns, strict=True)]


def _decimal(value: float) -> str | None:
    return None if value != value else f"{value!r}"
