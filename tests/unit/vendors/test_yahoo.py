"""Yahoo: from its charts to bars; a malformed one is a ProviderError."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enrichment.domain.bars import Bars
from enrichment.domain.errors import MalformedResponse, ProviderError, UnknownSymbol
from enrichment.domain.model import AssetClass, FetchedBars, Timeframe, Window
from enrichment.vendors.yahoo import YahooProvider, parse, vendor_symbol
from tests.helpers.fake_transport import JSON, FakeTransport, client_over

NOW = datetime(2024, 12, 27, 12, tzinfo=UTC)
WINDOW = Window(datetime(2024, 12, 1, tzinfo=UTC), NOW)
OPENING = 1_735_223_400  # 2024-12-26, 09:30 in New York
PRICES = ("open", "high", "low", "close")


def chart(stamps: list[Any], **columns: list[Any]) -> dict[str, Any]:
    usual = {name: [1.0 + n for n in range(len(stamps))] for name in (*PRICES, "volume")}
    result = {
        "meta": {"symbol": "SIM1", "currency": "USD"},
        "timestamp": stamps,
        "indicators": {"quote": [{**usual, **columns}], "adjclose": [{}]},
    }
    return {"chart": {"result": [result], "error": None}}


def fetch(
    transport: FakeTransport,
    timeframe: Timeframe = Timeframe.D1,
    kind: AssetClass = AssetClass.STOCK,
    window: Window = WINDOW,
) -> FetchedBars:
    with client_over(transport) as http:
        provider = YahooProvider(http, now=lambda: NOW)
        return provider.fetch("SIM1", kind, timeframe, window)


def texts(bars: Bars) -> list[str]:
    return bars.ts.astype("datetime64[m]").astype(str).tolist()  # type: ignore[no-any-return]


def test_days_are_stamped_at_the_opening_there() -> None:
    transport = FakeTransport(chart([OPENING - 86_400 * 2, OPENING]))
    fetched = fetch(transport)
    assert (fetched.source, fetched.adjusted) == ("yahoo", True)
    assert texts(fetched.bars) == ["2024-12-24T00:00", "2024-12-26T00:00"]
    assert fetched.bars.close.tolist() == [1.0, 2.0]
    parts = urlsplit(transport.urls[0])
    query = parse_qs(parts.query)
    assert parts.path == "/v8/finance/chart/SIM1"
    assert query["interval"] == ["1d"]
    assert query["events"] == ["div,splits"]
    assert int(query["period2"][0]) == WINDOW.end.timestamp()


def test_a_bar_without_prices_does_not_exist_and_a_missing_price_is_nan() -> None:
    day = 86_400
    body = chart(
        [OPENING - 3 * day, OPENING - 2 * day, OPENING],
        open=[1.0, None, 3.0],
        high=[1.0, None, 3.0],
        low=[1.0, None, None],
        close=[1.0, None, 3.0],
        volume=[5, None, 0],
    )
    bars = fetch(FakeTransport(body)).bars
    assert bars.volume.tolist() == [5.0, 0.0]
    assert np.isnan(bars.low[1])


def test_four_hours_of_crypto_are_built_from_hours() -> None:
    midnight = 1_735_171_200
    transport = FakeTransport(chart([midnight + 3600 * n for n in range(8)]))
    bars = fetch(transport, Timeframe.H4, AssetClass.CRYPTO).bars
    assert parse_qs(urlsplit(transport.urls[0]).query)["interval"] == ["60m"]
    assert texts(bars) == ["2024-12-26T00:00", "2024-12-26T04:00"]
    assert bars.low.tolist() == [1.0, 5.0]


def test_bars_beyond_yahoos_reach_are_not_requested() -> None:
    old = Window(NOW - timedelta(days=200), NOW - timedelta(days=100))
    transport = FakeTransport()
    assert len(fetch(transport, Timeframe.M5, window=old).bars) == 0
    assert transport.urls == []
    transport = FakeTransport(chart([]))
    fetch(transport, Timeframe.M5, window=Window(NOW - timedelta(days=200), NOW))
    start = int(parse_qs(urlsplit(transport.urls[0]).query)["period1"][0])
    assert 0 < start - (NOW - timedelta(days=60)).timestamp() <= 3600


@pytest.mark.parametrize(
    ("symbol", "name"), [("BRK.B", "BRK-B"), ("X:BTCUSD", "BTC-USD"), ("AAPL", "AAPL")]
)
def test_tickers(symbol: str, name: str) -> None:
    assert vendor_symbol(symbol) == name
    assert unquote(name) == name


@pytest.mark.parametrize(
    ("body", "kind", "words"),
    [
        (
            {"chart": {"result": None, "error": {"code": "Not Found", "description": "No data"}}},
            UnknownSymbol,
            "No data",
        ),
        (
            {"chart": {"result": None, "error": {"code": "Bad Request", "description": "x"}}},
            ProviderError,
            "reports an error",
        ),
        ({"chart": {"result": [], "error": None}}, MalformedResponse, "'result'"),
        ({"finance": {}}, MalformedResponse, "'chart'"),
        ([], MalformedResponse, "not an object"),
        (chart([OPENING], close=[1.0, 2.0]), MalformedResponse, "not as long"),
        (chart([OPENING], close=["1.0"]), MalformedResponse, "'close'"),
        (chart([OPENING * 1000]), MalformedResponse, "1900 to 2099"),
        (chart([1.5]), MalformedResponse, "whole number"),
    ],
)
def test_a_bad_response_is_an_error(body: Any, kind: type[Exception], words: str) -> None:
    with pytest.raises(ProviderError, match=words) as caught:
        fetch(FakeTransport(body))
    assert type(caught.value) is kind


def test_a_chart_without_bars_is_empty() -> None:
    body = chart([])
    del body["chart"]["result"][0]["timestamp"]
    assert len(fetch(FakeTransport(body)).bars) == 0


COLUMN = st.lists(st.floats(0.1, 10.0) | JSON, min_size=2, max_size=2) | JSON


@settings(max_examples=300, deadline=None)
@given(
    JSON
    | st.builds(
        chart,
        st.just([OPENING - 86_400, OPENING]) | st.lists(JSON, max_size=3),
        open=COLUMN,
        high=COLUMN,
        low=COLUMN,
        close=COLUMN,
        volume=COLUMN,
    ),
    st.sampled_from([t for t in Timeframe if t is not Timeframe.W1]),
)
def test_any_body_is_bars_or_a_provider_error(body: Any, timeframe: Timeframe) -> None:
    try:
        parse(body, "SIM1", "1d")
        fetched = fetch(FakeTransport(body), timeframe)
    except ProviderError:
        return
    assert isinstance(fetched.bars, Bars)
