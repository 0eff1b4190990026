"""A worker on a real queue: what becomes of an item, whatever its enrichment does."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace

import pytest
from sqlalchemy import text

from enrichment.domain.errors import (
    AccessDenied,
    DatabaseUnavailable,
    ProviderUnavailable,
    Snooze,
    StepFailed,
)
from enrichment.domain.model import RowCounts, Task, Timeframe
from enrichment.engine.worker import Enrich, Prepare, Worker, WorkerTiming
from enrichment.services.commands import Commands, parse_tracked
from enrichment.warehouse.database import Database
from enrichment.warehouse.queue import jobs, leases
from enrichment.warehouse.queue.jobs import JobQueue
from enrichment.warehouse.queue.notify import JobListener
from enrichment.warehouse.queue.workers import WorkerRegistry
from enrichment.warehouse.read_models.dto import Progress
from enrichment.warehouse.read_models.facade import ReadModels
from tests.helpers.waiting import in_thread, until

QUICK = WorkerTiming(poll=0.05, heartbeat=0.1, lease=30.0, drain=0.3)


class Bench:
    """A scripted pipeline: what each symbol's attempts do, in order; then it succeeds."""

    def __init__(self, db: Database, script: dict[str, list[Exception]] | None = None) -> None:
        self.db = db
        self.script = script or {}
        self.attempts: Counter[str] = Counter()
        self.at_once = self.most_at_once = 0
        self._lock = threading.Lock()

    def enrich(self, task: Task, report: Callable[[str], None]) -> RowCounts:
        with self._lock:
            self.attempts[task.symbol] += 1
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            report("fetch 1d")
            planned = self.script.get(task.symbol)
            if planned:
                error = planned.pop(0)
                raise StepFailed("fetch", Timeframe.D1, 12.5) from error
            with self.db.begin() as conn:
                leases.assert_owned(conn, task)
                jobs.complete(conn, task, RowCounts(inserted=1))
            return RowCounts(inserted=1)
        finally:
            with self._lock:
                self.at_once -= 1


class Faltering(WorkerRegistry):
    """A worker's entry that can't be written the first few times."""

    def __init__(self, db: Database, worker_id: str, lost_beats: int) -> None:
        super().__init__(db, worker_id)
        self.lost_beats = lost_beats

    def beat(self, *, busy: int, state: str, note: str | None = None) -> None:
        if self.lost_beats:
            self.lost_beats -= 1
            raise DatabaseUnavailable("the connection was ended")
        super().beat(busy=busy, state=state, note=note)


@contextmanager
def working(
    db: Database,
    enrich: Enrich,
    *,
    threads: int = 3,
    pace: WorkerTiming = QUICK,
    name: str = "w",
    ready: Prepare | None = None,
    lost_beats: int = 0,
) -> Iterator[Worker]:
    registry = Faltering(db, name, lost_beats)
    registry.register(host="here", pid=1, version="test", threads=threads)
    queue = JobQueue(db)
    worker = Worker(
        enrich,
        queue,
        registry,
        heartbeat_queue=queue,
        threads=threads,
        max_retries=2,
        timing=pace,
        prepare=ready,
    )
    listener = JobListener(db, worker.wake)
    listener.start()
    try:
        with in_thread(worker):
            yield worker
    finally:
        listener.stop()


def trigger(db: Database, *names: str) -> Commands:
    commands = Commands(db)
    commands.track([parse_tracked(name, "stock", "1d") for name in names], actor="test")
    return commands


def until_finished(db: Database, commands: Commands) -> Progress:
    """Trigger everything and wait for the job's end, hurrying the retries' delays along."""
    job = commands.trigger(actor="test")
    reader = ReadModels(db, hour=1, minute=30, enabled=True)
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
    bench = Bench(db)
    with working(db, bench.enrich, threads=3):
        progress = until_finished(db, trigger(db, *[f"S{n}" for n in range(30)]))
    assert progress.state == "completed"
    assert progress.counts == {"completed": 30}
    assert progress.inserted == 30
    assert 1 <= bench.most_at_once <= 3
    assert set(bench.attempts.values()) == {1}


