"""The vendors' own clients read the sandbox unchanged, on 127.0.0.1."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pandas as pd
import pytest

from enrichment.domain.bars import Bars
from enrichment.domain.model import Timeframe, Window
from enrichment.sandbox import create_app, running
from enrichment.sandbox.market import Market

NOW = datetime(2024, 12, 26, 12, tzinfo=UTC)
START = datetime(2024, 6, 3, tzinfo=UTC)
END = datetime(2024, 12, 20, tzinfo=UTC)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with running(create_app(clock=lambda: NOW)) as url:
        yield url


def series(ticker: str, timeframe: Timeframe, start: datetime = START) -> Bars:
    found = Market(NOW).series(ticker)
    assert found is not None
    return found.bars(timeframe, Window(start, END), NOW)


def assert_values(mine: Any, theirs: Any, rtol: float = 1e-12) -> None:
    assert len(theirs) > 100
    np.testing.assert_allclose(np.array(mine, float), theirs, rtol=rtol)


@pytest.fixture
def event_loop() -> Iterator[asyncio.AbstractEventLoop]:
    """The thread's event loop, for a client that else makes one and leaves it open."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield loop
    asyncio.set_event_loop(None)
    loop.close()


def test_massive_reads_bars_over_many_pages(address: str) -> None:
    massive = pytest.importorskip("massive")
    client = massive.RESTClient(api_key="key", base=address, retries=0)
    days = list(client.list_aggs("SIM1", 1, "day", START, END, limit=50))
    assert_values([bar.close for bar in days], series("SIM1", Timeframe.D1).close)
    client.client.clear()


def test_massive_reads_reference_data_and_events(address: str) -> None:
    massive = pytest.importorskip("massive")
    client = massive.RESTClient(api_key="key", base=address, retries=0)
    assert client.get_ticker_details("AAPL").name == "Apple Inc."
    grouped = client.get_grouped_daily_aggs("2024-12-19", adjusted=False)
    close = {bar.ticker: bar.close for bar in grouped}
    assert close["SIM1"] == series("SIM1", Timeframe.D1).close[-1]
    changes = client.get_ticker_events("FB").events
    assert [change["ticker_change"]["ticker"] for change in changes] == ["FB"]
    client.client.clear()


@pytest.mark.usefixtures("event_loop")
def test_python_binance_reads_bars_over_many_pages(address: str) -> None:
    binance = pytest.importorskip("binance.client")

    class Client(binance.Client):  # type: ignore[misc,name-defined]
        API_URL = f"{address}/api"

    client = Client(ping=False)
    rows = client.get_historical_klines(
        "SIM1USDT", "1h", int(START.timestamp() * 1000), int(END.timestamp() * 1000) - 1
    )
    expected = series("X:SIM1USD", Timeframe.H1)
    assert len(rows) > 4 * 1000
    assert_values([row[4] for row in rows], expected.close)
    assert [row[0] for row in rows] == expected.ts.astype("M8[ms]").astype(int).tolist()
    client.close_connection()


def test_alpaca_py_reads_bars_of_several_symbols(address: str) -> None:
    historical = pytest.importorskip("alpaca.data.historical")
    requests = pytest.importorskip("alpaca.data.requests")
    frames = pytest.importorskip("alpaca.data.timeframe")
    client = historical.StockHistoricalDataClient("key", "secret", url_override=address)
    bars = client.get_stock_bars(
        requests.StockBarsRequest(
            symbol_or_symbols=["SIM1", "SIM2"],
            timeframe=frames.TimeFrame(1, frames.TimeFrameUnit.Day),
            start=START,
            end=END,
        )
    ).data
    for ticker in ("SIM1", "SIM2"):
        expected = series(ticker, Timeframe.D1)
        closes = [bar.close for bar in bars[ticker]][: len(expected)]
        assert_values(closes, expected.close)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # it uses what pandas has deprecated
def test_yfinance_reads_bars_and_events(address: str) -> None:
    yfinance = pytest.importorskip("yfinance")
    curl = pytest.importorskip("curl_cffi.requests")

    class Session(curl.Session):  # type: ignore[misc,name-defined]
        """Sends every request to the sandbox, whatever host it is for."""

        def request(self, method: str, url: str, *args: Any, **options: Any) -> Any:
            return super().request(method, f"{address}{urlsplit(url).path}", *args, **options)

    session = Session(impersonate="chrome")
    history = yfinance.Ticker("SIM1", session=session).history(
        start=START, end=END, interval="1d", auto_adjust=False, actions=True
    )
    expected = series("SIM1", Timeframe.D1)
    assert_values(history["Close"], expected.close, rtol=1e-6)
    dates = pd.DatetimeIndex(history.index).tz_localize(None).normalize()
    assert list(dates.to_numpy("M8[us]")) == list(expected.ts)
    apple = yfinance.Ticker("AAPL", session=session).history(
        start="2005-01-01", end="2024-12-20", interval="1d", auto_adjust=False
    )
    assert (apple["Stock Splits"] > 0).sum() == 2
    session.close()
