"""Signing in to the dashboard: viewers read, operators also make changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from enrichment.config import Settings
from enrichment.dashboard import server
from enrichment.dashboard.auth import (
    ATTEMPTS_PER_MINUTE,
    SIGNED_IN_SECONDS,
    User,
    role_for,
    user_from_claims,
)
from enrichment.domain.errors import ConfigurationError
from enrichment.warehouse.database import Database
from enrichment.warehouse.read_models.facade import ReadModels
from tests.helpers.api_client import track_symbols

pytestmark = pytest.mark.usefixtures("main_module_kept")
APP = Path(__file__).parents[2] / "app.py"
PAGES = APP.parent / "enrichment" / "dashboard" / "pages"


@pytest.fixture
def app(db: Database, db_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AppTest:
    """The dashboard with a password for each role."""
    track_symbols(db)
    monkeypatch.setenv("DATABASE_URL", db_url)
    monkeypatch.setenv("ENRICHMENT_DASHBOARD_PASSWORD", "helm")
    monkeypatch.setenv("ENRICHMENT_DASHBOARD_VIEWER_PASSWORD", "glass")
    monkeypatch.setenv("ENRICHMENT_HOME", str(tmp_path))
    st.cache_resource.clear()
    st.cache_data.clear()
    return AppTest.from_file(str(APP), default_timeout=30).run()


def sign_in(app: AppTest, password: str) -> AppTest:
    app.text_input(key="password").set_value(password)
    app.button[0].click().run()
    assert not app.exception, app.exception
    return app


def labels(app: AppTest) -> list[str]:
    return [button.label for button in app.button]


def paused_by(db: Database) -> list[str]:
    return [pause.paused_by for pause in ReadModels(db).pauses()]


def test_nothing_is_shown_before_signing_in(app: AppTest) -> None:
    assert labels(app) == ["Sign in"]
    assert not app.metric
    sign_in(app, "guess")
    assert "Wrong password" in app.error[0].value
    assert not app.metric


def test_a_viewer_is_offered_no_action(app: AppTest, db: Database) -> None:
    sign_in(app, "glass")
    assert app.metric
    assert labels(app) == ["Sign out"]
    for page in ("jobs", "symbols", "quality", "resilience", "operations"):
        app.switch_page(str(PAGES / f"{page}.py")).run()
        assert not app.exception, app.exception
        assert labels(app) == ["Sign out"], page


ACTION = """
from enrichment.dashboard import auth, services
from enrichment.warehouse.database import Database
import streamlit as st
auth.require_sign_in()
try:
    services.services().commands.pause(actor=auth.actor())
except Exception as error:
    st.error(str(error))
"""


@pytest.mark.parametrize(("password", "paused"), [("helm", 1), ("glass", 0)])
def test_the_role_is_checked_where_a_command_is_executed(
    app: AppTest, db: Database, password: str, paused: int
) -> None:
    direct = sign_in(AppTest.from_string(ACTION, default_timeout=30).run(), password)
    assert len(paused_by(db)) == paused
    assert len(direct.error) == 1 - paused


def test_an_operator_makes_changes_until_signing_out(app: AppTest, db: Database) -> None:
    sign_in(app, "helm")
    app.text_input(key="pause-all-reason").set_value("a rehearsal").run()
    app.button(key="pause-all-confirm").click().run()
    assert paused_by(db) == ["dashboard:operator"]
    next(button for button in app.button if button.label == "Sign out").click().run()
    assert labels(app) == ["Sign in"]


def test_password_attempts_are_limited(app: AppTest) -> None:
    for _ in range(ATTEMPTS_PER_MINUTE):
        sign_in(app, "guess")
    sign_in(app, "helm")
    assert "Too many attempts" in app.error[0].value
    assert not app.metric


@pytest.mark.parametrize(
    ("password", "role"),
    [("helm", "operator"), ("glass", "viewer"), ("", None), ("Helm", None), ("helm ", None)],
)
def test_each_password_has_its_role(password: str, role: str | None) -> None:
    assert role_for(password, {"operator": "helm", "viewer": "glass"}) == role
    assert role_for(password, {}) is None


NOW = 1_800_000_000.0
ADA: dict[str, Any] = {
    "is_logged_in": True,
    "iat": NOW - 60,
    "sub": "1",
    "email": "Ada@example.com",
}


@pytest.mark.parametrize(
    ("claims", "expected"),
    [
        ({}, User("Ada@example.com", "operator")),
        ({"email_verified": True}, User("Ada@example.com", "operator")),
        ({"email_verified": False}, User("Ada@example.com", "viewer")),
        ({"email": "bob@example.com"}, User("bob@example.com", "viewer")),
        ({"email": None}, User("oidc:1", "viewer")),
        ({"is_logged_in": False}, None),
        ({"iat": NOW - SIGNED_IN_SECONDS - 1}, None),
    ],
)
def test_the_claims_name_the_user(claims: dict[str, Any], expected: User | None) -> None:
    assert user_from_claims(ADA | claims, {"ada@example.com"}, NOW) == expected


def test_operators_are_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENRICHMENT_DASHBOARD_OPERATORS", " Ada@example.com ,grace@example.com,")
    operators = Settings.load().enrichment_dashboard_operators
    assert operators == ("ada@example.com", "grace@example.com")
    monkeypatch.setenv("ENRICHMENT_DASHBOARD_OPERATORS", "ada")
    with pytest.raises(ConfigurationError, match="e-mail addresses separated by commas"):
        Settings.load()


def test_beyond_loopback_nothing_is_shown_without_signing_in(
    db_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", db_url)
    monkeypatch.setenv("ENRICHMENT_DASHBOARD_HOST", "0.0.0.0")
    st.cache_resource.clear()
    app = AppTest.from_file(str(APP), default_timeout=30).run()
    assert labels(app) == []
    assert not app.metric
    st.cache_resource.clear()


def test_without_a_password_it_is_not_served_to_others() -> None:
    settings = Settings(enrichment_dashboard_host="0.0.0.0")
    with pytest.raises(ConfigurationError, match="ENRICHMENT_DASHBOARD_PASSWORD"):
        server.serve(settings)
