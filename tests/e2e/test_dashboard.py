"""The dashboard in a real browser, on the running demo."""

from __future__ import annotations

import json
import re

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Locator, Page, expect
from sqlalchemy import text

from enrichment.services.commands import Commands
from enrichment.warehouse.database import Database
from tests.helpers.page_actions import act_with_reason, select_option
from tests.helpers.running_stack import RunningStack
from tests.helpers.vendor_faults import clear_faults, inject_faults
from tests.helpers.waiting import until


@pytest.fixture(scope="module")
def page(demo: RunningStack, browser: Browser) -> Page:
    opened = browser.new_page(
        viewport={"width": 1440, "height": 1200}, timezone_id="Asia/Kathmandu"
    )
    opened.set_default_timeout(30_000)
    expect.set_options(timeout=30_000)
    return opened


def count(db: Database, query: str) -> int:
    with db.begin() as conn:
        return int(conn.execute(text(query)).scalar_one())


def test_the_overview_shows_figures_of_the_demo(demo: RunningStack, page: Page) -> None:
    console_errors: list[str] = []
    page.on("console", lambda m: console_errors.append(m.text) if m.type == "error" else None)
    page.goto(demo.dashboard)
    expect(page.get_by_role("heading", name="Market enrichment")).to_be_visible()
    expect(page.get_by_role("button", name="Trigger 10 symbols")).to_be_visible()
    expect(page.get_by_text("Refreshed")).to_be_visible()
    expect(page.locator(".js-plotly-plot").first).to_be_visible()
    expect(page.get_by_test_id("stMetric").filter(has_text="Workers alive")).to_contain_text("1")
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
        page.goto(demo.dashboard)
        assert accessibility_violations(page) == []
    page.emulate_media(color_scheme="light")
    assert console_errors == []


def test_pause_and_resume_change_page_and_database(
    demo: RunningStack, page: Page, demo_db: Database
) -> None:
    page.goto(demo.dashboard)
    act_with_reason(page, "Pause", "maintenance of the vendor")
    expect(page.get_by_text("Everything is paused by dashboard")).to_be_visible()
    assert count(demo_db, "SELECT count(*) FROM pauses") == 1
    page.get_by_role("button", name="Resume", exact=True).click()
    expect(page.get_by_text("Everything is paused by dashboard")).to_have_count(0)
    assert count(demo_db, "SELECT count(*) FROM pauses") == 0
    audited = "SELECT count(*) FROM operator_actions WHERE actor = 'dashboard'"
    assert count(demo_db, audited) >= 2


def test_changes_by_others_are_shown_without_a_reload(
    demo: RunningStack, page: Page, demo_db: Database
) -> None:
    page.goto(demo.dashboard)
    resume = page.get_by_role("button", name="Resume", exact=True)
    expect(resume).to_be_disabled()
    Commands(demo_db).pause(actor="cli:ada", reason="her maintenance")
    expect(resume).to_be_enabled()
    Commands(demo_db).resume(actor="cli:ada")
    expect(resume).to_be_disabled()


def test_trigger_starts_a_job_that_completes(
    demo: RunningStack, page: Page, demo_db: Database
) -> None:
    jobs = "SELECT count(*) FROM enrichment_jobs WHERE requested_by = 'dashboard'"
    before = count(demo_db, jobs)
    page.goto(demo.dashboard)
    act_with_reason(page, "Trigger 10 symbols", "a test of everything")
    expect(page.get_by_text("every active symbol is queued")).to_be_visible()
    assert count(demo_db, jobs) == before + 1
    finished = f"{jobs} AND state = 'completed'"
    for _ in range(120):
        if count(demo_db, finished) == before + 1:
            break
        page.wait_for_timeout(500)
    assert count(demo_db, finished) == before + 1


def open_page(page: Page, demo: RunningStack, name: str) -> list[str]:
    """Open a page through the navigation; returns the errors of the browser's console."""
    console_errors: list[str] = []
    page.on("console", lambda m: console_errors.append(m.text) if m.type == "error" else None)
    page.goto(demo.dashboard)
    page.get_by_role("link", name=name).click()
    expect(page.get_by_role("heading", name=name, exact=True)).to_be_visible()
    expect(page.get_by_text("Refreshed").first).to_be_visible()
    expect(page.get_by_text("encountered an error")).to_have_count(0)
    for scheme in ("dark", "light"):
        page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
        assert accessibility_violations(page) == []
    return console_errors


