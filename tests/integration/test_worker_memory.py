"""A whole worker whose vendors send what no vendor should: its memory stays bounded."""

from __future__ import annotations

import gzip
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from threading import Thread
from urllib.parse import parse_qs, urlsplit

import pytest
from sqlalchemy import text

from enrichment.domain.symbol_csv import parse_tracked
from enrichment.services.commands import Commands
from enrichment.warehouse import resilience_state
from enrichment.warehouse.database import Database
from resilience import BreakerAction
from tests.helpers.waiting import until

MAX_MEGABYTES = 500
THREADS = 5  # as MAX_CONCURRENT_SYMBOLS is by default
FIVE_MINUTES = 300_000  # milliseconds
_PRICES = (
    b'"o":100.123456789,"h":102.123456789,"l":99.123456789,"c":101.123456789,"vw":100.5,"n":55'
)
Answer = Callable[[str, int], tuple[int, bytes]]
"""(symbol, number of the request) → status and body, which is sent as gzip."""


def first_stamp() -> int:
    """Milliseconds, a few days after the beginning of a new series' history."""
    return int((datetime.now(UTC) - timedelta(days=360)).timestamp() * 1000)


@cache
def polygon_rows(number: int, *, bad: bool) -> bytes:
    first = first_stamp()
    stamps = range(first, first + number * FIVE_MINUTES, FIVE_MINUTES)
    rows = b",".join(b'{"t":%d,%b,"v":12345.5}' % (stamp, _PRICES) for stamp in stamps)
    return rows[:-8] + b'"12345"}' if bad else rows


def polygon_page(symbol: str, number: int, link: str = "", *, bad: bool = False) -> bytes:
    more = f'"next_url":"{link}",' if link else ""
    head = f'{{"ticker":"{symbol}","status":"OK","adjusted":false,{more}"results":['
    return gzip.compress(head.encode() + polygon_rows(number, bad=bad) + b"]}", 1)


def alpaca_page(symbol: str, number: int, token: int) -> bytes:
    row = b'{"t":"2026-03-02T15:00:00Z",%b,"v":12345}' % _PRICES
    head = f'{{"next_page_token":"{token}","bars":{{"{symbol}":['.encode()
    return gzip.compress(head + b",".join([row] * number) + b"]}}", 1)


def klines(first: int, number: int) -> bytes:
    row = (
        b'[%d,"100.123","102.123","99.123","101.123","12345.5",1,"1234500.0",55,"100.0","1.0","0"]'
    )
    return gzip.compress(b"[" + b",".join(row % (first + n) for n in range(number)) + b"]", 1)


@cache
def bomb(name: str) -> bytes:
    contents = {
        "arrays": lambda: b"[" + b"[]," * 2**24 + b"1]",
        "keys": lambda: b"{%b}" % b",".join(b'"%040d":"%030d"' % (n, n) for n in range(7 * 10**5)),
        "depth": lambda: b"[" * 2**25,
        "a text": lambda: b'{"error":"' + b"x " * (30 * 2**20) + b'"}',
        "letters of 4 bytes": lambda: b'["' + b"x" * 2**25 + "\U0001f600".encode() + b'"]',
        "zeros": lambda: bytes(2**28),
    }
    return gzip.compress(contents[name](), 1)


POLYGON: dict[str, Answer] = {
    "A": lambda symbol, _: (200, polygon_page(symbol, 55_000)),
    "B": lambda symbol, _: (200, polygon_page(symbol, 45_000, bad=True)),
    "C": lambda symbol, n: (200, polygon_page(symbol, 50_000, f"/v2/aggs/ticker/{symbol}/{n}")),
    "D": lambda symbol, _: (404, bomb("arrays")),
    "E": lambda symbol, _: (200, bomb("keys")),
    "F": lambda symbol, _: (200, bomb("depth")),
    "G": lambda symbol, _: (400, bomb("a text")),
    "H": lambda symbol, _: (200, bomb("letters of 4 bytes")),
    "I": lambda symbol, _: (200, bomb("zeros")),
    "M": lambda symbol, _: (200, bomb("arrays")),
}
ALPACA: dict[str, Answer] = {
    "J": lambda symbol, n: (200, alpaca_page(symbol, 10_000, n)),
    "K": lambda symbol, n: (200, alpaca_page(symbol, 50_000, n)),
}


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *args: object) -> None:
        """Clients that have enough reset the connection."""


