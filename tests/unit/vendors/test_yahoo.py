"""Yahoo: from its charts to bars; a malformed one is a ProviderError."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enrichment.domain.bars import Bars
from enrichment.domain.errors import MalformedResponse, ProviderError, UnknownSymbol
from enrichment.domain.model import AssetClass, FetchedBars, Timeframe, Window
from enrichment.vendors.canonical import CanonicalProvider
from enrichment.vendors.yahoo import YahooProvider, parse
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
    now: str = NOW.isoformat(),
) -> FetchedBars:
    with client_over(transport) as http:
        provider = YahooProvider(http, now=lambda: datetime.fromisoformat(now).replace(tzinfo=UTC))
        return provider.fetch("SIM1", kind, timeframe, window)


def texts(bars: Bars) -> list[str]:
    return bars.ts.astype("datetime64[m]").astype(str).tolist()  # type: ignore[no-any-return]


def test_days_are_stamped_at_the_opening_there() -> None:
    transport = FakeTransport(chart([OPENING - 86_400 * 2, OPENING]))
    fetched = fetch(transport)
    assert (fetched.source, fetched.adjusted) == ("yahoo", False)
    assert texts(fetched.bars) == ["2024-12-24T00:00", "2024-12-26T00:00"]
    assert fetched.bars.close.tolist() == [1.0, 2.0]
    parts = urlsplit(transport.urls[0])
    query = parse_qs(parts.query)
    assert parts.path == "/v8/finance/chart/SIM1"
    assert query["interval"] == ["1d"]
    assert query["events"] == ["div,splits"]
    assert int(query["period2"][0]) == WINDOW.end.timestamp()


@pytest.mark.parametrize(
    ("symbol", "opens", "days"),
    [  # as recorded
        ("WSU.DE", [1_691_132_400, 1_691_391_600, 1_691_478_000], ["08-04", "08-07", "08-08"]),
        ("WSKT.JK", [1_691_114_400, 1_691_373_600, 1_691_460_000], ["08-04", "08-07", "08-08"]),
        ("TCS.NS", [1_691_120_700, 1_691_379_900, 1_691_466_300], ["08-04", "08-07", "08-08"]),
    ],
)
def test_days_abroad_have_the_date_of_their_exchange(
    symbol: str, opens: list[int], days: list[str]
) -> None:
    body = chart(opens)
    body["chart"]["result"][0]["meta"] = {"symbol": symbol, "dataGranularity": "1d"}
    window = Window(datetime(2023, 8, 4, tzinfo=UTC), datetime(2023, 8, 9, tzinfo=UTC))
    with client_over(FakeTransport(body)) as http:
        provider = CanonicalProvider(YahooProvider(http, now=lambda: NOW), now=lambda: NOW)
        fetched = provider.fetch(symbol, AssetClass.STOCK, Timeframe.D1, window)
    assert texts(fetched.bars) == [f"2023-{day}T00:00" for day in days]


def test_half_hours_of_mumbai_which_opens_at_a_quarter_past_are_built_from_quarters() -> None:
    """Yahoo's own half-hours begin with the session, at 09:15 there, 03:45 UTC."""
    body = chart([1_734_925_500 + 900 * n for n in range(25)])
    body["chart"]["result"][0]["meta"] = {"symbol": "TCS.NS", "dataGranularity": "15m"}
    window = Window(datetime(2024, 12, 23, tzinfo=UTC), datetime(2024, 12, 24, tzinfo=UTC))
    transport = FakeTransport(body)
    with client_over(transport) as http:
        provider = CanonicalProvider(YahooProvider(http, now=lambda: NOW), now=lambda: NOW)
        fetched = provider.fetch("TCS.NS", AssetClass.STOCK, Timeframe.M30, window)
    assert parse_qs(urlsplit(transport.urls[0]).query)["interval"] == ["15m"]
    assert texts(fetched.bars)[:2] == ["2024-12-23T03:30", "2024-12-23T04:00"]
    assert fetched.bars.close[:3].tolist() == [1.0, 3.0, 5.0]
    assert len(fetched.bars) == 13


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


# AAPL and NVDA as Yahoo answered after the close: 2024-09-18 (weekly), 2024-05-03 (hourly).
AAPL_WEDNESDAY = [217.5500030517578, 222.6999969482422, 217.5399932861328, 220.69000244140625]
NVDA_LAST_HOURS = [1714761000, 1714764600, 1714766400]  # 14:30, 15:30 and the close itself


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def days_at(now: str, stamps: list[int], **columns: list[Any]) -> Bars:
    window = Window(at("2024-09-16"), at("2024-09-20"))
    with client_over(FakeTransport(chart(stamps, **columns))) as http:
        provider = YahooProvider(http, now=lambda: at(now))
        return provider.fetch("SIM1", AssetClass.STOCK, Timeframe.D1, window).bars


TUESDAY, WEDNESDAY_OPEN, LAST_TRADE = 1726579800, 1726666200, 1726689602


