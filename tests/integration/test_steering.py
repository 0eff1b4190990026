"""What an operator can do to a job or a scope, on real Postgres: effect, audit, clear refusals."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from enrichment.domain.errors import InvalidRequest, NotTracked, Snooze, UnknownJob
from enrichment.domain.model import AssetClass, Failure, RowCounts, Task, Timeframe, Window
from enrichment.engine.worker import Worker, WorkerTiming
from enrichment.services.commands import Commands, parse_tracked
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
    found = ReadModels(db, hour=1, minute=30, enabled=True).progress(job_id)
    assert found is not None
    return found


def finish(db: Database, task: Task) -> None:
    with db.begin() as conn:
        jobs.complete(conn, task, RowCounts(inserted=7))


def fail(db: Database, task: Task, error_class: str) -> None:
    JobQueue(db).fail(task, Failure(error_class, "it broke", "fetch"), None)


def audited(db: Database) -> list[str]:
    with db.begin() as conn:
        return list(
            conn.execute(
                text("SELECT action FROM operator_actions WHERE actor = 'me' ORDER BY id")
            ).scalars()
        )


def test_cancelling_ends_waiting_items_at_once(db: Database) -> None:
    commands = track(db, "A", "B", "C")
    job = commands.trigger(actor="test")
    commands.cancel(job.job_id, actor="me", reason="wrong list")
    found = progress(db, job.job_id)
    assert (found.state, found.counts) == ("cancelled", {"cancelled": 3})
    assert JobQueue(db).claim("w", 5) == []
    assert audited(db) == ["cancel"]


def test_cancelling_lets_a_worker_drop_what_is_at_work(db: Database) -> None:
    begun, cancelled = threading.Event(), threading.Event()
    waiting = threading.Event()

    def enrich(task: Task, report: Callable[[str], None]) -> RowCounts:
        begun.set()
        for _ in range(400):
            report("fetch 1d")  # where a cancelled item ends
            waiting.wait(0.05)
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
    assert begun.wait(10)
    commands.cancel(job.job_id, actor="me")
    for _ in range(200):
        if progress(db, job.job_id).finished:
            cancelled.set()
            break
        waiting.wait(0.05)
    worker.stop()
    thread.join()
    assert cancelled.is_set()
    assert progress(db, job.job_id).counts == {"cancelled": 2}


@pytest.mark.parametrize("way", ["given back", "failed", "lost"])
def test_a_cancelled_job_ends_though_an_item_comes_back(db: Database, way: str) -> None:
    commands = track(db, "A", "B")
    job = commands.trigger(actor="test")
    queue = JobQueue(db, lease_seconds=0.0 if way == "lost" else 30.0)
    (task,) = queue.claim("w", 1)
    commands.cancel(job.job_id, actor="me")
    if way == "given back":
        queue.release(task, 600.0, "the vendor rests")
    elif way == "failed":
        queue.fail(task, Failure("Timeout", "it broke", "fetch"), 600.0)
    assert queue.reclaim_expired(max_retries=3) == (way == "lost")
    assert queue.close_finished_jobs() == [job.job_id]
    found = progress(db, job.job_id)
    assert (found.state, found.counts) == ("cancelled", {"cancelled": 2})


def test_cancelling_while_workers_claim_blocks_nobody(db: Database) -> None:
    commands = track(db, *[f"S{n}" for n in range(20)])
    queue, claimed = JobQueue(db), threading.Event()
    cancelled: list[UUID] = []

    def claim() -> None:
        while not claimed.is_set():
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
        claimed.set()
        thread.join()
    queue.reclaim_expired(max_retries=3)
    queue.close_finished_jobs()
    assert {progress(db, job_id).state for job_id in cancelled} == {"cancelled"}


def test_resuming_runs_the_failed_alone_and_keeps_the_rest(db: Database) -> None:
    commands = track(db, "A", "B", "C")
    job = commands.trigger(actor="test")
    queue = JobQueue(db)
    for task, outcome in zip(queue.claim("w", 3), ("done", "AccessDenied", "Timeout"), strict=True):
        finish(db, task) if outcome == "done" else fail(db, task, outcome)
    queue.close_finished_jobs()
    assert progress(db, job.job_id).state == "partial"
    assert commands.resume_failed(job.job_id, actor="me", error_class="Timeout") == 1
    assert progress(db, job.job_id).counts == {"completed": 1, "failed": 1, "pending": 1}
    begun = "SELECT count(*) FROM enrichment_job_items WHERE started_at IS NOT NULL"
    with db.begin() as conn:  # what is run again begins anew
        assert conn.execute(text(begun)).scalar_one() == 2
    (again,) = queue.claim("w", 5)
    assert again.retry_count == 0
    finish(db, again)
    queue.close_finished_jobs()
    assert progress(db, job.job_id).counts == {"completed": 2, "failed": 1}
    assert commands.resume_failed(job.job_id, actor="me") == 1
    (last,) = queue.claim("w", 5)
    finish(db, last)
    queue.close_finished_jobs()
    found = progress(db, job.job_id)
    assert (found.state, found.counts, found.inserted) == ("completed", {"completed": 3}, 21)
    assert audited(db) == ["resume_failed", "resume_failed"]


def test_refusals_say_why(db: Database) -> None:
    commands = track(db, "A")
    job = commands.trigger(actor="test")
    with pytest.raises(UnknownJob, match="enrichment history"):
        commands.cancel(uuid4(), actor="me")
    with pytest.raises(UnknownJob):
        commands.resume_failed(uuid4(), actor="me")
    with pytest.raises(InvalidRequest, match="still queued"):
        commands.resume_failed(job.job_id, actor="me")
    (task,) = JobQueue(db).claim("w", 1)
    finish(db, task)
    JobQueue(db).close_finished_jobs()
    with pytest.raises(InvalidRequest, match="completed already"):
        commands.cancel(job.job_id, actor="me")
    with pytest.raises(InvalidRequest, match="no failed symbols"):
        commands.resume_failed(job.job_id, actor="me")
    assert audited(db) == []


@pytest.mark.parametrize(
    ("scope", "key", "error", "mend"),
    [
        ("symbol", "NOPE", NotTracked, "symbols list"),
        ("symbol", "no pe", InvalidRequest, "malformed"),
        ("asset_class", "bond", InvalidRequest, "stock, etf, crypto"),
        ("provider", "bloomberg", InvalidRequest, "polygon"),
        ("galaxy", "", InvalidRequest, "global, asset_class, symbol, provider"),
        ("global", "AAPL", InvalidRequest, "no key"),
    ],
)
def test_pausing_what_does_not_exist(
    db: Database, scope: str, key: str, error: type[Exception], mend: str
) -> None:
    with pytest.raises(error, match=mend):
        Commands(db).pause(actor="me", scope=scope, key=key)


def test_a_pause_ends_by_itself(db: Database) -> None:
    commands = track(db, "A")
    commands.trigger(actor="test")
    commands.pause(actor="me", until=datetime.now(UTC) + timedelta(hours=1))
    assert JobQueue(db).claim("w", 1) == []
    with db.begin() as conn:
        conn.execute(text("UPDATE pauses SET until = now() - interval '1 s'"))
    assert len(JobQueue(db).claim("w", 1)) == 1
    assert ReadModels(db, hour=1, minute=30, enabled=True).pauses() == []


def test_a_paused_provider_is_not_asked(db: Database) -> None:
    Commands(db).pause(actor="me", scope="provider", key="polygon")
    failover = Failover({}, lambda _: ("polygon",), paused=ProviderPauses(db))
    now = DatabaseClock(db)()
    with pytest.raises(Snooze, match="polygon is paused"):
        failover.fetch("A", AssetClass.STOCK, Timeframe.D1, Window(now - timedelta(days=1), now))


def test_a_removed_symbol_leaves_the_queue_without_failing_its_job(db: Database) -> None:
    commands = track(db, "A", "B")
    job = commands.trigger(actor="test")
    commands.untrack("B", actor="me")
    (task,) = JobQueue(db).claim("w", 5)
    finish(db, task)
    JobQueue(db).close_finished_jobs()
    found = progress(db, job.job_id)
    assert (found.state, found.counts) == ("completed", {"cancelled": 1, "completed": 1})


def test_the_databases_clock_is_what_counts(db: Database) -> None:
    clock = DatabaseClock(db)
    first = clock()
    with db.begin() as conn:
        now: datetime = conn.execute(text("SELECT clock_timestamp()")).scalar_one()
    assert timedelta(0) <= now - first < timedelta(seconds=5)
    assert clock() >= first


def test_pruning_drops_old_logs_and_jobs_only(db: Database) -> None:
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
    assert ReadModels(db, hour=1, minute=30, enabled=True).progress(old.job_id) is None
    assert prune(db, log_months=13, job_days=400).log_partitions == 0
