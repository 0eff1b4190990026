"""The nightly slot on real Postgres: one job per date, however often and by whichever worker."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from enrichment.domain.schedules import nightly
from enrichment.domain.symbol_csv import parse_tracked
from enrichment.services.commands import Commands
from enrichment.warehouse.database import Database
from enrichment.warehouse.queue.nightly_slot import NightlySlotStore


def utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[arg-type,misc]  # year, month, day, …


@pytest.mark.parametrize(
    ("now", "slot"),
    [
        (utc(2026, 3, 29, 1, 29, 59), utc(2026, 3, 28, 1, 30)),
        (utc(2026, 3, 29, 1, 30), utc(2026, 3, 29, 1, 30)),
        (utc(2026, 1, 1, 0, 0), utc(2025, 12, 31, 1, 30)),
        (utc(2026, 10, 25, 23, 59), utc(2026, 10, 25, 1, 30)),
    ],
)
def test_the_last_slot_is_the_newest_at_or_before_now(now: datetime, slot: datetime) -> None:
    assert nightly().last_slot(now).at == slot
    assert nightly().next_slot(now).at == slot + timedelta(days=1)


def slots_due(db: Database, *, minutes_ago: int, enabled: bool = True) -> NightlySlotStore:
    """Slots whose newest slot was due that long ago by the database's clock."""
    with db.begin() as conn:
        now: datetime = conn.execute(text("SELECT now()")).scalar_one()
    at = now - timedelta(minutes=minutes_ago)
    return NightlySlotStore(db, [nightly(at.hour, at.minute)], enabled=enabled)


def track_since_last_week(db: Database, *names: str) -> Commands:
    commands = Commands(db)
    commands.track([parse_tracked(n, "stock", "1d") for n in names], actor="test")
    with db.begin() as conn:
        conn.execute(text("UPDATE tracked_symbols SET created_at = now() - interval '7 days'"))
    return commands


def kinds(db: Database) -> list[str]:
    with db.begin() as conn:
        return list(
            conn.execute(text("SELECT kind FROM enrichment_jobs ORDER BY created_at")).scalars()
        )


def test_a_due_slot_opens_one_job_with_all_active_symbols(db: Database) -> None:
    track_since_last_week(db, "AAPL", "MSFT")
    slots = slots_due(db, minutes_ago=1)
    assert list(slots.open_due_jobs()) == ["nightly"]
    assert slots.open_due_jobs() == {}
    assert kinds(db) == ["scheduled"]
    with db.begin() as conn:
        assert conn.execute(text("SELECT total FROM enrichment_jobs")).scalar() == 2


def test_eight_schedulers_open_one_job(db: Database) -> None:
    track_since_last_week(db, "AAPL")
    slots = slots_due(db, minutes_ago=1)
    start = threading.Barrier(8)

    def offer() -> None:
        start.wait()
        slots.open_due_jobs()

    threads = [threading.Thread(target=offer) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert kinds(db) == ["scheduled"]


def test_a_late_start_catches_up_once(db: Database) -> None:
    track_since_last_week(db, "AAPL")
    slots = slots_due(db, minutes_ago=120)
    slots.open_due_jobs()
    slots.open_due_jobs()
    assert kinds(db) == ["catchup"]


def test_past_the_catch_up_window_the_night_is_left_to_the_next_slot(db: Database) -> None:
    track_since_last_week(db, "AAPL")
    assert slots_due(db, minutes_ago=21 * 60).open_due_jobs() == {}


def test_a_new_installation_does_not_start_with_the_past_night(db: Database) -> None:
    Commands(db).track([parse_tracked("AAPL", "stock", "1d")], actor="test")
    assert slots_due(db, minutes_ago=60).open_due_jobs() == {}


def test_disabled_or_paused_opens_nothing_until_resumed(db: Database) -> None:
    commands = track_since_last_week(db, "AAPL")
    assert slots_due(db, minutes_ago=1, enabled=False).open_due_jobs() == {}
    commands.pause(actor="test")
    slots = slots_due(db, minutes_ago=1)
    assert slots.open_due_jobs() == {}
    commands.resume(actor="test")
    assert list(slots.open_due_jobs()) == ["nightly"]


def test_an_older_scheduled_job_that_nobody_began_is_superseded(db: Database) -> None:
    track_since_last_week(db, "AAPL")
    slots = slots_due(db, minutes_ago=1)
    slots.open_due_jobs()
    with db.begin() as conn:
        conn.execute(text("UPDATE enrichment_jobs SET slot_date = slot_date - 1"))
    slots.open_due_jobs()
    with db.begin() as conn:
        states = conn.execute(
            text("SELECT state FROM enrichment_jobs ORDER BY slot_date")
        ).scalars()
        assert list(states) == ["cancelled", "queued"]


def test_maintenance_keeps_partitions_ahead_and_rolls_up_the_logs(db: Database) -> None:
    with db.begin() as conn:
        conn.execute(
            text(
                "INSERT INTO enrichment_fetch_log (symbol, source, success, duration_ms) VALUES"
                " ('A', 'polygon', true, 7), ('A', 'polygon', true, 30),"
                " ('A', 'polygon', false, 99999)"
            )
        )
    slots = slots_due(db, minutes_ago=1)
    slots.maintain()
    slots.maintain()
    with db.begin() as conn:
        rows = conn.execute(
            text("SELECT source, total, successful, latency_buckets FROM enrichment_fetch_hourly")
        ).all()
        partitions = conn.execute(
            text(
                "SELECT count(*) FROM pg_inherits"
                " WHERE inhparent = 'enrichment_fetch_log'::regclass"
            )
        ).scalar()
    assert [tuple(row) for row in rows] == [("polygon", 3, 2, [1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1])]
    assert partitions == 3