def test_failures_are_retried_and_logged_until_the_limit(db: Database) -> None:
    broken = [ProviderUnavailable("the vendor answered 500") for _ in range(3)]
    bench = Bench(db, {"FLAKY": [ProviderUnavailable("reset")], "BROKEN": list(broken)})
    with working(db, bench.enrich):
        progress = until_finished(db, trigger(db, "FLAKY", "BROKEN", "GOOD"))
    assert progress.state == "partial"
    assert progress.counts == {"completed": 2, "failed": 1}
    assert bench.attempts == {"GOOD": 1, "FLAKY": 2, "BROKEN": 3}
    assert logged_failures(db) == [("BROKEN", "ProviderUnavailable", 12.5)] * 3 + [
        ("FLAKY", "ProviderUnavailable", 12.5)
    ]


def test_what_repeating_cannot_help_fails_at_once(db: Database) -> None:
    bench = Bench(db, {"AAPL": [AccessDenied("wrong key: set POLYGON_API_KEY")]})
    with working(db, bench.enrich):
        progress = until_finished(db, trigger(db, "AAPL"))
    assert progress.state == "failed"
    assert bench.attempts["AAPL"] == 1
    (failed,) = ReadModels(db, hour=1, minute=30, enabled=True).failed_items(progress.job_id)
    assert failed.last_error == "wrong key: set POLYGON_API_KEY"


def test_a_snooze_is_no_retry(db: Database) -> None:
    bench = Bench(db, {"AAPL": [Snooze("breaker open", 30.0) for _ in range(9)]})
    with working(db, bench.enrich):
        progress = until_finished(db, trigger(db, "AAPL"))
    assert progress.state == "completed"
    assert bench.attempts["AAPL"] == 10
    with db.begin() as conn:
        retries = conn.execute(text("SELECT retry_count FROM enrichment_job_items")).scalar()
    assert retries == 0


def test_draining_gives_hanging_items_back_unharmed(db: Database) -> None:
    release, begun = threading.Event(), threading.Event()

    def hang(task: Task, report: Callable[[str], None]) -> RowCounts:
        begun.set()
        release.wait(30)
        with db.begin() as conn:
            leases.assert_owned(conn, task)
        raise AssertionError("a stale item must not pass")

    trigger(db, "AAPL").trigger(actor="test")
    with working(db, hang) as worker:
        assert begun.wait(10)
        worker.stop()
    with db.begin() as conn:
        row = conn.execute(
            text("SELECT status, retry_count, worker_id FROM enrichment_job_items")
        ).one()
    assert tuple(row) == ("pending", 0, None)
    release.set()


def test_the_heartbeat_keeps_long_items_and_shows_their_step(db: Database) -> None:
    release = threading.Event()
    bench = Bench(db)

    def slow(task: Task, report: Callable[[str], None]) -> RowCounts:
        report("fetch 1d")
        release.wait(30)
        return bench.enrich(task, report)

    trigger(db, "AAPL")
    job = Commands(db).trigger(actor="test")
    reader = ReadModels(db, hour=1, minute=30, enabled=True)
    waiting = threading.Event()
    with working(db, slow):
        seen = False
        for _ in range(200):
            progress = reader.progress(job.job_id)
            assert progress is not None
            if progress.at_work == {"AAPL": "fetch 1d"}:
                seen = True
                break
            waiting.wait(0.05)
        release.set()
        for _ in range(200):
            progress = reader.progress(job.job_id)
            assert progress is not None
            if progress.finished:
                break
            waiting.wait(0.05)
    assert seen
    assert progress.state == "completed"


