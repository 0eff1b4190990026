"""Vendors that send too much, or too slowly, over real sockets: memory and time are bounded."""

from __future__ import annotations

import contextlib
import gzip
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from enrichment.domain.errors import MalformedResponse, ProviderUnavailable
from enrichment.vendors import http
from enrichment.vendors.base import ResilientCall
from enrichment.vendors.http import HttpClient
from enrichment.vendors.transport import MAX_SECONDS, PooledTransport
from resilience import Bulkhead
from tests.helpers.fake_transport import direct

Answer = Callable[[socket.socket], None]
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


@contextmanager
def vendor(answer: Answer) -> Iterator[str]:
    """A server that answers each connection's first bytes by this function."""
    ended = threading.Event()
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:

        def serve(connection: socket.socket) -> None:
            with connection, contextlib.suppress(OSError):
                connection.recv(65_536)
                answer(connection)

        def accept() -> None:
            while not ended.is_set():
                with contextlib.suppress(OSError):
                    threading.Thread(
                        target=serve, args=(listener.accept()[0],), daemon=True
                    ).start()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        ended.set()
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)


def client_of(
    address: str, call: ResilientCall = direct, max_seconds: float = MAX_SECONDS
) -> HttpClient:
    transport = PooledTransport(address, max_seconds=max_seconds)
    return HttpClient(address, call=call, transport=transport)


def drip(content: bytes) -> Answer:
    def answer(connection: socket.socket) -> None:
        pause = threading.Event()
        for byte in content:
            connection.sendall(bytes([byte]))
            pause.wait(0.1)

    return answer


def fixed(content: bytes) -> Answer:
    return lambda connection: connection.sendall(content)


def with_length(body: bytes, *headers: bytes) -> bytes:
    lines = b"".join(header + b"\r\n" for header in headers)
    return HEAD + lines + b"Content-Length: %d\r\n\r\n" % len(body) + body


DRIPS = {
    "headers": HEAD + b"".join(b"X-%d: y\r\n" % n for n in range(90)),
    "a body": HEAD + b"Content-Length: 100000\r\n\r\n" + b" " * 100_000,
    "chunks": HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\n \r\n" * 1000,
    "until the end": HEAD + b"\r\n" + b" " * 100_000,
    "continues": b"HTTP/1.1 100 Continue\r\n\r\n" * 100,
}


@pytest.mark.parametrize("content", DRIPS.values(), ids=DRIPS)
def test_a_dripping_answer_ends_with_its_deadline(
    content: bytes,
) -> None:
    with vendor(drip(content)) as address, client_of(address, max_seconds=1.0) as client:
        started = time.monotonic()
        with pytest.raises(ProviderUnavailable, match=r"no answer in time|did not end"):
            client.get_json("/")
        assert time.monotonic() - started < 6.0


def test_a_request_ends_with_the_budget_of_its_bulkhead() -> None:
    bulkhead = Bulkhead("vendor", 1, timeout=1.0)
    with vendor(drip(DRIPS["headers"])) as address, client_of(address, bulkhead.execute) as client:
        started = time.monotonic()
        with pytest.raises(ProviderUnavailable):
            client.get_json("/")
        assert time.monotonic() - started < 6.0


def test_a_socket_that_ended_is_not_used_again() -> None:
    slow = drip(DRIPS["a body"])
    answers = iter([slow, fixed(with_length(b"[1]"))])
    with (
        vendor(lambda connection: next(answers)(connection)) as address,
        client_of(address, max_seconds=1.0) as client,
    ):
        with pytest.raises(ProviderUnavailable):
            client.get_json("/")
        assert client.get_json("/").body == [1]


GIGABYTE_OF_ZEROS = gzip.compress(bytes(2**26)) * 16  # members that are unpacked one after another
MANY = {
    "a doubled gzip bomb": with_length(
        gzip.compress(GIGABYTE_OF_ZEROS), b"Content-Encoding: gzip, gzip"
    ),
    "a deflate bomb": with_length(
        gzip.compress(b"[" * 2**28)[10:-8], b"Content-Encoding: deflate"
    ),
    "arrays": with_length(gzip.compress(b"[" + b"[]," * 2**24 + b"1]"), b"Content-Encoding: gzip"),
    "numbers": with_length(
        gzip.compress(b"[" + b"1.5," * 2**23 + b"1]"), b"Content-Encoding: gzip"
    ),
    "an endless header": HEAD + b"X: " + b"y" * 2**24,
    "many headers": HEAD + b"X: y\r\n" * 2**18,
}  # fmt: skip

PROGRAM = """
import resource, sys, threading
from enrichment.domain.errors import ProviderError
from enrichment.vendors.http import HttpClient
client = HttpClient(sys.argv[1], call=lambda send: send())
def ask():
    try:
        client.get_json("/")
    except ProviderError as error:
        print(type(error).__name__)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
threads = [threading.Thread(target=ask) for _ in range(5)]
[thread.start() for thread in threads]; [thread.join() for thread in threads]
print(before // 1024, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""
BASE_MEGABYTES = 180  # of a worker that has done nothing; here only the client is imported


@pytest.mark.parametrize("content", MANY.values(), ids=MANY)
def test_five_answers_at_once_stay_within_the_memory_of_a_worker(content: bytes) -> None:
    with vendor(fixed(content)) as address:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, address], capture_output=True, text=True, timeout=200
        )
    *errors, memory = done.stdout.splitlines()
    before, peak = map(int, memory.split())
    assert not done.stderr, done.stderr
    assert peak - before < 500 - BASE_MEGABYTES, (errors, before, peak)


def test_a_large_page_of_bars_is_taken() -> None:
    bars = b",".join(
        b'{"v":%d,"vw":101.5,"o":100.25,"c":101.75,"h":102.5,"l":99.5,"t":%d,"n":55}' % (n, n)
        for n in range(50_000)
    )
    content = with_length(b'{"results":[' + bars + b"]}")
    with (
        vendor(fixed(content)) as address,
        client_of(address) as client,
    ):
        assert len(client.get_json("/").body["results"]) == 50_000


def test_too_many_values_are_no_page() -> None:
    content = with_length(b"[" + b"1," * (http.MAX_ROWS * http.ROW_BYTES // 32) + b"1]")
    with (
        vendor(fixed(content)) as address,
        client_of(address) as client,
        pytest.raises(MalformedResponse, match="more objects or values"),
    ):
        client.get_json("/")
