"""Coinbase: from its candles to bars; a malformed one is a ProviderError."""

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
from enrichment.vendors.coinbase import CoinbaseProvider, parse
from tests.helpers.fake_transport import JSON, FakeTransport, client_over

CHRISTMAS = datetime(2024, 12, 25, tzinfo=UTC)
WINDOW = Window(CHRISTMAS - timedelta(days=4), CHRISTMAS + timedelta(days=1))


def candle(moment: datetime, *prices: float) -> list[Any]:
    """[time, low, high, open, close, volume]."""
    low, high, open_, close, volume = prices or (0.5, 2.5, 1.0, 2, 10.25)
    return [int(moment.timestamp()), low, high, open_, close, volume]


ROW = candle(CHRISTMAS)


def fetch(
    transport: FakeTransport,
    *,
    limit: int = 300,
    timeframe: Timeframe = Timeframe.D1,
    window: Window = WINDOW,
    symbol: str = "X:BTCUSD",
    kind: AssetClass = AssetClass.CRYPTO,
) -> FetchedBars:
    with client_over(transport) as http:
        return CoinbaseProvider(http, limit=limit).fetch(symbol, kind, timeframe, window)


def queries(transport: FakeTransport) -> list[dict[str, str]]:
    return [
        {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
        for url in transport.urls
    ]


def days(fetched: FetchedBars) -> list[int]:
    return [day.day for day in fetched.bars.ts.astype("datetime64[s]").tolist()]


def test_a_candle_becomes_a_bar() -> None:
    transport = FakeTransport([ROW])
    fetched = fetch(transport)
    assert (fetched.source, fetched.adjusted, fetched.requests) == ("coinbase", True, 1)
    bar = {n: c[0] for n, c in fetched.bars.columns().items() if not np.isnan(c[0])}
    assert bar == {
        "ts": np.datetime64("2024-12-25T00:00"), "open": 1.0, "high": 2.5, "low": 0.5,
        "close": 2.0, "volume": 10.25,
    }  # fmt: skip
    assert urlsplit(transport.urls[0]).path == "/products/BTC-USD/candles"
    assert queries(transport) == [
        {"granularity": "86400", "start": "2024-12-21T00:00:00Z", "end": "2024-12-26T00:00:00Z"}
    ]


@pytest.mark.parametrize("end_included", [True, False])
def test_ranges_join_without_a_gap_or_a_duplicate(end_included: bool) -> None:
    """Newest first, and with a candle from before the range's start."""
    rows = {day: candle(CHRISTMAS.replace(day=day)) for day in (20, 21, 22, 24, 25, 26)}
    ranges = [(20, 23), (22, 25), (24, 26)]
    pages = [
        [rows[day] for day in sorted(rows, reverse=True) if first <= day < last + end_included]
        for first, last in ranges
    ]
    transport = FakeTransport(*pages)
    fetched = fetch(transport, limit=3)
    assert days(fetched) == [21, 22, 24, 25]
    assert [query["start"][8:10] for query in queries(transport)] == ["21", "23", "25"]
    assert fetched.requests == 3


def test_no_range_holds_more_than_300_candles() -> None:
    year = Window(CHRISTMAS - timedelta(days=20), CHRISTMAS)
    transport = FakeTransport(*[[]] * 20)
    assert fetch(transport, timeframe=Timeframe.M5, window=year).requests == 20  # 5760 / 299
    for query in queries(transport):
        first, last = (datetime.fromisoformat(query[name]) for name in ("start", "end"))
        assert (last - first) // timedelta(minutes=5) < 300


def test_half_hours_are_built_from_quarters() -> None:
    at = CHRISTMAS + timedelta(hours=10)
    quarter = timedelta(minutes=15)
    transport = FakeTransport([
        candle(at + 4 * quarter, 8, 9, 8, 9, 1),  # without its second half: not yet complete
        candle(at + 2 * quarter, 5, 6, 5, 6, 1),  # nobody traded in its second half
        candle(at + quarter, 1, 4, 3, 2, 5),
        candle(at, 2, 7, 2, 3, 10),
    ])  # fmt: skip
    window = Window(at, at + timedelta(hours=2))
    bars = fetch(transport, timeframe=Timeframe.M30, window=window).bars
    rows = zip(bars.open, bars.high, bars.low, bars.close, bars.volume, strict=True)
    assert [tuple(map(float, row)) for row in rows] == [(2, 7, 1, 2, 15), (5, 6, 5, 6, 1)]
    assert queries(transport)[0]["granularity"] == "900"


def test_four_hours_that_begin_before_the_window_are_not_built_of_a_part() -> None:
    window = Window(CHRISTMAS + timedelta(hours=2), CHRISTMAS + timedelta(hours=8))
    hours = [candle(CHRISTMAS + timedelta(hours=hour)) for hour in range(8)][::-1]
    transport = FakeTransport(hours)
    bars = fetch(transport, timeframe=Timeframe.H4, window=window).bars
    assert bars.ts.astype(str).tolist() == ["2024-12-25T04:00:00.000000"]
    assert bars.volume.tolist() == [41.0]
    assert queries(transport)[0]["granularity"] == "3600"


def test_nothing_is_asked_from_before_coinbase_opened() -> None:
    old = Window(datetime(2013, 1, 1, tzinfo=UTC), datetime(2014, 1, 1, tzinfo=UTC))
    fetched = fetch(FakeTransport(), window=old)
    assert (len(fetched.bars), fetched.requests) == (0, 0)


def test_stocks_are_refused_without_a_request() -> None:
    transport = FakeTransport()
    with pytest.raises(UnknownSymbol, match="crypto only"):
        fetch(transport, symbol="AAPL", kind=AssetClass.STOCK)
    assert transport.urls == []


@pytest.mark.parametrize(
    ("status", "message", "kind"),
    [
        (404, "NotFound", UnknownSymbol),
        (400, "Unsupported granularity", RequestRefused),
        (429, "Public rate limit exceeded", QuotaExceeded),
        (403, "Forbidden", AccessDenied),
        (503, "Service unavailable", ProviderUnavailable),
    ],
)
def test_refusals(status: int, message: str, kind: type[Exception]) -> None:
    with pytest.raises(kind, match=message) as caught:
        fetch(FakeTransport({"message": message}, status=status))
    assert type(caught.value) is kind


@pytest.mark.parametrize("column", range(6))
@pytest.mark.parametrize("value", [True, [], {}, "1.5"])
def test_a_field_of_the_wrong_type_is_refused(column: int, value: Any) -> None:
    row = list(ROW)
    row[column] = value
    with pytest.raises(MalformedResponse):
        parse([ROW, row])


NEARLY = st.tuples(*(st.just(value) | JSON for value in ROW)).map(list)


@settings(max_examples=300, deadline=None)
@given(JSON | st.lists(st.just(ROW) | NEARLY | JSON, max_size=4))
def test_any_body_is_bars_or_a_provider_error(body: Any) -> None:
    try:
        fetched = fetch(FakeTransport(body))
    except ProviderError:
        return
    assert isinstance(fetched.bars, Bars)
