"""Alpaca's bars of stocks, /v2/stocks/bars, as its free plan answers.

Symbols follow each other, each ascending, with `end` included. Daily bars are stamped at midnight
in New York, intraday ones run from 04:00 to 20:00 there. The newest 15 minutes of the feed SIP are
refused with 403; the feed IEX has a small share of the volume. An unknown symbol has no bars, a
misspelled one is refused with 400.
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import numpy as np
import orjson
from flask import Blueprint, Response, request

from enrichment.domain.bars import Bars, Timestamps, between, to_datetime
from enrichment.domain.calendars import local_midnights
from enrichment.domain.model import AssetClass, Timeframe, Window
from enrichment.sandbox.data_faults import close_literals, with_faults
from enrichment.sandbox.extended_hours import extended_bars, extended_starts
from enrichment.sandbox.faults import Fault
from enrichment.sandbox.series import SandboxSeries
from enrichment.sandbox.wire_format import (
    WireFormat,
    closes_with_placeholders,
    insert_literals,
)

_MAX_ROWS, _DEFAULT_ROWS = 10_000, 1_000
_TIMEFRAMES = {
    "5Min": Timeframe.M5,
    "15Min": Timeframe.M15,
    "30Min": Timeframe.M30,
    "1Hour": Timeframe.H1,
    "4Hour": Timeframe.H4,
    "1Day": Timeframe.D1,
    "1Week": Timeframe.W1,
}
_WITHHELD = timedelta(minutes=15)
_IEX_SHARE = 0.03  # of all exchanges' volume
_STAMP_MARGIN = timedelta(days=1)  # between a canonical bar start and the vendor's stamp
_SYMBOL = re.compile(r"[A-Z0-9]+(\.[A-Z]+)?")
_MESSAGES = {
    "unauthorized": "unauthorized.",
    "forbidden": "forbidden.",
    "recent": "subscription does not permit querying recent SIP data",
    "symbol": "invalid symbol",
    "bad_request": "invalid request parameters",
    "quota": "too many requests.",
    "rate_limit": "too many requests.",
    "server_error": "internal server error occurred",
}


@dataclass(frozen=True, slots=True)
class _Query:
    tickers: dict[str, str]
    """Alpaca's spelling → ticker, in Alpaca's order."""
    timeframe: Timeframe
    first: datetime
    last: datetime
    limit: int
    offset: int
    """Rows on the pages before."""


class AlpacaFormat(WireFormat):
    """Answers requests in Alpaca's wire format."""

    name: ClassVar[str] = "alpaca"

    def blueprint(self) -> Blueprint:
        routes = Blueprint("alpaca", __name__)
        routes.add_url_rule("/v2/stocks/bars", view_func=self.bars)
        return routes

    def bars(self) -> Response:
        symbols = request.args.get("symbols", "").split(",")
        ticker = _ticker(symbols[0])
        key = request.headers.get("APCA-API-KEY-ID", "")
        if not self._vendor.accepts_key(key) or not request.headers.get("APCA-API-SECRET-KEY"):
            return self._refusal(ticker, "forbidden", 403)
        refused = self._over_quota(ticker, key)
        if refused is not None:
            return refused
        if not all(map(_SYMBOL.fullmatch, symbols)):
            return self._refusal(ticker, "symbol", 400)
        try:
            query = _query(symbols, self._vendor.clock())
        except (ValueError, KeyError):
            return self._refusal(ticker, "bad_request", 400)
        withheld = self._vendor.clock() - _WITHHELD
        if query.last > withheld and request.args.get("feed", "sip") == "sip":
            return self._refusal(ticker, "recent", 403)
        return self._serve(
            ticker, lambda data_faults: self._page(query, data_faults), lambda: _body({}, None)
        )

    def _error_body(self, outcome: str) -> bytes:
        return orjson.dumps({"message": _MESSAGES[outcome]})

    def _page(self, query: _Query, data_faults: Sequence[Fault]) -> bytes:
        rows: dict[str, list[dict[str, Any]]] = {}
        literals: dict[int, str] = {}
        skipped, left = query.offset, query.limit
        token = None
        for symbol, ticker in query.tickers.items():
            series = self._vendor.market.series(ticker)
            if series is None or series.asset_class is AssetClass.CRYPTO:
                continue
            starts = _starts(series, query, self._vendor.clock())
            page = starts[skipped : skipped + left]
            if len(starts) > skipped + len(page):
                token = _token(query.offset + query.limit)
            skipped, left = max(0, skipped - len(starts)), left - len(page)
            if len(page):
                bars = _bars(ticker, series, query.timeframe, page, self._vendor.clock())
                literals = close_literals(data_faults, starts)
                bars = with_faults(bars, data_faults, starts)
                if request.args.get("feed") == "iex":
                    bars = replace(bars, volume=np.rint(bars.volume * _IEX_SHARE))
                rows[symbol] = _rows(bars, query.timeframe, literals)
        return insert_literals(_body(rows, token), list(literals.values()))


