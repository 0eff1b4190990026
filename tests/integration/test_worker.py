"""A worker on a real queue: how items end, whatever their enrichment does."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from itertools import count

import pytest
from sqlalchemy import text

from enrichment.domain.errors import (
    AccessDenied,
    DatabaseUnavailable,
    ProviderUnavailable,
    Snooze,
    StepFailed,
)
from enrichment.domain.model import Failure, RowCounts, Task, Timeframe
from enrichment.domain.symbol_csv import parse_tracked
from enrichment.engine.ports import Enrich, Prepare
from enrichment.engine.worker import Worker, WorkerTiming
from enrichment.services.commands import Commands
from enrichment.warehouse.database import Database
from enrichment.warehouse.queue import jobs
from enrichment.warehouse.queue.jobs import JobQueue
from enrichment.warehouse.queue.notify import JobListener
from enrichment.warehouse.queue.workers import WorkerRegistry
from enrichment.warehouse.read_models.dto import Progress
from enrichment.warehouse.read_models.facade import ReadModels
from resilience import RateLimiter
from tests.helpers.database_servers import run_as_admin
from tests.helpers.waiting import in_thread, until

QUICK = WorkerTiming(poll=0.05, heartbeat=0.1, lease=30.0, drain=0.3)


class FakePipeline:
    """Raises the given errors of each symbol, one per attempt; then completes the item."""

    def __init__(self, db: Database, errors: dict[str, list[Exception]] | None = None) -> None:
        self.db = db
        self.errors = errors or {}
        self.attempts: Counter[str] = Counter()
        self.running = self.max_running = 0
        self._lock = threading.Lock()

    def enrich(self, task: Task, report: Callable[[str], None]) -> RowCounts:
        with self._lock:
            self.attempts[task.symbol] += 1
            self.running += 1
            self.max_running = max(self.max_running, self.running)
        try:
            report("fetch 1d")
            errors = self.errors.get(task.symbol)
            if errors:
                error = errors.pop(0)
                raise StepFailed("fetch", Timeframe.D1, 12.5) from error
            with self.db.begin() as conn:
                jobs.assert_owned(conn, task)
                jobs.complete(conn, {task: RowCounts(inserted=1)})
            return RowCounts(inserted=1)
        finally:
            with self._lock:
                self.running -= 1


class FlakyRegistry(WorkerRegistry):
    """Fails on the first few heartbeats."""

    def __init__(self, db: Database, worker_id: str, failing_beats: int) -> None:
        super().__init__(db, worker_id)
        self.failing_beats = failing_beats

    def beat(self, *, busy: int, state: str, note: str | None = None) -> None:
        if self.failing_beats:
            self.failing_beats -= 1
            raise DatabaseUnavailable("the connection was closed")
        super().beat(busy=busy, state=state, note=note)


@contextmanager
def working(
    db: Database,
    enrich: Enrich,
    *,
    threads: int = 3,
    timing: WorkerTiming = QUICK,
    name: str = "w",
    prepare: Prepare | None = None,
    failing_beats: int = 0,
    queue: JobQueue | None = None,
) -> Iterator[Worker]:
    registry = FlakyRegistry(db, name, failing_beats)
    registry.register(host="here", pid=1, version="test", threads=threads)
    queue = queue or JobQueue(db)
    worker = Worker(
        enrich,
        queue,
        registry,
        heartbeat_queue=queue,
        threads=threads,
        max_retries=2,
        timing=timing,
        prepare=prepare,
    )
    listener = JobListener(db, worker.wake)
    listener.start()
    try:
        with in_thread(worker):
            yield worker
    finally:
        listener.stop()


def track(db: Database, *names: str) -> Commands:
    commands = Commands(db)
    commands.track([parse_tracked(name, "stock", "1d") for name in names], actor="test")
    return commands


def until_finished(db: Database, commands: Commands) -> Progress:
    """Trigger all symbols and wait for the end of the job, skipping the delays of retries."""
    job = commands.trigger(actor="test")
    reader = ReadModels(db)
    waiting = threading.Event()
    for _ in range(400):
        progress = reader.progress(job.job_id)
        assert progress is not None
        if progress.finished:
            return progress
        with db.begin() as conn:
            conn.execute(
                text(
                    "UPDATE enrichment_job_items SET run_after = now()"
                    " WHERE status IN ('retry', 'pending') AND run_after > now()"
                )
            )
        waiting.wait(0.05)
    raise AssertionError(f"the job did not finish: {progress}")


def scalar(db: Database, query: str) -> int:
    with db.begin() as conn:
        return int(conn.execute(text(query)).scalar_one())


def logged_failures(db: Database) -> list[tuple[str, str, float]]:
    with db.begin() as conn:
        rows = conn.execute(
            text(
                "SELECT symbol, error_class, duration_ms FROM enrichment_fetch_log"
                " WHERE NOT success ORDER BY symbol, at"
            )
        )
        return [(row[0], row[1], row[2]) for row in rows]


def test_a_job_runs_to_its_end_on_limited_threads(db: Database) -> None:
    pipeline = FakePipeline(db)
    with working(db, pipeline.enrich, threads=3):
        progress = until_finished(db, track(db, *[f"S{n}" for n in range(30)]))
    assert progress.state == "completed"
    assert progress.counts == {"completed": 30}
    assert progress.inserted == 30
    assert 1 <= pipeline.max_running <= 3
    assert set(pipeline.attempts.values()) == {1}


def test_failures_are_retried_and_logged_until_the_limit(db: Database) -> None:
    broken = [ProviderUnavailable("the vendor answered 500") for _ in range(3)]
    pipeline = FakePipeline(db, {"FLAKY": [ProviderUnavailable("reset")], "BROKEN": list(broken)})
    with working(db, pipeline.enrich):
        progress = until_finished(db, track(db, "FLAKY", "BROKEN", "GOOD"))
    assert progress.state == "partial"
    assert progress.counts == {"completed": 2, "failed": 1}
    assert pipeline.attempts == {"GOOD": 1, "FLAKY": 2, "BROKEN": 3}
    assert logged_failures(db) == [("BROKEN", "ProviderUnavailable", 12.5)] * 3 + [
        ("FLAKY", "ProviderUnavailable", 12.5)
    ]


def test_permanent_errors_are_not_retried(db: Database) -> None:
    pipeline = FakePipeline(db, {"AAPL": [AccessDenied("wrong key: set POLYGON_API_KEY")]})
    with working(db, pipeline.enrich):
        progress = until_finished(db, track(db, "AAPL"))
    assert progress.state == "failed"
    assert pipeline.attempts["AAPL"] == 1
    (failed,) = ReadModels(db).failed_items(progress.job_id)
    assert failed.last_error == "wrong key: set POLYGON_API_KEY"


def test_a_snooze_does_not_count_as_a_retry(db: Database) -> None:
    pipeline = FakePipeline(db, {"AAPL": [Snooze("breaker open", 30.0) for _ in range(9)]})
    with working(db, pipeline.enrich):
        progress = until_finished(db, track(db, "AAPL"))
    assert progress.state == "completed"
    assert pipeline.attempts["AAPL"] == 10
    with db.begin() as conn:
        retries = conn.execute(text("SELECT retry_count FROM enrichment_job_items")).scalar()
    assert retries == 0


def test_draining_releases_hanging_items(db: Database) -> None:
    release, started = threading.Event(), threading.Event()

    def hang(task: Task, report: Callable[[str], None]) -> RowCounts:
        started.set()
        release.wait(30)
        with db.begin() as conn:
            jobs.assert_owned(conn, task)
        raise AssertionError("the lease of a released item is still valid")

    track(db, "AAPL").trigger(actor="test")
    with working(db, hang) as worker:
        assert started.wait(10)
        worker.stop()
    with db.begin() as conn:
        row = conn.execute(
            text("SELECT status, retry_count, worker_id FROM enrichment_job_items")
        ).one()
    assert tuple(row) == ("pending", 0, None)
    release.set()


def test_the_heartbeat_renews_long_items_and_publishes_their_step(db: Database) -> None:
    release = threading.Event()
    pipeline = FakePipeline(db)

    def slow(task: Task, report: Callable[[str], None]) -> RowCounts:
        report("fetch 1d")
        release.wait(30)
        return pipeline.enrich(task, report)

    track(db, "AAPL")
    job = Commands(db).trigger(actor="test")
    reader = ReadModels(db)

    def progress() -> Progress:
        progress = reader.progress(job.job_id)
        assert progress is not None
        return progress

    with working(db, slow):
        until(lambda: progress().at_work == {"AAPL": "fetch 1d"}, "the step is published")
        release.set()
        until(lambda: progress().finished, "the job ends")
    assert progress().state == "completed"


@pytest.mark.parametrize("lost", [1, 2])
def test_items_of_a_lost_worker_are_reclaimed(db: Database, lost: int) -> None:
    track(db, "AAPL").trigger(actor="test")
    JobQueue(db, lease_seconds=0.01 * lost).claim("gone", 1)
    pipeline = FakePipeline(db)
    reader = ReadModels(db)
    with working(db, pipeline.enrich):
        until(lambda: reader.job_status("AAPL").status == "completed", "the item is completed")
    assert reader.job_status("AAPL").retry_count == 1


def test_a_single_failed_heartbeat_does_not_stop_a_worker(db: Database) -> None:
    """As after the machine was suspended: the connection is closed, the next one works."""
    pipeline = FakePipeline(db)
    commands = track(db, "A")
    with working(db, pipeline.enrich, timing=replace(QUICK, lease=0.0), failing_beats=1):
        until(lambda: scalar(db, "SELECT count(*) FROM workers WHERE heartbeat_at > started_at"))
        assert until_finished(db, commands).state == "completed"


def test_a_worker_without_heartbeats_for_a_lease_waits_until_they_succeed(
    db: Database, caplog: pytest.LogCaptureFixture
) -> None:
    commands = track(db, "A")
    caplog.set_level(logging.INFO)
    timing = replace(QUICK, lease=0.0)
    with working(db, FakePipeline(db).enrich, timing=timing, failing_beats=5):
        assert until_finished(db, commands).state == "completed"
        until(lambda: "heartbeats succeed again" in caplog.text)
    assert caplog.text.count("heartbeat failed") == 1
    assert "claiming nothing" in caplog.text


def test_a_worker_waits_for_a_read_only_database_and_goes_on(
    db: Database, server: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """As a standby, or a primary during a failover, whose connections stay open."""
    commands, name = track(db, "A"), db.url.database
    admin = server.url.render_as_string(False)
    caplog.set_level(logging.INFO)

    def set_read_only(value: str) -> None:
        run_as_admin(
            admin,
            f"ALTER DATABASE {name} SET default_transaction_read_only = {value}",
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            f" WHERE datname = '{name}' AND '{value}' = 'on'",
        )

    with working(db, FakePipeline(db).enrich):
        until(lambda: scalar(db, "SELECT count(*) FROM workers WHERE heartbeat_at > started_at"))
        set_read_only("on")
        until(lambda: "heartbeat failed: the database" in caplog.text)
        until(lambda: "it is read-only" in caplog.text)
        set_read_only("off")
        until(lambda: "heartbeats succeed again" in caplog.text, seconds=5)
        assert until_finished(db, commands).state == "completed"


def test_an_item_that_waits_for_a_permit_is_cancelled_at_once(db: Database) -> None:
    limiter = RateLimiter("vendor", 1, 3600, burst=1)
    limiter.acquire()
    waiting = threading.Event()

    def enrich(task: Task, report: Callable[[str], None]) -> RowCounts:
        report("fetch 1d")
        waiting.set()
        limiter.acquire()
        raise AssertionError("the permit comes in an hour")

    commands = track(db, "A")
    job = commands.trigger(actor="test")
    with working(db, enrich, timing=replace(QUICK, poll=1.0, heartbeat=30.0)):
        assert waiting.wait(10)
        commands.cancel(job.job_id, actor="test")
        until(
            lambda: scalar(
                db, "SELECT count(*) FROM enrichment_job_items WHERE status = 'cancelled'"
            ),
            seconds=20,
        )


def test_without_a_prepared_batch_items_are_enriched_one_by_one(db: Database) -> None:
    pipeline = FakePipeline(db)

    def prepare(tasks: Sequence[Task]) -> Sequence[Enrich]:
        raise ValueError("one symbol can't be read")

    with working(db, pipeline.enrich, prepare=prepare):
        progress = until_finished(db, track(db, "AAPL", "MSFT"))
    assert progress.counts == {"completed": 2}


def test_an_item_is_in_flight_until_its_future_is_done(db: Database) -> None:
    pipeline = FakePipeline(db)
    futures: dict[str, tuple[Task, Future[RowCounts]]] = {}
    both_started = threading.Event()

    def enrich(task: Task, report: Callable[[str], None]) -> Future[RowCounts]:
        futures[task.symbol] = (task, Future())
        if len(futures) == 2:
            both_started.set()
        return futures[task.symbol][1]

    with working(db, enrich, threads=1):
        job = track(db, "AAPL", "MSFT").trigger(actor="test")
        assert both_started.wait(20)  # on one thread: a future occupies none
        pipeline.enrich(futures["AAPL"][0], lambda step: None)
        futures["AAPL"][1].set_result(RowCounts(inserted=1))
        failure = StepFailed("store", None, 3.0)
        failure.__cause__ = AccessDenied("the disk is read-only")
        futures["MSFT"][1].set_exception(failure)
        reader = ReadModels(db)
        until(
            lambda: (progress := reader.progress(job.job_id)) and progress.finished, "the job ends"
        )
    items = {item.symbol: item.status for item in reader.jobs.items(job.job_id, 9)}
    assert items == {"AAPL": "completed", "MSFT": "failed"}


def test_stopping_releases_prefetched_items_at_once(db: Database) -> None:
    pipeline, prefetching, release = FakePipeline(db), threading.Event(), threading.Event()
    quick = 60

    def enrich(task: Task, report: Callable[[str], None]) -> RowCounts:
        if sum(pipeline.attempts.values()) >= quick:
            prefetching.set()
            release.wait(20)
        return pipeline.enrich(task, report)

    commands = track(db, *[f"S{n}" for n in range(200)])
    commands.trigger(actor="test")
    claimed = "SELECT count(*) FROM enrichment_job_items WHERE status = 'in_progress'"
    with working(db, enrich, threads=1, timing=replace(QUICK, drain=5.0)) as worker:
        assert prefetching.wait(20)
        until(lambda: scalar(db, claimed) > 1, "more than the thread's own item is claimed")
        worker.stop()
        until(lambda: scalar(db, claimed) == 1, "the rest is released")
        release.set()
    assert scalar(db, claimed) == 0
    assert scalar(db, "SELECT max(retry_count) FROM enrichment_job_items") == 0


def test_a_very_long_error_says_that_it_is_shortened(db: Database) -> None:
    error = AccessDenied("x" * 1500)
    with working(db, FakePipeline(db, {"BROKEN": [error]}).enrich):
        progress = until_finished(db, track(db, "BROKEN"))
    (failed,) = ReadModels(db).failed_items(progress.job_id)
    assert failed.last_error.endswith("x … (500 more characters)")


def kept_lines(db: Database, symbol: str) -> list[str]:
    query = "SELECT unnest(log_lines) FROM enrichment_job_items WHERE symbol = :symbol"
    with db.begin() as conn:
        return list(conn.execute(text(query), {"symbol": symbol}).scalars())


def test_what_is_logged_of_a_symbol_that_fails_is_kept_with_it(db: Database) -> None:
    pipeline = FakePipeline(db, {"BROKEN": [KeyError("password=geheim") for _ in range(3)]})

    def enrich(task: Task, report: Callable[[str], None]) -> RowCounts:
        logging.getLogger("any.library").warning("asking for %s?apiKey=geheim", task.symbol)
        return pipeline.enrich(task, report)

    with working(db, enrich):
        until_finished(db, track(db, "BROKEN", "GOOD"))
    lines = kept_lines(db, "BROKEN")
    asked = [line for line in lines if line.endswith("WARNING asking for BROKEN?apiKey=***")]
    assert len(asked) == 3, "a line of each attempt"
    assert "Traceback (most recent call last):" in lines
    assert "no more retries" in "".join(lines)
    assert "geheim" not in "".join(lines)
    assert kept_lines(db, "GOOD") == []


def test_the_newest_lines_are_kept_until_a_later_attempt_succeeds(db: Database) -> None:
    pipeline = FakePipeline(db, {"FLAKY": [ProviderUnavailable("x"), ProviderUnavailable("x")]})
    kept: list[list[str]] = []

    def enrich(task: Task, report: Callable[[str], None]) -> RowCounts:
        kept.append(kept_lines(db, "FLAKY"))
        for number in range(80):
            logging.getLogger("any.library").warning("line %d %s", number, "y" * 1000)
        return pipeline.enrich(task, report)

    with working(db, enrich):
        until_finished(db, track(db, "FLAKY"))
    assert [len(lines) for lines in kept] == [0, 81, 100]
    assert "line 79 " in kept[2][-2]
    assert max(map(len, kept[2])) == 500
    assert kept_lines(db, "FLAKY") == []


def test_lines_are_kept_of_a_failure_that_is_recorded_late(db: Database) -> None:
    """The database does not take the failure at first."""
    pipeline = FakePipeline(db, {"BROKEN": [AccessDenied("wrong key")]})
    queue, calls = JobQueue(db), count()

    class LateQueue(JobQueue):
        def fail(self, task: Task, failure: Failure, retry_after: float | None) -> None:
            if next(calls) < 2:
                raise DatabaseUnavailable("it restarts")
            queue.fail(task, failure, retry_after)

    with working(db, pipeline.enrich, queue=LateQueue(db)):
        until_finished(db, track(db, "BROKEN"))
    assert "wrong key" in kept_lines(db, "BROKEN")[0]
