"""Requests in the guise of Chrome: what a server gets to see, and the limits that hold as well."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator

import pytest
from flask import Flask, Response, request
from werkzeug.serving import make_server

from enrichment.domain.errors import (
    MalformedResponse,
    ProviderUnavailable,
    QuotaExceeded,
    RequestRefused,
)
from enrichment.vendors.browser import BrowserTransport, connect
from enrichment.vendors.http import HttpClient
from enrichment.vendors.registry import VENDORS
from tests.helpers.fake_transport import direct

pytest.importorskip("curl_cffi")


@pytest.fixture
def hang() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
def address(hang: threading.Event) -> Iterator[str]:
    app = Flask("vendor")

    @app.get("/headers")
    def headers() -> dict[str, str]:
        return dict(request.headers)

    @app.get("/gzip")
    def zipped() -> Response:
        body = gzip.compress(b'{"close": 1.5}')
        return Response(body, 200, {"Content-Encoding": "gzip"}, mimetype="application/json")

    @app.get("/cookies")
    def cookies() -> Response:
        response = Response("<html>", 404, mimetype="text/html")
        response.set_cookie("A1", "x")
        response.set_cookie("A3", "y", max_age=60)
        return response

    @app.get("/redirect")
    def redirect() -> Response:
        return Response("", 302, {"Location": "/headers"})

    @app.get("/refused")
    def refused() -> Response:
        return Response("Too Many Requests", 429)

    @app.get("/hang")
    def hanging() -> Response:
        hang.wait(30)
        return Response("{}")

    @app.get("/html")
    def html() -> Response:
        return Response("<html>", mimetype="text/html")

    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.port}"
    finally:
        hang.set()
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def http(address: str) -> Iterator[HttpClient]:
    client = HttpClient(
        address,
        call=direct,
        headers=VENDORS["yahoo"].headers,
        timeouts=lambda: (0.2, 0.2),
        connect=connect,
    )
    with client:
        yield client


def test_it_is_used_where_it_is_installed(address: str) -> None:
    assert isinstance(connect(address), BrowserTransport)


def test_a_server_sees_one_browser(http: HttpClient) -> None:
    seen = http.get_json("/headers", {"interval": "1d"}, headers={"Cookie": "A3=y"}).body
    assert "Chrome/" in seen["User-Agent"]
    assert "br" in seen["Accept-Encoding"]
    version = seen["User-Agent"].partition("Chrome/")[2].partition(".")[0]
    assert f'v="{version}"' in seen["Sec-Ch-Ua"]
    assert seen["Referer"] == "https://finance.yahoo.com/"
    assert seen["Cookie"] == "A3=y"


def test_answers_are_decompressed_and_all_cookies_named(http: HttpClient) -> None:
    assert http.get_json("/gzip").body == {"close": 1.5}
    page = http.get_text("/cookies")
    assert page.status == 404
    assert {"A1=x", "A3=y"} <= {
        part.strip() for part in page.headers["Set-Cookie"].replace(",", ";").split(";")
    }
    assert "Cookie" not in http.get_json("/headers").body


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/redirect", RequestRefused),
        ("/refused", QuotaExceeded),
        ("/hang", ProviderUnavailable),
        ("/html", MalformedResponse),
    ],
)
def test_failures_are_those_of_any_vendor(
    http: HttpClient, path: str, kind: type[Exception]
) -> None:
    with pytest.raises(kind):
        http.get_json(path)


def test_a_server_that_is_away_is_named() -> None:
    with (
        HttpClient("http://127.0.0.1:9", call=direct, connect=connect) as http,
        pytest.raises(ProviderUnavailable, match=r"can't reach 127\.0"),
    ):
        http.get_json("/")
