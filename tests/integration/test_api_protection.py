"""Token, hosts, rate limits, security headers, conditional requests."""

from __future__ import annotations

import gzip
import json

import pytest
from flask.testing import FlaskClient

from api.protection import ClientRates
from enrichment.domain.symbol_csv import parse_tracked
from enrichment.services.commands import Commands
from enrichment.warehouse.database import Database
from resilience import RateLimiter
from tests.helpers.api_client import DATA, ROOT, api_client, json_body, track_symbols
from tests.helpers.nightly_runs import NightlyRuns, quiet_bars

BEARER = {"Authorization": "Bearer s3cret"}
CHANGES = [
    ("post", "/trigger"),
    ("get", "/pause"),
    ("post", "/pause"),
    ("get", "/resume"),
    ("post", "/resume"),
    ("post", "/jobs/00000000-0000-0000-0000-000000000000/cancel"),
    ("post", "/jobs/00000000-0000-0000-0000-000000000000/resume"),
    ("post", "/symbols"),
    ("patch", "/symbols/AAPL"),
    ("post", "/symbols/AAPL/deactivate"),
    ("post", "/symbol-import"),
    ("post", "/resilience/breakers/polygon_api/reset"),
    ("post", "/alerts/LongDuration/silence"),
    ("post", "/alerts/LongDuration/unsilence"),
    ("post", "/corporate-actions"),
    ("post", "/corporate-actions/refute"),
    ("post", "/corporate-actions/restore"),
    ("post", "/calendar/closures"),
    ("post", "/calendar/closures/reopen"),
    ("post", "/repair"),
    ("post", "/bars/confirm"),
    ("post", "/bars/unconfirm"),
    ("post", "/bars/reject"),
    ("post", "/bars/unreject"),
]


@pytest.fixture
def tracked(db: Database) -> Commands:
    return track_symbols(db)


@pytest.mark.parametrize(("method", "path"), CHANGES)
def test_a_token_is_required_for_every_change(db: Database, method: str, path: str) -> None:
    client = api_client(db, token="s3cret")
    send = getattr(client, method)
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic s3cret"}):
        rejected = send(f"{ROOT}{path}", headers=headers)
        json_body(rejected, 401)
        assert rejected.headers["WWW-Authenticate"] == "Bearer"
    assert send(f"{ROOT}{path}", headers=BEARER).status_code != 401
    assert send(f"{ROOT}{path}", headers={"Authorization": "bearer s3cret"}).status_code != 401


def test_every_operation_that_is_not_a_get_is_secured(db: Database) -> None:
    """CHANGES lists all secured operations, the others are GET."""
    document = api_client(db, token="s3cret").get("/openapi.json").get_json()
    secured = {
        (method, path)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        if "security" in operation
    }
    assert len(secured) == len(CHANGES)
    others = {
        method
        for path, methods in document["paths"].items()
        for method in methods
        if (method, path) not in secured
    }
    assert others == {"get"}
    assert document["components"]["securitySchemes"]["token"]["scheme"] == "bearer"


def test_no_token_is_required_for_reading(db: Database, tracked: Commands) -> None:
    client = api_client(db, token="s3cret")
    json_body(client.get(f"{ROOT}/dashboard/overview"))
    json_body(client.post(f"{ROOT}/trigger", headers=BEARER), 202)


def test_cross_site_requests_cannot_change_anything(db: Database, tracked: Commands) -> None:
    client = api_client(db)
    for site in ("cross-site", "same-site"):
        json_body(client.get(f"{ROOT}/pause", headers={"Sec-Fetch-Site": site}), 403)
    assert json_body(client.get(f"{ROOT}/pauses"))["pauses"] == []
    json_body(client.get(f"{ROOT}/pause", headers={"Sec-Fetch-Site": "none"}))
    json_body(client.get(f"{ROOT}/history", headers={"Sec-Fetch-Site": "cross-site"}))