class HostileVendors(BaseHTTPRequestHandler):
    """Polygon, Alpaca and Binance; a symbol's first letter says what is sent for it."""

    protocol_version = "HTTP/1.1"
    numbers = count()

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        status, body = self._answer(next(self.numbers))
        self.send_response(status)
        for name, value in (
            ("Content-Type", "application/json"),
            ("Content-Encoding", "gzip"),
            ("Content-Length", str(len(body))),
        ):
            self.send_header(name, value)
        with suppress(OSError):  # the client has enough
            self.end_headers()
            self.wfile.write(body)

    def _answer(self, number: int) -> tuple[int, bytes]:
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        if found := re.match(r"/v2/aggs/ticker/(\w+)/", url.path):
            return POLYGON[found[1][0]](found[1], number)
        if url.path == "/v2/stocks/bars":
            return ALPACA[query["symbols"][0]](query["symbols"], number)
        if url.path == "/api/v3/klines":
            return 200, klines(int(query["startTime"]), 30_000)
        row = b'{"ticker":"A%d","execution_date":"2026-06-10","split_from":1,"split_to":10}'
        link = b'"next_url":"/stocks/v1/splits?n=%d"' % number
        rows = b",".join(row % n for n in range(40_000))
        return 200, gzip.compress(b'{"status":"OK",%b,"results":[%b]}' % (link, rows), 1)


@pytest.fixture
def vendors() -> Iterator[str]:
    with Server(("127.0.0.1", 0), HostileVendors) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@contextmanager
def worker(folder: Path, database: str, address: str) -> Iterator[subprocess.Popen[bytes]]:
    vendors = ("POLYGON", "ALPACA", "BINANCE")
    settings = {
        "DATABASE_URL": database,
        "ENRICHMENT_HOME": str(folder),
        "ENRICHMENT_SANDBOX": "false",
        "ENABLE_DAILY_ENRICHMENT": "false",
        "MAX_RETRIES": "0",
        "POLYGON_API_KEY": "key",
        "ALPACA_API_KEY": "key",
        "ALPACA_API_SECRET": "secret",
        "PROVIDERS_STOCK": "polygon",
        "PROVIDERS_ETF": "alpaca",
        "PROVIDERS_CRYPTO": "binance",
        **{f"{vendor}_BASE_URL": address for vendor in vendors},
        **{f"{vendor}_RATE": "1000000" for vendor in vendors},
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "enrichment", "worker"],
        env={**os.environ, **settings},
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def peak_megabytes(process: subprocess.Popen[bytes]) -> int:
    status = Path(f"/proc/{process.pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found
    return int(found[1]) // 1024


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak is read from /proc")
def test_nothing_that_vendors_send_fills_the_memory(
    db: Database, db_url: str, tmp_path: Path, vendors: str
) -> None:
    names = {"stock": POLYGON, "etf": ALPACA, "crypto": {"X:L": None}}
    tracked = [
        parse_tracked(f"{kind}SIM{chr(65 + n)}{'USD' * (asset == 'crypto')}", asset, "5m")
        for asset, kinds in names.items()
        for kind in kinds
        for n in range(THREADS)
    ]
    commands = Commands(db)
    commands.track(tracked, actor="test")
    with db.begin() as conn:  # or most symbols would be put off
        for vendor in ("polygon", "alpaca", "binance"):
            resilience_state.override(
                conn, name=f"{vendor}_api", action=BreakerAction.DISABLE, actor="test", reason=None
            )
    commands.trigger(actor="test")

    def statuses() -> dict[str, int]:
        with db.begin() as conn:
            query = "SELECT status, count(*) FROM enrichment_job_items GROUP BY status"
            return dict(map(tuple, conn.execute(text(query))))

    with worker(tmp_path, db_url, vendors) as process:
        until(lambda: statuses() == {"failed": len(tracked)}, lambda: str(statuses()), 300)
        assert peak_megabytes(process) < MAX_MEGABYTES
        assert process.poll() is None
