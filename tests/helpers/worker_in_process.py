"""A worker in the test's own process, for tests that take its database away."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from urllib.parse import urlsplit

from pydantic import SecretStr

from enrichment.config import Settings
from enrichment.engine.worker import Worker, WorkerTiming
from enrichment.pipeline.enrich import EnrichmentPipeline
from enrichment.warehouse.corporate_actions import LedgerSplits
from enrichment.warehouse.database import Database
from enrichment.warehouse.queue.jobs import JobQueue
from enrichment.warehouse.queue.workers import WorkerRegistry
from enrichment.warehouse.series.batch_writer import BatchWriter
from enrichment.warehouse.series.warehouse import Warehouse
from enrichment.wiring.vendors import build_providers
from enrichment.wiring.worker import WorkerProcess, open_worker_process
from resilience import init_resilience_manager
from tests.helpers.waiting import in_thread


def settings_for(
    url: str,
    vendor: str,
    *,
    threads: int = 2,
    max_retries: int = 3,
    stocks: tuple[str, ...] = ("polygon",),
) -> Settings:
    return Settings(
        enrichment_sandbox=True,
        providers_stock=stocks,
        providers_crypto=("polygon",),
        database_url=SecretStr(url),
        enrichment_sandbox_port=urlsplit(vendor).port or 0,
        max_concurrent_symbols=threads,
        max_retries=max_retries,
        enable_daily_enrichment=False,
    )


@contextmanager
def running_worker_process(settings: Settings, pace: WorkerTiming) -> Iterator[WorkerProcess]:
    """All that `enrichment worker` runs, on a thread until the end of the block."""
    with open_worker_process(settings, timing=pace) as built, in_thread(built):
        yield built


@contextmanager
def bare_worker(
    work: Database,
    heart: Database,
    vendor: str,
    now: datetime,
    *,
    threads: int,
    lease: float,
    max_retries: int = 5,
    stocks: tuple[str, ...] = ("polygon",),
) -> Iterator[Worker]:
    """The worker without scheduler, listener and alerts, on exactly these two pools."""
    url = work.url.render_as_string(hide_password=False)
    settings = settings_for(url, vendor, stocks=stocks)
    source = build_providers(
        settings, init_resilience_manager(), now=lambda: now, splits=LedgerSplits(work)
    )
    registry = WorkerRegistry(heart, "inside")
    registry.register(host="test", pid=0, version="test", threads=threads)
    warehouse = BatchWriter(Warehouse(work))
    pipeline = EnrichmentPipeline(source, warehouse, history_days=120, now=lambda: now)
    worker = Worker(
        pipeline.enrich,
        JobQueue(work, lease_seconds=lease),
        registry,
        heartbeat_queue=JobQueue(heart, lease_seconds=lease),
        threads=threads,
        max_retries=max_retries,
        timing=WorkerTiming(poll=0.05, heartbeat=0.2, lease=lease, drain=5.0),
        prepare=pipeline.prepare_batch,
    )
    with warehouse, in_thread(worker):
        yield worker
