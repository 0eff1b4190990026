"""The scheduler creates one nightly job per UTC date, whatever the time zone, outage or number."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from functools import partial
from uuid import UUID

import pytest
from sqlalchemy import text

from enrichment.config import Settings
from enrichment.domain import schedules
from enrichment.domain.model import RowCounts
from enrichment.domain.symbol_csv import parse_tracked
from enrichment.engine.scheduler import EnrichmentScheduler, ScheduleSettings
from enrichment.services.commands import Commands
from enrichment.warehouse.database import Database
from enrichment.warehouse.queue import jobs
from enrichment.warehouse.queue.jobs import JobQueue
from enrichment.warehouse.queue.nightly_slot import NightlySlotStore
from enrichment.warehouse.read_models.dto import Progress
from enrichment.warehouse.read_models.facade import ReadModels
from enrichment.wiring.worker import build_scheduler

FIRST_NIGHT = datetime(2025, 1, 1, 1, 30, tzinfo=UTC)
NIGHT = timedelta(days=1)
SCHEDULERS, NIGHTS = 8, 200
TWO_YEARS = 731

# Steps through two years as a host of another zone would: it ticks at every local and every UTC
# 01:30, at one second before the slot, and each half hour of the nights when local clocks change.
TICK_THROUGH_TWO_YEARS = """
import json, sys
from datetime import UTC, datetime, timedelta
from enrichment.warehouse.database import Database
from enrichment.warehouse.queue.nightly_slot import NightlySlotStore

db = Database(sys.argv[1], pool_size=1)
slots = NightlySlotStore(db)
slot = datetime(2025, 1, 1, 1, 30, tzinfo=UTC)
opened, offsets = [], set()
for _ in range(int(sys.argv[2])):
    local = slot.astimezone()
    offsets.add(local.utcoffset().total_seconds())
    moments = {slot - timedelta(seconds=1), slot}
    if (slot - timedelta(hours=12)).astimezone().utcoffset() != (
        slot + timedelta(hours=12)
    ).astimezone().utcoffset():
        moments |= {slot + timedelta(minutes=30 * n) for n in range(-6, 24)}
        moments |= {local.replace(hour=1, minute=30, fold=fold, tzinfo=None) for fold in (0, 1)}
    for moment in sorted(m.astimezone(UTC) for m in moments):
        if slots.open_due_jobs(moment.astimezone()):
            opened.append(moment.isoformat())
    slot += timedelta(days=1)
print(json.dumps({"opened": opened, "offsets": sorted(offsets)}))
db.close()
"""


def nightly(db: Database) -> NightlySlotStore:
    return NightlySlotStore(db)


def open_job(slots: NightlySlotStore, now: datetime) -> UUID | None:
    """The job of the one schedule, if it was due."""
    return slots.open_due_jobs(now).get("nightly")


def track_for_years(db: Database, *names: str) -> Commands:
    commands = Commands(db)
    commands.track([parse_tracked(name, "stock", "1d") for name in names], actor="test")
    with db.begin() as conn:
        conn.execute(text("UPDATE tracked_symbols SET created_at = '2024-01-01Z'"))
    return commands


def nights(db: Database) -> list[tuple[date, str]]:
    """Slot and kind of every nightly job, in the order of the slots."""
    with db.begin() as conn:
        rows = conn.execute(text("SELECT slot_date, kind FROM enrichment_jobs ORDER BY slot_date"))
        return [(row.slot_date, row.kind) for row in rows]


def async_commit(url: str) -> str:
    """The database's address with asynchronous commits, which are faster."""
    return f"{url}{'&' if '?' in url else '?'}options=-c%20synchronous_commit%3Doff"


def finish_all(db: Database) -> None:
    """Complete all queued items and close their jobs."""
    queue = JobQueue(db)
    for task in queue.claim("w", 100):
        with db.begin() as conn:
            jobs.complete(conn, {task: RowCounts()})
    queue.close_finished_jobs()


