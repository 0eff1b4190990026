"""Pausing, cancelling and resuming on real Postgres: their effect, their audit, their errors."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from enrichment.domain.errors import Conflict, InvalidRequest, NotTracked, Snooze, UnknownJob
from enrichment.domain.model import AssetClass, Failure, RowCounts, Task, Timeframe, Window
from enrichment.domain.symbol_csv import parse_tracked
from enrichment.engine.worker import Worker, WorkerTiming
from enrichment.services.commands import Commands
from enrichment.vendors.failover import Failover
from enrichment.warehouse.database import Database, DatabaseClock
from enrichment.warehouse.queue import jobs
from enrichment.warehouse.queue.jobs import JobQueue
from enrichment.warehouse.queue.pauses import ProviderPauses
from enrichment.warehouse.queue.workers import WorkerRegistry
from enrichment.warehouse.read_models.dto import Progress
from enrichment.warehouse.read_models.facade import ReadModels
from enrichment.warehouse.retention import prune


def track(db: Database, *names: str) -> Commands:
    commands = Commands(db)
    commands.track([parse_tracked(name, "stock", "1d") for name in names], actor="test")
    return commands


def progress(db: Database, job_id: UUID) -> Progress:
    job = ReadModels(db).progress(job_id)
    assert job is not None
    return job


def finish(db: Database, task: Task) -> None:
    with db.begin() as conn:
        jobs.complete(conn, {task: RowCounts(inserted=7)})


def fail(db: Database, task: Task, error_class: str) -> None:
    JobQueue(db).fail(task, Failure(error_class, "it broke", "fetch"), None)


def audited(db: Database) -> list[str]:
    with db.begin() as conn:
        return list(
            conn.execute(
                text("SELECT action FROM operator_actions WHERE actor = 'me' ORDER BY id")
            ).scalars()
        )


def test_cancelling_a_job_cancels_waiting_items_at_once(db: Database) -> None:
    commands = track(db, "A", "B", "C")
    job = commands.trigger(actor="test")
    commands.cancel(job.job_id, actor="me", reason="wrong list")
    ended = progress(db, job.job_id)
    assert (ended.state, ended.counts) == ("cancelled", {"cancelled": 3})
    assert JobQueue(db).claim("w", 5) == []
    assert audited(db) == ["cancel"]


def test_a_cancelled_jobs_running_item_ends_at_its_next_step(db: Database) -> None:
    started, cancelled = threading.Event(), threading.Event()
    never = threading.Event()

    def enrich(task: Task, report: Callable[[str], None]) -> RowCounts:
        started.set()
        for _ in range(400):
            report("fetch 1d")  # where a cancelled item ends
            never.wait(0.05)
        raise AssertionError("it was not cancelled")

    registry = WorkerRegistry(db, "w")
    registry.register(host="here", pid=1, version="test", threads=1)
    queue = JobQueue(db)
    worker = Worker(
        enrich,
        queue,
        registry,
        heartbeat_queue=queue,
        threads=1,
        max_retries=2,
        timing=WorkerTiming(poll=0.05, heartbeat=0.1),
    )
    thread = threading.Thread(target=worker.run)
    thread.start()
    commands = track(db, "A", "B")
    job = commands.trigger(actor="test")
    assert started.wait(10)
    commands.cancel(job.job_id, actor="me")
    for _ in range(200):
        if progress(db, job.job_id).finished:
            cancelled.set()
            break
        never.wait(0.05)
    worker.stop()
    thread.join()
    assert cancelled.is_set()
    assert progress(db, job.job_id).counts == {"cancelled": 2}


@pytest.mark.parametrize("outcome", ["released", "failed", "lost"])
def test_a_cancelled_job_ends_though_an_item_returns_to_the_queue(
    db: Database, outcome: str
) -> None:
    commands = track(db, "A", "B")
    job = commands.trigger(actor="test")
    queue = JobQueue(db, lease_seconds=0.0 if outcome == "lost" else 30.0)
    (task,) = queue.claim("w", 1)
    commands.cancel(job.job_id, actor="me")
    if outcome == "released":
        queue.release(task, 600.0, "rate limited")
    elif outcome == "failed":
        queue.fail(task, Failure("Timeout", "it broke", "fetch"), 600.0)
    assert queue.reclaim_expired(max_retries=3) == (outcome == "lost")
    assert queue.close_finished_jobs() == [job.job_id]
    ended = progress(db, job.job_id)
    assert (ended.state, ended.counts) == ("cancelled", {"cancelled": 2})


def test_cancelling_while_workers_claim_does_not_deadlock(db: Database) -> None:
    commands = track(db, *[f"S{n}" for n in range(20)])
    queue, stop = JobQueue(db), threading.Event()
    cancelled: list[UUID] = []

    def claim() -> None:
        while not stop.is_set():
            for task in queue.claim("w", 3):
                queue.release(task)

    thread = threading.Thread(target=claim)
    thread.start()
    try:
        for _ in range(30):
            job = commands.trigger(actor="test")
            commands.cancel(job.job_id, actor="me")
            cancelled.append(job.job_id)
    finally:
        stop.set()
        thread.join()
    queue.reclaim_expired(max_retries=3)
    queue.close_finished_jobs()
    assert {progress(db, job_id).state for job_id in cancelled} == {"cancelled"}


def test_resuming_a_job_runs_only_its_failed_items(db: Database) -> None:
    commands = track(db, "A", "B", "C")
    job = commands.trigger(actor="test")
    queue = JobQueue(db)
    for task, outcome in zip(queue.claim("w", 3), ("done", "AccessDenied", "Timeout"), strict=True):
        finish(db, task) if outcome == "done" else fail(db, task, outcome)
    queue.close_finished_jobs()
    assert progress(db, job.job_id).state == "partial"
    assert commands.resume_failed(job.job_id, actor="me", error_class="Timeout") == 1
    assert progress(db, job.job_id).counts == {"completed": 1, "failed": 1, "pending": 1}
    started = "SELECT count(*) FROM enrichment_job_items WHERE started_at IS NOT NULL"
    with db.begin() as conn:  # started_at of the reopened item was reset
        assert conn.execute(text(started)).scalar_one() == 2
    (again,) = queue.claim("w", 5)
    assert again.retry_count == 0
    finish(db, again)
    queue.close_finished_jobs()
    assert progress(db, job.job_id).counts == {"completed": 2, "failed": 1}
    assert commands.resume_failed(job.job_id, actor="me") == 1
    (last,) = queue.claim("w", 5)
    finish(db, last)
    queue.close_finished_jobs()
    ended = progress(db, job.job_id)
    assert (ended.state, ended.counts, ended.inserted) == ("completed", {"completed": 3}, 21)
    assert audited(db) == ["resume_failed", "resume_failed"]


def test_jobs_that_cannot_be_cancelled_or_resumed(db: Database) -> None:
    commands = track(db, "A")
    job = commands.trigger(actor="test")
    with pytest.raises(UnknownJob, match="enrichment history"):
        commands.cancel(uuid4(), actor="me")
    with pytest.raises(UnknownJob):
        commands.resume_failed(uuid4(), actor="me")
    with pytest.raises(Conflict, match="queued"):
        commands.resume_failed(job.job_id, actor="me")
    (task,) = JobQueue(db).claim("w", 1)
    finish(db, task)
    JobQueue(db).close_finished_jobs()
    with pytest.raises(Conflict, match="completed"):
        commands.cancel(job.job_id, actor="me")
    with pytest.raises(Conflict, match="no failed"):
        commands.resume_failed(job.job_id, actor="me")
    assert audited(db) == []


@pytest.mark.parametrize(
    ("scope", "key", "error", "expected"),
    [
        ("symbol", "NOPE", NotTracked, "NOPE"),
        ("symbol", "no pe", InvalidRequest, "malformed"),
        ("asset_class", "bond", InvalidRequest, "stock, etf, crypto"),
        ("provider", "bloomberg", InvalidRequest, "polygon"),
        ("galaxy", "", InvalidRequest, "global, asset_class, symbol, provider"),
        ("global", "AAPL", InvalidRequest, "no key"),
    ],
)
def test_pausing_an_unknown_scope_or_key(
    db: Database, scope: str, key: str, error: type[Exception], expected: str
) -> None:
    with pytest.raises(error, match=expected):
        Commands(db).pause(actor="me", scope=scope, key=key)


def test_a_pause_expires(db: Database) -> None:
    commands = track(db, "A")
    commands.trigger(actor="test")
    commands.pause(actor="me", until=datetime.now(UTC) + timedelta(hours=1))
    assert JobQueue(db).claim("w", 1) == []
    with db.begin() as conn:
        conn.execute(text("UPDATE pauses SET until = now() - interval '1 s'"))
    assert len(JobQueue(db).claim("w", 1)) == 1
    assert ReadModels(db).pauses() == []


def test_no_requests_are_sent_to_a_paused_provider(db: Database) -> None:
    Commands(db).pause(actor="me", scope="provider", key="polygon")
    failover = Failover({}, lambda _: ("polygon",), paused=ProviderPauses(db))
    now = DatabaseClock(db)()
    with pytest.raises(Snooze, match="polygon"):
        failover.fetch("A", AssetClass.STOCK, Timeframe.D1, Window(now - timedelta(days=1), now))


def test_a_removed_symbols_item_is_cancelled_without_failing_the_job(db: Database) -> None:
    commands = track(db, "A", "B")
    job = commands.trigger(actor="test")
    commands.untrack("B", actor="me")
    (task,) = JobQueue(db).claim("w", 5)
    finish(db, task)
    JobQueue(db).close_finished_jobs()
    ended = progress(db, job.job_id)
    assert (ended.state, ended.counts) == ("completed", {"cancelled": 1, "completed": 1})


def test_the_database_clock_is_monotonic_and_current(db: Database) -> None:
    clock = DatabaseClock(db)
    first = clock()
    with db.begin() as conn:
        now: datetime = conn.execute(text("SELECT clock_timestamp()")).scalar_one()
    assert timedelta(0) <= now - first < timedelta(seconds=5)
    assert clock() >= first


def test_pruning_drops_only_old_logs_and_jobs(db: Database) -> None:
    commands = track(db, "A")
    old, new = commands.trigger(actor="test"), commands.trigger(actor="test")
    queue = JobQueue(db)
    for _ in range(2):
        (task,) = queue.claim("w", 1)
        finish(db, task)
    queue.close_finished_jobs()
    with db.begin() as conn:
        conn.execute(
            text(
                "UPDATE enrichment_jobs SET completed_at = now() - interval '500 days'"
                " WHERE job_id = :id"
            ),
            {"id": old.job_id},
        )
        conn.execute(
            text(
                "CREATE TABLE enrichment_fetch_log_2001_01 PARTITION OF enrichment_fetch_log"
                " FOR VALUES FROM ('2001-01-01') TO ('2001-02-01')"
            )
        )
        conn.execute(
            text(
                "INSERT INTO enrichment_fetch_log (at, symbol, success)"
                " VALUES ('2001-01-09', 'A', true)"
            )
        )
    pruned = prune(db, log_months=13, job_days=400)
    assert (pruned.log_partitions, pruned.jobs) == (1, 1)
    assert progress(db, new.job_id).state == "completed"
    assert ReadModels(db).progress(old.job_id) is None
    assert prune(db, log_months=13, job_days=400).log_partitions == 0


def test_tracking_a_symbol_again_adds_its_timeframes(db: Database) -> None:
    commands = Commands(db)
    reader = ReadModels(db)

    def timeframes() -> list[str]:
        found = reader.symbols.find("AAPL")
        assert found is not None
        return [series.timeframe for series in found.timeframes]

    commands.track([parse_tracked("AAPL", "stock", "1d,1h")], actor="me")
    commands.track([parse_tracked("AAPL", "stock", "5m")], actor="me")
    assert timeframes() == ["5m", "1h", "1d"]
    commands.change(parse_tracked("AAPL", "stock", "1d"), actor="me")
    assert timeframes() == ["1d"]
    commands.untrack("AAPL", actor="me")
    commands.track([parse_tracked("AAPL", "stock", "1h")], actor="me")
    assert timeframes() == ["1h"]
