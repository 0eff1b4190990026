"""Polygon: from its responses to bars; a malformed one is a ProviderError."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enrichment.domain.bars import Bars
from enrichment.domain.errors import AccessDenied, MalformedResponse, ProviderError
from enrichment.domain.model import AssetClass, FetchedBars, Timeframe, Window
from enrichment.vendors.polygon import PolygonProvider, Row, decode, parse
from enrichment.vendors.transport import StreamedResponse
from tests.helpers.fake_transport import JSON, FakeTransport, client_over

ROW = {"v": 10.0, "vw": 1.5, "o": 1.0, "c": 2, "h": 2.5, "l": 0.5, "t": 1_735_102_800_000, "n": 3}
WINDOW = Window(datetime(2024, 12, 1, tzinfo=UTC), datetime(2024, 12, 26, tzinfo=UTC))


def page(*rows: Any, **changes: Any) -> dict[str, Any]:
    body = {"ticker": "SIM1", "adjusted": True, "status": "OK", "results": list(rows), **changes}
    return {name: value for name, value in body.items() if value is not ...}


def fetch(
    transport: FakeTransport,
    timeframe: Timeframe = Timeframe.D1,
    asset_class: AssetClass = AssetClass.STOCK,
    window: Window = WINDOW,
) -> FetchedBars:
    with client_over(transport) as http:
        return PolygonProvider(http).fetch("SIM1", asset_class, timeframe, window)


def test_a_row_becomes_a_bar() -> None:
    transport = FakeTransport(page(ROW, status="DELAYED"), headers={"X-RateLimit-Remaining": "4"})
    fetched = fetch(transport)
    assert fetched.source == "polygon"
    assert fetched.adjusted is True
    assert fetched.requests == 1
    assert fetched.quota_remaining == 4
    assert {name: column[0] for name, column in fetched.bars.columns().items() if name != "ts"} == {
        "open": 1.0,
        "high": 2.5,
        "low": 0.5,
        "close": 2.0,
        "volume": 10.0,
        "vwap": 1.5,
        "trades": 3.0,
        "taker_buy_volume": pytest.approx(np.nan, nan_ok=True),
    }
    assert fetched.bars.ts[0] == np.datetime64("2024-12-25T00:00")


def test_pages_are_followed_and_keep_the_vendors_order() -> None:
    later = {**ROW, "t": ROW["t"] + 86_400_000}
    transport = FakeTransport(
        page(later, next_url="https://vendor.test/v2/aggs?cursor=a"),
        page(results=..., next_url="https://vendor.test/v2/aggs?cursor=b"),
        page(ROW, ROW),
    )
    fetched = fetch(transport)
    assert fetched.requests == 3
    assert transport.urls[1:] == [f"https://vendor.test/v2/aggs?cursor={c}" for c in "ab"]
    assert fetched.bars.ts.astype("datetime64[D]").astype(str).tolist() == [
        "2024-12-26",
        "2024-12-25",
        "2024-12-25",
    ]
    assert fetched.quota_remaining is None


BEYOND_PLAN = page(status="NOT_AUTHORIZED", message="upgrade your plan")


def fetch_years_later(years: int, refusal: dict[str, Any]) -> FetchedBars:
    with client_over(FakeTransport(refusal, status=403)) as http:
        now = WINDOW.end + timedelta(days=365 * years)
        provider = PolygonProvider(http, now=lambda: now)
        return provider.fetch("SIM1", AssetClass.STOCK, Timeframe.D1, WINDOW)


def test_a_window_beyond_every_plan_is_out_of_reach() -> None:
    fetched = fetch_years_later(2, BEYOND_PLAN)
    assert len(fetched.bars) == 0
    assert (fetched.served_from, fetched.limit) == (WINDOW.end, "plan")


def test_a_refusal_within_every_plan_or_of_the_key_is_a_failure() -> None:
    with pytest.raises(AccessDenied, match="upgrade"):
        fetch_years_later(1, BEYOND_PLAN)
    with pytest.raises(AccessDenied, match="Unknown"):
        fetch_years_later(2, {"status": "ERROR", "error": "Unknown key"})


def test_a_plan_that_ends_between_two_pages_serves_those_before() -> None:
    pages = [page(ROW, next_url="https://vendor.test/v2/aggs?cursor=a"), BEYOND_PLAN]

    class Refusing(FakeTransport):
        def send(self, *args: Any, **options: Any) -> StreamedResponse:
            self.status = 200 if len(self.urls) == 0 else 403
            return super().send(*args, **options)

    assert len(fetch(Refusing(*pages)).bars) == 1
    with pytest.raises(AccessDenied, match="Unknown"):
        fetch(Refusing(pages[0], {"status": "ERROR", "error": "Unknown key"}))


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("timeframe", "asset_class", "window", "stamps"),
    [
        # canonical starts are at 00:00 UTC; New York's midnight is 05:00 in winter, 04:00 in summer
        ("1d", "stock", "2024-12-02 2024-12-04", "2024-12-02T05 2024-12-04T05"),
        ("1d", "etf", "2024-07-01T09 2024-07-03T09", "2024-07-02T04 2024-07-04T04"),
        ("1w", "stock", "2024-12-02 2024-12-16", "2024-12-01T05 2024-12-15T05"),
        ("1d", "crypto", "2024-12-02 2024-12-04", "2024-12-02 2024-12-04"),
        ("1w", "crypto", "2024-12-02 2024-12-16", "2024-12-01 2024-12-15"),
        ("1h", "stock", "2024-12-02 2024-12-04", "2024-12-02 2024-12-04"),
    ],
)
def test_the_window_is_requested_by_the_vendors_stamps(
    timeframe: str, asset_class: str, window: str, stamps: str
) -> None:
    transport = FakeTransport(page(results=...))
    start, end = map(moment, window.split())
    fetched = fetch(transport, Timeframe(timeframe), AssetClass(asset_class), Window(start, end))
    assert len(fetched.bars) == 0
    first, last = (int(moment(text).timestamp() * 1000) for text in stamps.split())
    parts = urlsplit(transport.urls[0])
    assert parts.path.split("/")[-2:] == [str(first), str(last - 1)]
    assert parse_qs(parts.query) == {"adjusted": ["false"], "sort": ["asc"], "limit": ["50000"]}


def test_a_window_without_a_bar_asks_for_none() -> None:
    transport = FakeTransport(page(results=...))
    fetch(transport, window=Window(moment("2024-12-03T09"), moment("2024-12-03T10")))
    first, last = transport.urls[0].partition("?")[0].split("/")[-2:]
    assert first == last
    assert int(last) == int(moment("2024-12-04T05").timestamp() * 1000) - 1


def test_null_prices_are_nan() -> None:
    bars = parse(
        [{**ROW, "c": None, "v": None}, {k: v for k, v in ROW.items() if k not in ("vw", "n")}]
    )
    assert np.isnan([bars.close[0], bars.volume[0], bars.vwap[1], bars.trades[1]]).all()
    assert bars.close[1] == 2.0


@pytest.mark.parametrize("field", ["o", "h", "l", "c", "v", "t", "vw", "n"])
@pytest.mark.parametrize("value", ["1.5", "NaN", True, [], {}, ...])
def test_a_field_of_the_wrong_type_is_named(field: str, value: Any) -> None:
    row: dict[str, Any] = {**ROW, field: value}
    if value is ...:
        del row[field]
        if field in ("vw", "n"):
            return
    with pytest.raises(MalformedResponse, match=f"'{field}'"):
        parse([ROW, row])


@pytest.mark.parametrize("stamp", [None, 1.5, 10**18, -(10**18)])
def test_a_bad_timestamp_is_refused(stamp: Any) -> None:
    with pytest.raises(MalformedResponse, match="'t'"):
        parse([{**ROW, "t": stamp}])


@pytest.mark.parametrize(
    ("body", "kind", "words"),
    [
        (page(status="ERROR", error="try\nlater"), ProviderError, "try later"),
        (page(status="NOT_AUTHORIZED", message="upgrade"), AccessDenied, "upgrade"),
        (page(status="odd"), MalformedResponse, "'status'"),
        (page(ticker="AAPL"), MalformedResponse, "'ticker'"),
        (page(adjusted="yes"), MalformedResponse, "'adjusted'"),
        (page(adjusted=...), MalformedResponse, "'adjusted'"),
        (page(results={}), MalformedResponse, "'results'"),
        (page(5), MalformedResponse, "'results'"),
        (page(next_url=5), MalformedResponse, "'next_url'"),
        (page(next_url="https://[elsewhere/"), MalformedResponse, "address"),
        ([], MalformedResponse, "'status'"),
    ],
)
def test_a_bad_response_is_an_error(body: Any, kind: type[Exception], words: str) -> None:
    with pytest.raises(ProviderError, match=words) as caught:
        fetch(FakeTransport(body))
    assert type(caught.value) is kind


def test_pages_without_an_end_are_refused() -> None:
    pages = [page(ROW, next_url=f"https://vendor.test/v2/aggs?cursor={n}") for n in range(500)]
    transport = FakeTransport(*pages)
    with pytest.raises(MalformedResponse, match=r"'next_url' does not end .* SIM1"):
        fetch(transport)
    assert len(transport.urls) == 20


def test_nothing_beyond_now_is_asked_for() -> None:
    now = datetime(2024, 12, 20, 1, 30, tzinfo=UTC)
    transport = FakeTransport(page(results=...))
    with client_over(transport) as http:
        provider = PolygonProvider(http, now=lambda: now)
        later = Window(now, WINDOW.end)
        assert len(provider.fetch("SIM1", AssetClass.STOCK, Timeframe.D1, later).bars) == 0
        assert transport.urls == []
        provider.fetch("SIM1", AssetClass.STOCK, Timeframe.D1, WINDOW)
    last = transport.urls[0].partition("?")[0].rpartition("/")[2]
    assert int(last) == int(now.timestamp() * 1000)


def test_microseconds_for_milliseconds_are_refused() -> None:
    with pytest.raises(MalformedResponse, match="'t'"):
        fetch(FakeTransport(page({**ROW, "t": ROW["t"] * 1000})))


def test_a_cycle_of_pages_is_refused() -> None:
    circle = page(ROW, next_url="https://vendor.test/v2/aggs?cursor=a")
    with pytest.raises(MalformedResponse, match="'next_url'"):
        fetch(FakeTransport(circle, circle, circle))


def test_pages_that_disagree_on_adjustment_are_refused() -> None:
    with pytest.raises(MalformedResponse, match="'adjusted'"):
        fetch(FakeTransport(page(ROW, next_url="https://vendor.test/b"), page(ROW, adjusted=False)))


NEARLY_ROW = st.fixed_dictionaries({name: st.just(value) | JSON for name, value in ROW.items()})


@settings(max_examples=300)
@given(st.lists(st.just(ROW) | NEARLY_ROW | JSON, max_size=4))
def test_any_rows_are_bars_or_a_provider_error(rows: list[Any]) -> None:
    try:
        bars = parse(rows)
    except MalformedResponse:
        return
    assert isinstance(bars, Bars)
    assert len(bars) == len(rows)
    assert not np.isnat(bars.ts).any()


@settings(max_examples=300)
@given(st.lists(st.just(ROW) | NEARLY_ROW | JSON, max_size=4))
def test_typed_and_plain_rows_make_the_same_bars(rows: list[Any]) -> None:
    content = orjson.dumps(page(*rows))
    try:
        plain = parse(orjson.loads(content)["results"])
    except MalformedResponse as exc:
        with pytest.raises(MalformedResponse, match=re.escape(str(exc))):
            parse(decode(content)["results"])
        return
    body = decode(content)
    assert all(type(row) is Row for row in body["results"])
    for name, column in parse(body["results"]).columns().items():
        np.testing.assert_array_equal(column, plain.columns()[name])


@settings(max_examples=300, deadline=None)
@given(
    body=JSON
    | st.fixed_dictionaries(
        {},
        optional={
            "ticker": st.just("SIM1") | JSON,
            "status": st.sampled_from(["OK", "DELAYED", "ERROR"]) | JSON,
            "adjusted": st.booleans() | JSON,
            "results": st.lists(NEARLY_ROW, max_size=3) | JSON,
            "next_url": st.text() | JSON,
        },
    ),
    timeframe=st.sampled_from(list(Timeframe)),
)
def test_any_body_is_bars_or_a_provider_error(body: Any, timeframe: Timeframe) -> None:
    try:
        fetched = fetch(FakeTransport(body, page(ROW)), timeframe)
    except ProviderError:
        return
    assert isinstance(fetched.bars, Bars)
