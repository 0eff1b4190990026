"""Several workers on one database share the load; a killed one costs at most a lease."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import text

from enrichment.domain.model import RowCounts, Task
from enrichment.domain.symbol_csv import parse_tracked
from enrichment.engine.ports import Enrich
from enrichment.engine.worker import Worker, WorkerTiming
from enrichment.services.commands import Commands
from enrichment.warehouse.database import Database
from enrichment.warehouse.queue import jobs
from enrichment.warehouse.queue.jobs import JobQueue
from enrichment.warehouse.queue.workers import WorkerRegistry
from enrichment.warehouse.read_models.dto import Progress
from enrichment.warehouse.read_models.facade import ReadModels

THREADS = 2
LEASE = 1.5
TIMING = WorkerTiming(poll=0.05, heartbeat=0.2, lease=LEASE, drain=5.0)

# A worker that prints each item it starts and never finishes one.
HANGING_WORKER = """
import os, sys, threading
from enrichment.warehouse.database import Database
from enrichment.warehouse.queue.jobs import JobQueue
from enrichment.warehouse.queue.workers import WorkerRegistry
from enrichment.engine.worker import WorkerTiming, Worker

db = Database(sys.argv[1], pool_size=3)
registry = WorkerRegistry(db, "killed")
registry.register(host="here", pid=1, version="test", threads=2)
queue = JobQueue(db, lease_seconds=float(sys.argv[2]))

def hang(task, report):
    report("fetch 1d")
    os.write(1, f"{task.symbol}\\n".encode())
    threading.Event().wait()

timing = WorkerTiming(poll=0.05, heartbeat=0.2, lease=float(sys.argv[2]))
Worker(
    hang, queue, registry, heartbeat_queue=queue, threads=2, max_retries=2, timing=timing
).run()
"""


@contextmanager
def working(url: str, name: str, enrich: Enrich) -> Iterator[None]:
    """A worker with connections of its own, as on another machine."""
    with ExitStack() as stack:
        db = Database(url, pool_size=THREADS + 2)
        stack.callback(db.close)
        registry = WorkerRegistry(db, name)
        registry.register(host="here", pid=1, version="test", threads=THREADS)
        queue = JobQueue(db, lease_seconds=LEASE)
        worker = Worker(
            enrich,
            queue,
            registry,
            heartbeat_queue=queue,
            threads=THREADS,
            max_retries=2,
            timing=TIMING,
        )
        thread = threading.Thread(target=worker.run)
        thread.start()
        stack.callback(thread.join)
        stack.callback(worker.stop)
        yield


def trigger(db: Database, count: int) -> UUID:
    commands = Commands(db)
    commands.track([parse_tracked(f"S{n}", "stock", "1d") for n in range(count)], actor="test")
    return commands.trigger(actor="test").job_id


def finish(db: Database, task: Task) -> RowCounts:
    with db.begin() as conn:
        jobs.assert_owned(conn, task)
        jobs.complete(conn, {task: RowCounts(inserted=1)})
    return RowCounts(inserted=1)


def until_finished(db: Database, job_id: UUID, watch: Callable[[], None]) -> Progress:
    reader, waiting = ReadModels(db), threading.Event()
    for _ in range(1500):
        watch()
        progress = reader.progress(job_id)
        assert progress is not None
        if progress.finished:
            return progress
        waiting.wait(0.02)
    raise AssertionError(f"the job did not finish: {progress}")


def test_three_workers_share_the_load(db: Database, db_url: str) -> None:
    names = ["w1", "w2", "w3"]
    done: defaultdict[str, Counter[str]] = defaultdict(Counter)
    started = {name: threading.Event() for name in names}
    running: Counter[str] = Counter()
    max_running: Counter[str] = Counter()
    lock = threading.Lock()

    def enrich(task: Task, report: Callable[[str], None]) -> RowCounts:
        with lock:
            running[task.worker_id] += 1
            max_running[task.worker_id] = max(max_running[task.worker_id], running[task.worker_id])
        started[task.worker_id].set()
        for event in started.values():
            assert event.wait(20), "a worker got no item"
        rows = finish(db, task)
        with lock:
            done[task.worker_id][task.symbol] += 1
            running[task.worker_id] -= 1
        return rows

    with ExitStack() as stack:
        for name in names:
            stack.enter_context(working(db_url, name, enrich))
        progress = until_finished(db, trigger(db, 60), lambda: None)
    assert (progress.state, progress.counts, progress.inserted) == (
        "completed",
        {"completed": 60},
        60,
    )
    assert sorted(done) == names
    attempts = sum(done.values(), Counter[str]())
    assert attempts == Counter({f"S{n}": 1 for n in range(60)})
    assert max(max_running.values()) <= THREADS


def test_a_killed_worker_delays_its_job_by_at_most_a_lease(db: Database, db_url: str) -> None:
    killed = subprocess.Popen(
        [sys.executable, "-c", HANGING_WORKER, db_url, str(LEASE)],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        job_id = trigger(db, 20)
        assert killed.stdout is not None
        lost = {killed.stdout.readline().strip() for _ in range(THREADS)}
        with ExitStack() as stack:
            for name in ("w1", "w2"):
                stack.enter_context(working(db_url, name, lambda task, _: finish(db, task)))
            until_other_items_are_done(db, job_id)
            os.kill(killed.pid, signal.SIGKILL)
            killed.wait(10)
            killed_at, lease_ends = leases_of(db, "killed")
            progress = until_finished(db, job_id, lambda: None)
    finally:
        killed.kill()
        killed.wait(10)
        if killed.stdout is not None:
            killed.stdout.close()
    assert set(lease_ends) <= lost  # some may have been reclaimed already
    assert all(until <= killed_at + timedelta(seconds=LEASE) for until in lease_ends.values())
    assert (progress.state, progress.counts) == ("completed", {"completed": 20})
    with db.begin() as conn:
        rows = conn.execute(
            text("SELECT symbol, worker_id FROM enrichment_job_items WHERE retry_count = 1")
        ).all()
    assert {row.symbol for row in rows} == lost
    assert {row.worker_id for row in rows} <= {"w1", "w2"}


def until_other_items_are_done(db: Database, job_id: UUID) -> None:
    """Until only the hanging worker's items are left."""
    reader, waiting = ReadModels(db), threading.Event()
    for _ in range(1000):
        progress = reader.progress(job_id)
        if progress is not None and progress.done == progress.total - THREADS:
            return
        waiting.wait(0.02)
    raise AssertionError(f"the others did not finish: {progress}")


def leases_of(db: Database, worker: str) -> tuple[datetime, dict[str, datetime]]:
    """The database's time and, for each symbol of the worker, the end of its lease."""
    with db.begin() as conn:
        now: datetime = conn.execute(text("SELECT clock_timestamp()")).scalar_one()
        rows = conn.execute(
            text(
                "SELECT symbol, lease_until FROM enrichment_job_items"
                " WHERE worker_id = :worker AND status = 'in_progress'"
            ),
            {"worker": worker},
        )
        return now, {row.symbol: row.lease_until for row in rows}
