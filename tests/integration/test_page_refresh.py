"""When parts of pages are drawn again: after their data has changed, and only then."""

from __future__ import annotations

from typing import Any

import pytest
import streamlit as st
from sqlalchemy import text
from streamlit.testing.v1 import AppTest

from enrichment.dashboard.refresh import DRAWN
from enrichment.services.commands import Commands
from enrichment.warehouse.database import Database
from tests.helpers.dashboard_pages import NAMES, open_page, seed_for_pages
from tests.helpers.nightly_runs import NightlyRuns, quiet_bars

pytestmark = pytest.mark.usefixtures("main_module_kept")


def inputs(page: AppTest) -> dict[str, Any]:
    """What each part depends on, read again from the database."""
    st.cache_data.clear()
    page.run()
    assert not page.exception, page.exception
    return dict(page.session_state[DRAWN])


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_drawn_again_while_no_data_changes(
    name: str, db: Database, db_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    NightlyRuns(db, quiet_bars(300), "SIM1").run_at(300)
    seed_for_pages(db)
    page = open_page(name, db_url, monkeypatch)
    first = inputs(page)
    for _ in range(5):
        with db.begin() as conn:
            conn.execute(text("UPDATE resilience_state SET updated_at = now()"))
        again = inputs(page)
        assert [key for key in first if again[key] != first[key]] == []


@pytest.mark.parametrize(
    ("name", "section"),
    [("overview", "controls"), ("jobs", "history-section"), ("jobs", "job-report")],
)
def test_what_shows_a_change_is_drawn_again(
    name: str, section: str, db: Database, db_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = seed_for_pages(db)
    page = open_page(name, db_url, monkeypatch)
    before = inputs(page)
    commands.pause(actor="test", reason="maintenance")
    job = Commands(db).trigger(actor="test")
    if name == "jobs":
        page.session_state["job"] = str(job.job_id)
    assert inputs(page)[section] != before[section]