def accessibility_violations(page: Page) -> list[str]:
    """The serious and critical violations that axe-core finds."""
    page.locator(".js-plotly-plot, [data-testid=stDataFrame]").first.wait_for()
    # While it reruns a page, Streamlit shows its status and fades what is not drawn yet.
    rerunning = {"exclude": [["[data-testid=stStatusWidget]"], ["[data-stale=true]"]]}
    violations = Axe().run(page, context=rerunning).response["violations"]
    return [
        f"{violation['id']}: {violation['nodes'][0]['html'][:200]}"
        for violation in violations
        if violation["impact"] in ("serious", "critical")
    ]


def test_jobs_shows_the_last_job_on_its_threads(
    demo: RunningStack, page: Page, demo_db: Database
) -> None:
    assert open_page(page, demo, "Jobs") == []
    expect(page.locator(".js-plotly-plot")).to_have_count(3)
    expect(page.get_by_test_id("stMetric").filter(has_text="State")).to_be_visible()
    page.get_by_text("Only with failures").click()
    expect(page).to_have_url(re.compile("failed-only=true"))
    failing = count(demo_db, "SELECT count(*) FROM enrichment_jobs WHERE failed > 0")
    nothing = page.get_by_text("No job matches these filters.")
    expect(nothing).to_have_count(0 if failing else 1)


def test_selecting_a_row_shows_that_job(demo: RunningStack, page: Page, demo_db: Database) -> None:
    Commands(demo_db).trigger(actor="test", symbols=["SIM1"])
    begun = "SELECT to_char(max(created_at) AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS')"
    with demo_db.begin() as conn:
        name = str(conn.execute(text(f"{begun} FROM enrichment_jobs")).scalar_one())
    assert open_page(page, demo, "Jobs") == []
    select_option(page, "Job", name)
    newest = page.get_by_text("manual · requested by test")
    expect(newest).to_be_visible()
    rows = page.get_by_test_id("stDataFrame").first.locator(".dvn-scroller")
    rows.click(position={"x": 15, "y": 88})  # the box of the second row
    expect(newest).to_have_count(0)
    expect(page.get_by_text("· requested by")).to_be_visible()


def test_a_selected_job_stays_selected_while_its_label_changes(
    demo: RunningStack, page: Page, demo_db: Database
) -> None:
    page.goto(demo.dashboard)
    page.get_by_role("link", name="Jobs").click()
    commands = Commands(demo_db)
    commands.pause(actor="test", reason="holds the job back")
    job = commands.trigger(actor="test", symbols=["SIM1", "SIM2"])
    select_option(page, "Job", str(job.job_id)[:8])
    state = page.get_by_test_id("stMetric").filter(has_text="State")
    expect(state).to_contain_text("queued")
    commands.resume(actor="test")
    expect(state).to_contain_text("completed")
    selection = page.get_by_role("combobox", name="Job")
    expect(selection).to_have_value(re.compile(f"completed · {str(job.job_id)[:8]}"))
    refreshed = page.get_by_text("Refreshed").first
    before = refreshed.inner_text()
    expect(refreshed).not_to_have_text(before)
    expect(state).to_contain_text("completed")
    expect(page.get_by_text("encountered an error")).to_have_count(0)


def test_a_breaker_is_forced_open_and_reset(
    demo: RunningStack, page: Page, demo_db: Database
) -> None:
    assert open_page(page, demo, "Resilience") == []
    act_with_reason(page, "Force open", "rehearsal")
    expect(page.get_by_text("● forced open").first).to_be_visible()
    forced = "SELECT count(*) FROM operator_actions WHERE action = 'breaker_force_open'"
    assert count(demo_db, f"{forced} AND reason = 'rehearsal'") == 1
    expect(page.get_by_text("Providers not available")).to_be_visible()
    act_with_reason(page, "Reset", "rehearsal over")
    expect(page.get_by_text("All providers available")).to_be_visible()
    expect(page.locator(".js-plotly-plot").first).to_be_visible()


