"""What all pages say alike: of when their figures are, in which zone, and when they stand still."""

from __future__ import annotations

import pytest
import streamlit as st
from sqlalchemy import text
from streamlit.testing.v1 import AppTest

from enrichment.dashboard.times import LOCAL
from enrichment.warehouse.database import Database
from tests.helpers.dashboard_pages import NAMES, chart_count, open_page, page_text, seed_for_pages

pytestmark = pytest.mark.usefixtures("main_module_kept")


def again(page: AppTest) -> str:
    """The page's words, read anew."""
    st.cache_data.clear()
    page.run()
    assert not page.exception, page.exception
    return page_text(page)


def take_away(db: Database, server: Database) -> None:
    """From now on nobody gets a connection to the database."""
    name = db.url.database
    with server.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
        conn.execute(text(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false"))
        sessions = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name"
        conn.execute(text(sessions), {"name": name})


@pytest.mark.parametrize("name", NAMES)
def test_a_page_says_when_its_figures_stand_still(
    name: str, db: Database, server: Database, db_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed_for_pages(db)
    page = open_page(name, db_url, monkeypatch)
    assert "data as of" in page_text(page)
    assert "stale · data" not in page_text(page)
    with db.begin() as conn:
        conn.execute(text("UPDATE workers SET heartbeat_at = '2024-03-01T01:30Z'"))
    assert "no worker has reported since 2024-03-01 01:30 UTC" in again(page)
    drawn = chart_count(page)
    take_away(db, server)
    assert "the database does not answer, these are the last figures it gave" in again(page)
    assert chart_count(page) == drawn


def test_times_are_in_the_zone_that_was_chosen(
    db: Database, db_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed_for_pages(db)
    with db.begin() as conn:
        conn.execute(text("UPDATE workers SET heartbeat_at = '2024-03-01T01:30Z'"))
    monkeypatch.setattr(type(st.context), "timezone", property(lambda self: "Asia/Kathmandu"))
    page = open_page("operations", db_url, monkeypatch)
    assert "since 2024-03-01 01:30 UTC" in page_text(page)
    page.session_state[LOCAL] = True
    page.run()
    assert "since 2024-03-01 07:15 +0545" in page_text(page)
    monkeypatch.setattr(type(st.context), "timezone", property(lambda self: "Mars/Olympus"))
    page.run()
    assert "since 2024-03-01 01:30 UTC" in page_text(page)
