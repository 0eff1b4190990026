"""Nights of the real worker, queue and warehouse on a free plan, in virtual time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

from pydantic import SecretStr
from sqlalchemy import text

from enrichment.config import Settings
from enrichment.domain.errors import Snooze, StepFailed
from enrichment.domain.model import Task
from enrichment.domain.symbol_csv import parse_tracked
from enrichment.engine.worker import Worker, WorkerTiming
from enrichment.pipeline.enrich import EnrichmentPipeline
from enrichment.sandbox import create_app, running
from enrichment.sandbox.faults import FaultRegistry
from enrichment.sandbox.vendor import RequestLog
from enrichment.services.commands import Commands
from enrichment.warehouse.database import Database
from enrichment.warehouse.queue.jobs import JobQueue
from enrichment.warehouse.queue.workers import WorkerRegistry
from enrichment.warehouse.read_models.facade import ReadModels
from enrichment.warehouse.series.batch_writer import BatchWriter
from enrichment.warehouse.series.warehouse import Warehouse
from enrichment.wiring.vendors import build_providers
from resilience import init_resilience_manager
from tests.helpers.virtual_time import VirtualTime
from tests.helpers.waiting import in_thread, until

_FOR_NOW = 1e6  # seconds that the queue keeps a snoozed item, until virtual time reaches its end


class VirtualQueue(JobQueue):
    """The queue, with snoozes that end in virtual time."""

    def __init__(self, db: Database, time: VirtualTime, threads: int) -> None:
        super().__init__(db)
        self._time, self._threads, self._lock = time, threads, time.lock
        self._running = 0
        self._expected: set[str] = set()  # symbols that are about to start, so that time waits
        self.wake: Callable[[], object] = lambda: None

    def run(self, inner: Callable[..., Any], task: Task, report: Any) -> Any:
        """Enrich an item, whose thread keeps time from passing while it does not sleep."""
        with self._lock:
            full = self._running + len(self._expected) >= self._threads
            if task.symbol in self._expected:
                self._expected.remove(task.symbol)
            elif full and self._expected:
                self._expected.pop()  # this item has taken its thread
            else:
                self._time.join()
            self._running += 1
        try:
            stored = inner(task, report)
        except StepFailed as failed:
            self._end(leave=not isinstance(failed.__cause__, Snooze))
            raise
        self._end(leave=True)
        return stored

    def _end(self, *, leave: bool) -> None:
        with self._lock:
            self._running -= 1
        if leave:
            self._time.leave()

    def release(self, task: Task, seconds: float = 0.0, why: str | None = None) -> None:
        """Of a snoozed item, its thread counts as awake until here."""
        super().release(task, _FOR_NOW if seconds else 0.0, why)
        if seconds:
            self._time.call_in(seconds, partial(self._end_snooze, task))
            self._time.leave()

    def _end_snooze(self, task: Task) -> bool:
        """Make the item due; whether time waits until it starts."""
        with self._db.begin() as conn:
            statement = (
                "UPDATE enrichment_job_items SET run_after = now()"
                " WHERE job_id = :job AND symbol = :symbol"
            )
            conn.execute(text(statement), {"job": task.job_id, "symbol": task.symbol})
        self.wake()
        with self._lock:
            free = self._running + len(self._expected) < self._threads
            if free:
                self._expected.add(task.symbol)
            return free


@dataclass
class FreePlanNights:
    """A warehouse that runs one job a night against a free plan of the first vendor."""

    db: Database
    time: VirtualTime
    queue: VirtualQueue
    faults: FaultRegistry
    requests: RequestLog
    url: str

    def run(self, symbols: Sequence[str] | None = None) -> dict[str, int]:
        """Run a job over these symbols, or over all; the requests of it by outcome."""
        self.requests.clear()
        job = Commands(self.db).trigger(actor="test", symbols=symbols)
        self.queue.wake()
        reader = ReadModels(self.db)

        def finished() -> bool:
            progress = reader.progress(job.job_id)
            return progress is not None and progress.finished

        until(finished, "the job ends", seconds=25)
        return dict(self.requests.describe()["by_outcome"])

    def next_night(self) -> None:
        """A day later, for the worker and for what the warehouse plans to try again."""
        self.time.advance(timedelta(days=1))
        with self.db.begin() as conn:
            conn.execute(text("UPDATE bar_gaps SET next_try_at = next_try_at - interval '1 day'"))

    def rows(self, query: str) -> list[Any]:
        with self.db.begin() as conn:
            return [tuple(row) for row in conn.execute(text(query))]


@contextmanager
def free_plan_nights(
    db: Database,
    symbols: Sequence[str],
    *,
    threads: int,
    plan: str = "free",
    timeframes: str = "1d,1h",
) -> Iterator[FreePlanNights]:
    """A worker with default settings beside the free plan's 5 requests a minute."""
    time = VirtualTime(0)
    app = create_app(clock=time.wall, plan=plan)
    vendor = app.extensions["sandbox"]
    Commands(db).track([parse_tracked(s, "stock", timeframes) for s in symbols], actor="test")
    queue, registry = VirtualQueue(db, time, threads), WorkerRegistry(db, "inside")
    registry.register(host="test", pid=0, version="test", threads=threads)
    with running(app) as url, BatchWriter(Warehouse(db)) as warehouse:
        settings = Settings(
            polygon_api_key=SecretStr("free"), polygon_base_url=url, yahoo_base_url=url
        )
        manager = init_resilience_manager(**time.injectables)
        pipeline = EnrichmentPipeline(
            build_providers(settings, manager, now=time.wall),
            warehouse,
            history_days=settings.history_days,
            now=time.wall,
        )
        worker = Worker(
            partial(queue.run, pipeline.enrich),
            queue,
            registry,
            heartbeat_queue=queue,
            threads=threads,
            max_retries=settings.max_retries,
            timing=WorkerTiming(poll=0.05, heartbeat=1.0),
            prepare=lambda tasks: [partial(queue.run, e) for e in pipeline.prepare_batch(tasks)],
        )
        queue.wake = worker.wake
        with in_thread(worker):
            yield FreePlanNights(db, time, queue, vendor.faults, vendor.requests, url)
        manager.close()
