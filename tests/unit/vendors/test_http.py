"""The HTTP client: errors are translated, and secrets stay out of messages."""

import gzip
import http.server
import socket
import threading
from base64 import b64encode
from collections.abc import Callable, Generator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from http.client import InvalidURL
from typing import Any, Self, TypeVar

import pytest
import requests
from urllib3 import exceptions
from urllib3.connection import HTTPConnection
from urllib3.util import parse_url

from enrichment.domain.errors import (
    AccessDenied,
    ConfigurationError,
    MalformedResponse,
    ProviderError,
    ProviderUnavailable,
    QuotaExceeded,
    RequestRefused,
    UnknownSymbol,
)
from enrichment.vendors.http import HttpClient
from enrichment.vendors.transport import PooledTransport, StreamedResponse
from tests.helpers.fake_transport import direct, streamed

T = TypeVar("T")
BASE = "https://vendor.test"
KEY = "s3cret-key"


@dataclass(frozen=True)
class Sent:
    """A request as the transport got it."""

    url: str
    headers: Mapping[str, str]
    timeouts: tuple[float, float]


class FakeTransport:
    """Answers every request with one response or one exception, and remembers the requests."""

    def __init__(
        self,
        status: int = 200,
        body: bytes = b"{}",
        headers: dict[str, str] | None = None,
        error: Exception | None = None,
        parts: Generator[bytes, None, None] | None = None,
    ) -> None:
        self.status, self.body, self.headers, self.error = status, body, headers or {}, error
        self.parts = parts
        self.sent: list[Sent] = []

    def send(
        self,
        method: str,
        url: str,
        *,
        body: bytes | None,
        headers: Mapping[str, str],
        timeouts: tuple[float, float],
    ) -> StreamedResponse:
        self.sent.append(Sent(url, headers, timeouts))
        if self.error is not None:
            raise self.error
        response = streamed(self.status, self.headers, self.body)
        return response if self.parts is None else replace(response, parts=self.parts)

    def close(self) -> None:
        pass


def client(transport: FakeTransport, base_url: str = BASE, **options: Any) -> HttpClient:
    headers = {"Authorization": f"Bearer {KEY}"}
    return HttpClient(
        base_url, **{"call": direct, "headers": headers, "transport": transport, **options}
    )


def failure(
    transport: FakeTransport, path: str = "/v2/bars?note=private", **options: Any
) -> ProviderError:
    with client(transport, **options) as http, pytest.raises(ProviderError) as caught:
        http.get_json(path)
    assert KEY not in str(caught.value)
    assert "private" not in str(caught.value)
    assert "/v2/bars" in str(caught.value)
    assert "\n" not in str(caught.value)
    return caught.value


def exception_tree(root: type[Exception]) -> list[type[Exception]]:
    return [root, *(leaf for child in root.__subclasses__() for leaf in exception_tree(child))]


MALFORMED = {"DecodeError"}
REFUSED = {
    "LocationParseError",
    "LocationValueError",
    "ProxySchemeUnknown",
    "ProxySchemeUnsupported",
    "URLSchemeUnknown",
}
TREE = sorted(set(exception_tree(exceptions.HTTPError)), key=lambda kind: kind.__name__)


@pytest.mark.parametrize("kind", [*TREE, OSError, UnicodeError, InvalidURL])
def test_every_error_of_urllib3_is_translated(kind: type[Exception]) -> None:
    cause = kind.__new__(kind)  # their constructors ask for connections and responses
    Exception.__init__(cause, KEY)
    error = failure(FakeTransport(error=cause))
    assert error.__cause__ is cause
    expected: type[ProviderError] = ProviderUnavailable
    if kind.__name__ in MALFORMED:
        expected = MalformedResponse
    elif kind.__name__ in REFUSED or kind in (UnicodeError, InvalidURL):
        expected = RequestRefused
    assert type(error) is expected


def connection_failure(base_url: str) -> str:
    """The message of a real request that can't be sent."""
    with (
        HttpClient(
            base_url,
            headers={"Authorization": f"Bearer {KEY}"},
            call=direct,
            timeouts=lambda: (0.5, 0.2),
            address_setting="VENDOR_BASE_URL",
        ) as http,
        pytest.raises(ProviderUnavailable) as caught,
    ):
        http.get_json("/v2/bars?note=private")
    message = str(caught.value)
    assert "private" not in message
    assert KEY not in message
    assert message.endswith("VENDOR_BASE_URL") or "in time" in message
    return message


def test_a_host_whose_name_does_not_resolve_is_named_with_the_remedy() -> None:
    connection, reason = HTTPConnection("vendor.test"), socket.gaierror(-2, "not known")
    error = exceptions.NameResolutionError("vendor.test", connection, reason)
    message = str(failure(FakeTransport(error=error), address_setting="POLYGON_BASE_URL"))
    assert message == (
        "/v2/bars: can't reach vendor.test (name resolution failed): check the network, DNS "
        "or POLYGON_BASE_URL"
    )