@pytest.mark.parametrize(
    ("now", "stamp", "days"),
    [
        ("2024-09-18T18:00", LAST_TRADE - 7200, 1),  # 14:00: the session is running
        ("2024-09-18T20:10", LAST_TRADE - 420, 1),  # a quote that is a quarter of an hour behind
        ("2024-09-18T20:10", LAST_TRADE, 2),  # the last trade, at 16:00:02
        ("2024-09-18T20:30", LAST_TRADE - 420, 2),  # a thin stock's last trade, at 15:53
        ("2024-09-19T12:00", WEDNESDAY_OPEN, 2),  # next morning
    ],
)
def test_the_live_quote_is_a_day_once_its_session_has_ended(
    now: str, stamp: int, days: int
) -> None:
    columns = {name: [216.0, p] for name, p in zip(PRICES, AAPL_WEDNESDAY, strict=True)}
    bars = days_at(now, [TUESDAY, stamp], volume=[45_519_300, 58_797_956], **columns)
    assert texts(bars) == ["2024-09-17T00:00", "2024-09-18T00:00"][:days]
    if days == 2:
        assert [bars.open[1], bars.high[1], bars.low[1], bars.close[1]] == [
            217.55,
            222.7,
            217.54,
            220.69,
        ]


def test_of_a_session_that_is_sent_twice_the_quote_is_taken() -> None:
    bars = days_at("2024-09-18T23:00", [TUESDAY, WEDNESDAY_OPEN, LAST_TRADE])
    assert texts(bars) == ["2024-09-17T00:00", "2024-09-18T00:00"]
    assert bars.close.tolist() == [1.0, 3.0]


def test_a_quote_within_a_bar_is_none() -> None:
    rows = [1714743000 + 300 * n for n in range(3)]
    bars = fetch(
        FakeTransport(chart([*rows, rows[-1] + 133])),
        Timeframe.M5,
        window=Window(at("2024-05-03"), at("2024-05-04")),
        now="2024-05-03T13:43",
    ).bars
    assert len(bars) == 3


def test_the_row_at_the_close_belongs_to_no_bar() -> None:
    stamps = [*NVDA_LAST_HOURS[:2], NVDA_LAST_HOURS[1] - 1800, NVDA_LAST_HOURS[1], 1714766400]
    stamps = sorted(set(stamps))
    volume = [4036069, 4036069, 2798449, 0]
    transport = FakeTransport(chart(stamps, close=[888.63, 888.0, 887.87, 887.89], volume=volume))
    with client_over(transport) as http:
        yahoo = YahooProvider(http, now=lambda: at("2024-05-03T21:00"))
        provider = CanonicalProvider(yahoo, now=lambda: at("2024-05-03T21:00"))
        window = Window(at("2024-05-03"), at("2024-05-04"))
        bars = provider.fetch("SIM1", AssetClass.STOCK, Timeframe.M30, window).bars
    assert texts(bars) == ["2024-05-03T18:30", "2024-05-03T19:00", "2024-05-03T19:30"]
    assert bars.close[-1] == 887.87


@pytest.mark.parametrize(
    ("field", "value"), [("symbol", "SIM2"), ("dataGranularity", "1h"), ("symbol", None)]
)
def test_another_chart_than_asked_for_is_refused(field: str, value: str | None) -> None:
    body = chart([OPENING])
    body["chart"]["result"][0]["meta"][field] = value
    with pytest.raises(MalformedResponse, match=f"yahoo, SIM1: Yahoo sent {field} "):
        fetch(FakeTransport(body))


def test_hours_may_be_called_either_name() -> None:
    body = chart([1735171200])
    body["chart"]["result"][0]["meta"]["dataGranularity"] = "1h"
    assert len(fetch(FakeTransport(body), Timeframe.H1, AssetClass.CRYPTO).bars) == 1


def test_an_error_names_vendor_and_spelling_and_says_what_to_do() -> None:
    body = {"chart": {"result": None, "error": {"code": "Not Found", "description": "No data"}}}
    with client_over(FakeTransport(body)) as http, pytest.raises(UnknownSymbol) as caught:
        YahooProvider(http).fetch("BRK.B", AssetClass.STOCK, Timeframe.D1, WINDOW)
    assert str(caught.value).startswith("yahoo, BRK-B: ")
    assert "No data" in str(caught.value)
    assert "enrichment symbols remove" in str(caught.value)


@pytest.mark.parametrize("price", [0.00001234, 0.05, 3.3333, 13.23725, 887.89, 1999.9995, 97208.17])
def test_a_float32_price_is_read_within_its_noise(price: float) -> None:
    for steps in (-2, -1, 0, 1, 2):
        sent = np.float32(price)
        for _ in range(abs(steps)):
            sent = np.nextafter(sent, np.float32(np.inf * steps))
        body = chart([OPENING], **{name: [float(sent)] for name in PRICES})
        read = fetch(FakeTransport(body)).bars.close[0]
        assert abs(read - price) <= 7.5e-7 * price


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