@pytest.mark.parametrize("origin", ["http://evil.example", "http://localhost:81", "null", ""])
def test_the_origin_of_another_site_cannot_change_anything(
    db: Database, tracked: Commands, origin: str
) -> None:
    client = api_client(db)
    for method, path in CHANGES:
        send = getattr(client, method)
        json_body(send(f"{ROOT}{path}", headers={"Origin": origin}), 403)
    assert json_body(client.get(f"{ROOT}/pauses"))["pauses"] == []
    json_body(client.post(f"{ROOT}/pause", headers={"Origin": "http://localhost"}))


@pytest.mark.parametrize("token", [None, "s3cret"])
def test_head_changes_nothing(db: Database, tracked: Commands, token: str | None) -> None:
    client = api_client(db, token=token)
    for path in ("/pause", "/resume"):
        assert client.head(f"{ROOT}{path}", headers=BEARER).status_code == 405
    assert json_body(client.get(f"{ROOT}/pauses"))["pauses"] == []


def test_without_a_token_only_loopback_hosts_are_accepted(db: Database) -> None:
    client = api_client(db)
    for host in ("evil.example", "evil.example:8000", "127.0.0.1.evil.example"):
        json_body(client.get(f"{ROOT}/history", headers={"Host": host}), 400)
    for host in ("localhost:8000", "127.0.0.1", "[::1]:8000"):
        json_body(client.get(f"{ROOT}/history", headers={"Host": host}))
    secured = api_client(db, token="s3cret")
    json_body(secured.get(f"{ROOT}/history", headers={"Host": "enrichment.internal"}))


def limited(db: Database, per_minute: int) -> tuple[FlaskClient, list[int]]:
    """A client of an API with a rate limit, and the limiter's clock in ns, which the test moves."""
    now = [0]

    def limiter(name: str, rate: int, interval: float, burst: int) -> RateLimiter:
        return RateLimiter(name, rate, interval, burst, clock=lambda: now[0])

    return api_client(db, clients=ClientRates(per_minute, limiter)), now


def test_each_client_has_its_own_rate_limit(db: Database) -> None:
    client, now = limited(db, 3)
    first, second = ({"REMOTE_ADDR": address} for address in ("10.0.0.1", "10.0.0.2"))
    for _ in range(3):
        json_body(client.get(f"{ROOT}/history", environ_base=first))
    rejected = client.get(f"{ROOT}/history", environ_base=first)
    json_body(rejected, 429)
    assert rejected.headers["Retry-After"] == "20"
    json_body(client.get(f"{ROOT}/history", environ_base=second))
    json_body(client.get("/livez", environ_base=first))
    now[0] = 20 * 10**9
    json_body(client.get(f"{ROOT}/history", environ_base=first))
    json_body(client.get(f"{ROOT}/history", environ_base=first), 429)


def test_the_least_recently_seen_clients_are_dropped(db: Database) -> None:
    clients = ClientRates(1)
    assert clients.allow("first")
    assert not clients.allow("first")
    for number in range(5000):
        clients.allow(str(number))
    assert clients.allow("first")


@pytest.mark.parametrize("path", ["/livez", f"{ROOT}/history", "/nowhere", f"{ROOT}/history?a=b"])
def test_every_response_has_the_security_headers(db: Database, path: str) -> None:
    headers = api_client(db).get(path).headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cache-Control"] in ("no-store", "no-cache")


def test_an_unchanged_response_is_an_empty_304(db: Database, tracked: Commands) -> None:
    client = api_client(db)
    for path in ("history", "dashboard/overview", "symbols", "symbols/AAPL", "dashboard/health"):
        first = client.get(f"{ROOT}/{path}")
        assert first.headers["Cache-Control"] == "no-cache"
        conditional = {"If-None-Match": first.headers["ETag"]}
        unchanged = client.get(f"{ROOT}/{path}", headers=conditional)
        assert (unchanged.status_code, unchanged.data) == (304, b""), path
    etag = client.get(f"{ROOT}/history").headers["ETag"]
    tracked.trigger(actor="test")
    json_body(client.get(f"{ROOT}/history", headers={"If-None-Match": etag}))


