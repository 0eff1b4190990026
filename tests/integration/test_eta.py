"""When an open job will be done, by what its vendors' quotas allow."""

from __future__ import annotations

from uuid import UUID

import pytest
from sqlalchemy import text
from typer.testing import CliRunner

from api import create_app
from enrichment.cli.main import app
from enrichment.domain.symbol_csv import parse_tracked
from enrichment.services.commands import Commands
from enrichment.services.request_plan import RequestSettings
from enrichment.warehouse.database import Database
from enrichment.warehouse.read_models.dto import Progress
from enrichment.warehouse.read_models.facade import ReadModels
from tests.helpers.api_client import ROOT, json_body
from tests.helpers.dashboard_pages import open_page, page_text

ORDERS = {"stock": ("polygon", "yahoo"), "crypto": ("binance",)}
QUOTAS = {"polygon": 5, "binance": 1200}
STOCKS = [f"S{n:03}" for n in range(100)]


@pytest.fixture
def commands(db: Database) -> Commands:
    commands = Commands(db, RequestSettings(ORDERS, QUOTAS, 365))
    commands.track([parse_tracked(symbol, "stock", "1d,1w") for symbol in STOCKS], actor="test")
    commands.track([parse_tracked("X:BTCUSD", "crypto", "1h,1d")], actor="test")
    return commands


def progress(db: Database, job: UUID) -> Progress:
    reader = ReadModels(db, providers=ORDERS, quotas=QUOTAS)
    found = reader.progress(job)
    assert found is not None
    return found


def run_for(db: Database, job: UUID, minutes: int, *, done: int, requests: int = 1) -> None:
    """The job has run for so long, and has asked so often for each of the first symbols."""
    with db.begin() as conn:
        conn.execute(text(_RUN), {"job": job, "minutes": minutes, "done": done, "n": requests})


_RUN = """
WITH started AS (
    UPDATE enrichment_jobs SET state = 'running',
        started_at = now() - make_interval(mins => :minutes) WHERE job_id = :job
), finished AS (
    UPDATE enrichment_job_items i SET status = 'completed',
        completed_at = now() - make_interval(mins => :minutes) * (1 - position::float8 / :done)
    FROM (SELECT symbol, row_number() OVER (ORDER BY symbol) AS position
        FROM enrichment_job_items WHERE job_id = :job) items
    WHERE i.job_id = :job AND i.symbol = items.symbol AND position <= :done
    RETURNING i.symbol, i.completed_at
)
INSERT INTO enrichment_fetch_log (at, job_id, symbol, timeframe, source, success, requests)
SELECT completed_at, :job, symbol, '1d', 'polygon', true, :n FROM finished
"""


def test_a_job_ends_when_its_slowest_vendor_has_answered(db: Database, commands: Commands) -> None:
    job = commands.trigger(actor="test").job_id
    run_for(db, job, 10, done=50)
    found = progress(db, job)
    binance, polygon = found.vendors
    assert (polygon.vendor, polygon.requests_left) == ("polygon", 50)
    assert polygon.per_minute == pytest.approx(5.0, abs=0.1)
    assert polygon.eta_seconds == pytest.approx(600, rel=0.02)
    assert (binance.vendor, binance.requests_left) == ("binance", 2)  # days and hours
    assert found.eta_seconds == polygon.eta_seconds


def test_what_a_symbol_took_lately_is_what_the_others_will_take(
    db: Database, commands: Commands
) -> None:
    job = commands.trigger(actor="test", symbols=STOCKS).job_id
    run_for(db, job, 10, done=25, requests=2)
    (polygon,) = progress(db, job).vendors
    assert polygon.requests_left == pytest.approx(150, rel=0.03)
    assert polygon.eta_seconds == pytest.approx(1800, rel=0.04)


def test_days_of_the_whole_market_take_a_request_each(db: Database, commands: Commands) -> None:
    job = commands.trigger(actor="test", symbols=STOCKS).job_id
    with db.begin() as conn:
        conn.execute(text("UPDATE enrichment_job_items SET market_days = symbol <> 'S000'"))
        conn.execute(
            text(
                "INSERT INTO market_days (job_id, day, source, status, ended_at)"
                " SELECT :job, current_date - n, 'polygon',"
                " CASE WHEN n > 10 THEN 'fetched' ELSE 'pending' END, now()"
                " FROM generate_series(1, 15) n"
            ),
            {"job": job},
        )
    (polygon,) = progress(db, job).vendors
    assert polygon.requests_left == 10 + 1
    assert polygon.eta_seconds == pytest.approx(132, rel=0.02)


def test_a_job_waits_for_those_that_go_first(db: Database, commands: Commands) -> None:
    first = commands.trigger(actor="test", symbols=STOCKS[:10]).job_id
    second = commands.trigger(actor="test", symbols=STOCKS).job_id
    with db.begin() as conn:
        conn.execute(
            text("UPDATE enrichment_job_items SET priority = 10 WHERE job_id = :job"),
            {"job": second},
        )
    assert progress(db, first).eta_seconds == pytest.approx(120, rel=0.01)
    assert progress(db, second).eta_seconds == pytest.approx(1320, rel=0.01)


def test_pauses_are_waited_for_or_make_the_end_unknown(db: Database, commands: Commands) -> None:
    job = commands.trigger(actor="test", symbols=STOCKS[:50]).job_id
    commands.pause(actor="test", scope="symbol", key=STOCKS[0])
    assert progress(db, job).vendors[0].requests_left == 49
    with db.begin() as conn:
        conn.execute(
            text(
                "INSERT INTO pauses (scope, key, paused_by, until)"
                " VALUES ('provider', 'polygon', 'me', now() + interval '20 minutes')"
            )
        )
    assert progress(db, job).eta_seconds == pytest.approx(1200 + 49 * 12, rel=0.01)
    commands.pause(actor="test", scope="provider", key="polygon")
    assert progress(db, job).eta_seconds is None


def test_the_time_left_is_shown_everywhere(
    db: Database, commands: Commands, db_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = commands.trigger(actor="test", symbols=STOCKS).job_id
    run_for(db, job, 10, done=50)
    reader = ReadModels(db, providers=ORDERS, quotas=QUOTAS)
    client = create_app(reader, commands, ready=lambda: None).test_client()
    body = json_body(client.get(f"{ROOT}/jobs/{job}"))
    (vendor,) = body["vendors"]
    assert (vendor["vendor"], vendor["requests_left"]) == ("polygon", 50)
    assert body["eta_seconds"] == vendor["eta_seconds"] == pytest.approx(600, rel=0.02)
    monkeypatch.setenv("DATABASE_URL", db_url)
    monkeypatch.setenv("POLYGON_API_KEY", "test")
    shown = CliRunner().invoke(app, ["status"]).output
    assert "polygon: about 50 requests left, 5.0 a minute: 10 min" in shown
    assert "polygon: about 50 requests left" in page_text(open_page("jobs", db_url, monkeypatch))
