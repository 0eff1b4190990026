"""Texts of vendors and operators with markup of every kind, on every page in a real browser."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

from playwright.sync_api import Browser, expect
from sqlalchemy import text

from enrichment.domain.model import Failure
from enrichment.services.commands import Commands
from enrichment.warehouse.database import Database
from enrichment.warehouse.queue.jobs import JobQueue
from enrichment.warehouse.queue.workers import WorkerRegistry
from tests.helpers.api_client import track_symbols
from tests.helpers.server_process import serving

HOST = "evil.example"
HOSTILE = (
    f"![i](http://{HOST}/p.png) [l](http://{HOST}/) <img src=http://{HOST}/q.png> http://{HOST}/a "
    f"www.{HOST} **b** :red[r] :material/home: $x$ <script>alert(1)</script>"
)
PAGES = ("", "jobs", "symbols", "quality", "resilience", "operations")


def fill(db: Database) -> None:
    """Put the text wherever somebody else's text is kept."""
    commands, queue = track_symbols(db), JobQueue(db)
    commands.trigger(actor=f"cli:{HOSTILE[:60]}", reason=HOSTILE)
    for task in queue.claim("w", 50):
        queue.fail(task, Failure("ProviderUnavailable", HOSTILE, "fetch"), None)
    queue.close_finished_jobs()
    commands.trigger(actor="test", symbols=["AAPL"], reason=HOSTILE)
    Commands(db).pause(actor=f"cli:{HOSTILE[:60]}", reason=HOSTILE)
    Commands(db).pause(actor="test", scope="symbol", key="AAPL", reason=HOSTILE)
    registry = WorkerRegistry(db, "w")
    registry.register(host=HOST, pid=1, version="1", threads=1)
    with db.begin() as conn:
        conn.execute(
            text("UPDATE workers SET note = :t, state = 'waiting', heartbeat_at = now()"),
            {"t": HOSTILE},
        )
        conn.execute(
            text(
                "INSERT INTO resilience_state (worker_id, kind, name, state, status, seq) VALUES"
                " ('w', 'circuit_breaker', 'polygon_api', 'open',"
                " jsonb_build_object('mode', 'forced_open', 'last_error', CAST(:t AS text)), 1)"
            ),
            {"t": HOSTILE},
        )
        conn.execute(
            text(
                "INSERT INTO resilience_overrides (name, action, actor, reason)"
                " VALUES ('polygon_api', 'force_open', 'test', :t)"
            ),
            {"t": HOSTILE},
        )
        conn.execute(
            text(
                "INSERT INTO alert_events (at, rule, episode, state, severity, condition, detail,"
                " silenced) VALUES (now(), :t, :e, 'firing', 'critical', :t, :t, false)"
            ),
            {"t": HOSTILE, "e": uuid4()},
        )


def test_no_text_becomes_markup_on_any_page(
    browser: Browser, db: Database, db_url: str, tmp_path: Path
) -> None:
    expect.set_options(timeout=30_000)
    fill(db)
    page = browser.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    with serving(db_url, tmp_path, part="dashboard") as served:
        for name in PAGES:
            page.goto(f"{served.url}/{name}")
            expect(page.get_by_role("heading", level=1)).to_be_visible()
            page.wait_for_load_state("networkidle")
            for selector in (f"a[href*='{HOST}']", f"img[src*='{HOST}']"):
                found = page.locator(selector)
                around = found.evaluate_all("all => all.map(one => one.parentElement.outerHTML)")
                assert found.count() == 0, (name, around)
        page.goto(served.url)
        expect(page.get_by_text("![i](http").first).to_be_visible()
    assert not [url for url in asked if HOST in url]