def test_operations_shows_alerts_workers_runs_and_audit_log(demo: RunningStack, page: Page) -> None:
    assert open_page(page, demo, "Operations") == []
    for heading in ("Alerts", "Workers", "Scheduled runs", "Audit log"):
        expect(page.get_by_role("heading", name=heading)).to_be_visible()
    expect(page.get_by_test_id("stDataFrame").first).to_be_visible()


def test_symbols_shows_candles_and_triggers_one_symbol(
    demo: RunningStack, page: Page, demo_db: Database
) -> None:
    assert open_page(page, demo, "Symbols") == []
    expect(page.locator(".js-plotly-plot")).to_have_count(2)
    expect(page.get_by_text("bars stored")).to_be_visible()
    page.get_by_role("textbox", name="Search").fill("SIM")
    page.get_by_role("textbox", name="Search").press("Enter")
    expect(page).to_have_url(re.compile("search=SIM"))
    expect(page.get_by_text("simulated by the sandbox")).to_be_visible()
    tracked = (
        "SELECT count(*) FROM operator_actions WHERE action = 'trigger' AND actor = 'dashboard'"
    )
    before = count(demo_db, tracked)
    page.get_by_role("button", name="Trigger SIM1").click()
    expect(page.get_by_text("Triggered SIM1")).to_be_visible()
    assert count(demo_db, tracked) == before + 1


def test_the_basis_of_prices_stands_in_the_address(demo: RunningStack, page: Page) -> None:
    page.goto(f"{demo.dashboard}/symbols?search=AAPL")
    expect(page.get_by_text("USD adjusted for splits ·")).to_be_visible()
    for basis, caption in (
        ("total", "USD adjusted for splits and dividends ·"),
        ("none", "USD as traded ·"),
    ):
        select_option(page, "Adjust prices for", basis)
        expect(page.get_by_text(caption)).to_be_visible()
        expect(page).to_have_url(re.compile(f"adjust={basis}"))
        page.reload()
        expect(page.get_by_text(caption)).to_be_visible()
        expect(page.locator(".js-plotly-plot").last).to_be_visible()


def test_a_list_is_imported_after_its_invalid_lines_are_corrected(
    demo: RunningStack, page: Page, demo_db: Database
) -> None:
    assert open_page(page, demo, "Symbols") == []
    lines = ["symbol,asset_class,timeframes", "SIM77,stock,1d", "SIM78,etf,1h|1d"]
    upload(page, [*lines, "SIM79,bond,1d"])
    expect(page.get_by_text("1 invalid line:")).to_be_visible()
    upload(page, lines)
    act_with_reason(page, "Track these 2 symbols", "the new list")
    tracked = "SELECT count(*) FROM tracked_symbols WHERE symbol LIKE 'SIM7_' AND active"
    assert count(demo_db, tracked) == 2
    page.get_by_role("textbox", name="Search").fill("SIM7")
    page.get_by_role("textbox", name="Search").press("Enter")
    expect(page.get_by_text("No bars of SIM77 1d are stored yet.")).to_be_visible()
    act_with_reason(page, "Untrack", "only a rehearsal")
    expect(page.get_by_text("SIM77 is not tracked any more.")).to_be_visible()
    assert count(demo_db, tracked) == 1
    operator = Commands(demo_db)
    operator.untrack("SIM78", actor="test")


def upload(page: Page, lines: list[str]) -> None:
    content = "\n".join(lines).encode()
    page.locator("input[type=file]").set_input_files(
        {"name": "list.csv", "mimeType": "text/csv", "buffer": content}
    )


def test_local_time_is_kept_from_page_to_page_and_tables_are_saved_as_csv(
    demo: RunningStack, page: Page
) -> None:
    assert open_page(page, demo, "Operations") == []
    page.get_by_text("Local time").click()
    expect(page).to_have_url(re.compile("local-time=true"))
    expect(page.get_by_text("+0545").first).to_be_visible()
    page.get_by_role("link", name="Data quality").click()
    expect(page.get_by_role("heading", name="Data quality", exact=True)).to_be_visible()
    expect(page).to_have_url(re.compile("local-time=true"))
    expect(page.get_by_text(re.compile(r"Refreshed .* \+0545"))).to_be_visible()
    page.evaluate("delete window.showSaveFilePicker")  # its dialog is not the page's
    page.get_by_test_id("stDataFrame").first.hover()
    with page.expect_download() as saved:
        page.get_by_role("button", name="Download as CSV").first.click()
    assert saved.value.path().read_text("utf-8-sig").splitlines()[0] == "series,score,status,why"


