"""The sandbox as a server: connections, delayed requests, clean shutdown."""

import http.client
import signal
import socket
import subprocess
import sys
import threading
from datetime import UTC, datetime
from urllib.parse import urlsplit

import pytest

from enrichment.domain.errors import ConfigurationError
from enrichment.sandbox import create_app, parse_fault, running

NOW = datetime(2024, 12, 26, 12, tzinfo=UTC)
DAYS = "/v2/aggs/ticker/SIM1/range/1/day/2024-12-01/2024-12-20?apiKey=any"


def connect(url: str) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(urlsplit(url).netloc, timeout=10)


def test_a_connection_serves_many_requests() -> None:
    with running(create_app(clock=lambda: NOW)) as url:
        connection = connect(url)
        connection.connect()
        used = connection.sock
        for _ in range(3):
            connection.request("GET", DAYS)
            assert b'"resultsCount":15' in connection.getresponse().read()
            assert connection.sock is used
        connection.close()


def test_a_reset_closes_the_connection_without_a_response() -> None:
    with running(create_app(clock=lambda: NOW, faults=[parse_fault("*:reset:times=1")])) as url:
        connection = connect(url)
        connection.request("GET", DAYS)
        with pytest.raises(ConnectionResetError):
            connection.getresponse()
        connection.close()
        connection.request("GET", DAYS)
        assert connection.getresponse().read()
        connection.close()


def test_clearing_the_faults_ends_a_delayed_request() -> None:
    with running(create_app(clock=lambda: NOW, faults=[parse_fault("SIM1:hang")])) as url:
        hanging, control = connect(url), connect(url)
        hanging.request("GET", DAYS)
        struck = 0
        while not struck:
            control.request("GET", "/_sandbox/faults")
            struck = b'"struck":1' in control.getresponse().read()
        control.request("DELETE", "/_sandbox/faults")
        control.getresponse().read()
        assert hanging.getresponse().status == 200
        hanging.close()
        control.close()


def test_stopping_the_server_ends_delayed_requests() -> None:
    before = threading.active_count()
    with running(create_app(clock=lambda: NOW, faults=[parse_fault("SIM1:hang")])) as url:
        connection = connect(url)
        connection.request("GET", DAYS)
    connection.close()
    assert threading.active_count() == before


def test_a_port_in_use_is_an_error_with_a_remedy() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with (
            pytest.raises(ConfigurationError, match=f"{port}.*ENRICHMENT_SANDBOX_PORT"),
            running(create_app(), port=port),
        ):
            pass


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_stop_it_cleanly(number: signal.Signals) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with subprocess.Popen(
        [sys.executable, "-m", "enrichment", "sandbox", f"--port={port}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        answered = False
        while not answered and process.poll() is None:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            try:
                connection.request("GET", "/_sandbox/health")
                answered = connection.getresponse().status == 200
            except ConnectionError:
                pass
            finally:
                connection.close()
        process.send_signal(number)
        out, err = process.communicate(timeout=20)
    assert process.returncode == 0
    assert (out, err) == (b"", b"")