def test_eight_schedulers_create_each_of_200_nightly_jobs_once(db: Database, db_url: str) -> None:
    track_for_years(db, "AAPL", "MSFT")
    barrier = threading.Barrier(SCHEDULERS)
    opened: list[UUID] = []
    errors: list[Exception] = []

    def tick_every_night() -> None:
        database = Database(async_commit(db_url), pool_size=1)
        slots = nightly(database)
        try:
            for n in range(NIGHTS):
                barrier.wait(60)
                opened.extend(slots.open_due_jobs(FIRST_NIGHT + n * NIGHT).values())
        except Exception as exc:
            errors.append(exc)
            barrier.abort()
        finally:
            database.close()

    threads = [threading.Thread(target=tick_every_night) for _ in range(SCHEDULERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(set(opened)) == len(opened) == NIGHTS
    expected = [((FIRST_NIGHT + n * NIGHT).date(), "scheduled") for n in range(NIGHTS)]
    assert nights(db) == expected
    with db.begin() as conn:
        items = conn.execute(text("SELECT count(*) FROM enrichment_job_items")).scalar()
        open_jobs = conn.execute(
            text("SELECT count(*) FROM enrichment_jobs WHERE state = 'queued'")
        ).scalar()
    assert (items, open_jobs) == (2 * NIGHTS, 1)  # each night superseded the one before it


@pytest.mark.parametrize(
    ("zone", "offsets"),
    [
        ("UTC", [0.0]),
        ("Europe/London", [0.0, 3600.0]),
        ("Atlantic/Azores", [-3600.0, 0.0]),
        ("America/New_York", [-18000.0, -14400.0]),
    ],
)
def test_two_years_in_a_hosts_time_zone(
    db: Database, db_url: str, zone: str, offsets: list[float]
) -> None:
    track_for_years(db, "AAPL")
    done = subprocess.run(
        [sys.executable, "-c", TICK_THROUGH_TWO_YEARS, async_commit(db_url), str(TWO_YEARS)],
        env={**os.environ, "TZ": zone},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    output = json.loads(done.stdout)
    assert output["offsets"] == offsets  # the zone was in use, with both of its offsets
    slots = [FIRST_NIGHT + n * NIGHT for n in range(TWO_YEARS)]
    assert [datetime.fromisoformat(at) for at in output["opened"]] == slots
    assert [night for night, _ in nights(db)] == [slot.date() for slot in slots]


def test_after_five_days_of_outage_one_job_runs(db: Database) -> None:
    track_for_years(db, "AAPL")
    slots = nightly(db)
    assert open_job(slots, FIRST_NIGHT) is not None
    finish_all(db)
    restart = FIRST_NIGHT + 5 * NIGHT + timedelta(hours=3)
    assert [open_job(slots, restart + timedelta(seconds=30 * n)) for n in range(3)].count(None) == 2
    assert nights(db) == [
        (FIRST_NIGHT.date(), "scheduled"),
        ((FIRST_NIGHT + 5 * NIGHT).date(), "catchup"),
    ]


@pytest.mark.parametrize(
    ("late", "kind"),
    [
        (timedelta(0), "scheduled"),
        (timedelta(minutes=5), "scheduled"),
        (timedelta(minutes=5, seconds=1), "catchup"),
        (timedelta(hours=20), "catchup"),
        (timedelta(hours=20, seconds=1), None),
    ],
)
def test_a_late_start_is_a_catch_up_up_to_20_hours(
    db: Database, late: timedelta, kind: str | None
) -> None:
    track_for_years(db, "AAPL")
    slots = nightly(db)
    open_job(slots, FIRST_NIGHT + late)
    open_job(slots, FIRST_NIGHT + late)
    assert nights(db) == ([] if kind is None else [(FIRST_NIGHT.date(), kind)])


def test_after_a_pause_over_several_nights_only_the_latest_runs(db: Database) -> None:
    commands = track_for_years(db, "AAPL")
    slots = nightly(db)
    commands.pause(actor="test")
    for n in range(3):
        assert open_job(slots, FIRST_NIGHT + n * NIGHT) is None
    commands.resume(actor="test")
    resumed = FIRST_NIGHT + 2 * NIGHT + timedelta(hours=1)
    assert open_job(slots, resumed) is not None
    assert open_job(slots, resumed + timedelta(minutes=1)) is None
    assert nights(db) == [((FIRST_NIGHT + 2 * NIGHT).date(), "catchup")]


def test_a_pause_before_a_queued_job_starts_leaves_one_job_too(db: Database) -> None:
    commands = track_for_years(db, "AAPL", "MSFT")
    slots = nightly(db)
    open_job(slots, FIRST_NIGHT)
    commands.pause(actor="test")
    assert JobQueue(db).claim("w", 5) == []
    assert open_job(slots, FIRST_NIGHT + NIGHT) is None
    commands.resume(actor="test")
    latest = open_job(slots, FIRST_NIGHT + NIGHT + timedelta(hours=2))
    assert {task.job_id for task in JobQueue(db).claim("w", 5)} == {latest}


class FakeSlots:
    """Counts the calls of each method; the failing ones raise."""

    def __init__(self, *failing: str) -> None:
        self.failing = failing
        self.calls: Counter[str] = Counter()
        self.changed = threading.Condition()

    def open_due_jobs(self, now: datetime | None = None) -> dict[str, UUID]:
        self._count("open_due_jobs")
        return {}

    def maintain(self) -> None:
        self._count("maintain")

    def _count(self, name: str) -> None:
        with self.changed:
            self.calls[name] += 1
            self.changed.notify_all()
        if name in self.failing:
            raise RuntimeError(f"{name} is broken")

    def until_each_was_called(self, times: int) -> bool:
        with self.changed:
            return self.changed.wait_for(
                lambda: min(self.calls["open_due_jobs"], self.calls["maintain"]) >= times, 20
            )


def test_a_failing_callback_does_not_stop_the_others(db: Database) -> None:
    reader = ReadModels(db)
    ticked: Counter[FakeSlots] = Counter()
    stores = [
        FakeSlots("open_due_jobs"),
        FakeSlots("maintain"),
        FakeSlots("open_due_jobs", "maintain"),
    ]
    schedulers = [
        EnrichmentScheduler(
            ScheduleSettings(),
            slots,
            Commands(db),
            reader,
            ticked=partial(ticked.update, [slots]),
            tick_seconds=1,
            maintenance_seconds=1,
        )
        for slots in stores
    ]
    threads = [scheduler.start() for scheduler in schedulers]
    try:
        assert [slots.until_each_was_called(3) for slots in stores] == [True] * 3
        assert all(thread.is_alive() for thread in threads)
    finally:
        for scheduler, thread in zip(schedulers, threads, strict=True):
            scheduler.stop()
            thread.join()
    assert set(ticked) == {stores[1]}  # only a successful tick is counted


@pytest.fixture
def scheduler(db: Database) -> EnrichmentScheduler:
    return build_scheduler(Settings(), db)


def progress(db: Database, job_id: UUID) -> Progress:
    progress = ReadModels(db).progress(job_id)
    assert progress is not None
    return progress


def test_python_api_triggers_and_returns_the_job_status(
    db: Database, scheduler: EnrichmentScheduler
) -> None:
    track_for_years(db, "AAPL", "MSFT")
    Commands(db).track([parse_tracked("X:BTCUSD", "crypto", "1h")], actor="test")
    assert scheduler.trigger_enrichment_now(["AAPL"]).symbols_to_process == 1
    assert scheduler.get_job_status("AAPL").status == "pending"
    assert scheduler.get_job_status("NOPE") is None
    finish_all(db)
    status = scheduler.get_job_status("AAPL")
    assert (status.status, status.retry_count, status.last_error) == ("completed", 0, None)
    assert status.started_at <= status.completed_at <= status.timestamp
    assert scheduler.trigger_enrichment_now(asset_class="crypto").symbols_to_process == 1
    all_symbols = scheduler.trigger_enrichment_now()
    assert progress(db, all_symbols.job_id).counts == {"pending": 3}
    with db.begin() as conn:
        actors = conn.execute(
            text("SELECT DISTINCT actor FROM operator_actions WHERE action = 'trigger'")
        ).scalars()
        assert list(actors) == ["python"]


def test_python_api_pauses_and_resumes(db: Database, scheduler: EnrichmentScheduler) -> None:
    track_for_years(db, "AAPL")
    scheduler.trigger_enrichment_now()
    scheduler.pause()
    assert JobQueue(db).claim("w", 1) == []
    scheduler.resume()
    assert len(JobQueue(db).claim("w", 1)) == 1


def test_python_api_returns_the_scheduler_status(
    db: Database, scheduler: EnrichmentScheduler
) -> None:
    track_for_years(db, "AAPL")
    status = scheduler.get_scheduler_status()
    assert (status.running, status.last_enrichment_time) == (False, None)
    assert (status.next_enrichment_time.hour, status.next_enrichment_time.minute) == (1, 30)
    with db.begin() as conn:
        now: datetime = conn.execute(text("SELECT now()")).scalar_one()
        conn.execute(
            text(
                "INSERT INTO workers (worker_id, host, pid, version, threads)"
                " VALUES ('w', 'here', 1, 'test', 1)"
            )
        )
    assert timedelta(0) < status.next_enrichment_time - now <= timedelta(days=1)
    ticking = build_scheduler(Settings(), db, worker_id="w")
    ticking.tick()
    scheduler.trigger_enrichment_now()
    finish_all(db)
    status = ticking.get_scheduler_status()
    assert status.running
    assert status.last_enrichment_time >= now


def test_the_next_run_is_that_of_the_running_scheduler_whoever_asks(db: Database) -> None:
    reader = ReadModels(db)
    with db.begin() as conn:
        conn.execute(
            text(
                "INSERT INTO workers (worker_id, host, pid, version, threads)"
                " VALUES ('w', 'here', 1, 'test', 1)"
            )
        )
    build_scheduler(Settings(enrichment_hour=5, enrichment_minute=45), db, worker_id="w").tick()
    due = reader.scheduler_status().next_enrichment_time
    assert due is not None
    assert (due.hour, due.minute) == (5, 45)
    with db.begin() as conn:  # the slot has just passed, and the scheduler has not ticked since
        conn.execute(text("UPDATE workers SET next_run_at = next_run_at - interval '1 day'"))
    assert reader.scheduler_status().next_enrichment_time == due
    build_scheduler(Settings(enable_daily_enrichment=False), db, worker_id="w").tick()
    assert reader.scheduler_status().next_enrichment_time is None


def test_a_run_keeps_its_due_time_when_the_schedule_changes(db: Database) -> None:
    track_for_years(db, "AAPL")
    late = NightlySlotStore(db, [schedules.nightly(22, 15)])
    due = datetime(2025, 1, 1, 22, 15, tzinfo=UTC)
    assert late.open_due_jobs(due + timedelta(hours=2))
    with db.begin() as conn:
        opened = conn.execute(text("SELECT created_at FROM enrichment_jobs")).scalar_one()
    (slot,) = ReadModels(db).slots()
    assert (slot.slot, slot.late_seconds) == (due, (opened - due).total_seconds())


def test_python_api_returns_metrics_of_24_hours(
    db: Database, scheduler: EnrichmentScheduler
) -> None:
    track_for_years(db, "AAPL", "MSFT")
    empty = scheduler.get_enrichment_metrics()
    assert (empty.fetch_pipeline.total_fetches, empty.fetch_pipeline.success_rate) == (0, None)
    with db.begin() as conn:
        conn.execute(
            text(
                "INSERT INTO enrichment_fetch_log (symbol, source, success, duration_ms) VALUES"
                " ('AAPL', 'polygon', true, 10), ('AAPL', 'polygon', true, 40),"
                " ('AAPL', 'polygon', false, 900)"
            )
        )
        conn.execute(
            text(
                "INSERT INTO enrichment_compute_log (symbol, success, duration_ms)"
                " VALUES ('AAPL', true, 3)"
            )
        )
    metrics = scheduler.get_enrichment_metrics()
    fetches, computations = metrics.fetch_pipeline, metrics.compute_pipeline
    assert (fetches.total_fetches, fetches.successful, fetches.success_rate) == (3, 2, 66.67)
    assert fetches.avg_response_time_ms == 25.0  # of the successful ones
    assert (computations.total_computations, computations.success_rate) == (1, 100.0)
    assert metrics.data_quality.symbols_tracked == 2
