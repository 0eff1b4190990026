"""Building a worker's process: its queue, scheduler, executor, resilience and alerts."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from enrichment import __version__
from enrichment.config import Settings
from enrichment.services.commands import Commands
from enrichment.warehouse.database import Database
from enrichment.wiring.database import build_read_models, open_database

if TYPE_CHECKING:
    from enrichment.engine.scheduler import EnrichmentScheduler
    from enrichment.engine.worker import Worker, WorkerTiming
    from enrichment.services.alerts.service import AlertService
    from enrichment.vendors.guard import VendorProtection
    from enrichment.warehouse.queue.notify import JobListener
    from resilience import ResilienceManager


def build_scheduler(
    settings: Settings, db: Database, *, worker_id: str | None = None
) -> EnrichmentScheduler:
    """The nightly clock and the Python interface; worker_id: whose tick is recorded."""
    from enrichment.engine.scheduler import EnrichmentScheduler, ScheduleSettings
    from enrichment.warehouse.queue.nightly_slot import NightlySlotStore
    from enrichment.warehouse.queue.workers import WorkerRegistry

    schedule = ScheduleSettings(
        settings.enrichment_hour,
        settings.enrichment_minute,
        settings.max_concurrent_symbols,
        settings.max_retries,
        settings.enable_daily_enrichment,
    )
    slots = NightlySlotStore(
        db,
        hour=settings.enrichment_hour,
        minute=settings.enrichment_minute,
        enabled=settings.enable_daily_enrichment,
    )
    ticked = (lambda: None) if worker_id is None else WorkerRegistry(db, worker_id).ticked
    return EnrichmentScheduler(
        schedule, slots, Commands(db), build_read_models(db, settings), ticked=ticked
    )


@dataclass(frozen=True)
class WorkerProcess:
    """Everything that runs in a worker's process."""

    worker: Worker
    scheduler: EnrichmentScheduler
    listener: JobListener
    resilience: ResilienceManager
    alerts: AlertService

    def run(self) -> bool:
        """Work until `stop()`; False if items were still hanging when they were given back."""
        from enrichment.services.alerts.service import STARTUP_DELAY_SECONDS

        self.listener.start()
        self.scheduler.start()
        self.alerts.start(STARTUP_DELAY_SECONDS)
        try:
            return self.worker.run()
        finally:
            self.alerts.stop()
            self.scheduler.stop()
            self.listener.stop()
            self.resilience.close()

    def stop(self) -> None:
        self.worker.stop()


@contextmanager
def open_worker_process(
    settings: Settings,
    *,
    protection: VendorProtection | None = None,
    timing: WorkerTiming | None = None,
) -> Iterator[WorkerProcess]:
    """A worker with its clock, its listener and its vendors; protection, pace: their defaults."""
    from enrichment.engine.cpu_affinity import use_few_arenas
    from enrichment.engine.worker import Worker, WorkerTiming
    from enrichment.services.alerts.service import WORKER_SECONDS
    from enrichment.warehouse.queue.jobs import JobQueue
    from enrichment.warehouse.queue.notify import JobListener
    from enrichment.warehouse.queue.workers import WorkerRegistry
    from enrichment.wiring import alerts as alerting
    from enrichment.wiring import execution

    use_few_arenas()
    rules = alerting.load_rules(settings)
    threads, lease = settings.max_concurrent_symbols, (timing or WorkerTiming()).lease
    worker_id = execution.process_name()
    with (
        open_database(settings, pool_size=threads + 3, application="enrichment-worker") as db,
        ExitStack() as ending,
    ):
        url = db.url.render_as_string(hide_password=False)

        def pool(name: str, size: int, timeout_ms: int = 0) -> Database:
            application = f"enrichment-{name}"
            opened = Database(
                url, pool_size=size, application=application, statement_timeout_ms=timeout_ms
            )
            return ending.enter_context(closing(opened))

        heart, watch = pool("heartbeat", 1), pool("alerts", 2, 10_000)
        registry = WorkerRegistry(heart, worker_id)
        registry.register(
            host=socket.gethostname(), pid=os.getpid(), version=__version__, threads=threads
        )
        patterns = ending.enter_context(execution.open_resilience(db, worker_id))
        executor = ending.enter_context(execution.open_executor(settings, db, patterns, protection))
        worker = Worker(
            executor.enrich,
            JobQueue(db, lease_seconds=lease),
            registry,
            heartbeat_queue=JobQueue(heart, lease_seconds=lease),
            threads=threads,
            max_retries=settings.max_retries,
            timing=timing,
            prepare=executor.prepare,
            blocked_reason=executor.blocked_reason,
        )
        yield WorkerProcess(
            worker,
            build_scheduler(settings, db, worker_id=worker_id),
            JobListener(db, worker.wake),
            patterns.manager,
            alerting.build_alert_service(
                settings,
                build_read_models(watch, settings),
                patterns.manager,
                evaluator=worker_id,
                interval=WORKER_SECONDS,
                rules=rules,
            ),
        )
