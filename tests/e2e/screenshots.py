"""Screenshots of the dashboard, on a demo with ninety invented nights of history.

    python -m tests.e2e.screenshots [FOLDER]         # those of the README, into .github
    python -m tests.e2e.screenshots --all FOLDER     # every page, light and dark, wide and narrow
    … --state empty outage --page Resilience --theme dark --width 800   # some of these

Needs the development set-up and chromium. `data` is a demo without problems, `outage` the same one
during an outage of its providers, `empty` a fresh installation.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from playwright.sync_api import Browser, Page, expect, sync_playwright
from sqlalchemy import text

from enrichment.domain.symbol_csv import parse_tracked
from enrichment.services.commands import Commands
from enrichment.warehouse.database import Database
from tests.helpers.invented_history import write_history
from tests.helpers.running_stack import RunningStack, running_stack
from tests.helpers.vendor_faults import inject_faults
from tests.helpers.waiting import until

ROOT = Path(__file__).parents[2]
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
PATHS = {
    "Overview": "/",
    "Jobs": "/jobs",
    "Symbols": "/symbols",
    "Data quality": "/quality",
    "Resilience": "/resilience",
    "Operations": "/operations",
}
STATES = ("data", "outage", "empty")
WITH_FAULTS = ("SIM4", "SIM5", "SIM6")
MAX_HEIGHT = 4000


class Shot(NamedTuple):
    """A screenshot to take. top: the heading where it begins; height: in pixels, None for all."""

    page: str
    file: str
    theme: str
    width: int = 1440
    height: int | None = None
    top: str | None = None


README = (
    Shot("Overview", "overview-light", "light", height=1330),
    Shot("Overview", "overview-dark", "dark", height=1330),
    Shot("Symbols", "symbols-light", "light", height=900, top="One symbol"),
    Shot("Jobs", "jobs-dark", "dark", height=1330),
)


def shoot(browser: Browser, demo: RunningStack, folder: Path, shots: list[Shot]) -> None:
    """Take the screenshots, in one browser window per theme and width."""
    for theme, width in dict.fromkeys((shot.theme, shot.width) for shot in shots):
        page = browser.new_page(
            viewport={"width": width, "height": 1000},
            color_scheme="dark" if theme == "dark" else "light",
        )
        for shot in (s for s in shots if (s.theme, s.width) == (theme, width)):
            page.set_viewport_size({"width": width, "height": shot.height or 1000})
            page.goto(demo.dashboard + PATHS[shot.page])
            _settle(page)
            _frame(page, shot)
            page.screenshot(path=folder / f"{shot.file}.png")
        page.close()


def _settle(page: Page) -> None:
    expect(page.get_by_text("Refreshed").first).to_be_attached(timeout=30_000)
    expect(page.get_by_test_id("stSkeleton")).to_have_count(0, timeout=120_000)
    page.mouse.move(0, 0)
    page.wait_for_timeout(1500)  # for the animation of the charts


def _frame(page: Page, shot: Shot) -> None:
    if shot.height is None:
        tall = page.evaluate("document.querySelector('[data-testid=stMain]').scrollHeight")
        page.set_viewport_size({"width": shot.width, "height": min(tall + 20, MAX_HEIGHT)})
        page.wait_for_timeout(700)
    if shot.top is not None:
        page.get_by_role("heading", name=shot.top).evaluate("heading => heading.scrollIntoView()")
        page.wait_for_timeout(700)


@contextmanager
def demo_with_history(folder: Path) -> Iterator[tuple[RunningStack, Database]]:
    """A demo with ninety nights of history, and symbols with data errors."""
    script = Path(sys.executable).with_name("enrichment")
    with running_stack(script, "demo", folder, HISTORY_DAYS="1500") as demo:
        db = Database(f"postgresql://postgres:@/postgres?host={demo.home / 'postgres'}")
        inject_faults(
            demo.sandbox,
            {"ticker": "SIM4", "kind": "missing", "n": 120},
            {"ticker": "SIM5", "kind": "corrupt", "n": 170, "mode": "inverted"},
            {"ticker": "SIM6", "kind": "missing", "n": 40},
            {"ticker": "AAPL", "kind": "restated", "n": 2, "factor": 1.012},
        )
        operator = Commands(db)
        operator.track([parse_tracked(name, "stock", "1d") for name in WITH_FAULTS], actor="demo")
        operator.trigger(actor="cli:ada", reason="three new symbols")
        _wait(db, "SELECT NOT EXISTS (SELECT FROM enrichment_jobs WHERE completed_at IS NULL)")
        write_history(db)
        yield demo, db
        db.close()


def start_outage(demo: RunningStack, db: Database) -> None:
    """Let all providers fail from now on, while a job is running."""
    inject_faults(demo.sandbox, {"ticker": "*", "kind": "server_error", "status": 503})
    Commands(db).trigger(actor="cli:ada", reason="are they back?")
    _wait(db, "SELECT count(*) >= 2 FROM resilience_state WHERE state = 'open'")


def _wait(db: Database, condition: str) -> None:
    def holds() -> bool:
        with db.begin() as conn:
            return bool(conn.execute(text(condition)).scalar_one())

    until(holds, condition, seconds=120)


def selected_shots(arguments: argparse.Namespace, state: str) -> list[Shot]:
    """The screenshots of a state that the command line selects."""
    if not arguments.all:
        return list(README) if state == "data" else []
    return [
        Shot(page, f"{page.lower().replace(' ', '-')}-{state}-{theme}-{width}", theme, width)
        for theme in arguments.theme
        for width in arguments.width
        for page in arguments.page
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=ROOT / ".github")
    parser.add_argument("--all", action="store_true", help="not those of the README")
    parser.add_argument("--state", nargs="+", choices=STATES, default=STATES)
    parser.add_argument("--page", nargs="+", choices=PATHS, default=list(PATHS))
    parser.add_argument("--theme", nargs="+", choices=("light", "dark"), default=("light", "dark"))
    parser.add_argument("--width", nargs="+", type=int, default=(1440, 390))
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    states = arguments.state if arguments.all else ("data",)
    with TemporaryDirectory() as elsewhere, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        if {"data", "outage"} & set(states):
            with demo_with_history(Path(elsewhere)) as (demo, db):
                if "data" in states:
                    shoot(browser, demo, arguments.folder, selected_shots(arguments, "data"))
                if "outage" in states:
                    start_outage(demo, db)
                    shoot(browser, demo, arguments.folder, selected_shots(arguments, "outage"))
        if "empty" in states:
            script, home = Path(sys.executable).with_name("enrichment"), Path(elsewhere) / "home"
            with running_stack(script, "up", Path(elsewhere), ENRICHMENT_HOME=str(home)) as fresh:
                shoot(browser, fresh, arguments.folder, selected_shots(arguments, "empty"))
        browser.close()


if __name__ == "__main__":
    main()