@pytest.mark.parametrize("lost", [1, 2])
def test_items_of_a_lost_worker_come_back(db: Database, lost: int) -> None:
    trigger(db, "AAPL").trigger(actor="test")
    JobQueue(db, lease_seconds=0.01 * lost).claim("gone", 1)
    bench = Bench(db)
    reader = ReadModels(db, hour=1, minute=30, enabled=True)
    waiting = threading.Event()
    with working(db, bench.enrich):
        for _ in range(200):
            status = reader.job_status("AAPL")
            assert status is not None
            if status.status == "completed":
                break
            waiting.wait(0.05)
    assert (status.status, status.retry_count) == ("completed", 1)


def test_one_lost_heartbeat_after_a_lease_is_survived(db: Database) -> None:
    """As on a machine that has slept: its connection is gone, and the next one is good."""
    bench = Bench(db)
    commands = trigger(db, "A")
    with working(db, bench.enrich, pace=replace(QUICK, lease=0.0), lost_beats=1):
        until(lambda: scalar(db, "SELECT count(*) FROM workers WHERE heartbeat_at > started_at"))
        assert until_finished(db, commands).state == "completed"


def test_a_worker_whose_heartbeat_stays_away_for_a_lease_stops_itself(
    db: Database, caplog: pytest.LogCaptureFixture
) -> None:
    with working(db, Bench(db).enrich, pace=replace(QUICK, lease=0.0), lost_beats=2):
        until(lambda: scalar(db, "SELECT count(*) FROM workers WHERE state = 'stopped'"))
    assert "this worker stops itself" in caplog.text


def test_what_cannot_be_read_together_is_enriched_one_by_one(db: Database) -> None:
    bench = Bench(db)

    def ready(tasks: Sequence[Task]) -> Sequence[Enrich]:
        raise ValueError("one of them is unreadable")

    with working(db, bench.enrich, ready=ready):
        progress = until_finished(db, trigger(db, "AAPL", "MSFT"))
    assert progress.counts == {"completed": 2}


def test_an_item_is_at_hand_until_its_promise_is_kept(db: Database) -> None:
    bench = Bench(db)
    promised: dict[str, tuple[Task, Future[RowCounts]]] = {}
    both = threading.Event()

    def enrich(task: Task, report: Callable[[str], None]) -> Future[RowCounts]:
        promised[task.symbol] = (task, Future())
        if len(promised) == 2:
            both.set()
        return promised[task.symbol][1]

    with working(db, enrich, threads=1):
        job = trigger(db, "AAPL", "MSFT").trigger(actor="test")
        assert both.wait(20)  # one thread took both: a promise holds none
        bench.enrich(promised["AAPL"][0], lambda step: None)
        promised["AAPL"][1].set_result(RowCounts(inserted=1))
        failure = StepFailed("store", None, 3.0)
        failure.__cause__ = AccessDenied("the disk refuses")
        promised["MSFT"][1].set_exception(failure)
        reader = ReadModels(db, hour=1, minute=30, enabled=True)
        until(lambda: (found := reader.progress(job.job_id)) and found.finished, "the job ends")
    items = {item.symbol: item.status for item in reader.jobs.items(job.job_id, 9)}
    assert items == {"AAPL": "completed", "MSFT": "failed"}


def test_what_was_claimed_ahead_is_given_back_at_once_by_a_stop(db: Database) -> None:
    bench, reached, release = Bench(db), threading.Event(), threading.Event()
    quick = 60

    def enrich(task: Task, report: Callable[[str], None]) -> RowCounts:
        if sum(bench.attempts.values()) >= quick:
            reached.set()
            release.wait(20)
        return bench.enrich(task, report)

    commands = trigger(db, *[f"S{n}" for n in range(200)])
    commands.trigger(actor="test")
    ahead = "SELECT count(*) FROM enrichment_job_items WHERE status = 'in_progress'"
    with working(db, enrich, threads=1, pace=replace(QUICK, drain=5.0)) as worker:
        assert reached.wait(20)
        until(lambda: scalar(db, ahead) > 1, "more than the thread's own item is claimed")
        worker.stop()
        until(lambda: scalar(db, ahead) == 1, "the rest is given back")
        release.set()
    assert scalar(db, ahead) == 0
    assert scalar(db, "SELECT max(retry_count) FROM enrichment_job_items") == 0
