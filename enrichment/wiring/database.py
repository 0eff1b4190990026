"""The only place where objects are built and wired. Entry points call it; nothing else does."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Container, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from enrichment import __version__
from enrichment.commands import Commands
from enrichment.config import SANDBOX_KEY, Settings
from enrichment.storage.database import Database
from enrichment.storage.read_models import ReadModels

if TYPE_CHECKING:
    from enrichment.alerts.service import AlertService
    from enrichment.providers.base import Provider
    from enrichment.providers.failover import Failover
    from enrichment.providers.guard import Protection
    from enrichment.providers.http import HttpClient
    from enrichment.scheduler import EnrichmentScheduler
    from enrichment.storage.embedded import EmbeddedPostgres
    from enrichment.storage.listening import Listener
    from enrichment.worker import Pace, Worker
    from resilience import ResilienceManager, SharedLimiter


@contextmanager
def embedded_server(settings: Settings) -> Iterator[EmbeddedPostgres | None]:
    """The embedded server, running for as long as the block; None if another database is set."""
    if settings.database_url is not None:
        yield None
        return
    from enrichment.storage.embedded import EmbeddedPostgres

    server = EmbeddedPostgres(settings.enrichment_home / "postgres")
    try:
        server.start()
        yield server
    finally:
        server.stop()


@contextmanager
def database_url(settings: Settings) -> Iterator[str]:
    """The address of the database in use."""
    with embedded_server(settings) as server:
        if server is not None:
            yield server.url
        elif settings.database_url is not None:
            yield settings.database_url.get_secret_value()


@contextmanager
def database(
    settings: Settings, *, pool_size: int = 2, application: str = "enrichment"
) -> Iterator[Database]:
    """A pool on a database whose schema is current.

    The embedded server's schema is brought up to date here; a server of the user's own only by
    'enrichment db upgrade'.
    """
    from enrichment.storage.revision import is_current, require_current

    columns = feature_columns()
    with (
        database_url(settings) as url,
        closing(Database(url, pool_size=pool_size, application=application)) as db,
    ):
        if settings.database_url is None and not is_current(db, columns):
            upgrade(db)
        require_current(db, columns)
        yield db


@contextmanager
def reading_database(settings: Settings, *, timeout_seconds: float) -> Iterator[Database]:
    """A small pool on which nothing can be written and no query outlasts the timeout."""
    from enrichment.storage.revision import require_current

    with database_url(settings) as url, closing(Database(url, pool_size=1)) as db:
        require_current(db, feature_columns())
        with reader_of(
            db, pool_size=1, application="enrichment-notebook", timeout_seconds=timeout_seconds
        ) as reading:
            yield reading


@contextmanager
def reader_of(
    db: Database, *, pool_size: int, application: str, timeout_seconds: float
) -> Iterator[Database]:
    """A pool on the same database with the rights of the role that only reads."""
    from enrichment.storage import reading

    url = db.url.render_as_string(hide_password=False)
    role = reading.role(db)
    with closing(
        Database(
            url,
            pool_size=pool_size,
            application=application,
            statement_timeout_ms=round(timeout_seconds * 1000),
            read_only=True,
            role=role,
        )
    ) as reader:
        yield reader


def upgrade(db: Database) -> None:
    """Bring the schema to this version."""
    from enrichment.storage.schema import migrate

    migrate(db, feature_columns())


def feature_columns() -> dict[str, str]:
    """Feature name → 'number' or 'label'."""
    from enrichment.features import FEATURES

    return {name: feature.kind for name, feature in FEATURES.items()}


def read_models(db: Database, settings: Settings) -> ReadModels:
    return ReadModels(
        db,
        hour=settings.enrichment_hour,
        minute=settings.enrichment_minute,
        enabled=settings.enable_daily_enrichment,
    )


def providers(
    settings: Settings,
    manager: ResilienceManager,
    *,
    shared: SharedLimiter | None = None,
    protection: Protection | None = None,
    paused: Callable[[], Container[str]] = tuple,
) -> Failover:
    """The providers in their order, each with a guard of its own; without a key of Polygon's the
    sandbox vendor takes the place of all.

    shared: where all workers keep a vendor's quota together. protection: how vendors are protected.
    paused: names of the paused providers.
    """
    from enrichment.providers.failover import Failover
    from enrichment.providers.guard import VendorGuard
    from enrichment.providers.http import HttpClient

    def client(
        name: str, url: str, per_minute: int, headers: dict[str, str], key_setting: str
    ) -> HttpClient:
        guard = VendorGuard(
            manager,
            name,
            per_minute=None if settings.uses_sandbox else per_minute,
            shared=shared,
            protection=protection,
        )
        return HttpClient(
            settings.sandbox_url if settings.uses_sandbox else url,
            call=guard,
            timeouts=guard.protection.timeouts,
            headers=headers,
            key_setting=key_setting,
        )

    built = {name: _provider(name, settings, client) for name in settings.providers_in_use}
    return Failover(built, settings.providers, paused=paused)


def _provider(name: str, settings: Settings, client: Callable[..., HttpClient]) -> Provider:
    """client: (name, address, requests a minute, headers, setting of the key) → its client."""
    from enrichment.providers import binance, polygon, yahoo

    source = f"sandbox:{name}" if settings.uses_sandbox else name
    if name == "binance":
        rate = settings.binance_rate
        http = client(name, settings.binance_base_url, rate, {}, "BINANCE_BASE_URL")
        return binance.BinanceProvider(http, source=source)
    if name == "yahoo":
        headers = {"User-Agent": yahoo.USER_AGENT}
        http = client(name, settings.yahoo_base_url, settings.yahoo_rate, headers, "YAHOO_BASE_URL")
        return yahoo.YahooProvider(http, source=source)
    key = settings.polygon_api_key
    secret = SANDBOX_KEY if key is None else key.get_secret_value()
    headers = {"Authorization": f"Bearer {secret}"}
    rate = settings.polygon_rate
    http = client(name, settings.polygon_base_url, rate, headers, "POLYGON_API_KEY")
    return polygon.PolygonProvider(http, source="sandbox" if settings.uses_sandbox else name)


def scheduler(
    settings: Settings, db: Database, *, worker_id: str | None = None
) -> EnrichmentScheduler:
    """The nightly clock and the Python interface; worker_id: whose tick is recorded."""
    from enrichment.scheduler import EnrichmentScheduler, ScheduleSettings
    from enrichment.storage.slots import Slots
    from enrichment.storage.workers import WorkerRegistry

    schedule = ScheduleSettings(
        settings.enrichment_hour,
        settings.enrichment_minute,
        settings.max_concurrent_symbols,
        settings.max_retries,
        settings.enable_daily_enrichment,
    )
    slots = Slots(
        db,
        hour=settings.enrichment_hour,
        minute=settings.enrichment_minute,
        enabled=settings.enable_daily_enrichment,
    )
    ticked = (lambda: None) if worker_id is None else WorkerRegistry(db, worker_id).ticked
    return EnrichmentScheduler(
        schedule, slots, Commands(db), read_models(db, settings), ticked=ticked
    )


@dataclass(frozen=True)
class WorkerProcess:
    """Everything that runs in a worker's process."""

    worker: Worker
    scheduler: EnrichmentScheduler
    listener: Listener
    resilience: ResilienceManager
    alerts: AlertService

    def run(self) -> bool:
        """Work until `stop()`; False if items were still hanging when they were given back."""
        from enrichment.alerts.service import SETTLING_SECONDS

        self.listener.start()
        self.scheduler.start()
        self.alerts.start(SETTLING_SECONDS)
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
def worker_process(
    settings: Settings, *, protection: Protection | None = None, pace: Pace | None = None
) -> Iterator[WorkerProcess]:
    """A worker with its clock, its listener and its vendors; protection, pace: their defaults."""
    from enrichment import alerting, executing
    from enrichment.alerts.service import WORKER_SECONDS
    from enrichment.allocation import use_few_arenas
    from enrichment.storage.jobs import JobQueue
    from enrichment.storage.listening import Listener
    from enrichment.storage.workers import WorkerRegistry
    from enrichment.worker import Pace, Worker

    use_few_arenas()
    rules = alerting.rules_in_force(settings)
    threads, lease = settings.max_concurrent_symbols, (pace or Pace()).lease
    worker_id = executing.process_name()
    with (
        database(settings, pool_size=threads + 3, application="enrichment-worker") as db,
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
        patterns = ending.enter_context(executing.patterns(db, worker_id))
        executor = ending.enter_context(executing.executor(settings, db, patterns, protection))
        worker = Worker(
            executor.enrich,
            JobQueue(db, lease_seconds=lease),
            registry,
            heartbeat_queue=JobQueue(heart, lease_seconds=lease),
            threads=threads,
            max_retries=settings.max_retries,
            pace=pace,
            ready=executor.ready,
            waits=executor.waits,
        )
        yield WorkerProcess(
            worker,
            scheduler(settings, db, worker_id=worker_id),
            Listener(db, worker.wake),
            patterns.manager,
            alerting.service(
                settings,
                read_models(watch, settings),
                patterns.manager,
                evaluator=worker_id,
                interval=WORKER_SECONDS,
                rules=rules,
            ),
        )
