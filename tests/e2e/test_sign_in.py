"""Signing in, in a real browser: by password with a cookie, and at an OpenID provider."""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect
from sqlalchemy import text

from enrichment.dashboard.requests import COOKIE, SESSION_PATH
from enrichment.warehouse.database import Database
from tests.helpers.api_client import track_symbols
from tests.helpers.memory_folder import memory_folder
from tests.helpers.openid_provider import CLIENT, SECRET, openid_provider
from tests.helpers.page_actions import act_with_reason
from tests.helpers.server_process import serving

PERSONS = {
    "Ada": {"email": "Ada@example.com", "email_verified": True},
    "Bob": {"email": "bob@example.com", "email_verified": True},
}
SECRETS = """
[auth]
redirect_uri = "http://127.0.0.1:{{port}}/oauth2callback"
cookie_secret = "a-cookie-secret-of-a-test"
client_id = "{client}"
client_secret = "{secret}"
server_metadata_url = "{provider}/.well-known/openid-configuration"
"""


@pytest.fixture
def dashboard(db: Database, db_url: str, tmp_path: Path) -> Iterator[str]:
    """The dashboard's address; its provider knows Ada and Bob, and Ada is an operator."""
    track_symbols(db)
    (tmp_path / ".streamlit").mkdir()
    with openid_provider(PERSONS) as provider:
        settings = SECRETS.format(provider=provider.address, client=CLIENT, secret=SECRET)
        (tmp_path / ".streamlit" / "secrets.toml").write_text(settings)
        operators = {"ENRICHMENT_DASHBOARD_OPERATORS": "grace@example.com, ada@example.com"}
        with serving(db_url, tmp_path, part="dashboard", **operators) as served:
            yield served.url


def sign_in(page: Page, name: str) -> None:
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("link", name=name).click()
    expect(page.get_by_role("link", name="Overview")).to_be_visible()


def test_the_address_decides_who_may_make_changes(
    browser: Browser, dashboard: str, db: Database
) -> None:
    expect.set_options(timeout=30_000)
    page = browser.new_page()
    page.goto(dashboard)
    expect(page.get_by_role("button", name="Sign in")).to_be_visible()
    expect(page.get_by_role("button", name="Pause", exact=True)).to_have_count(0)
    sign_in(page, "Bob")
    expect(page.get_by_role("button", name="Pause", exact=True)).to_have_count(0)
    page.reload()
    expect(page.get_by_role("button", name="bob@example.com")).to_be_visible()
    page.get_by_role("button", name="bob@example.com").click()
    page.get_by_role("button", name="Sign out").click()
    sign_in(page, "Ada")
    act_with_reason(page, "Pause", "month end")
    expect(page.get_by_text("Everything is paused by Ada@example.com")).to_be_visible()
    assert acted(db) == [("Ada@example.com", "pause")]


def acted(db: Database) -> list[tuple[str, str]]:
    query = "SELECT actor, action FROM operator_actions WHERE action <> 'track' ORDER BY id"
    with db.begin() as conn:
        return [tuple(row) for row in conn.execute(text(query))]


@pytest.fixture
def home() -> Iterator[Path]:
    with memory_folder() as folder:
        yield folder


PASSWORDS = {
    "ENRICHMENT_DASHBOARD_PASSWORD": "helm",
    "ENRICHMENT_DASHBOARD_VIEWER_PASSWORD": "glass",
}


def enter(page: Page, password: str) -> None:
    page.get_by_label("Password", exact=True).fill(password)
    page.get_by_role("button", name="Sign in").click()


def signed_in(page: Page) -> None:
    expect(page.get_by_role("link", name="Overview")).to_be_visible()


def cookies(page: Page) -> list[Any]:
    return [one for one in page.context.cookies() if one["name"] == COOKIE]


def test_a_session_survives_a_reload_and_ends_with_a_new_password(
    browser: Browser, db: Database, db_url: str, home: Path
) -> None:
    expect.set_options(timeout=30_000)
    track_symbols(db)
    page = browser.new_context().new_page()
    with serving(db_url, home, part="dashboard", **PASSWORDS) as served:
        page.goto(served.url)
        with page.expect_response(f"{served.url}{SESSION_PATH}") as answered:
            enter(page, "helm")
        assert answered.value.status == 204
        signed_in(page)
        (cookie,) = cookies(page)
        assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
        assert 11.9 * 3600 < cookie["expires"] - time.time() <= 12 * 3600
        assert "enrichment_session" not in page.evaluate("document.cookie")
        page.reload()
        signed_in(page)
        expect(page.get_by_role("button", name="operator")).to_be_visible()
        port = served.port
    with serving(db_url, home, part="dashboard", port=port, **PASSWORDS) as served:
        page.goto(served.url)
        signed_in(page)  # after a restart, too
    changed = PASSWORDS | {"ENRICHMENT_DASHBOARD_PASSWORD": "rudder"}
    with serving(db_url, home, part="dashboard", port=port, **changed) as served:
        page.goto(served.url)
        expect(page.get_by_label("Password", exact=True)).to_be_visible()
        enter(page, "glass")
        signed_in(page)
        expect(page.get_by_role("button", name="viewer")).to_be_visible()
        expect(page.get_by_role("button", name="Pause", exact=True)).to_have_count(0)
        stolen = cookies(page)[0]["value"]
        page.get_by_role("button", name="viewer").click()
        page.get_by_role("button", name="Sign out").click()
        expect(page.get_by_label("Password", exact=True)).to_be_visible()
        page.reload()
        expect(page.get_by_label("Password", exact=True)).to_be_visible()
        page.context.add_cookies([{"name": COOKIE, "value": stolen, "url": served.url}])
        page.reload()
        expect(page.get_by_label("Password", exact=True)).to_be_visible()


def status_of(request: urllib.request.Request) -> int:
    try:
        with urllib.request.urlopen(request, timeout=20) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def test_requests_to_the_dashboard_are_limited(db: Database, db_url: str, home: Path) -> None:
    with serving(db_url, home, part="dashboard") as served:
        for host, status in (
            ("evil.example", 400),
            ("127.0.0.1.evil.example:80", 400),
            (f"localhost:{served.port}", 200),
            (f"127.0.0.1:{served.port}", 200),
        ):
            request = urllib.request.Request(served.url, headers={"Host": host})
            assert status_of(request) == status, host
        with urllib.request.urlopen(served.url, timeout=20) as response:
            assert "img-src 'self'" in response.headers["Content-Security-Policy"]
    with serving(db_url, home, part="dashboard", **PASSWORDS) as served:
        upload = f"{served.url}/_stcore/upload_file/s/f"
        large = urllib.request.Request(upload, bytes(10), method="PUT")
        assert status_of(large) == 401
        for method in ("POST", "DELETE"):
            forged = urllib.request.Request(
                f"{served.url}{SESSION_PATH}",
                b"x" if method == "POST" else None,
                {"Origin": "http://evil.example"},
                method=method,
            )
            assert status_of(forged) == 403
        guessed = urllib.request.Request(f"{served.url}{SESSION_PATH}", b"guess", method="POST")
        assert status_of(guessed) == 403