def _ticker(symbol: str) -> str:
    """The ticker of a symbol: BACpL for BAC.PRL."""
    name, dot, suffix = symbol.partition(".PR")
    return f"{name}p{suffix}" if dot else symbol


def _query(symbols: Sequence[str], now: datetime) -> _Query:
    args = request.args
    last = _moment(args["end"]) if "end" in args else now - _WITHHELD
    first = _moment(args["start"]) if "start" in args else last - timedelta(days=1)
    if first > last or args.get("adjustment", "raw") != "raw":
        raise ValueError("end should not be before start; only raw prices are served")
    return _Query(
        {symbol: _ticker(symbol) for symbol in sorted(symbols)},
        _TIMEFRAMES[args["timeframe"]],
        first,
        last,
        min(_MAX_ROWS, int(args.get("limit", _DEFAULT_ROWS))),
        int(urlsafe_b64decode(args.get("page_token", "MA=="))),
    )


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _token(rows: int) -> str:
    return urlsafe_b64encode(str(rows).encode()).decode()


def _body(rows: dict[str, list[dict[str, Any]]], token: str | None) -> bytes:
    return orjson.dumps({"bars": rows, "next_page_token": token})


def _is_extended(series: SandboxSeries, timeframe: Timeframe) -> bool:
    return timeframe.intraday and series.simulated


def _starts(series: SandboxSeries, query: _Query, now: datetime) -> Timestamps:
    """The canonical starts of the bars whose stamps lie in the query's range."""
    window = Window(query.first - _STAMP_MARGIN, query.last + _STAMP_MARGIN)
    if _is_extended(series, query.timeframe):
        starts = extended_starts(query.timeframe, window, now)
    else:
        starts = series.starts(query.timeframe, window, now)
    asked = between(_stamps(query.timeframe, starts), query.first, _after(query.last))
    return starts[np.isin(_stamps(query.timeframe, starts), asked)]


def _bars(
    ticker: str, series: SandboxSeries, timeframe: Timeframe, starts: Timestamps, now: datetime
) -> Bars:
    window = Window(to_datetime(starts[0]), _after(to_datetime(starts[-1])))
    if _is_extended(series, timeframe):
        return extended_bars(ticker, series, timeframe, window, now)
    return series.bars(timeframe, window, now)


def _after(moment: datetime) -> datetime:
    return moment + timedelta(microseconds=1)


def _stamps(timeframe: Timeframe, ts: Timestamps) -> Timestamps:
    return ts if timeframe.intraday else local_midnights(AssetClass.STOCK, ts)


def _rows(bars: Bars, timeframe: Timeframe, literals: dict[int, str]) -> list[dict[str, Any]]:
    closes = closes_with_placeholders(bars, bars.close.tolist(), literals)
    stamps = _stamps(timeframe, bars.ts).astype("datetime64[s]").astype(str).tolist()
    columns = zip(
        stamps,
        *(column.tolist() for column in (bars.open, bars.high, bars.low)),
        closes,
        *(column.tolist() for column in (bars.volume, np.nan_to_num(bars.trades), bars.vwap)),
        strict=True,
    )
    return [
        {"t": f"{t}Z", "o": o, "h": h, "l": low, "c": c, "v": v, "n": int(n), "vw": vw}
        for t, o, h, low, c, v, n, vw in columns
    ]
