"""The provider and the vendor's own client against the sandbox, on a real server on loopback."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from importlib.resources import files

import exchange_calendars
import numpy as np
import pandas as pd
import pytest
from polygon import RESTClient
from polygon.exceptions import BadResponse

from enrichment.domain.calendars import bar_starts, is_complete
from enrichment.domain.errors import ProviderError, ProviderUnavailable
from enrichment.domain.model import AssetClass, Timeframe, Window
from enrichment.sandbox import create_app, running
from enrichment.vendors.canonical import CanonicalProvider
from enrichment.vendors.http import HttpClient
from enrichment.vendors.polygon import PolygonProvider
from tests.helpers.fake_transport import direct
from tests.helpers.vendor_faults import FAULTS, faults_of

NOW = datetime(2024, 12, 26, 12, tzinfo=UTC)
YEAR = Window(datetime(2023, 12, 27, tzinfo=UTC), NOW)
EVER = Window(datetime(2000, 1, 1, tzinfo=UTC), NOW)
KEY = "any-key"


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with running(create_app(clock=lambda: NOW, api_key=KEY)) as url:
        yield url


@pytest.fixture
def vendor(address: str) -> Iterator[RESTClient]:
    client = RESTClient(api_key=KEY, base=address, retries=0)
    yield client
    client.client.clear()


@pytest.fixture
def http(address: str) -> Iterator[HttpClient]:
    with client(address) as http:
        yield http


def client(address: str, key: str = KEY, read: float = 30) -> HttpClient:
    headers = {"Authorization": f"Bearer {key}"}
    return HttpClient(address, call=direct, headers=headers, timeouts=lambda: (5, read))


@pytest.fixture
def fault(address: str) -> Iterator[Callable[..., None]]:
    yield from faults_of(address)


def recorded(symbol: str) -> pd.DataFrame:
    path = files("enrichment.sandbox") / "data" / "us_stocks_daily.csv.gz"
    table = pd.read_csv(str(path))
    return table[table.symbol == symbol]


def test_the_vendors_own_client_reads_all_pages(vendor: RESTClient) -> None:
    aggs = list(
        vendor.list_aggs("AAPL", 1, "day", "2000-01-01", "2024-12-31", adjusted=False, limit=1000)
    )
    sessions = exchange_calendars.get_calendar("XNYS", start="2005-01-01").sessions
    sessions = sessions[sessions < "2024-12-26"][-3270:].tz_localize("America/New_York")
    assert [agg.timestamp for agg in aggs] == [int(day.timestamp() * 1000) for day in sessions]
    assert [agg.close for agg in aggs] == recorded("AAPL").close.tolist()
    assert [agg.volume for agg in aggs] == recorded("AAPL").volume.tolist()


@pytest.mark.parametrize("sort", ["asc", "desc"])
def test_the_vendors_own_client_reads_simulated_bars(vendor: RESTClient, sort: str) -> None:
    aggs = list(
        vendor.list_aggs("X:SIM1USD", 5, "minute", "2024-12-01", "2024-12-02", sort=sort, limit=500)
    )
    assert len(aggs) == 2 * 288
    stamps = [agg.timestamp for agg in aggs]
    assert stamps == sorted(stamps, reverse=sort == "desc")
    assert all(agg.vwap and agg.transactions for agg in aggs)


def test_the_vendors_own_client_reads_the_reference_data(vendor: RESTClient) -> None:
    grouped = vendor.get_grouped_daily_aggs("2024-12-24", adjusted=False)
    closes = {agg.ticker: agg.close for agg in grouped}
    assert closes["IBM"] == recorded("IBM").close.iloc[-1]
    assert len(closes) == 107
    assert vendor.get_ticker_details("BACpL").market == "stocks"


def test_the_vendors_own_client_sees_a_wrong_key(address: str) -> None:
    client = RESTClient(api_key="wrong", base=address, retries=0)
    with pytest.raises(BadResponse, match="Unknown API Key"):
        list(client.list_aggs("AAPL", 1, "day", "2024-01-01", "2024-02-01"))
    client.client.clear()


def test_recorded_bars_are_fetched_unchanged(http: HttpClient) -> None:
    fetched = PolygonProvider(http, source="sandbox", limit=1000).fetch(
        "MSFT", AssetClass.STOCK, Timeframe.D1, EVER
    )
    table = recorded("MSFT")
    assert fetched.source == "sandbox"
    assert fetched.requests == 4
    assert fetched.adjusted is False
    for column in ("open", "high", "low", "close", "volume"):
        assert getattr(fetched.bars, column).tolist() == table[column].tolist()
    assert np.isnan(fetched.bars.vwap).all()


@pytest.mark.parametrize("timeframe", list(Timeframe))
@pytest.mark.parametrize(
    ("symbol", "kind"), [("SIM1", AssetClass.STOCK), ("X:SIM1USD", AssetClass.CRYPTO)]
)
def test_the_bars_are_those_that_the_calendar_expects(
    http: HttpClient, symbol: str, kind: AssetClass, timeframe: Timeframe
) -> None:
    window = (
        YEAR if timeframe in (Timeframe.D1, Timeframe.W1) else Window(NOW - timedelta(days=60), NOW)
    )
    provider = CanonicalProvider(PolygonProvider(http), now=lambda: NOW)
    fetched = provider.fetch(symbol, kind, timeframe, window)
    expected = bar_starts(kind, timeframe, window.start, window.end)
    complete = is_complete(kind, timeframe, fetched.bars.ts, NOW)
    assert fetched.adjusted is False
    assert np.array_equal(
        fetched.bars.ts[complete], expected[is_complete(kind, timeframe, expected, NOW)]
    )
    assert np.count_nonzero(~complete) <= 1


@pytest.mark.parametrize(("description", "kind"), FAULTS)
def test_every_fault_becomes_the_right_error(
    http: HttpClient,
    fault: Callable[..., None],
    description: dict[str, object],
    kind: type[ProviderError],
) -> None:
    fault(ticker="SIM2", times=1, **description)
    provider = PolygonProvider(http)
    with pytest.raises(ProviderError) as caught:
        provider.fetch("SIM2", AssetClass.STOCK, Timeframe.D1, YEAR)
    assert type(caught.value) is kind
    assert getattr(caught.value, "retry_after", 7.0) == 7.0
    assert len(provider.fetch("SIM2", AssetClass.STOCK, Timeframe.D1, YEAR).bars) == 251


def test_a_hanging_vendor_is_a_timeout(address: str, fault: Callable[..., None]) -> None:
    fault(ticker="SIM2", kind="hang")
    with client(address, read=0.2) as http, pytest.raises(ProviderUnavailable, match="in time"):
        PolygonProvider(http).fetch("SIM2", AssetClass.STOCK, Timeframe.D1, YEAR)


def test_a_dead_vendor_is_unavailable() -> None:
    with running(create_app(clock=lambda: NOW)) as url:
        pass
    with client(url) as http, pytest.raises(ProviderUnavailable):
        PolygonProvider(http).fetch("SIM1", AssetClass.STOCK, Timeframe.D1, YEAR)


def test_many_threads_share_one_client(http: HttpClient) -> None:
    provider = PolygonProvider(http)

    def closes(number: int) -> list[float]:
        fetched = provider.fetch(f"SIM{number % 5}", AssetClass.STOCK, Timeframe.D1, YEAR)
        return fetched.bars.close.tolist()

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(closes, range(40)))
    assert all(results[i] == results[i % 5] for i in range(40))
    assert len({tuple(result) for result in results}) == 5
