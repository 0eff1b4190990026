"""Signing in at an OpenID provider, in a real browser: who may act is decided by the address."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect
from sqlalchemy import text

from enrichment.warehouse.database import Database
from tests.helpers.api_client import track_symbols
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
    act_with_reason(page, "Pause", "just trying")
    expect(page.get_by_text("can't make changes")).to_be_visible()
    assert acted(db) == []
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
