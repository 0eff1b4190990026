"""Binance: from its klines to bars; a malformed one is a ProviderError."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enrichment.domain.bars import Bars
from enrichment.domain.errors import (
    AccessDenied,
    MalformedResponse,
    ProviderError,
    ProviderUnavailable,
    QuotaExceeded,
    RequestRefused,
    UnknownSymbol,
)
from enrichment.domain.model import AssetClass, FetchedBars, Timeframe, Window
from enrichment.vendors.binance import BinanceProvider, parse
from enrichment.vendors.transport import StreamedResponse
from tests.helpers.fake_transport import JSON, FakeTransport, client_over

DAY = 86_400_000
ROW: list[Any] = [
    1_735_084_800_000, "1.0", "2.5", "0.5", "2", "10", 1_735_171_199_999, "15", 3, "4", "6", "0",
]  # fmt: skip
WINDOW = Window(datetime(2024, 12, 1, tzinfo=UTC), datetime(2024, 12, 27, tzinfo=UTC))


def fetch(
    transport: FakeTransport,
    *,
    limit: int = 1000,
    symbol: str = "X:BTCUSD",
    kind: AssetClass = AssetClass.CRYPTO,
) -> FetchedBars:
    with client_over(transport) as http:
        provider = BinanceProvider(http, limit=limit)
        return provider.fetch(symbol, kind, Timeframe.D1, WINDOW)


def test_a_kline_becomes_a_bar() -> None:
    transport = FakeTransport([ROW], [], headers={"X-MBX-USED-WEIGHT-1M": "100"})
    fetched = fetch(transport)
    assert (fetched.source, fetched.adjusted, fetched.requests) == ("binance", True, 2)
    assert fetched.quota_remaining == 5900
    row = {n: c[0] for n, c in fetched.bars.columns().items() if n != "ts"}
    assert row == {
        "open": 1.0, "high": 2.5, "low": 0.5, "close": 2.0, "volume": 10.0, "vwap": 1.5,
        "trades": 3.0, "taker_buy_volume": 4.0,
    }  # fmt: skip
    assert fetched.bars.ts[0] == np.datetime64("2024-12-25T00:00")
    query = parse_qs(urlsplit(transport.urls[0]).query)
    assert (query["symbol"], query["interval"]) == (["BTCUSDT"], ["1d"])
    assert int(query["startTime"][0]) == WINDOW.start.timestamp() * 1000
    assert int(query["endTime"][0]) == WINDOW.end.timestamp() * 1000 - 1


def start_times(transport: FakeTransport) -> list[int]:
    return [int(parse_qs(urlsplit(url).query)["startTime"][0]) for url in transport.urls]


def test_a_short_page_is_not_the_last() -> None:
    rows = [[ROW[0] + n * DAY, *ROW[1:]] for n in (-6, -4, -3, -2, 1)]
    transport = FakeTransport(rows[:2], rows[2:4], rows[4:])
    fetched = fetch(transport, limit=3)
    assert fetched.bars.ts.astype("datetime64[D]").astype(str).tolist() == [
        "2024-12-19", "2024-12-21", "2024-12-22", "2024-12-23", "2024-12-26",
    ]  # fmt: skip
    assert start_times(transport)[1:] == [rows[1][0] + 1, rows[3][0] + 1]


def test_an_empty_page_is_the_last() -> None:
    fetched = fetch(FakeTransport([ROW], []))
    assert (fetched.requests, len(fetched.bars)) == (2, 1)


def test_a_page_that_ends_with_the_windows_last_bar_is_the_last() -> None:
    newest = int((WINDOW.end - timedelta(days=1)).timestamp() * 1000)
    assert fetch(FakeTransport([[newest, *ROW[1:]]])).requests == 1


def test_microseconds_are_the_same_moment() -> None:
    archived = [ROW[0] * 1000, *ROW[1:]]
    assert parse([archived, ROW]).ts.astype(str).tolist() == ["2024-12-25T00:00:00.000000"] * 2
    assert fetch(FakeTransport([archived], [])).requests == 2
    with pytest.raises(MalformedResponse, match="1900 to 2099"):
        parse([[ROW[0] * 1_000_000, *ROW[1:]]])


def test_pages_that_do_not_advance_are_refused() -> None:
    stuck = [[0, *ROW[1:]]]
    with pytest.raises(MalformedResponse, match="does not advance"):
        fetch(FakeTransport(stuck, stuck), limit=1)


def test_stocks_are_refused_without_a_request() -> None:
    transport = FakeTransport()
    with pytest.raises(UnknownSymbol, match="crypto only"):
        fetch(transport, symbol="AAPL", kind=AssetClass.STOCK)
    assert transport.urls == []


@pytest.mark.parametrize(
    ("status", "body", "kind", "retry_after"),
    [
        (400, {"code": -1121, "msg": "Invalid symbol."}, UnknownSymbol, None),
        (400, {"code": -1100, "msg": "Illegal characters"}, RequestRefused, None),
        (429, {"code": -1003, "msg": "Too many requests"}, QuotaExceeded, 7.0),
        (418, {"code": -1003, "msg": "banned"}, QuotaExceeded, 7.0),
        (451, {"code": 0, "msg": "restricted location"}, AccessDenied, None),
        (503, {}, ProviderUnavailable, None),
    ],
)
def test_refusals(status: int, body: Any, kind: type[Exception], retry_after: float | None) -> None:
    transport = FakeTransport(body, status=status, headers={"Retry-After": "7"})
    with pytest.raises(ProviderError) as caught:
        fetch(transport)
    assert type(caught.value) is kind
    assert getattr(caught.value, "retry_after", None) == retry_after


def test_a_refused_country_learns_which_setting_to_change() -> None:
    body = {"code": 0, "msg": "Service unavailable from a restricted location"}
    with pytest.raises(AccessDenied, match=r"BINANCE_BASE_URL=https://data-api\.binance\.vision "):
        fetch(FakeTransport(body, status=451))


@pytest.mark.parametrize("column", range(11))
@pytest.mark.parametrize("value", [True, [], {}, "oops"])
def test_a_field_of_the_wrong_type_is_refused(column: int, value: Any) -> None:
    row = list(ROW)
    row[column] = value
    if column in (6, 10):  # closing time and quote of the takers are not read
        assert len(parse([row])) == 1
        return
    with pytest.raises(MalformedResponse):
        parse([ROW, row])


NEARLY = st.tuples(*(st.just(value) | JSON for value in ROW)).map(list)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.just(ROW) | NEARLY | JSON, max_size=4))
def test_any_rows_are_bars_or_a_provider_error(rows: list[Any]) -> None:
    try:
        bars = parse(rows)
    except MalformedResponse:
        return
    assert isinstance(bars, Bars)
    assert len(bars) == len(rows)


@settings(max_examples=200, deadline=None)
@given(JSON | st.lists(NEARLY, max_size=3))
def test_any_body_is_bars_or_a_provider_error(body: Any) -> None:
    try:
        fetched = fetch(FakeTransport(body, []), limit=2)
    except ProviderError:
        return
    assert isinstance(fetched.bars, Bars)


def test_a_hole_longer_than_a_page_is_not_the_end() -> None:
    """1,500 hours without a kline, and the newest one shows that there are more behind them."""
    step, first = 3_600_000, 1_700_000_000_000 // 3_600_000 * 3_600_000
    times = [first + n * step for n in range(10)] + [first + (1510 + n) * step for n in range(20)]
    window = Window(
        datetime.fromtimestamp(first / 1000, UTC),
        datetime.fromtimestamp((times[-1] + 5000 * step) / 1000, UTC),
    )
    server = Klines(times)
    with client_over(server) as http:
        fetched = BinanceProvider(http, limit=200).fetch(
            "X:BTCUSD", AssetClass.CRYPTO, Timeframe.H1, window
        )
    assert fetched.bars.ts.astype("M8[ms]").astype(int).tolist() == times
    assert fetched.requests == len(server.urls) < 20


class Klines(FakeTransport):
    """Answers with klines of a page's slots, without those in a hole."""

    def __init__(self, times: list[int]) -> None:
        super().__init__()
        self._times = times

    def send(self, method: str, url: str, **options: Any) -> StreamedResponse:
        query = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
        end, limit = int(query["endTime"]), int(query["limit"])
        if "startTime" in query:
            start = int(query["startTime"])
            end = min(end, start + limit * 3_600_000 - 1)
            times = [t for t in self._times if start <= t <= end]
        else:
            times = [t for t in self._times if t <= end][-limit:]
        self.bodies = [[[t, *ROW[1:]] for t in times]]
        return super().send(method, url, **options)


def test_a_page_in_another_order_is_asked_once() -> None:
    rows = [[ROW[0] + n * 86_400_000, *ROW[1:]] for n in (1, 0)]
    assert fetch(FakeTransport(rows)).requests == 1
