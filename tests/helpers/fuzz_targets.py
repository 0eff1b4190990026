"""What others send, at random: vendors' bytes and timing, CSV, TOML and API parameters.

A target takes Hypothesis' choices and asserts that the program answers or refuses, in bounded time.
"""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil
from flask.testing import FlaskClient
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from enrichment.domain.errors import ConfigurationError, ProviderError
from enrichment.domain.symbol_csv import HEADER, read_csv
from enrichment.domain.symbols import parse_symbol
from enrichment.services.alerts import rules
from enrichment.vendors.http import HttpClient
from enrichment.vendors.transport import PooledTransport
from tests.helpers.fake_transport import direct
from tests.helpers.fuzz_inputs import INPUTS

Target = Callable[[st.DataObject], None]
MAX_SECONDS, MAX_PROCESSOR_SECONDS = 60.0, 5.0
"""For one input; the former also passes while other processes have the processor."""
MAX_GROWTH = 200 * 2**20
"""Bytes by which the process may grow while a target is fuzzed."""
_HEADS = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 30\r\n\r\n",
    b"HTTP/1.1 429 No\r\nRetry-After: 99999999999\r\n\r\n",
    b"HTTP/1.1 301 Moved\r\nLocation: http://127.0.0.1:1/\r\n\r\n",
)
_WORDS = (b"\r\n", b"0\r\n\r\n", b"[1,2]", b'{"error":"x"}', b"\x1f\x8b\x08\x00", b"HTTP/1.1 ")
_BYTES = st.lists(st.sampled_from((*_HEADS, *_WORDS)) | st.binary(max_size=60), max_size=8)


def run_for(seconds: float, target: Target, first_seed: int = 0) -> int:
    """Run the target on new inputs for so long; returns how many there were."""
    end, count = time.monotonic() + seconds, itertools.count()
    process = psutil.Process()
    before = process.memory_info().rss

    def one(data: st.DataObject) -> None:
        next(count)
        started, worked = time.monotonic(), time.process_time()
        target(data)
        assert time.process_time() - worked < MAX_PROCESSOR_SECONDS
        assert time.monotonic() - started < MAX_SECONDS

    number = first_seed
    while time.monotonic() < end:
        limits = settings(
            max_examples=25, deadline=None, database=None, suppress_health_check=list(HealthCheck)
        )
        seed(number)(limits(given(st.data())(one)))()
        number += 1
    assert process.memory_info().rss - before < MAX_GROWTH
    return next(count)


@contextmanager
def vendor_target() -> Iterator[Target]:
    """A vendor that sends any bytes in any pieces, with pauses, over a real socket."""
    answer: list[tuple[list[bytes], float]] = [([], 0.0)]
    pause = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection, contextlib.suppress(OSError):
                    connection.recv(65_536)
                    parts, seconds = answer[0]
                    for part in parts:
                        connection.sendall(part)
                        pause.wait(seconds)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        transport = PooledTransport(address, max_seconds=1.0)
        client = HttpClient(address, call=direct, transport=transport)

        def target(data: st.DataObject) -> None:
            answer[0] = data.draw(_BYTES), data.draw(st.sampled_from((0.0, 0.0, 0.001, 0.01)))
            with contextlib.suppress(ProviderError):
                client.get_json("/v2/aggs")

        yield target
        client.close()
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        thread.join(5)


def csv_target(data: st.DataObject) -> None:
    """Any text as a file of symbols."""
    cell = st.sampled_from(("AAPL", "stock", "1d|1h", "crypto", "X:BTCUSD", '"', "")) | st.text(
        max_size=8
    )
    lines = data.draw(st.lists(st.lists(cell, max_size=5).map(",".join), max_size=8))
    head = data.draw(st.sampled_from((",".join(HEADER), "\ufeff", "")))
    content = "\n".join((head, *lines))
    parsed = read_csv(content)
    assert len(parsed.symbols) + len(parsed.bad_lines) <= content.count("\n") + 2 + len(content)
    for tracked in parsed.symbols:
        assert tracked.symbol.isascii()
        assert parse_symbol(tracked.symbol) == tracked.symbol


def toml_target(file: Path) -> Target:
    """Any bytes as a file of alert rules."""
    words = (
        *("[[rule]]\n", "[rules.x]\n", 'name = "x"\n', 'metric = "jobs.failed"\n', "enabled = 1\n"),
        *('condition = "> 1"\n', "for = 1\n", 'severity = "critical"\n', "a = [[1]]\n", "= \n"),
    )

    def target(data: st.DataObject) -> None:
        parts = data.draw(st.lists(st.sampled_from(words) | st.text(max_size=10), max_size=12))
        content = "".join(parts).encode("utf-8", "surrogatepass")
        file.write_bytes(content + data.draw(st.binary(max_size=3)))
        with contextlib.suppress(ConfigurationError):
            rules.load(file)

    return target


def api_target(client: FlaskClient) -> Target:
    """Any text for the parameters of the operations that only read."""
    document: Any = client.get("/openapi.json").get_json()
    operations = [
        (path, [(one["in"], one["name"]) for one in methods["get"].get("parameters", [])])
        for path, methods in document["paths"].items()
        if "get" in methods and not path.endswith(("/pause", "/resume"))
    ]
    values = st.sampled_from(INPUTS) | st.text(max_size=20) | st.integers().map(str)

    def target(data: st.DataObject) -> None:
        path, parameters = data.draw(st.sampled_from(operations))
        query: dict[str, str] = {}
        for place, name in parameters:
            value = data.draw(values)
            if place == "path":
                encoded = quote(value.encode("utf-8", "replace"), safe="")
                path = path.replace(f"{{{name}}}", encoded or "x")
            elif place == "query" and data.draw(st.booleans()):
                query[name] = value.encode("utf-8", "replace").decode()
        response = client.get(path, query_string=query)
        assert response.status_code < 500, (path, query, response.data)
        assert len(response.data) < 5 * 2**20

    return target
