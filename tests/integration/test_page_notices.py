"""What all pages show: when their figures were read, in which time zone, and if they are stale."""

from __future__ import annotations

import pytest
import streamlit as st
from sqlalchemy import text
from streamlit.testing.v1 import AppTest

from enrichment.dashboard.times import LOCAL_TIME
from enrichment.warehouse.database import Database
from tests.helpers.dashboard_pages import NAMES, chart_count, open_page, page_text, seed_for_pages

pytestmark = pytest.mark.usefixtures("main_module_kept")


def rerun(page: AppTest) -> str:
    """The page's text after a rerun with empty caches."""
    st.cache_data.clear()
    page.run()
    assert not page.exception, page.exception
    return page_text(page)


def disconnect(db: Database, server: Database) -> None:
    """Close all connections to the database, and allow no new ones."""
    name = db.url.database
    with server.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
        conn.execute(text(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false"))
        sessions = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name"
        conn.execute(text(sessions), {"name": name})


@pytest.mark.parametrize("name", NAMES)
def test_a_page_says_why_its_figures_are_stale(
    name: str, db: Database, server: Database, db_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed_for_pages(db)
    page = open_page(name, db_url, monkeypatch)
    assert "Refreshed" in page_text(page)
    assert "Stale" not in page_text(page)
    with db.begin() as conn:
        conn.execute(text("UPDATE workers SET heartbeat_at = '2024-03-01T01:30Z'"))
    assert "no worker has reported since 2024-03-01 01:30 UTC" in rerun(page)
    count = chart_count(page)
    disconnect(db, server)
    assert "the database does not answer, these are the last known figures" in rerun(page)
    assert chart_count(page) == count


def test_times_are_in_the_selected_time_zone(
    db: Database, db_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed_for_pages(db)
    with db.begin() as conn:
        conn.execute(text("UPDATE workers SET heartbeat_at = '2024-03-01T01:30Z'"))
    monkeypatch.setattr(type(st.context), "timezone", property(lambda self: "Asia/Kathmandu"))
    page = open_page("operations", db_url, monkeypatch)
    assert "since 2024-03-01 01:30 UTC" in page_text(page)
    page.session_state[LOCAL_TIME] = True
    page.run()
    assert "since 2024-03-01 07:15 +0545" in page_text(page)
    monkeypatch.setattr(type(st.context), "timezone", property(lambda self: "Mars/Olympus"))
    page.run()
    assert "since 2024-03-01 01:30 UTC" in page_text(page)


def test_a_paused_provider_is_not_called_available(
    db: Database, db_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = seed_for_pages(db)
    page = open_page("resilience", db_url, monkeypatch)
    assert "All providers available" in page_text(page)
    commands.pause(actor="cli:ada", scope="provider", key="polygon", reason="their maintenance")
    shown = rerun(page)
    assert "provider polygon is paused by cli:ada since" in shown
    assert "their maintenance" in shown
    assert "All providers available" not in shown


def test_a_provider_without_requests_has_no_failure_rate(
    db: Database, db_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed_for_pages(db)
    failures = ":small[:gray[failures]]  \n"
    assert f"{failures}**–**" in page_text(open_page("resilience", db_url, monkeypatch))
    outcomes = '{"failure_count": 1, "success_count": 2999, "failure_rate": 0.000333}'
    query = "UPDATE resilience_state SET status = status || (:new)::jsonb WHERE kind = :kind"
    with db.begin() as conn:
        conn.execute(text(query), {"new": outcomes, "kind": "circuit_breaker"})
    assert f"{failures}**< 0.1 %**" in page_text(open_page("resilience", db_url, monkeypatch))


def test_alerts_that_nobody_evaluates_are_not_called_inactive(
    db: Database, db_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed_for_pages(db)
    page = open_page("operations", db_url, monkeypatch)
    with db.begin() as conn:
        conn.execute(text("UPDATE alert_states SET state = 'ok'"))
        conn.execute(text("UPDATE alert_evaluation SET evaluated_at = now()"))
    assert "No active alerts." in rerun(page)
    with db.begin() as conn:
        conn.execute(text("UPDATE alert_evaluation SET evaluated_at = now() - interval '3 hours'"))
    shown = rerun(page)
    assert "The alert rules were last evaluated 3 h ago" in shown
    assert "No active alerts." not in shown
