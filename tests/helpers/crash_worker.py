"""A worker process that stops at a chosen step of its work and reports it to the test.

Pipeline, queue, warehouse and worker are the product's own. The wrappers around them only hold a
thread at the step of the options, until the test resumes the worker or kills the process.
"""

from __future__ import annotations

import logging
import secrets
import signal
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

from pydantic import SecretStr
from sqlalchemy import event

from enrichment.config import Settings
from enrichment.domain.errors import LeaseLost
from enrichment.domain.model import (
    AssetClass,
    Failure,
    FetchedBars,
    RowCounts,
    Task,
    Timeframe,
    Window,
)
from enrichment.engine.worker import Worker, WorkerTiming
from enrichment.pipeline.enrich import EnrichmentPipeline
from enrichment.pipeline.ports import BarSource
from enrichment.warehouse.database import Database, sql
from enrichment.warehouse.queue.jobs import JobQueue
from enrichment.warehouse.queue.notify import JobListener
from enrichment.warehouse.queue.sql import CLOSE, COMPLETE
from enrichment.warehouse.queue.workers import WorkerRegistry
from enrichment.warehouse.series.batch_writer import BatchWriter
from enrichment.warehouse.series.warehouse import FinishedItem, Warehouse
from enrichment.wiring.vendors import build_providers
from resilience import init_resilience_manager

STEPS = ("claimed", "fetched", "written", "before_commit", "after_commit", "closing")


@dataclass(frozen=True)
class WorkerOptions:
    """What a worker works on and where it stops.

    The steps:
        claimed: the item belongs to this worker.
        fetched: the vendor has answered for the item's last timeframe.
        written: the item's rows are written, the item is not completed yet.
        before_commit: the item is completed, the transaction is open.
        after_commit: the transaction is committed.
        closing: the job's totals are written, the transaction is open.
    """

    name: str
    url: str
    vendor: str
    now: datetime
    log: Path
    threads: int = 2
    step: str | None = None  # one of STEPS; None: nowhere
    item: int = 1  # stop with the first, second … item that reaches the step
    lease: float = 1.0
    heartbeat: float = 0.2
    idle: float = 30.0


class StopPoint:
    """Holds the thread that reaches the step, once, and sends the symbol through the pipe."""

    def __init__(self, options: WorkerOptions, pipe: Pipe) -> None:
        self._options, self._pipe = options, pipe
        self._lock = threading.Lock()
        self._reached = 0
        self._thread = threading.local()

    def reached(self, step: str, what: str, items: int = 1) -> None:
        """`items` items reach the step together; hold the thread if it is the one to stop."""
        if step != self._options.step:
            return
        with self._lock:
            self._reached += items
            due = self._reached - items < self._options.item <= self._reached
        if due:
            self._pipe.send(what)
            self._pipe.recv()  # blocks until the test resumes the worker

    def watch_transactions(self, engine: Any) -> None:
        """Stop within transactions: before or after the queue's own statements, and at commit."""

        @event.listens_for(engine, "before_execute")
        def before(_: object, statement: object, *__: object) -> None:
            if self._storing and statement is sql(COMPLETE):
                self.reached("written", *self._storing)

        @event.listens_for(engine, "after_execute")
        def after(_: object, statement: object, *arguments: Any) -> None:
            self._thread.closed = statement is sql(CLOSE) and arguments[-1].rowcount > 0

        @event.listens_for(engine, "commit")
        def commit(_: object) -> None:
            if self._storing:
                self.reached("before_commit", *self._storing)
            elif getattr(self._thread, "closed", False):
                self._thread.closed = False
                self.reached("closing", "job")

    @property
    def _storing(self) -> tuple[str, int] | None:
        """First symbol and size of the batch that this thread stores, if any."""
        return getattr(self._thread, "storing", None)

    @contextmanager
    def storing(self, symbol: str, items: int) -> Iterator[None]:
        self._thread.storing = (symbol, items)
        try:
            yield
        finally:
            self._thread.storing = None
        self.reached("after_commit", symbol, items)


