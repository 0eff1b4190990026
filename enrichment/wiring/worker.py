"""Builds a worker process: queue, scheduler, executor, resilience and alerts."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from enrichment import __version__
from enrichment.config import Settings
from enrichment.services.commands import Commands
from enrichment.warehouse.database import Database, DatabaseClock
from enrichment.wiring.database import build_read_models, open_database, request_settings

if TYPE_CHECKING:
    from enrichment.engine.scheduler import EnrichmentScheduler
    from enrichment.engine.worker import Worker, WorkerTiming
    from enrichment.services.action_refresh import ActionRefresh
    from enrichment.services.alerts.service import AlertService
    from enrichment.services.market_days import MarketDayFetcher
    from enrichment.vendors.base import ActionSource
    from enrichment.vendors.guard import VendorProtection
    from enrichment.warehouse.queue.notify import JobListener
    from enrichment.wiring.execution import ResilienceContext
    from resilience import ResilienceManager


def build_scheduler(
    settings: Settings, db: Database, *, worker_id: str | None = None
) -> EnrichmentScheduler:
    """The scheduler with its Python API. worker_id: whose ticks are recorded; None records none."""
    from enrichment.engine.scheduler import EnrichmentScheduler, ScheduleSettings
    from enrichment.warehouse.queue.nightly_slot import NightlySlotStore
    from enrichment.warehouse.queue.workers import WorkerRegistry

    schedule = ScheduleSettings(
        settings.run_schedules,
        settings.max_concurrent_symbols,
        settings.max_retries,
        settings.enable_daily_enrichment,
    )
    slots = NightlySlotStore(db, settings.run_schedules, enabled=settings.enable_daily_enrichment)

    def ticked() -> None:
        if worker_id is not None:
            WorkerRegistry(db, worker_id).ticked(slots.next_run_time())

    return EnrichmentScheduler(
        schedule, slots, Commands(db), build_read_models(db, settings), ticked=ticked
    )


def build_action_refresh(
    settings: Settings, db: Database, sources: Sequence[ActionSource]
) -> ActionRefresh:
    """What keeps the corporate actions up to date."""
    from enrichment.services.action_refresh import ActionRefresh

    return ActionRefresh(db, sources, settings.run_schedules, history_days=settings.history_days)


def build_market_days(
    settings: Settings,
    db: Database,
    resilience: ResilienceContext,
    protection: VendorProtection | None,
) -> MarketDayFetcher | None:
    """What fetches days of the whole market; None if no vendor in use sends them."""
    from enrichment.services.market_days import MarketDayFetcher
    from enrichment.wiring import vendors

    source = vendors.build_market_days(
        settings, resilience.manager, shared=resilience.shared_limits, protection=protection
    )
    if source is None:
        return None
    return MarketDayFetcher(
        db,
        source,
        request_settings(settings),
        now=DatabaseClock(db),
        failover_after=settings.failover_after,
    )


@dataclass(frozen=True)
class WorkerProcess:
    """The threads of a worker process."""

    worker: Worker
    scheduler: EnrichmentScheduler
    listener: JobListener
    resilience: ResilienceManager
    alerts: AlertService
    actions: ActionRefresh
    market_days: MarketDayFetcher | None

    def run(self) -> bool:
        """Work until `stop()`. Returns False if items were still running when released."""
        from enrichment.services.alerts.service import STARTUP_DELAY_SECONDS

        self.listener.start()
        self.scheduler.start()
        self.actions.start()
        if self.market_days is not None:
            self.market_days.start()
        self.alerts.start(STARTUP_DELAY_SECONDS)
        try:
            return self.worker.run()
        finally:
            self.alerts.stop()
            if self.market_days is not None:
                self.market_days.stop()
            self.actions.stop()
            self.scheduler.stop()
            self.listener.stop()
            self.resilience.close()

    def stop(self) -> None:
        """Stop claiming items; `run` then drains and returns."""
        self.worker.stop()


def _direct(settings: Settings, db: Database, stack: ExitStack) -> Database:
    """The database past a pooler, if its address is given."""
    if settings.direct_database_url is None:
        return db
    url = settings.direct_database_url.get_secret_value()
    direct = Database(url, pool_size=1, application="enrichment-listener")
    return stack.enter_context(closing(direct))


@contextmanager
def open_worker_process(
    settings: Settings,
    *,
    protection: VendorProtection | None = None,
    timing: WorkerTiming | None = None,
) -> Iterator[WorkerProcess]:
    """A worker process that is ready to run. protection, timing: None for the defaults."""
    from enrichment.engine.cpu_affinity import use_few_arenas
    from enrichment.engine.worker import RESERVED_THREADS, Worker, WorkerTiming
    from enrichment.services.alerts.service import WORKER_SECONDS
    from enrichment.warehouse.queue.jobs import JobQueue
    from enrichment.warehouse.queue.notify import JobListener
    from enrichment.warehouse.queue.workers import WorkerRegistry
    from enrichment.wiring import execution
    from enrichment.wiring.alerts import build_alert_service, load_rules
    from enrichment.wiring.vendors import build_action_sources

    use_few_arenas()
    rules = load_rules(settings)
    threads, lease = settings.max_concurrent_symbols, (timing or WorkerTiming()).lease
    connections = threads + RESERVED_THREADS + 3
    worker_id = execution.process_name()
    with (
        open_database(settings, pool_size=connections, application="enrichment-worker") as db,
        ExitStack() as stack,
    ):
        url = db.url.render_as_string(hide_password=False)

        def pool(name: str, size: int, timeout_ms: int = 0) -> Database:
            application = f"enrichment-{name}"
            database = Database(
                url, pool_size=size, application=application, statement_timeout_ms=timeout_ms
            )
            return stack.enter_context(closing(database))

        clock = DatabaseClock(db)
        heartbeat_db, alerts_db = pool("heartbeat", 1), pool("alerts", 2, 10_000)
        registry = WorkerRegistry(heartbeat_db, worker_id)
        registry.register(
            host=socket.gethostname(), pid=os.getpid(), version=__version__, threads=threads
        )
        resilience = stack.enter_context(execution.open_resilience(db, worker_id))
        executor = stack.enter_context(
            execution.open_executor(settings, db, resilience, protection, clock)
        )
        market_days = build_market_days(settings, db, resilience, protection)
        queues = [
            JobQueue(each, lease_seconds=lease, plans_market_days=market_days is not None)
            for each in (db, heartbeat_db)
        ]
        worker = Worker(
            executor.enrich,
            queues[0],
            registry,
            heartbeat_queue=queues[1],
            threads=threads,
            reserved_threads=RESERVED_THREADS,
            max_retries=settings.max_retries,
            timing=timing,
            prepare=executor.prepare,
            blocked_reason=executor.blocked_reason,
            now=clock,
        )

        def wake() -> None:
            worker.wake()
            if market_days is not None:
                market_days.wake()

        yield WorkerProcess(
            worker,
            build_scheduler(settings, db, worker_id=worker_id),
            JobListener(_direct(settings, db, stack), wake),
            resilience.manager,
            build_alert_service(
                settings,
                alerts_db,
                resilience.manager,
                evaluator=worker_id,
                interval=WORKER_SECONDS,
                rules=rules,
            ),
            build_action_refresh(
                settings,
                db,
                build_action_sources(
                    settings,
                    resilience.manager,
                    shared=resilience.shared_limits,
                    protection=protection,
                ),
            ),
            market_days,
        )