def test_data_quality_shows_scores_and_their_components(demo: RunningStack, page: Page) -> None:
    assert open_page(page, demo, "Data quality") == []
    for heading in ("Score by day", "Series by score", "Missing bars by month"):
        expect(page.get_by_role("heading", name=heading)).to_be_visible()
    expect(page.locator(".js-plotly-plot").first).to_be_visible()


def refresh(page: Page, times: int) -> None:
    """Wait until the page has refreshed so often."""
    badge = page.get_by_text("Refreshed").first
    for _ in range(times):
        before = badge.inner_text()
        expect(badge).not_to_have_text(before)


@pytest.mark.parametrize("name", ["Overview", "Jobs", "Symbols", "Data quality", "Resilience"])
def test_charts_are_not_drawn_again_while_no_data_changes(
    name: str, demo: RunningStack, page: Page
) -> None:
    page.goto(demo.dashboard)
    page.get_by_role("link", name=name).click()
    expect(page.locator(".js-plotly-plot .main-svg").first).to_be_visible()
    refresh(page, 1)
    charts = page.locator(".js-plotly-plot")
    mark(charts)
    page.evaluate(COUNT_BLANK_FRAMES)
    refresh(page, 3)
    assert kept(charts) == [True] * charts.count()
    frames, blank = page.evaluate("[window.frames_drawn, window.blank_frames]")
    assert (frames > 50, blank) == (True, 0)


def mark(charts: Locator) -> None:
    charts.evaluate_all("charts => charts.forEach(chart => { chart.kept = true; })")


def kept(charts: Locator) -> list[bool]:
    """Whether each chart is one of those that were marked."""
    marked = charts.evaluate_all("charts => charts.map(chart => chart.kept === true)")
    assert isinstance(marked, list)
    return marked


# Counts the frames from now on, and those in which a chart is empty or missing.
COUNT_BLANK_FRAMES = """() => {
    const drawn = () => [...document.querySelectorAll('.stPlotlyChart')].filter(
        chart => chart.querySelector('.main-svg :is(.trace, .hm, .annotation)')).length;
    const all = drawn();
    Object.assign(window, { frames_drawn: 0, blank_frames: 0 });
    const count = () => {
        window.frames_drawn += 1;
        window.blank_frames += drawn() < all;
        requestAnimationFrame(count);
    };
    requestAnimationFrame(count);
}"""


@pytest.mark.parametrize(
    ("path", "keys"), [("/", ("quality", "jobs")), ("/jobs", ("days", "durations"))]
)
def test_charts_of_jobs_that_have_ended_are_not_drawn_again_while_one_runs(
    path: str, keys: tuple[str, ...], demo: RunningStack, page: Page, demo_db: Database
) -> None:
    inject_faults(demo.sandbox, {"ticker": "SIM2", "kind": "latency", "seconds": 8})
    try:
        page.goto(demo.dashboard + path)
        charts = page.locator(", ".join(f".st-key-{key} .js-plotly-plot" for key in keys))
        expect(charts).to_have_count(len(keys))
        refresh(page, 2)
        mark(charts)
        job = Commands(demo_db).trigger(actor="test", symbols=["SIM1", "SIM2"])
        done = "1 of 2 symbols done" if path == "/" else str(job.job_id)[:8]
        expect(page.get_by_text(done).first).to_be_attached()
        refresh(page, 1)
        assert kept(charts) == [True] * len(keys)
    finally:
        clear_faults(demo.sandbox)
        wait_for_jobs(demo_db)


def wait_for_jobs(db: Database) -> None:
    """Wait until all have ended."""
    open_jobs = "SELECT count(*) FROM enrichment_jobs WHERE completed_at IS NULL"
    until(lambda: count(db, open_jobs) == 0, "all jobs end", 60)


def test_zoom_and_scroll_position_survive_refreshes(demo: RunningStack, page: Page) -> None:
    page.goto(demo.dashboard)
    page.get_by_role("link", name="Symbols").click()
    chart = page.locator(".js-plotly-plot").last
    expect(chart.locator(".main-svg").first).to_be_visible()
    chart.scroll_into_view_if_needed()
    refresh(page, 1)
    zoomed = zoom(page, chart)
    scrolled = page.evaluate("document.querySelector('[data-testid=stMain]').scrollTop")
    refresh(page, 4)
    assert chart.evaluate("chart => chart.layout.xaxis.range") == zoomed
    assert page.evaluate("document.querySelector('[data-testid=stMain]').scrollTop") == scrolled


