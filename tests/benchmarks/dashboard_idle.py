"""What open pages of the dashboard cost, and whether their charts are ever empty.

    python -m tests.benchmarks.dashboard_idle [--seconds 60] [--symbols 200]

On a demo with ninety nights of history, in a real browser (chromium), while nothing happens: the
processor time of the dashboard's process and of its sessions in Postgres, of one page each and of
eight at once. Then, idle and while a job runs: of the screenshots of each page, taken every 300 ms,
how many show an empty chart.
"""

from __future__ import annotations

import io
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright
from sqlalchemy import text

from enrichment.domain.symbol_csv import parse_tracked
from enrichment.services.commands import Commands
from enrichment.warehouse.database import Database
from tests.benchmarks.report import Figure, parser, tell
from tests.e2e.screenshots import FLAGS, PATHS, demo_with_history
from tests.helpers.running_stack import RunningStack
from tests.helpers.vendor_faults import clear_faults, inject_faults

EIGHT = (*PATHS, "Overview", "Symbols")
SETTLE_SECONDS = 8
FRAME_SECONDS = 0.3
FEW_COLOURS = 8  # in the area of a chart that is not drawn
PAGE_PERCENT, EIGHT_PERCENT = 5, 20

_AREAS = """() => [...document.querySelectorAll('[data-testid=stPlotlyChart]')].map(chart => {
    const {x, y, right, bottom} = chart.getBoundingClientRect(); return [x, y, right, bottom]; })"""


@contextmanager
def opened(browser: Browser, demo: RunningStack, names: Sequence[str]) -> Iterator[list[Page]]:
    """These pages in tabs of their own, after they have settled."""
    context = browser.new_context(viewport={"width": 1440, "height": 3000})
    pages = [context.new_page() for _ in names]
    for page, name in zip(pages, names, strict=True):
        page.goto(demo.dashboard + PATHS[name])
        page.get_by_text("Refreshed").first.wait_for(timeout=60_000)
    time.sleep(SETTLE_SECONDS)
    yield pages
    context.close()


def processor_seconds(demo: RunningStack, db: Database) -> float:
    """Of the dashboard's process and its sessions in Postgres, since they began."""
    with db.begin() as conn:
        pids = list(conn.execute(text(_SESSIONS)).scalars())
    processes = [p for p in demo.processes() if "dashboard" in p.cmdline()]
    times = [p.cpu_times() for p in (*processes, *map(psutil.Process, pids))]
    return sum(spent.user + spent.system for spent in times)


def idle_percent(demo: RunningStack, db: Database, seconds: float) -> float:
    before, began = processor_seconds(demo, db), time.perf_counter()
    time.sleep(seconds)
    return 100 * (processor_seconds(demo, db) - before) / (time.perf_counter() - began)


def empty_frames(page: Page, seconds: float) -> int:
    """Screenshots on which a chart is empty or missing."""
    charts, empty = len(page.evaluate(_AREAS)), 0
    end = time.perf_counter() + seconds
    while (now := time.perf_counter()) < end:
        image = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
        areas = page.evaluate(_AREAS)
        drawn = [image.crop(area).getcolors(FEW_COLOURS) is None for area in areas]
        empty += len(areas) < charts or not all(drawn)
        time.sleep(max(0.0, FRAME_SECONDS - (time.perf_counter() - now)))
    return empty


def run_slowly(demo: RunningStack, db: Database, seconds: float) -> None:
    """Start a job of all symbols, of which each answer takes so long."""
    clear_faults(demo.sandbox)
    inject_faults(demo.sandbox, {"ticker": "*", "kind": "latency", "seconds": seconds})
    Commands(db).trigger(actor="benchmark")


def measured(browser: Browser, demo: RunningStack, db: Database, seconds: float) -> list[Figure]:
    figures = []
    for name in PATHS:
        with opened(browser, demo, [name]):
            percent = idle_percent(demo, db, seconds)
        figures.append(Figure(f"{name}, idle", percent, "% of a core", "≤", PAGE_PERCENT))
    with opened(browser, demo, EIGHT):
        percent = idle_percent(demo, db, seconds)
    figures.append(Figure("eight pages, idle", percent, "% of a core", "≤", EIGHT_PERCENT))
    for state in ("idle", "with a job"):
        for name in PATHS:
            if state != "idle":
                run_slowly(demo, db, 3.0)
            with opened(browser, demo, [name]) as (page,):
                frames = empty_frames(page, seconds)
            figures.append(
                Figure(f"{name}, {state}: frames with an empty chart", frames, "", "≤", 0)
            )
    return figures


def main() -> None:
    parsing = parser(__doc__)
    parsing.add_argument("--seconds", type=float, default=60)
    parsing.add_argument("--symbols", type=int, default=200)
    options = parsing.parse_args()
    with (
        TemporaryDirectory() as folder,
        sync_playwright() as playwright,
        demo_with_history(Path(folder)) as (demo, db),
    ):
        names = [f"SIM{100 + n}" for n in range(options.symbols)]
        Commands(db).track(
            [parse_tracked(name, "stock", "1d") for name in names], actor="benchmark"
        )
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        figures = measured(browser, demo, db, options.seconds)
        browser.close()
    tell(f"open pages of the dashboard, {options.symbols} symbols", figures, options)


_SESSIONS = """
SELECT pid FROM pg_stat_activity WHERE application_name = 'enrichment-dashboard'
"""

if __name__ == "__main__":
    main()