def test_a_refused_connection_names_host_and_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    message = connection_failure(f"http://127.0.0.1:{port}")
    assert f"can't reach 127.0.0.1:{port} (connection refused)" in message


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment that names no proxy."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return monkeypatch


def test_a_failed_proxy_is_named_without_its_password(environment: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    environment.setenv("http_proxy", f"http://me:{KEY}@127.0.0.1:{port}")
    message = connection_failure("http://vendor.invalid")
    assert "can't reach vendor.invalid (the proxy failed): check HTTPS_PROXY" in message


@pytest.mark.parametrize("written", ["http://me:p%40ss@{}", "me:p%40ss@{}"])
@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY", "all_proxy"])
def test_the_proxy_of_the_environment_is_asked_with_its_password(
    environment: pytest.MonkeyPatch, name: str, written: str
) -> None:
    with Answering() as proxy:
        environment.setenv(name, written.format(f"127.0.0.1:{proxy.port}"))
        with HttpClient("http://vendor.invalid/v2", call=direct) as http:
            assert http.get_json("/bars", {"limit": 5}).body == {"a": 1}
    (request,) = proxy.requests
    assert request.startswith("GET http://vendor.invalid/v2/bars?limit=5 HTTP/1.1\r\n")
    assert f"authorization: Basic {b64encode(b'me:p@ss').decode()}" in request


@pytest.mark.parametrize("bypass", ["vendor.test", ".test", "other.test,vendor.test", "*"])
def test_a_host_in_no_proxy_is_asked_directly(environment: pytest.MonkeyPatch, bypass: str) -> None:
    environment.setenv("https_proxy", "socks5://127.0.0.1:1")
    with pytest.raises(ConfigurationError, match="https"):
        HttpClient("https://vendor.test", call=direct)
    environment.setenv("no_proxy", bypass)
    HttpClient("https://vendor.test", call=direct).close()


def test_no_proxy_is_asked_for_this_machine(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("http_proxy", "http://127.0.0.1:1")
    with Answering() as vendor, HttpClient(f"http://127.0.0.1:{vendor.port}", call=direct) as http:
        assert http.get_json("/bars").body == {"a": 1}


def test_a_server_without_tls_is_named() -> None:
    def answer() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(1000)
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=answer)
        thread.start()
        assert "(TLS failed)" in connection_failure(
            f"https://127.0.0.1:{listener.getsockname()[1]}"
        )
        thread.join()


def test_a_server_that_does_not_answer_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        assert f"127.0.0.1:{port} gave no answer in time" in connection_failure(
            f"http://127.0.0.1:{port}"
        )


@pytest.mark.parametrize(
    "part", [b"HTTP/1.1 200 OK", b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 200 OK\r\n\r\n"]
)
def test_an_answer_that_drips_is_given_up_in_its_headers_too(part: bytes) -> None:
    over = threading.Event()

    def drip() -> None:
        connection, _ = listener.accept()
        with connection, suppress(OSError):
            connection.recv(4096)
            connection.sendall(part)
            while not over.wait(0.02):
                connection.sendall(b"x")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=drip)
        thread.start()
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        transport = PooledTransport(address, max_seconds=0.2)
        with (
            HttpClient(address, call=direct, transport=transport) as http,
            pytest.raises(ProviderUnavailable, match="no answer in time"),
        ):
            http.get_json("/bars")
        over.set()
        thread.join()


STATUSES = {
    301: RequestRefused,
    400: RequestRefused,
    401: AccessDenied,
    403: AccessDenied,
    404: UnknownSymbol,
    408: ProviderUnavailable,
    422: RequestRefused,
    418: QuotaExceeded,
    429: QuotaExceeded,
    451: AccessDenied,
    500: ProviderUnavailable,
    503: ProviderUnavailable,
}


@pytest.mark.parametrize(("status", "kind"), STATUSES.items())
def test_every_status_becomes_an_error(status: int, kind: type[ProviderError]) -> None:
    error = failure(FakeTransport(status, b"<html>"))
    assert type(error) is kind
    assert error.permanent is (kind in (RequestRefused, AccessDenied, UnknownSymbol))


def test_a_refused_key_names_its_setting() -> None:
    assert "POLYGON_API_KEY" in str(failure(FakeTransport(401), key_setting="POLYGON_API_KEY"))


def test_a_vendor_that_does_not_serve_the_country_says_how_to_go_on() -> None:
    assert "PROVIDERS_" in str(failure(FakeTransport(451)))


def test_the_vendors_message_is_shown_without_the_key() -> None:
    body = f'{{"error": "Unknown key {KEY}\\n please  mend"}}'.encode()
    assert "(Unknown key *** please mend)" in str(failure(FakeTransport(401, body)))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("7", 7.0),
        ("0.5", 0.5),
        ("-3", 0.0),
        ("Thu, 26 Dec 2024 12:00:30 GMT", 30.0),
        ("Thu, 26 Dec 2024 11:00:00 GMT", 0.0),
        ("100000000000", 3600.0),
        ("Thu, 26 Dec 2058 12:00:00 GMT", 3600.0),
        ("soon", None),
        ("nan", None),
        ("inf", None),
        ("", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(text: str, seconds: float | None) -> None:
    now = datetime(2024, 12, 26, 12, tzinfo=UTC)
    error = failure(FakeTransport(429, headers={"Retry-After": text}), now=lambda: now)
    assert isinstance(error, QuotaExceeded)
    assert error.retry_after == seconds


class Drip:
    """A body that goes on for ever, in equal parts."""

    def __init__(self, part: bytes) -> None:
        self.reads, self.closed = 0, False
        self.parts = self._parts(part)

    def _parts(self, part: bytes) -> Generator[bytes, None, None]:
        try:
            while True:
                self.reads += 1
                yield part
        finally:
            self.closed = True


def test_a_body_of_one_byte_every_ten_seconds_is_given_up() -> None:
    drip = Drip(b"[")
    error = failure(FakeTransport(parts=drip.parts), timer=lambda: 10.0 * drip.reads)
    assert type(error) is ProviderUnavailable
    assert "13 bytes in 120 s" in str(error)
    assert drip.closed


def test_a_body_without_end_is_given_up() -> None:
    drip = Drip(bytes(1_000_000))
    error = failure(FakeTransport(parts=drip.parts), timer=lambda: 0.0)
    assert type(error) is MalformedResponse
    assert "more than 33,554,432 bytes" in str(error)
    assert drip.reads == 34
    assert drip.closed


@pytest.mark.parametrize(
    ("kind", "decoded"),
    [
        ("application/json", True),
        ("application/json;charset=UTF-8", True),
        ("Application/problem+JSON", True),
        ("", True),
        ("text/html", False),
        ("text/plain", False),
    ],
)
def test_only_what_says_it_is_json_is_decoded(kind: str, decoded: bool) -> None:
    transport = FakeTransport(body=b"{}", headers={"Content-Type": kind} if kind else {})
    if decoded:
        with client(transport) as http:
            assert http.get_json("/v2/bars").body == {}
    else:
        assert kind in str(failure(transport))


class Answering:
    """A server that answers `{"a": 1}` to one request and remembers it."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.requests: list[str] = []
        self._thread = threading.Thread(target=self._answer)

    def _answer(self) -> None:
        connection, _ = self._listener.accept()
        with connection:
            self.requests.append(connection.recv(10_000).decode())
            connection.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n{"a": 1}')

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join()
        self._listener.close()


class Server(http.server.BaseHTTPRequestHandler):
    """Answers `{"a": 1}` in the manner that the path names."""

    protocol_version = "HTTP/1.1"
    connections = 0

    def setup(self) -> None:
        super().setup()
        type(self).connections += 1

    def do_GET(self) -> None:
        body = b'{"a": 1}'
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        if self.path == "/gzip":
            body = gzip.compress(body)
            self.send_header("Content-Encoding", "gzip")
        if self.path == "/chunked":
            self.send_header("Transfer-Encoding", "chunked")
            body = b"3\r\n" + body[:3] + b"\r\n5\r\n" + body[3:] + b"\r\n0\r\n\r\n"
        else:
            self.send_header("Content-Length", str(len(body) + 5 * (self.path == "/cut")))
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = self.path == "/cut"

    def log_message(self, *_: Any) -> None:
        pass


def test_bodies_are_read_whole_and_connections_used_again() -> None:
    class Counted(Server):
        pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Counted) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            with HttpClient(f"http://127.0.0.1:{server.server_port}", call=direct) as vendor:
                for path in ("/plain", "/gzip", "/chunked", "/plain"):
                    assert vendor.get_json(path).body == {"a": 1}
                assert Counted.connections == 1
                with pytest.raises(ProviderUnavailable, match="can't reach"):
                    vendor.get_json("/cut")
        finally:
            server.shutdown()
            thread.join()


def test_an_error_of_yahoos_is_shown() -> None:
    body = b'{"chart": {"result": null, "error": {"code": "x", "description": "within 60 days"}}}'
    assert "422 (within 60 days)" in str(failure(FakeTransport(422, body)))


@pytest.mark.parametrize("body", [b"", b"<html></html>", b'{"a": [1, 2', b'{"a": NaN}', b"\xff"])
def test_what_is_not_json_is_malformed(body: bytes) -> None:
    assert type(failure(FakeTransport(200, body))) is MalformedResponse


def test_a_redirect_is_not_followed() -> None:
    transport = FakeTransport(302, headers={"Location": "https://elsewhere.test/"})
    failure(transport)
    assert len(transport.sent) == 1


@pytest.mark.parametrize(
    "url",
    [
        "http://vendor.test/next",
        "https://vendor.test:8443/next",
        "https://elsewhere.test/next",
        "//elsewhere.test/next",
        "https://vendor.test@elsewhere.test/next",
        "https://user:pass@vendor.test/next",
        "https://vendor.test.elsewhere.test/next",
        "https://vendor.test:port/next",
        "ftp://vendor.test/next",
    ],
)
def test_of_a_link_only_path_and_query_are_followed(url: str) -> None:
    transport = FakeTransport(body=b"{}")
    with client(transport) as http:
        http.get_json(f"{url}?cursor=1")
    assert [sent.url for sent in transport.sent] == ["https://vendor.test/next?cursor=1"]


def test_a_link_behind_a_prefix_stays_behind_it() -> None:
    transport = FakeTransport(body=b"{}")
    with client(transport, base_url="https://proxy.test/polygon") as http:
        http.get_json("https://api.polygon.io/v2/aggs?cursor=1")
        http.get_json("https://proxy.test/polygon/v2/aggs?cursor=2")
    assert [sent.url for sent in transport.sent] == [
        "https://proxy.test/polygon/v2/aggs?cursor=1",
        "https://proxy.test/polygon/v2/aggs?cursor=2",
    ]


def test_a_malformed_link_is_refused_unasked() -> None:
    transport = FakeTransport()
    with client(transport) as http, pytest.raises(MalformedResponse):
        http.get_json("https://[vendor/next")
    assert transport.sent == []


@pytest.mark.parametrize(
    "url", ["https://vendor.test/next?c=1", "https://VENDOR.test:443/next?c=1"]
)
def test_the_same_host_may_be_given_in_full(url: str) -> None:
    transport = FakeTransport(body=b'{"a": 1}', headers={"X-Left": "4"})
    with client(transport) as http:
        answer = http.get_json(url)
    assert answer.body == {"a": 1}
    assert answer.headers["x-left"] == "4"
    assert transport.sent[0].url == "https://vendor.test/next?c=1"
    assert transport.sent[0].headers["Authorization"] == f"Bearer {KEY}"


def test_every_request_goes_through_the_call_and_asks_for_its_timeouts() -> None:
    calls = []

    def counted(request: Callable[[], T]) -> T:
        calls.append(1)
        return request()

    transport, timeouts = FakeTransport(), iter([(1.0, 2.0), (3.0, 4.0)])
    with client(transport, call=counted, timeouts=lambda: next(timeouts)) as http:
        http.get_json("/a", {"limit": 5})
        http.get_json("https://vendor.test/b")
    assert len(calls) == 2
    assert [sent.timeouts for sent in transport.sent] == [(1.0, 2.0), (3.0, 4.0)]
    assert transport.sent[0].url == "https://vendor.test/a?limit=5"


def test_secrets_are_masked_in_the_representation() -> None:
    with client(
        FakeTransport(), headers={"Authorization": KEY, "X-Api-Key": KEY, "Accept": "x"}
    ) as http:
        assert KEY not in repr(http)
        assert repr(http).startswith("HttpClient('https://vendor.test:443'")
        assert "'Accept': 'x'" in repr(http)


def test_a_base_address_may_have_a_path() -> None:
    transport = FakeTransport()
    with HttpClient(f"{BASE}/market/", call=direct, transport=transport) as http:
        http.get_json("/bars")
    assert transport.sent[0].url == "https://vendor.test/market/bars"


@pytest.mark.parametrize("base", [BASE, f"{BASE}/proxy/", "https://VENDOR.test"])
@pytest.mark.parametrize(
    ("path", "full"),
    [
        ("/v2/bars/X:BTCUSD", "/v2/bars/X:BTCUSD"),
        ("v8/chart/BRK%2FB", "/v8/chart/BRK%2FB"),
        ("/v2/bars?adjusted=true", "/v2/bars?adjusted=true"),
    ],
)
def test_an_address_is_written_as_requests_writes_it(base: str, path: str, full: str) -> None:
    transport = FakeTransport()
    parameters: dict[str, str | int] = {"limit": 50_000, "events": "div,splits", "note": "a b&c"}
    HttpClient(base, call=direct, transport=transport).get_json(path, parameters)
    plain = requests.Request("GET", base.rstrip("/") + full, params=parameters).prepare()
    assert parse_url(transport.sent[0].url).url == plain.url
