"""When parts of pages are drawn again: after their data has changed, and only then."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
import streamlit as st
from sqlalchemy import text
from streamlit.testing.v1 import AppTest

from enrichment.dashboard.refresh import DRAWN
from enrichment.services.commands import Commands
from enrichment.warehouse.database import Database
from enrichment.warehouse.read_models.facade import ReadModels
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


def delete(db: Database, *statements: str) -> None:
    with db.begin() as conn:
        for statement in statements:
            conn.execute(text(statement))


def test_a_job_that_is_removed_while_it_is_shown_gives_way_to_the_next(
    db: Database, db_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = seed_for_pages(db)
    kept = str(ReadModels(db).history(1).jobs[0].job_id)
    removed = commands.trigger(actor="test").job_id
    page = open_page("jobs", db_url, monkeypatch)
    assert page.session_state["job"] == str(removed)
    delete(
        db,
        f"DELETE FROM enrichment_job_items WHERE job_id = '{removed}'",
        f"DELETE FROM enrichment_jobs WHERE job_id = '{removed}'",
    )
    inputs(page)
    assert page.session_state["job"] == kept
    assert not page.error


def test_a_job_that_is_resumed_while_it_is_shown_stays_selected(
    db: Database, db_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = seed_for_pages(db)
    page = open_page("jobs", db_url, monkeypatch)
    job_id = page.session_state["job"]
    commands.resume_failed(UUID(job_id), actor="test", error_class=None)
    inputs(page)
    assert page.session_state["job"] == job_id
    assert {metric.label: metric.value for metric in page.metric}["State"] == "running"


def test_a_symbol_that_is_deleted_while_it_is_shown_gives_way_to_another(
    db: Database, db_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed_for_pages(db)
    page = open_page("symbols", db_url, monkeypatch)
    first = page.selectbox(key="symbol").value
    delete(db, f"DELETE FROM tracked_symbols WHERE symbol = '{first}'")
    inputs(page)
    assert page.selectbox(key="symbol").value not in (first, None)
    delete(db, "DELETE FROM tracked_symbols")
    inputs(page)
    assert "No symbols are tracked" in page.info[0].value
