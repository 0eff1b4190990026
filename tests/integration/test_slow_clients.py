"""The served API under clients that send or read slowly, or not at all."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import psutil
import pytest
from sqlalchemy import text

from api import buffered_worker
from api.protection import MAX_BODY_BYTES
from enrichment.warehouse.database import Database
from tests.helpers.api_client import DATA, ROOT, track_symbols
from tests.helpers.server_process import ServerProcess, serving
from tests.helpers.waiting import until

ROWS = 100_000
STALLED = 200


@pytest.fixture(scope="module")
def db(shared_db: Database) -> Database:
    track_symbols(shared_db)
    with shared_db.begin() as conn:
        conn.execute(
            text(
                "INSERT INTO bars (symbol, timeframe, ts, open, high, low, close, volume)"
                " SELECT 'AAPL', '5m', '2000-01-01Z'::timestamptz + n * interval '5 minutes',"
                " n, n, n, n, n FROM generate_series(1, :rows) n"
            ),
            {"rows": ROWS},
        )
    return shared_db


@pytest.fixture(scope="module")
def served(db: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    url = db.url.render_as_string(hide_password=False)
    with serving(url, tmp_path_factory.mktemp("api")) as server:
        yield server


def connect(server: ServerProcess, sent: bytes = b"") -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=20)
    connection.sendall(sent)
    return connection


def answered(server: ServerProcess, path: str) -> tuple[int, float]:
    """The status, and after how many seconds."""
    started = time.monotonic()
    with urllib.request.urlopen(server.url + path, timeout=20) as response:
        response.read()
        return response.status, time.monotonic() - started


STALLS = {
    "nothing": b"",
    "half a request line": b"GET /liv",
    "half of the headers": b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n",
    "half of a body": b"POST /api/v1/enrichment/symbols HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    b"Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n{",
    "half of a chunk": b"POST /api/v1/enrichment/symbols HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    b"Transfer-Encoding: chunked\r\n\r\nff\r\n{",
    "an unread download": f"GET {DATA}/bars/AAPL?timeframe=5m HTTP/1.1\r\nHost: localhost\r\n\r\n"
    .encode(),
    "unread pages": (f"GET {ROOT}/symbols HTTP/1.1\r\nHost: localhost\r\n\r\n" * 40).encode(),
}  # fmt: skip


@pytest.mark.parametrize("stall", STALLS.values(), ids=STALLS)
def test_stalled_clients_hold_up_nobody(served: ServerProcess, stall: bytes) -> None:
    with ExitStack() as open_connections:
        for _ in range(STALLED):
            open_connections.enter_context(connect(served, stall))
        for path in ("/livez", "/readyz", f"{ROOT}/history"):
            status, seconds = answered(served, path)
            assert (status, seconds < 1.0) == (200, True), (path, seconds)


def test_a_half_sent_request_is_disconnected(served: ServerProcess) -> None:
    with connect(served, b"GET / HTTP/1.1\r\n") as connection:
        started = time.monotonic()
        assert connection.recv(100) == b""
        assert time.monotonic() - started < buffered_worker.HEAD_SECONDS + 5


def test_a_dripping_request_is_disconnected(served: ServerProcess) -> None:
    with connect(served, b"GET / HTTP/1.1\r\n") as connection:
        started = time.monotonic()
        connection.settimeout(0.2)
        ended = False
        while not ended and time.monotonic() - started < buffered_worker.HEAD_SECONDS + 5:
            try:
                connection.sendall(b"X")
                ended = connection.recv(100) == b""
            except TimeoutError:
                continue
            except OSError:
                ended = True
        assert ended


def test_waiting_triggers_leave_most_threads_free(served: ServerProcess) -> None:
    trigger = f"POST {ROOT}/trigger?symbols=AAPL&wait=8 HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with ExitStack() as waiting:
        for _ in range(32):
            waiting.enter_context(connect(served, trigger.encode()))
        for path in ("/livez", f"{ROOT}/history"):
            status, seconds = answered(served, path)
            assert (status, seconds < 1.0) == (200, True), (path, seconds)


def test_requests_may_follow_each_other_on_one_connection(served: ServerProcess) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=20)
    for _ in range(3):
        connection.request("GET", f"{ROOT}/symbols")
        response = connection.getresponse()
        assert (response.status, json.load(response)["count"]) == (200, 3)
    sock = connection.sock
    connection.request("GET", f"{DATA}/bars/AAPL?timeframe=5m&limit=10")
    assert len(json.load(connection.getresponse())["bars"]) == 10
    connection.request("HEAD", "/livez")
    assert connection.getresponse().read() == b""
    assert connection.sock is sock
    connection.close()


def test_pipelined_requests_are_answered_in_order(served: ServerProcess) -> None:
    request = "GET {} HTTP/1.1\r\nHost: localhost\r\n{}\r\n"
    both = request.format("/livez", "") + request.format("/nowhere", "Connection: close\r\n")
    with connect(served, both.encode()) as connection:
        content = b"".join(iter(lambda: connection.recv(65_536), b""))
    assert content.startswith(b"HTTP/1.1 200")
    assert content.count(b"HTTP/1.1 404") == 1


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_is_too_large_is_refused_whole(served: ServerProcess, chunked: bool) -> None:
    line = b"AAPL,stock,1d\n"
    body = b"symbol,asset_class,timeframes\n" + line * (MAX_BODY_BYTES // len(line) + 1)
    parts = iter([body[:1_000_000], body[1_000_000:]]) if chunked else body
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=20)
    connection.request(
        "POST", f"{ROOT}/symbol-import", parts, {"Content-Type": "text/csv"}, encode_chunked=chunked
    )
    response = connection.getresponse()
    assert response.status == 413
    assert json.load(response)["status"] == 413
    connection.close()


def test_a_chunked_body_within_the_limit_is_taken_whole(served: ServerProcess) -> None:
    lines = [b"symbol,asset_class,timeframes\n", *(b"S%d,stock,1d\n" % n for n in range(9_999))]
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=60)
    content = iter([b"".join(lines[start : start + 900]) for start in range(0, len(lines), 900)])
    path = f"{ROOT}/symbol-import?dry_run=true"
    connection.request("POST", path, content, {"Content-Type": "text/csv"}, encode_chunked=True)
    response = connection.getresponse()
    assert (response.status, json.load(response)["count"]) == (200, 9_999)
    connection.close()


def transactions_of_readers(db: Database) -> int:
    with db.begin() as conn:
        count: int = conn.execute(
            text(
                "SELECT count(*) FROM pg_stat_activity WHERE xact_start IS NOT NULL"
                " AND application_name = 'enrichment-api-reader'"
            )
        ).scalar_one()
    return count


def test_a_download_survives_a_slow_reader(served: ServerProcess, db: Database) -> None:
    """It holds no transaction, so that the server ends none that is idle."""
    path = f"{DATA}/bars/AAPL?timeframe=5m&format=csv"
    with urllib.request.urlopen(served.url + path, timeout=20) as response:
        content = response.read(1000)
        until(lambda: not transactions_of_readers(db), "the download waits without a transaction")
        content += response.read()
        assert int(response.headers["X-Row-Count"]) == ROWS
    assert content.count(b"\n") == ROWS + 1


def test_a_cut_download_is_seen(served: ServerProcess, db: Database) -> None:
    path = f"{DATA}/bars/AAPL?timeframe=5m&format=csv"
    with urllib.request.urlopen(served.url + path, timeout=20) as response:
        response.read(1000)
        with db.begin() as conn:
            conn.execute(
                text(
                    "INSERT INTO bar_versions (symbol, timeframe, ts, open, high, low, close,"
                    " volume, known_from, known_until)"
                    " VALUES ('AAPL', '5m', '2000-01-02Z', 1, 1, 1, 1, 1, now(), now())"
                )
            )
        with pytest.raises(http.client.IncompleteRead):
            response.read()


def test_many_downloads_at_once_need_little_memory(served: ServerProcess) -> None:
    """Ten times fewer rows than a million, since the memory does not depend on their number."""
    process = psutil.Process(served.process.pid)
    peak, ended = [0], threading.Event()

    def watch() -> None:
        while not ended.wait(0.02):
            family = [process, *process.children()]
            peak[0] = max(peak[0], sum(p.memory_full_info().uss for p in family))

    def download(name: str) -> int:
        path = f"{DATA}/bars/AAPL?timeframe=5m&format={name}"
        size = 0
        with urllib.request.urlopen(served.url + path, timeout=300) as response:
            while part := response.read(100_000):
                size += len(part)
        return size

    watcher = threading.Thread(target=watch)
    watcher.start()
    with ThreadPoolExecutor(16) as pool:
        sizes = list(pool.map(download, ["json", "csv", "arrow", "parquet"] * 4))
    ended.set()
    watcher.join()
    assert min(sizes) > 100_000
    assert peak[0] < 400 * 2**20, f"{peak[0] / 2**20:.0f} MB"
