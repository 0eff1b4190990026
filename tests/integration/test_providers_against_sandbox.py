"""Other vendors against the sandbox: the same bars as Polygon's, the faults' right errors, and the
next provider where one is out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from importlib.resources import files

import numpy as np
import pandas as pd
import pytest
import requests
from pydantic import SecretStr

from enrichment.config import Settings
from enrichment.domain.bars import Bars, to_datetime64
from enrichment.domain.corporate_actions import ActionKind
from enrichment.domain.errors import (
    AccessDenied,
    EnrichmentError,
    ProviderError,
    ProviderUnavailable,
    QuotaExceeded,
    Snooze,
    UnknownSymbol,
)
from enrichment.domain.model import AssetClass, FetchedBars, Timeframe, Window
from enrichment.sandbox import create_app, running
from enrichment.vendors.alpaca import AlpacaProvider
from enrichment.vendors.base import Provider
from enrichment.vendors.binance import BinanceProvider
from enrichment.vendors.canonical import CanonicalProvider
from enrichment.vendors.coinbase import CoinbaseProvider
from enrichment.vendors.guard import VendorProtection
from enrichment.vendors.http import HttpClient
from enrichment.vendors.polygon import PolygonProvider
from enrichment.vendors.registry import VENDORS
from enrichment.vendors.yahoo import YahooProvider
from enrichment.wiring.vendors import build_providers
from resilience import init_resilience_manager
from tests.helpers.fake_transport import direct
from tests.helpers.vendor_faults import FAULTS, faults_of
from tests.helpers.virtual_time import VirtualTime

NOW = datetime(2024, 12, 26, 12, tzinfo=UTC)
YEAR = Window(datetime(2023, 12, 27, tzinfo=UTC), NOW)
MONTH = Window(NOW - timedelta(days=30), NOW)
HEADERS = {
    "Authorization": "Bearer any",
    "APCA-API-KEY-ID": "any",
    "APCA-API-SECRET-KEY": "any",
    **VENDORS["yahoo"].headers,
}
NOISE = 1e-6  # Yahoo sends prices as float32, changing in the 7th digit
Ask = Callable[[str, AssetClass, Timeframe, Window], FetchedBars]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with running(create_app(clock=lambda: NOW)) as url:
        yield url


@pytest.fixture
def http(address: str) -> Iterator[HttpClient]:
    with HttpClient(address, call=direct, headers=HEADERS) as http:
        yield http


@pytest.fixture
def fault(address: str) -> Iterator[Callable[..., None]]:
    yield from faults_of(address)


def provider(name: str, http: HttpClient) -> Provider:
    if name == "yahoo":
        return CanonicalProvider(YahooProvider(http, now=lambda: NOW), now=lambda: NOW)
    kinds: dict[str, Callable[[HttpClient], Provider]] = {
        "polygon": PolygonProvider,
        "binance": BinanceProvider,
        "coinbase": CoinbaseProvider,
        "alpaca": lambda http: AlpacaProvider(http, limit=500, now=lambda: NOW),
    }
    return CanonicalProvider(kinds[name](http), now=lambda: NOW)


def complete(bars: Bars, timeframe: Timeframe) -> Bars:
    """Without the bar that is still forming, of which vendors know different things."""
    before = to_datetime64(NOW) - np.timedelta64(max(timeframe.duration, timedelta(days=1)))
    return bars.take(bars.ts < before)


def assert_same(mine: Bars, theirs: Bars) -> None:
    assert len(mine) > 3
    np.testing.assert_array_equal(mine.ts, theirs.ts)
    for name in ("open", "high", "low", "close", "volume"):
        np.testing.assert_allclose(
            getattr(mine, name), getattr(theirs, name), rtol=NOISE, err_msg=name
        )


@pytest.mark.parametrize("timeframe", list(Timeframe))
@pytest.mark.parametrize("name", ["binance", "yahoo", "coinbase"])
def test_crypto_bars_equal_polygons(http: HttpClient, name: str, timeframe: Timeframe) -> None:
    window = MONTH if timeframe.intraday else YEAR
    request = ("X:SIM1USD", AssetClass.CRYPTO, timeframe, window)
    mine = complete(provider(name, http).fetch(*request).bars, timeframe)
    theirs = complete(provider("polygon", http).fetch(*request).bars, timeframe)
    assert_same(mine, theirs)
    if name == "binance":
        np.testing.assert_allclose(mine.vwap, theirs.vwap, rtol=1e-9)
        np.testing.assert_array_equal(mine.trades, theirs.trades)
        assert (mine.taker_buy_volume > 0).all()
        assert (mine.taker_buy_volume < mine.volume).all()


@pytest.mark.parametrize("timeframe", list(Timeframe))
@pytest.mark.parametrize("name", ["yahoo", "alpaca"])
def test_stock_bars_equal_polygons(http: HttpClient, name: str, timeframe: Timeframe) -> None:
    window = MONTH if timeframe.intraday else YEAR
    request = ("SIM1", AssetClass.STOCK, timeframe, window)
    mine = complete(provider(name, http).fetch(*request).bars, timeframe)
    theirs = complete(provider("polygon", http).fetch(*request).bars, timeframe)
    assert_same(mine, theirs)
    if name == "alpaca":
        np.testing.assert_allclose(mine.vwap, theirs.vwap, rtol=1e-9)
        np.testing.assert_array_equal(mine.trades, theirs.trades)


def test_alpaca_serves_the_recorded_bars_as_traded(http: HttpClient) -> None:
    table = pd.read_csv(str(files("enrichment.sandbox") / "data" / "us_stocks_daily.csv.gz"))
    recorded = table[table.symbol == "AAPL"]
    window = Window(datetime(2005, 1, 1, tzinfo=UTC), NOW)
    fetched = provider("alpaca", http).fetch("AAPL", AssetClass.STOCK, Timeframe.D1, window)
    assert fetched.adjusted is False
    assert fetched.requests > 1
    np.testing.assert_array_equal(fetched.bars.close, recorded.close)


@pytest.mark.parametrize("headers", [{}, {"APCA-API-KEY-ID": "any"}])
def test_alpaca_refuses_clients_without_its_key(address: str, headers: dict[str, str]) -> None:
    with HttpClient(address, call=direct, headers=headers) as bare, pytest.raises(AccessDenied):
        AlpacaProvider(bare, now=lambda: NOW).fetch("SIM1", AssetClass.STOCK, Timeframe.D1, YEAR)


def test_alpaca_withholds_the_newest_minutes_from_its_free_plan(http: HttpClient) -> None:
    late = AlpacaProvider(http, now=lambda: NOW + timedelta(hours=1))
    with pytest.raises(AccessDenied, match="recent SIP data"):
        late.fetch("SIM1", AssetClass.STOCK, Timeframe.D1, YEAR)


def test_yahoos_prices_are_put_back_to_what_was_traded(http: HttpClient) -> None:
    table = pd.read_csv(str(files("enrichment.sandbox") / "data" / "us_stocks_daily.csv.gz"))
    recorded = table[table.symbol == "AAPL"]
    until = datetime(2022, 1, 1, tzinfo=UTC)  # the sandbox moves the recording to end now
    fetched = provider("yahoo", http).fetch(
        "AAPL", AssetClass.STOCK, Timeframe.D1, Window(datetime(2000, 1, 1, tzinfo=UTC), until)
    )
    count = len(fetched.bars)
    assert fetched.adjusted is False
    assert 2500 < count < 2600
    for column in ("open", "high", "low", "close"):
        prices = getattr(fetched.bars, column)
        np.testing.assert_allclose(prices, recorded[column][:count], rtol=NOISE)
        assert np.count_nonzero(prices == recorded[column][:count]) > 0.99 * count
    np.testing.assert_allclose(fetched.bars.volume, recorded.volume[:count], rtol=1e-12)
    splits = [a for a in fetched.actions if a.kind is ActionKind.SPLIT]
    rows = fetched.bars.ts.searchsorted([np.datetime64(a.effective_date) for a in splits])
    assert recorded.date.to_numpy()[rows].tolist() == ["2000-06-21", "2005-02-28"]
    assert [a.ratio for a in splits] == [2.0, 2.0]
    dividend = next(a for a in fetched.actions if a.kind is ActionKind.CASH_DIVIDEND)
    assert (dividend.symbol, dividend.currency) == ("AAPL", "USD")


@pytest.mark.parametrize("name", ["binance", "yahoo", "coinbase", "alpaca"])
@pytest.mark.parametrize(("description", "kind"), FAULTS)
def test_every_fault_becomes_the_right_error(
    http: HttpClient,
    fault: Callable[..., None],
    name: str,
    description: dict[str, object],
    kind: type[ProviderError],
) -> None:
    other = "yahoo" if name != "yahoo" else "polygon"
    stock = name == "alpaca"
    symbol, asset_class = ("SIM2", AssetClass.STOCK) if stock else ("X:SIM2USD", AssetClass.CRYPTO)
    fault(ticker=symbol, times=1, vendor=name, **description)
    request = (symbol, asset_class, Timeframe.D1, YEAR)
    sessions = 250 if stock else 364
    assert len(provider(other, http).fetch(*request).bars) >= sessions
    with pytest.raises(ProviderError) as caught:
        provider(name, http).fetch(*request)
    assert type(caught.value) is kind
    assert getattr(caught.value, "retry_after", 7.0) == 7.0
    assert len(provider(name, http).fetch(*request).bars) >= sessions


@pytest.mark.parametrize("name", ["binance", "yahoo", "coinbase"])
def test_an_unknown_symbol(http: HttpClient, name: str) -> None:
    with pytest.raises(UnknownSymbol):
        provider(name, http).fetch("X:NOSUCHUSD", AssetClass.CRYPTO, Timeframe.D1, YEAR)


def test_yahoo_refuses_clients_that_are_no_browser(address: str) -> None:
    with HttpClient(address, call=direct) as bare, pytest.raises(QuotaExceeded):
        YahooProvider(bare, now=lambda: NOW).fetch("SIM1", AssetClass.STOCK, Timeframe.D1, YEAR)


def test_binance_pages_with_missing_bars_do_not_end_the_history(
    http: HttpClient, fault: Callable[..., None]
) -> None:
    hole = pd.date_range("2024-11-28T10:00", periods=7, freq="5min", tz=UTC)
    moments = [start.isoformat() for start in hole]
    fault(ticker="X:SIM2USD", kind="missing", bars=moments, vendor="binance")
    request = ("X:SIM2USD", AssetClass.CRYPTO, Timeframe.M5, MONTH)
    stored = pd.DatetimeIndex(provider("binance", http).fetch(*request).bars.ts, tz=UTC)
    expected = pd.date_range(MONTH.start, MONTH.end, freq="5min", inclusive="left")
    assert expected.difference(stored).tolist() == hole.tolist()


def test_binance_bans_a_client_that_ignores_its_quota() -> None:
    clock = [NOW]
    with running(create_app(clock=lambda: clock[0], quota_per_minute=1)) as url:
        refused = [requests.get(f"{url}/api/v3/klines", timeout=10) for _ in range(7)][1:]
        assert [answer.status_code for answer in refused] == [429] * 5 + [418]
        assert refused[-1].headers["Retry-After"] == "120"
        clock[0] += timedelta(minutes=2)
        assert requests.get(f"{url}/api/v3/klines", timeout=10).status_code == 400


def test_a_rebased_series(http: HttpClient, fault: Callable[..., None]) -> None:
    request = ("SIM3", AssetClass.STOCK, Timeframe.D1, YEAR)
    before = provider("polygon", http).fetch(*request).bars
    fault(ticker="SIM3", kind="rebase", factor=0.5, bars=["2024-11-29T00:00:00Z"])
    for name in ("polygon", "yahoo"):
        after = provider(name, http).fetch(*request).bars
        scale = np.where(before.ts < np.datetime64("2024-11-29"), 0.5, 1.0)
        np.testing.assert_allclose(after.close, before.close * scale, rtol=NOISE, atol=6e-5)
        np.testing.assert_allclose(after.volume, before.volume / scale)


@pytest.fixture
def fetch_with_failover(address: str) -> Iterator[Ask]:
    """The providers as a worker has them, without a key."""
    settings = Settings(enrichment_sandbox_port=int(address.rpartition(":")[2]))
    manager = init_resilience_manager()
    quick = VendorProtection(max_retries=0, recovery_timeout=60)
    yield build_providers(settings, manager, protection=quick).fetch
    manager.close()


def test_the_next_provider_takes_over_and_the_open_breaker_is_skipped(
    address: str, fetch_with_failover: Ask, fault: Callable[..., None]
) -> None:
    request = ("X:SIM1USD", AssetClass.CRYPTO, Timeframe.D1, YEAR)
    assert fetch_with_failover(*request).source == "sandbox:binance"
    fault(ticker="*", kind="server_error", vendor="binance")
    requests.delete(f"{address}/_sandbox/requests", timeout=10)
    assert {fetch_with_failover(*request).source for _ in range(20)} == {"sandbox"}
    counts = requests.get(f"{address}/_sandbox/requests", timeout=10).json()["by_outcome"]
    assert counts["ok"] == 20
    assert counts["server_error"] < 20  # the breaker has opened: it gets no more requests


def test_coinbase_gets_ten_requests_at_once_and_then_five_a_second(address: str) -> None:
    time = VirtualTime(threads=1)
    settings = Settings(coinbase_base_url=address, providers_crypto=("coinbase",))
    manager = init_resilience_manager(**time.injectables)
    request = ("X:SIM1USD", AssetClass.CRYPTO, Timeframe.M5, MONTH)
    fetched = build_providers(settings, manager).fetch(*request)
    manager.close()
    assert (fetched.source, fetched.requests) == ("coinbase", 29)
    assert time.nanoseconds() / 1e9 == pytest.approx((29 - 10) / 5)


def test_an_outage_of_all_is_a_transient_failure_or_a_wait(
    fetch_with_failover: Ask, fault: Callable[..., None]
) -> None:
    fault(ticker="*", kind="server_error")
    kinds = set()
    for _ in range(12):
        with pytest.raises(EnrichmentError) as caught:
            fetch_with_failover("SIM1", AssetClass.STOCK, Timeframe.D1, YEAR)
        kinds.add(type(caught.value))
    assert kinds == {ProviderUnavailable, Snooze}


def test_a_secret_is_never_shown(
    address: str, fault: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    key = "polygons-own-key"
    settings = Settings(
        polygon_api_key=SecretStr(key),
        polygon_base_url=address,
        binance_base_url=address,
        yahoo_base_url=address,
        providers_stock=("polygon",),
    )
    manager = init_resilience_manager()
    shown = [repr(settings), str(settings)]
    with caplog.at_level(logging.DEBUG):
        providers = build_providers(settings, manager, protection=VendorProtection(max_retries=0))
        shown.append(repr(providers))
        for kind in ("unauthorized", "server_error", "reset", "html", "truncated", "rate_limit"):
            fault(ticker="SIM1", kind=kind, times=1)
            with pytest.raises(EnrichmentError) as caught:
                providers.fetch("SIM1", AssetClass.STOCK, Timeframe.D1, YEAR)
            error: BaseException | None = caught.value
            while error is not None:
                shown += [str(error), repr(error)]
                error = error.__cause__ or error.__context__
            manager.reset_all()
    manager.close()
    assert len(shown) > 10
    assert key not in "\n".join([*shown, caplog.text])
