"""Builds what enriches items: on the worker's threads or in the processes of a Dask cluster."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from pydantic import SecretStr

from enrichment.config import Settings
from enrichment.domain.errors import ConfigurationError
from enrichment.domain.model import RowCounts
from enrichment.engine.ports import BlockedReason, Enrich, Prepare
from enrichment.pipeline.enrich import EnrichmentPipeline
from enrichment.vendors.guard import VendorProtection
from enrichment.warehouse.corporate_actions import LedgerSplits
from enrichment.warehouse.database import Database, DatabaseClock
from enrichment.warehouse.queue.market_days import StoredMarketDays
from enrichment.warehouse.queue.pauses import ProviderPauses
from enrichment.warehouse.resilience_state import ResilienceStore, SharedLimits
from enrichment.warehouse.series.batch_writer import BatchWriter
from enrichment.warehouse.series.warehouse import Warehouse
from enrichment.wiring.database import open_database
from enrichment.wiring.vendors import build_providers
from resilience import ResilienceManager, init_resilience_manager


@dataclass(frozen=True)
class ItemExecutor:
    """Where a worker's items are enriched; the fields are arguments of `engine.worker.Worker`."""

    enrich: Enrich
    prepare: Prepare | None
    blocked_reason: BlockedReason


@dataclass(frozen=True)
class ResilienceContext:
    """The resilience patterns of one process and the rate limits that all processes share."""

    manager: ResilienceManager
    shared_limits: SharedLimits


def process_name() -> str:
    """A unique name of this process: host, process id and a random suffix."""
    return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(3)}"


@contextmanager
def open_resilience(db: Database, worker_id: str) -> Iterator[ResilienceContext]:
    """Resilience patterns whose status is published as `worker_id`'s.

    They have a connection pool of their own, so that publishing never waits for bars to be stored.
    """
    url = db.url.render_as_string(hide_password=False)
    application = "enrichment-resilience"
    pool = Database(url, pool_size=2, application=application, statement_timeout_ms=2000)
    with closing(pool):
        store = ResilienceStore(pool, worker_id)
        yield ResilienceContext(
            init_resilience_manager(publisher=store, commands=store), SharedLimits(pool)
        )


@contextmanager
def open_executor(
    settings: Settings,
    db: Database,
    resilience: ResilienceContext,
    protection: VendorProtection | None,
    now: Callable[[], datetime],
) -> Iterator[ItemExecutor]:
    """The executor that ENRICHMENT_EXECUTOR names.

    Args:
        protection: None for the defaults.
        now: The clock of this process; the processes of a Dask cluster have their own.
    """
    if settings.dask_scheduler is not None:
        with _dask_required():
            from enrichment.engine.dask_client import DaskExecutor
        open_pipeline = partial(open_dask_pipeline, _portable_settings(settings, db), protection)
        with DaskExecutor(settings.dask_scheduler, open_pipeline) as dask:
            yield ItemExecutor(dask.enrich, None, dask.blocked_reason)
        return
    with _open_pipeline(settings, db, resilience, protection, now) as pipeline:
        yield ItemExecutor(pipeline.enrich, pipeline.prepare_batch, lambda: None)


def check_cluster(settings: Settings, address: str) -> str:
    """A description of the Dask cluster. Raises ConfigurationError if it can't run tasks."""
    with _dask_required():
        from enrichment.engine import dask_client
    with open_database(settings, application="enrichment-doctor") as db:
        probe = partial(_probe_database, _portable_settings(settings, db))
        return dask_client.check_cluster(address, probe)


@contextmanager
def open_dask_pipeline(
    settings: Settings, protection: VendorProtection | None, threads: int
) -> Iterator[Enrich]:
    """In a Dask worker's process: a pipeline for this many threads."""
    with (
        open_database(settings, pool_size=threads + 2, application="enrichment-dask") as db,
        open_resilience(db, f"dask:{process_name()}") as resilience,
        closing(resilience.manager),
        _open_pipeline(settings, db, resilience, protection, DatabaseClock(db)) as pipeline,
    ):
        yield pipeline.enrich


@contextmanager
def _dask_required() -> Iterator[None]:
    """ConfigurationError if an import in the block fails because Dask is not installed."""
    try:
        yield
    except ModuleNotFoundError as exc:
        raise ConfigurationError(
            f"ENRICHMENT_EXECUTOR names a Dask scheduler, but {exc.name} is not installed: "
            "pip install 'market-enrichment[dask]'"
        ) from exc


def _portable_settings(settings: Settings, db: Database) -> Settings:
    """The settings to pickle, with the address of the database in use."""
    url = SecretStr(db.url.render_as_string(hide_password=False))
    return settings.model_copy(update={"database_url": url})


def _probe_database(settings: Settings) -> None:
    """In a Dask worker's process: DatabaseUnavailable unless the database answers there."""
    with open_database(settings, pool_size=1, application="enrichment-doctor"):
        pass


@contextmanager
def _open_pipeline(
    settings: Settings,
    db: Database,
    resilience: ResilienceContext,
    protection: VendorProtection | None,
    now: Callable[[], datetime],
) -> Iterator[EnrichmentPipeline[Future[RowCounts]]]:
    providers = build_providers(
        settings,
        resilience.manager,
        shared=resilience.shared_limits,
        protection=protection,
        paused=ProviderPauses(db),
        splits=LedgerSplits(db),
        read_days=StoredMarketDays(db),
    )
    with BatchWriter(Warehouse(db), now=now) as warehouse:
        yield EnrichmentPipeline(
            providers,
            warehouse,
            history_days=settings.history_days,
            now=now,
            parallel_timeframes=settings.parallel_timeframes,
        )