class StoppingSource:
    """A source of bars whose step `fetched` is the response for an item's last timeframe."""

    def __init__(self, inner: BarSource, stop: StopPoint) -> None:
        self._inner, self._stop = inner, stop
        self.last_timeframe: dict[str, Timeframe] = {}

    def fetch(
        self, symbol: str, asset_class: AssetClass, timeframe: Timeframe, window: Window
    ) -> FetchedBars:
        fetched = self._inner.fetch(symbol, asset_class, timeframe, window)
        if timeframe == self.last_timeframe[symbol]:
            self._stop.reached("fetched", symbol)
        return fetched

    def fetch_from_other(
        self,
        symbol: str,
        asset_class: AssetClass,
        timeframe: Timeframe,
        window: Window,
        *,
        excluding: str,
    ) -> FetchedBars | None:
        return self._inner.fetch_from_other(
            symbol, asset_class, timeframe, window, excluding=excluding
        )


class StoppingWarehouse(Warehouse):
    def __init__(self, db: Database, stop: StopPoint) -> None:
        super().__init__(db)
        self._stop = stop

    def store_batch(self, batch: Sequence[FinishedItem]) -> list[RowCounts | LeaseLost]:
        with self._stop.storing(batch[0].task.symbol, len(batch)):
            return super().store_batch(batch)


class StoppingQueue:
    """A queue whose step `claimed` comes before the worker gets the tasks."""

    def __init__(self, inner: JobQueue, stop: StopPoint, source: StoppingSource) -> None:
        self._inner, self._stop, self._source = inner, stop, source

    def claim(self, worker_id: str, limit: int, *, interactive: bool = False) -> list[Task]:
        tasks = self._inner.claim(worker_id, limit, interactive=interactive)
        self._source.last_timeframe.update({task.symbol: task.timeframes[-1] for task in tasks})
        for task in tasks:
            self._stop.reached("claimed", task.symbol)
        return tasks

    def renew(self, tasks: Mapping[Task, str]) -> set[Task]:
        return self._inner.renew(tasks)

    def cancelled(self, tasks: Collection[Task]) -> set[Task]:
        return self._inner.cancelled(tasks)

    def discard(self, task: Task) -> None:
        self._inner.discard(task)

    def release(self, task: Task, seconds: float = 0.0, why: str | None = None) -> None:
        self._inner.release(task, seconds, why)

    def fail(self, task: Task, failure: Failure, retry_after: float | None) -> None:
        self._inner.fail(task, failure, retry_after)

    def close_finished_jobs(self) -> list[UUID]:
        return self._inner.close_finished_jobs()

    def reclaim_expired(self, max_retries: int) -> int:
        return self._inner.reclaim_expired(max_retries)


def run_worker(options: WorkerOptions, pipe: Pipe) -> None:
    """The target of the process: work until SIGTERM."""
    logging.basicConfig(filename=options.log, level=logging.INFO, force=True)
    stop = StopPoint(options, pipe)
    db = Database(options.url, pool_size=options.threads + 2, idle_seconds=options.idle)
    heart = Database(options.url, pool_size=1, idle_seconds=options.idle)
    stop.watch_transactions(db.engine)
    stop.watch_transactions(heart.engine)
    settings = Settings(
        enrichment_sandbox=True,
        providers_crypto=("polygon",),
        database_url=SecretStr(options.url),
        enrichment_sandbox_port=urlsplit(options.vendor).port or 0,
    )
    source = StoppingSource(build_providers(settings, init_resilience_manager()), stop)
    warehouse = BatchWriter(StoppingWarehouse(db, stop))
    pipeline = EnrichmentPipeline(source, warehouse, history_days=120, now=lambda: options.now)
    registry = WorkerRegistry(heart, f"{options.name}-{secrets.token_hex(3)}")
    registry.register(host="test", pid=0, version="test", threads=options.threads)
    worker = Worker(
        pipeline.enrich,
        StoppingQueue(JobQueue(db, lease_seconds=options.lease), stop, source),
        registry,
        heartbeat_queue=JobQueue(heart, lease_seconds=options.lease),
        threads=options.threads,
        max_retries=5,
        timing=WorkerTiming(poll=0.05, heartbeat=options.heartbeat, lease=options.lease, drain=5.0),
        prepare=pipeline.prepare_batch,
    )
    signal.signal(signal.SIGTERM, lambda *_: worker.stop())
    listener = JobListener(db, worker.wake)
    listener.start()
    worker.run()
    warehouse.close()
    listener.stop()