def zoom(page: Page, chart: Locator) -> list[object]:
    """Zoom into a part of a chart; the range of its x axis."""
    chart.scroll_into_view_if_needed()
    box = chart.bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] * 0.4, box["y"] + box["height"] * 0.3
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 200, y + 60, steps=5)
    page.mouse.up()
    ranges = chart.evaluate("chart => chart.layout.xaxis.range")
    assert isinstance(ranges, list)
    return ranges


def wait_for_chart(page: Page, condition: str) -> None:
    """Wait until the price chart meets a condition, in JavaScript."""
    chart = "document.querySelector('.st-key-candles .js-plotly-plot')"
    page.wait_for_function(f"{chart}?.layout && ({condition})({chart})")


def test_the_zoom_of_prices_survives_a_restatement(
    demo: RunningStack, page: Page, demo_db: Database
) -> None:
    page.goto(f"{demo.dashboard}/symbols?search=IBM")
    chart = page.locator(".st-key-candles .js-plotly-plot")
    expect(chart.locator(".main-svg").first).to_be_visible()
    refresh(page, 1)
    closes = "JSON.stringify(chart.data[0].close)"
    before = chart.evaluate(f"chart => {closes}")
    zoomed = zoom(page, chart)
    restated = {"ticker": "IBM", "kind": "restated", "factor": 1.003}
    inject_faults(demo.sandbox, restated)
    try:
        Commands(demo_db).trigger(actor="test", symbols=["IBM"])
        wait_for_chart(page, f"chart => {closes} !== {json.dumps(before)}")
        expect(chart).to_have_count(1)  # the one before is gone
        assert chart.evaluate("chart => chart.layout.xaxis.range") == zoomed
        select_option(page, "Range", "3 months")
        wait_for_chart(page, "chart => chart.layout.xaxis.autorange")
    finally:
        clear_faults(demo.sandbox)
        Commands(demo_db).trigger(actor="test", symbols=["IBM"])
        wait_for_jobs(demo_db)


def test_the_zoom_of_a_running_jobs_timeline_survives(
    demo: RunningStack, page: Page, demo_db: Database
) -> None:
    inject_faults(demo.sandbox, {"ticker": "SIM2", "kind": "latency", "seconds": 3})
    try:
        Commands(demo_db).trigger(actor="test", symbols=["SIM1", "SIM2"])
        page.goto(f"{demo.dashboard}/jobs")
        chart = page.locator(".st-key-gantt .js-plotly-plot")
        expect(chart.locator(".main-svg").first).to_be_visible()
        zoomed = zoom(page, chart)
        state = page.get_by_test_id("stMetric").filter(has_text="State")
        expect(state.first).to_contain_text("completed")
        refresh(page, 1)
        assert chart.evaluate("chart => chart.layout.xaxis.range") == zoomed
    finally:
        clear_faults(demo.sandbox)
        wait_for_jobs(demo_db)


@pytest.mark.parametrize("zone", ["America/New_York", "Asia/Tokyo"])
def test_daily_bars_keep_their_dates_in_every_zone(
    zone: str, demo: RunningStack, browser: Browser, demo_db: Database
) -> None:
    with demo_db.begin() as conn:
        query = "SELECT to_char(max(ts), 'YYYY-MM-DD') FROM bars WHERE symbol = 'AAPL'"
        last = str(conn.execute(text(f"{query} AND timeframe = '1d'")).scalar_one())
    context = browser.new_context(timezone_id=zone, viewport={"width": 1440, "height": 1200})
    page = context.new_page()
    for query in ("", "&local-time=true"):
        page.goto(f"{demo.dashboard}/symbols?search=AAPL{query}")
        chart = page.locator(".js-plotly-plot").last
        expect(chart.locator(".main-svg").first).to_be_visible()
        expect(page.get_by_text("bars stored")).to_be_visible()
        assert chart.evaluate("chart => chart.data[0].x.at(-1)") == last
    context.close()