def test_the_html_docs_show_every_operation_and_schema(db: Database) -> None:
    client = api_client(db)
    document = client.get("/openapi.json").get_json()
    assert document["openapi"] == "3.1.0"
    page = client.get("/docs")
    assert page.mimetype == "text/html"
    assert "script" not in page.headers["Content-Security-Policy"]
    for path, methods in document["paths"].items():
        for operation in methods.values():
            assert path in page.text
            assert operation["operationId"] in page.text
            assert operation["summary"], path
    for name in document["components"]["schemas"]:
        assert f'id="{name}"' in page.text
    assert "http" not in page.text.replace("http://localhost/", "")


PAGE = "https://app.example.com"


@pytest.mark.parametrize("token", [None, "s3cret"])
def test_pages_of_allowed_origins_may_use_the_api(
    db: Database, tracked: Commands, token: str | None
) -> None:
    client = api_client(db, token=token, origins=[PAGE])
    asked = {"Origin": PAGE, "Access-Control-Request-Method": "POST"}
    preflight = client.options(f"{ROOT}/trigger", headers=asked)
    assert preflight.status_code == 204
    assert preflight.headers["Access-Control-Allow-Origin"] == PAGE
    assert "POST" in preflight.headers["Access-Control-Allow-Methods"]
    assert "Authorization" in preflight.headers["Access-Control-Allow-Headers"]
    sent = {"Origin": PAGE, "Sec-Fetch-Site": "cross-site", **(BEARER if token else {})}
    changed = client.post(f"{ROOT}/trigger", headers=sent)
    assert changed.status_code == 202
    assert changed.headers["Access-Control-Allow-Origin"] == PAGE
    assert "Origin" in changed.headers["Vary"]
    assert "Link" in changed.headers["Access-Control-Expose-Headers"]


@pytest.mark.parametrize("origin", ["https://evil.example", f"{PAGE}.evil.example", "null"])
def test_pages_of_other_origins_may_not(db: Database, tracked: Commands, origin: str) -> None:
    client = api_client(db, origins=[PAGE])
    read = client.get(f"{ROOT}/history", headers={"Origin": origin})
    preflight = client.options(f"{ROOT}/trigger", headers={"Origin": origin})
    for answer in (read, preflight):
        assert not [n for n, _ in answer.headers if n.startswith("Access-Control")]
    sent = {"Origin": origin, "Sec-Fetch-Site": "cross-site"}
    json_body(client.post(f"{ROOT}/trigger", headers=sent), 403)


def test_large_answers_are_compressed_for_clients_that_take_it(db: Database) -> None:
    names = [f"SIM{n}" for n in range(40)]
    Commands(db).track([parse_tracked(name, "stock", "1d") for name in names], actor="test")
    client, url, takes = api_client(db), f"{ROOT}/symbols", {"Accept-Encoding": "gzip"}
    plain, packed = client.get(url), client.get(url, headers=takes)
    assert "Content-Encoding" not in plain.headers
    assert packed.headers["Content-Encoding"] == "gzip"
    assert json.loads(gzip.decompress(packed.data))["symbols"] == plain.get_json()["symbols"]
    assert len(packed.data) == int(packed.headers["Content-Length"]) < len(plain.data) / 5
    assert "Accept-Encoding" in plain.headers["Vary"]
    known = {**takes, "If-None-Match": packed.headers["ETag"]}
    assert client.get(url, headers=known).status_code == 304
    assert "Content-Encoding" not in client.get("/livez", headers=takes).headers


def test_downloads_are_compressed_as_they_are_streamed(db: Database) -> None:
    NightlyRuns(db, quiet_bars(300), "SIM1").run_at(300)
    client = api_client(db)
    for kind in ("csv", "json"):
        url = f"{DATA}/bars/SIM1?format={kind}"
        packed = client.get(url, headers={"Accept-Encoding": "gzip"})
        assert "Content-Length" not in packed.headers
        rows = gzip.decompress(packed.data).count(b"-")
        assert rows == client.get(url).data.count(b"-")
    arrow = client.get(f"{DATA}/bars/SIM1?format=arrow", headers={"Accept-Encoding": "gzip"})
    assert "Content-Encoding" not in arrow.headers
