"""The overview page's queries, on a history with known results."""

from __future__ import annotations

from datetime import date, timedelta

import pytest
from sqlalchemy import text

from enrichment.domain.model import Failure, RowCounts
from enrichment.domain.symbol_csv import parse_tracked
from enrichment.services.commands import Commands
from enrichment.warehouse.database import Database
from enrichment.warehouse.queue import jobs
from enrichment.warehouse.queue.jobs import JobQueue
from enrichment.warehouse.read_models.facade import ReadModels
from enrichment.warehouse.read_models.overview import OverviewQueries


@pytest.fixture
def overview(db: Database) -> OverviewQueries:
    return OverviewQueries(db)


def newest_slot(db: Database) -> date:
    with db.begin() as conn:
        found: date = conn.execute(
            text("SELECT ((now() AT TIME ZONE 'UTC') - interval '90 minutes')::date")
        ).scalar_one()
        return found


def night(db: Database, on: date, state: str, failed: int = 0, kind: str = "scheduled") -> None:
    """A job that was opened 2 minutes after its slot and took 10 minutes."""
    values = {"on": on, "state": state, "failed": failed, "kind": kind}
    with db.begin() as conn:
        conn.execute(
            text(
                "INSERT INTO enrichment_jobs (kind, schedule, slot_date, state, requested_by,"
                " created_at, started_at, completed_at, total, successful, failed)"
                " SELECT :kind, CASE WHEN :kind = 'scheduled' THEN 'nightly' END,"
                " CASE WHEN :kind = 'scheduled' THEN CAST(:on AS date) END, :state,"
                " 'test', at, at, at + interval '10 minutes', 9, 9 - :failed, :failed"
                " FROM (SELECT (CAST(:on AS date) + time '01:32') AT TIME ZONE 'UTC' AS at) slot"
            ),
            values,
        )


def test_nights_tell_what_worked_what_did_not_and_what_never_was(
    db: Database, overview: OverviewQueries
) -> None:
    newest = newest_slot(db)
    night(db, newest, "completed")
    night(db, newest - timedelta(days=2), "partial", failed=2)
    night(db, newest - timedelta(days=3), "completed", kind="manual")
    night(db, newest - timedelta(days=4), "failed", failed=9)
    found = overview.nights(7)
    assert [n.date for n in found] == [newest - timedelta(days=n) for n in range(6, -1, -1)]
    assert [n.state for n in found] == [
        "before",
        "before",
        "failed",
        "manual",
        "partial",
        "missed",
        "completed",
    ]
    assert (found[4].successful, found[4].failed) == (7, 2)
    assert (found[4].duration_seconds, found[4].late_seconds) == (600.0, 120.0)
    assert (found[5].successful, found[5].duration_seconds) == (None, None)


def test_without_a_job_no_night_counts_as_missed(overview: OverviewQueries) -> None:
    assert {n.state for n in overview.nights(90)} == {"before"}


def test_errors_of_the_last_days_are_grouped_by_class_over_all_jobs(
    db: Database, overview: OverviewQueries
) -> None:
    commands, queue = Commands(db), JobQueue(db)
    commands.track([parse_tracked(s, "stock", "1d") for s in ("A", "B", "C")], actor="test")
    for _ in range(2):
        newest = commands.trigger(actor="test").job_id
        for task in queue.claim("w", 9):
            if task.symbol == "C":
                with db.begin() as conn:
                    jobs.complete(conn, {task: RowCounts()})
                continue
            kind = "ProviderUnavailable" if task.symbol == "A" else "MalformedResponse"
            queue.fail(task, Failure(kind, f"{task.symbol} was refused", "fetch"), None)
        queue.close_finished_jobs()
    with db.begin() as conn:
        conn.execute(
            text(
                "UPDATE enrichment_job_items SET error_class = 'ProviderUnavailable'"
                " WHERE symbol = 'B' AND job_id = :newest"
            ),
            {"newest": newest},
        )
    found = overview.errors()
    assert [(e.error_class, e.symbols, e.jobs) for e in found] == [
        ("ProviderUnavailable", 2, 2),
        ("MalformedResponse", 1, 1),
    ]
    assert found[0].job_id == newest
    assert found[0].example.endswith("was refused")


def test_series_are_counted_by_status_and_the_gravest_named_first(
    db: Database, overview: OverviewQueries
) -> None:
    commands = Commands(db)
    commands.track([parse_tracked("AAPL", "stock", "1d,1h")], actor="test")
    commands.track([parse_tracked("X:BTCUSD", "crypto", "1h")], actor="test")
    commands.track([parse_tracked("GONE", "stock", "1d")], actor="test")
    commands.untrack("GONE", actor="test")
    with db.begin() as conn:
        conn.execute(
            text(
                "INSERT INTO enrichment_status (symbol, timeframe, status, quality_score,"
                " last_success_at, evidence) VALUES"
                " ('AAPL', '1d', 'healthy', 0.99, now(), '{\"sessions_behind\": 0}'),"
                " ('AAPL', '1h', 'stale', 0.70, now() - interval '9 days',"
                "  '{\"sessions_behind\": 0}'),"
                " ('GONE', '1d', 'error', 0.10, now(), '{\"sessions_behind\": 7}')"
            )
        )
    night = ReadModels(db).night()
    assert overview.symbols() == {"AAPL": "stock", "X:BTCUSD": "crypto"}
    assert night.statuses == {"healthy": 1, "stale": 1, "not_enriched": 1}
    assert (night.series, night.current, night.error_symbols) == (3, 1, 0)
    assert [(s.symbol, s.timeframe, s.status) for s in overview.needs_attention()] == [
        ("AAPL", "1h", "stale"),
        ("X:BTCUSD", "1h", "not_enriched"),
    ]
    assert len(overview.needs_attention(limit=1)) == 1
