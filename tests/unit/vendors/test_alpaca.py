"""Alpaca: from its bars to ours; a malformed one is a ProviderError."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from enrichment.config import Settings
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
from enrichment.vendors.alpaca import AlpacaProvider, parse
from enrichment.vendors.registry import VENDORS
from tests.helpers.fake_transport import JSON, FakeTransport, client_over

# As in Alpaca's description of its API.
ROW: dict[str, Any] = {
    "t": "2022-02-28T05:00:00Z", "o": 163.02, "h": 165.42, "l": 162.43, "c": 165.12,
    "v": 90552883, "n": 743379, "vw": 164.274348,
}  # fmt: skip
WINDOW = Window(datetime(2022, 2, 1, tzinfo=UTC), datetime(2022, 4, 1, tzinfo=UTC))


def body(*rows: Any, symbol: str = "AAPL", token: str | None = None) -> dict[str, Any]:
    return {"bars": {symbol: list(rows)}, "next_page_token": token}


def at(stamp: str) -> dict[str, Any]:
    return {**ROW, "t": stamp}


def fetch(
    transport: FakeTransport,
    *,
    symbol: str = "AAPL",
    kind: AssetClass = AssetClass.STOCK,
    timeframe: Timeframe = Timeframe.D1,
    window: Window = WINDOW,
    now: str = "2024-01-01",
) -> FetchedBars:
    clock = datetime.fromisoformat(now).replace(tzinfo=UTC)
    with client_over(transport) as http:
        provider = AlpacaProvider(http, now=lambda: clock)
        return provider.fetch(symbol, kind, timeframe, window)


def query(transport: FakeTransport, page: int = 0) -> dict[str, str]:
    asked = parse_qs(urlsplit(transport.urls[page]).query)
    return {name: values[0] for name, values in asked.items()}


def starts(fetched: FetchedBars) -> list[str]:
    return fetched.bars.ts.astype("datetime64[m]").astype(str).tolist()


def test_a_row_becomes_a_bar() -> None:
    transport = FakeTransport(body(ROW))
    fetched = fetch(transport)
    assert (fetched.source, fetched.adjusted, fetched.requests) == ("alpaca", False, 1)
    bar = {n: c[0] for n, c in fetched.bars.columns().items() if not np.isnan(c[0])}
    assert bar == {
        "ts": np.datetime64("2022-02-28"), "open": 163.02, "high": 165.42, "low": 162.43,
        "close": 165.12, "volume": 90552883, "vwap": 164.274348, "trades": 743379,
    }  # fmt: skip
    asked = query(transport)
    assert (asked["symbols"], asked["timeframe"], asked["feed"]) == ("AAPL", "1Day", "sip")
    assert (asked["adjustment"], asked["limit"]) == ("raw", "10000")


def test_days_are_asked_for_by_their_midnights_in_new_york() -> None:
    """In standard time at 05:00, from 2022-03-13 on at 04:00."""
    rows = [at(f"2022-{stamp}:00:00Z") for stamp in ("03-11T05", "03-14T04", "03-15T04")]
    window = Window(datetime(2022, 3, 11, tzinfo=UTC), datetime(2022, 3, 15, tzinfo=UTC))
    transport = FakeTransport(body(*rows))
    assert starts(fetch(transport, window=window)) == ["2022-03-11T00:00", "2022-03-14T00:00"]
    assert query(transport)["start"] <= "2022-03-11T05:00:00.000000Z"
    assert query(transport)["end"] >= "2022-03-14T04:00:00.000000Z"


def test_pages_follow_until_there_is_no_token() -> None:
    first, second = at("2022-02-25T05:00:00Z"), at("2022-02-28T05:00:00Z")
    transport = FakeTransport(body(first, token="more"), body(second))
    assert (len(fetch(transport).bars), len(transport.urls)) == (2, 2)
    assert "page_token" not in query(transport)
    assert query(transport, 1) == {**query(transport), "page_token": "more"}


def test_a_token_that_repeats_is_refused() -> None:
    stuck = body(ROW, token="same")
    with pytest.raises(MalformedResponse, match="does not end"):
        fetch(FakeTransport(stuck, stuck, stuck))


@pytest.mark.parametrize("bars", [{}, None])
def test_a_symbol_without_bars(bars: Any) -> None:
    fetched = fetch(FakeTransport({"bars": bars, "next_page_token": None}))
    assert (len(fetched.bars), fetched.requests) == (0, 1)


@pytest.mark.parametrize("sent", [[], {}, {"bars": []}, {"bars": {"AAPL": None}}])
def test_an_answer_without_bars_is_not_an_empty_one(sent: Any) -> None:
    with pytest.raises(MalformedResponse):
        fetch(FakeTransport(sent))


def test_what_the_free_plan_withholds_is_not_asked_for() -> None:
    """The bar that has not ended 16 minutes ago was made of a part of its trades."""
    opened = datetime(2022, 3, 1, 14, 30, tzinfo=UTC)
    window = Window(opened, opened + timedelta(hours=1))
    rows = [at(f"2022-03-01T14:{minute}:00Z") for minute in (30, 35, 40)]
    transport = FakeTransport(body(*rows))
    fetched = fetch(transport, timeframe=Timeframe.M5, window=window, now="2022-03-01T15:00")
    assert query(transport)["end"] == "2022-03-01T14:44:00.000000Z"
    assert starts(fetched) == ["2022-03-01T14:30", "2022-03-01T14:35"]
    early = FakeTransport()
    nothing = fetch(early, timeframe=Timeframe.M5, window=window, now="2022-03-01T14:40")
    assert (len(nothing.bars), nothing.requests, early.urls) == (0, 0, [])


def test_the_feed_is_chosen_by_its_setting() -> None:
    settings = Settings(
        _env_file=None,
        alpaca_api_key="k",
        alpaca_api_secret="s",
        alpaca_feed="iex",
        providers_stock="alpaca",
    )
    transport = FakeTransport(body(ROW))
    with client_over(transport) as http:
        options = [getattr(settings, option.name) for option in VENDORS["alpaca"].options]
        provider = VENDORS["alpaca"].build(http, "alpaca", *options)
        provider.fetch("AAPL", AssetClass.STOCK, Timeframe.D1, WINDOW)
    assert parse_qs(urlsplit(transport.urls[0]).query)["feed"] == ["iex"]
    with pytest.raises(ValidationError, match="'sip' or 'iex'"):
        Settings(_env_file=None, alpaca_feed="otc")


def test_the_running_day_is_left_out_until_the_session_has_ended() -> None:
    window = Window(datetime(2022, 2, 28, tzinfo=UTC), datetime(2022, 3, 2, tzinfo=UTC))
    rows = [at("2022-02-28T05:00:00Z"), at("2022-03-01T05:00:00Z")]
    for now, expected in {"2022-03-01T21:10": 1, "2022-03-01T21:20": 2}.items():
        assert len(fetch(FakeTransport(body(*rows)), window=window, now=now).bars) == expected


@pytest.mark.parametrize(
    ("symbol", "spelling"),
    [("AAPL", "AAPL"), ("BRK.B", "BRK.B"), ("BACpL", "BAC.PRL")],
)
def test_symbols(symbol: str, spelling: str) -> None:
    assert len(fetch(FakeTransport(body(ROW, symbol=spelling)), symbol=symbol).bars) == 1


def test_bars_of_another_symbol_are_refused() -> None:
    with pytest.raises(MalformedResponse, match="other symbols than AAPL"):
        fetch(FakeTransport(body(ROW, symbol="MSFT")))


def test_crypto_is_refused_without_a_request() -> None:
    transport = FakeTransport()
    with pytest.raises(UnknownSymbol, match="stocks and ETFs only"):
        fetch(transport, symbol="X:BTCUSD", kind=AssetClass.CRYPTO)
    assert transport.urls == []


@pytest.mark.parametrize(
    ("status", "message", "kind"),
    [
        (400, "invalid symbol: AA PL", UnknownSymbol),
        (422, "end should not be before start", RequestRefused),
        (429, "too many requests", QuotaExceeded),
        (401, "unauthorized", AccessDenied),
        (403, "subscription does not permit querying recent SIP data", AccessDenied),
        (500, "internal server error occurred", ProviderUnavailable),
    ],
)
def test_refusals(status: int, message: str, kind: type[Exception]) -> None:
    with pytest.raises(ProviderError) as caught:
        fetch(FakeTransport({"message": message}, status=status))
    assert type(caught.value) is kind


@pytest.mark.parametrize("name", list(ROW))
@pytest.mark.parametrize("value", [True, [], {}, "oops", "NaT", "2022-13-28T05:00:00Z"])
def test_a_field_of_the_wrong_type_is_refused(name: str, value: Any) -> None:
    with pytest.raises(MalformedResponse):
        parse(body(ROW, {**ROW, name: value}), "AAPL")


@pytest.mark.parametrize("name", ["t", "o", "h", "l", "c", "v"])
def test_a_missing_field_is_refused(name: str) -> None:
    row = {key: value for key, value in ROW.items() if key != name}
    with pytest.raises(MalformedResponse, match=repr(name)):
        parse(body(row), "AAPL")


NEARLY = st.fixed_dictionaries({name: st.just(value) | JSON for name, value in ROW.items()})
BODIES = st.fixed_dictionaries(
    {"bars": st.dictionaries(st.just("AAPL") | st.text(), st.lists(NEARLY | JSON, max_size=3))}
)


@settings(max_examples=300, deadline=None)
@given(JSON | BODIES)
def test_any_body_is_bars_or_a_provider_error(sent: Any) -> None:
    try:
        fetched = fetch(FakeTransport(sent, {}))
    except ProviderError:
        return
    assert isinstance(fetched.bars, Bars)
