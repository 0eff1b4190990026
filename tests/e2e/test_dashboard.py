"""The dashboard in a real browser, on the running demo."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from e2e.running import Running
from playwright.sync_api import Page, expect, sync_playwright
from sqlalchemy import text

from enrichment.storage.database import Database

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


@pytest.fixture(scope="module")
def page(demo: Running) -> Iterator[Page]:
    chromium = shutil.which("chromium")
    assert chromium, "the browser tests need chromium: apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        opened = browser.new_page(viewport={"width": 1440, "height": 1200})
        opened.set_default_timeout(30_000)
        yield opened
        browser.close()


def count(db: Database, query: str) -> int:
    with db.begin() as conn:
        return int(conn.execute(text(query)).scalar_one())


def test_the_overview_shows_real_figures(demo: Running, page: Page) -> None:
    complaints: list[str] = []
    page.on("console", lambda m: complaints.append(m.text) if m.type == "error" else None)
    page.goto(demo.dashboard)
    expect(page.get_by_role("heading", name="Market enrichment")).to_be_visible()
    expect(page.get_by_role("button", name="Trigger 10 symbols")).to_be_visible()
    expect(page.get_by_text("data as of")).to_be_visible()
    expect(page.locator(".js-plotly-plot").first).to_be_visible()
    expect(page.get_by_test_id("stMetric").filter(has_text="Workers alive")).to_contain_text("1")
    assert complaints == []


def test_pause_and_resume_take_effect_in_page_and_database(
    demo: Running, page: Page, demo_db: Database
) -> None:
    page.goto(demo.dashboard)
    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_text("Everything is paused by dashboard")).to_be_visible()
    assert count(demo_db, "SELECT count(*) FROM pauses") == 1
    page.get_by_role("button", name="Resume").click()
    expect(page.get_by_text("Everything is paused by dashboard")).to_have_count(0)
    assert count(demo_db, "SELECT count(*) FROM pauses") == 0
    audited = "SELECT count(*) FROM operator_actions WHERE actor = 'dashboard'"
    assert count(demo_db, audited) >= 2


def test_trigger_starts_a_job_that_ends(demo: Running, page: Page, demo_db: Database) -> None:
    jobs = "SELECT count(*) FROM enrichment_jobs WHERE requested_by = 'dashboard'"
    before = count(demo_db, jobs)
    page.goto(demo.dashboard)
    page.get_by_role("button", name="Trigger 10 symbols").click()
    expect(page.get_by_text("every active symbol is queued")).to_be_visible()
    assert count(demo_db, jobs) == before + 1
    finished = f"{jobs} AND state = 'completed'"
    for _ in range(120):
        if count(demo_db, finished) == before + 1:
            break
        page.wait_for_timeout(500)
    assert count(demo_db, finished) == before + 1
