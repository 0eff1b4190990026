"""Who may ask, how often, and what every answer carries."""

from __future__ import annotations

import pytest
from flask.testing import FlaskClient

from api.protection import ClientRates
from enrichment.services.commands import Commands
from enrichment.warehouse.database import Database
from resilience import RateLimiter
from tests.helpers.api_client import ROOT, body, client_of, tracking

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
]


@pytest.fixture
def tracked(db: Database) -> Commands:
    return tracking(db)


@pytest.mark.parametrize(("method", "path"), CHANGES)
def test_with_a_token_every_change_asks_for_it(db: Database, method: str, path: str) -> None:
    client = client_of(db, token="s3cret")
    ask = getattr(client, method)
    for given in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic s3cret"}):
        refused = ask(f"{ROOT}{path}", headers=given)
        body(refused, 401)
        assert refused.headers["WWW-Authenticate"] == "Bearer"
    assert ask(f"{ROOT}{path}", headers=BEARER).status_code != 401
    assert ask(f"{ROOT}{path}", headers={"Authorization": "bearer s3cret"}).status_code != 401


def test_every_change_is_described_as_one(db: Database) -> None:
    """What the list above leaves out asks for no token: nothing but reading may be left out."""
    document = client_of(db, token="s3cret").get("/openapi.json").get_json()
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


def test_reading_asks_for_no_token(db: Database, tracked: Commands) -> None:
    client = client_of(db, token="s3cret")
    body(client.get(f"{ROOT}/dashboard/overview"))
    body(client.post(f"{ROOT}/trigger", headers=BEARER), 202)


def test_a_page_of_another_site_changes_nothing(db: Database, tracked: Commands) -> None:
    client = client_of(db)
    for site in ("cross-site", "same-site"):
        body(client.get(f"{ROOT}/pause", headers={"Sec-Fetch-Site": site}), 403)
    assert body(client.get(f"{ROOT}/pauses"))["pauses"] == []
    body(client.get(f"{ROOT}/pause", headers={"Sec-Fetch-Site": "none"}))
    body(client.get(f"{ROOT}/history", headers={"Sec-Fetch-Site": "cross-site"}))


def test_without_a_token_it_answers_to_this_machines_names_only(db: Database) -> None:
    client = client_of(db)
    for host in ("evil.example", "evil.example:8000", "127.0.0.1.evil.example"):
        body(client.get(f"{ROOT}/history", headers={"Host": host}), 400)
    for host in ("localhost:8000", "127.0.0.1", "[::1]:8000"):
        body(client.get(f"{ROOT}/history", headers={"Host": host}))
    named = client_of(db, token="s3cret")
    body(named.get(f"{ROOT}/history", headers={"Host": "enrichment.internal"}))


def limited(db: Database, per_minute: int) -> tuple[FlaskClient, list[int]]:
    """A client of an API with a rate limit on a clock that stands until it is moved (ns)."""
    now = [0]

    def limiter(name: str, rate: int, interval: float, burst: int) -> RateLimiter:
        return RateLimiter(name, rate, interval, burst, clock=lambda: now[0])

    return client_of(db, clients=ClientRates(per_minute, limiter)), now


def test_each_client_has_a_rate_of_its_own(db: Database) -> None:
    client, now = limited(db, 3)
    here, there = ({"REMOTE_ADDR": address} for address in ("10.0.0.1", "10.0.0.2"))
    for _ in range(3):
        body(client.get(f"{ROOT}/history", environ_base=here))
    refused = client.get(f"{ROOT}/history", environ_base=here)
    body(refused, 429)
    assert refused.headers["Retry-After"] == "20"
    body(client.get(f"{ROOT}/history", environ_base=there))
    body(client.get("/livez", environ_base=here))
    now[0] = 20 * 10**9
    body(client.get(f"{ROOT}/history", environ_base=here))
    body(client.get(f"{ROOT}/history", environ_base=here), 429)


def test_the_least_recent_clients_are_forgotten(db: Database) -> None:
    clients = ClientRates(1)
    assert clients.allow("first")
    assert not clients.allow("first")
    for number in range(5000):
        clients.allow(str(number))
    assert clients.allow("first")


@pytest.mark.parametrize("path", ["/livez", f"{ROOT}/history", "/nowhere", f"{ROOT}/history?a=b"])
def test_every_answer_carries_the_security_headers(db: Database, path: str) -> None:
    headers = client_of(db).get(path).headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cache-Control"] in ("no-store", "no-cache")


def test_an_unchanged_answer_is_an_empty_304(db: Database, tracked: Commands) -> None:
    client = client_of(db)
    for path in ("history", "dashboard/overview", "symbols", "symbols/AAPL", "dashboard/health"):
        first = client.get(f"{ROOT}/{path}")
        again = {"If-None-Match": first.headers["ETag"]}
        assert first.headers["Cache-Control"] == "no-cache"
        unchanged = client.get(f"{ROOT}/{path}", headers=again)
        assert (unchanged.status_code, unchanged.data) == (304, b""), path
    seen = client.get(f"{ROOT}/history").headers["ETag"]
    tracked.trigger(actor="test")
    body(client.get(f"{ROOT}/history", headers={"If-None-Match": seen}))


def test_the_page_to_read_names_every_operation(db: Database) -> None:
    client = client_of(db)
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
