"""What the engine itself costs: handing out symbols whose enrichment does nothing.

    python -m tests.benchmarks.dispatch [--symbols 1000 10000] [--threads 5] [--triggers 30]

A real Worker on a real JobQueue and a new embedded server; "nothing" is the one transaction that
proves ownership and completes the item, without bars. The floor, measured in the same run with as
many threads, is one bare UPDATE and its commit per item. The second table shows how long a trigger
takes to reach a worker's hands, with notifications and without them.
"""

from __future__ import annotations

import argparse
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from sqlalchemy import text

from api.application import create_app
from enrichment.config import Settings
from enrichment.domain.model import RowCounts, Task
from enrichment.domain.symbol_csv import parse_tracked
from enrichment.engine.ports import Enrich
from enrichment.engine.worker import Worker, WorkerTiming
from enrichment.services.commands import Commands
from enrichment.warehouse.database import Database
from enrichment.warehouse.embedded import EmbeddedPostgres
from enrichment.warehouse.queue import jobs
from enrichment.warehouse.queue.jobs import JobQueue
from enrichment.warehouse.queue.notify import JobListener
from enrichment.warehouse.queue.workers import WorkerRegistry
from enrichment.wiring.database import build_read_models, upgrade_schema
from tests.benchmarks.report import Figure, parser, tell

ROUNDS = 3


@contextmanager
def working(
    url: str, name: str, threads: int, enrich: Enrich, *, listen: bool
) -> Iterator[WorkerTiming]:
    """A worker wired as in production: a pool for its threads, one connection for its heart."""
    db, heart = Database(url, pool_size=threads + 2), Database(url, pool_size=1)
    registry, pace = WorkerRegistry(heart, name), WorkerTiming()
    registry.register(host="here", pid=1, version="benchmark", threads=threads)
    worker = Worker(
        enrich,
        JobQueue(db),
        registry,
        heartbeat_queue=JobQueue(heart),
        threads=threads,
        max_retries=3,
        timing=pace,
    )
    listener = JobListener(db, worker.wake if listen else lambda: None)
    listener.start()
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        yield pace
    finally:
        worker.stop()
        thread.join()
        listener.stop()
        heart.close()
        db.close()


def track(db: Database, count: int) -> None:
    """Leave exactly `count` symbols tracked and no job behind."""
    with db.begin() as conn:
        conn.execute(text("TRUNCATE tracked_symbols, enrichment_jobs CASCADE"))
    Commands(db).track([parse_tracked(f"S{n}", "stock", "1d") for n in range(count)], actor="b")
    with db.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
        conn.execute(text("VACUUM ANALYZE tracked_symbols, enrichment_jobs, enrichment_job_items"))


def floor_ms(url: str, count: int, threads: int) -> float:
    """Milliseconds an item costs as one bare UPDATE and its commit."""
    db = Database(url, pool_size=threads)
    with db.begin() as conn:
        conn.execute(text("DROP TABLE IF EXISTS bare"))
        conn.execute(text("CREATE TABLE bare (n integer PRIMARY KEY, done boolean)"))
        conn.execute(
            text("INSERT INTO bare SELECT n, false FROM generate_series(1, :n) AS n"), {"n": count}
        )

    def update(n: int) -> None:
        with db.begin() as conn:
            conn.execute(text("UPDATE bare SET done = true WHERE n = :n"), {"n": n})

    with ThreadPoolExecutor(threads) as pool:
        began = time.perf_counter()
        list(pool.map(update, range(1, count + 1)))
        seconds = time.perf_counter() - began
    db.close()
    return seconds * 1000 / count


def dispatch_ms(db: Database, url: str, count: int, threads: int) -> float:
    """Milliseconds an item costs from its job's start to its end, by the database's clock."""
    track(db, count)
    own = Database(url, pool_size=threads)

    def nothing(task: Task, report: Callable[[str], None]) -> RowCounts:
        with own.begin() as conn:
            jobs.assert_owned(conn, task)
            jobs.complete(conn, {task: RowCounts()})
        return RowCounts()

    job = Commands(db).trigger(actor="benchmark")
    reader = build_read_models(db, Settings())
    with working(url, f"w{time.monotonic_ns()}", threads, nothing, listen=True):
        while True:
            found = reader.progress(job.job_id)
            if found is not None and found.finished:
                break
            time.sleep(0.2)
    own.close()
    if found.counts != {"completed": count} or found.duration_seconds is None:
        raise SystemExit(f"the job went wrong: {found}")
    return found.duration_seconds * 1000 / count


def dispatch(db: Database, url: str, options: argparse.Namespace) -> Iterator[Figure]:
    costs: dict[int, float] = {}
    for count in options.symbols:
        floors, found = [], []
        for _ in range(ROUNDS):  # taking turns, so that a noisy moment meets both
            floors.append(floor_ms(url, 2000, options.threads))
            found.append(dispatch_ms(db, url, count, options.threads))
        cost, floor = statistics.median(found), statistics.median(floors)
        costs[count] = cost
        yield Figure(f"an item of {count:,}", cost, "ms")
        yield Figure(f"an item of {count:,}, against a bare UPDATE", cost / floor, "×")
    least, most = min(costs), max(costs)
    yield Figure(f"an item of {most:,} against one of {least:,}", costs[most] / costs[least], "×")


def latencies(
    db: Database, url: str, trigger: Callable[[], object], count: int, *, listen: bool
) -> list[float]:
    """Milliseconds from the beginning of each trigger until a worker runs its item."""
    begun, at = threading.Event(), [0.0]

    def note(task: Task, report: Callable[[str], None]) -> RowCounts:
        at[0] = time.perf_counter()
        with db.begin() as conn:
            jobs.complete(conn, {task: RowCounts()})
        begun.set()
        return RowCounts()

    found = []
    with working(url, f"w{time.monotonic_ns()}", 1, note, listen=listen) as pace:
        time.sleep(1.0)  # for the worker to be idle, and listening
        for n in range(count):
            begun.clear()
            began = time.perf_counter()
            trigger()
            if not begun.wait(30):
                raise SystemExit("no worker took the job")
            found.append((at[0] - began) * 1000)
            time.sleep(0.2 + pace.poll * (n % 10) / 10)  # at every phase of the poll
    return found


def wake_ups(db: Database, url: str, count: int) -> Iterator[Figure]:
    track(db, 1)
    commands = Commands(db)
    reader = build_read_models(db, Settings())
    client = create_app(reader, commands, ready=lambda: None).test_client()
    ways: list[tuple[str, Callable[[], object]]] = [
        ("Commands.trigger", lambda: commands.trigger(actor="benchmark")),
        ("POST /trigger", lambda: client.post("/api/v1/enrichment/trigger")),
    ]
    for name, trigger in ways:
        for listen in (True, False):
            found = latencies(db, url, trigger, count, listen=listen)
            how = "by notification" if listen else f"by a poll every {WorkerTiming().poll:.0f} s"
            yield Figure(f"{name} to claim, {how}", statistics.median(found), "ms")
            yield Figure(f"{name} to claim, {how}, longest", max(found), "ms")


def main() -> None:
    parsing = parser(__doc__)
    parsing.add_argument("--symbols", type=int, nargs="+", default=[1000, 10_000])
    parsing.add_argument("--threads", type=int, default=5)
    parsing.add_argument("--triggers", type=int, default=30)
    options = parsing.parse_args()
    with TemporaryDirectory() as folder, EmbeddedPostgres(Path(folder) / "postgres") as server:
        db = Database(server.url)
        upgrade_schema(db)
        found = [*dispatch(db, server.url, options), *wake_ups(db, server.url, options.triggers)]
        db.close()
    tell("dispatch", found, options)


if __name__ == "__main__":
    main()
