"""Building what enriches: on the worker's own threads, or in the processes of a Dask cluster."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial

from pydantic import SecretStr

from enrichment.config import Settings
from enrichment.domain.errors import ConfigurationError
from enrichment.domain.model import RowCounts
from enrichment.engine.worker import BlockedReason, Enrich, Prepare
from enrichment.pipeline.enrich import EnrichmentPipeline
from enrichment.vendors.guard import VendorProtection
from enrichment.warehouse.database import Database, DatabaseClock
from enrichment.warehouse.queue.pauses import ProviderPauses
from enrichment.warehouse.resilience_state import ResilienceStore, SharedLimits
from enrichment.warehouse.series.batch_writer import BatchWriter
from enrichment.warehouse.series.warehouse import Warehouse
from enrichment.wiring.database import open_database
from enrichment.wiring.vendors import build_providers
from resilience import ResilienceManager, init_resilience_manager


@dataclass(frozen=True)
class ItemExecutor:
    """Where a worker's items are enriched; the fields are `Worker`'s arguments of these names."""

    enrich: Enrich
    prepare: Prepare | None
    blocked_reason: BlockedReason


@dataclass(frozen=True)
class ResilienceContext:
    """The resilience of one process, published as one worker's, and the limits of all."""

    manager: ResilienceManager
    shared_limits: SharedLimits


def process_name() -> str:
    """A name of this process that no other has had."""
    return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(3)}"


@contextmanager
def open_resilience(db: Database, worker_id: str) -> Iterator[ResilienceContext]:
    """On a pool of their own, so that what they say never waits for the bars."""
    url = db.url.render_as_string(hide_password=False)
    application = "enrichment-resilience"
    pool = Database(url, pool_size=2, application=application, statement_timeout_ms=2000)
    with closing(pool) as shared:
        store = ResilienceStore(shared, worker_id)
        yield ResilienceContext(
            init_resilience_manager(publisher=store, commands=store), SharedLimits(shared)
        )


@contextmanager
def open_executor(
    settings: Settings,
    db: Database,
    resilience: ResilienceContext,
    protection: VendorProtection | None,
) -> Iterator[ItemExecutor]:
    """As the settings say. protection: how vendors are protected."""
    if settings.dask_scheduler is not None:
        with _needing_dask():
            from enrichment.engine.dask_client import DaskExecutor
        opened = partial(open_dask_pipeline, _portable_settings(settings, db), protection)
        with DaskExecutor(settings.dask_scheduler, opened) as dask_client:
            yield ItemExecutor(dask_client.enrich, None, dask_client.blocked_reason)
        return
    with _pipeline(settings, db, resilience, protection) as pipeline:
        yield ItemExecutor(pipeline.enrich, pipeline.prepare_batch, lambda: None)


def check_cluster(settings: Settings, address: str) -> str:
    """For `enrichment doctor`: what the cluster is made of; ConfigurationError: what to mend."""
    with _needing_dask():
        from enrichment.engine import dask_client
    with open_database(settings, application="enrichment-doctor") as db:
        return dask_client.check_cluster(address, partial(_reach, _portable_settings(settings, db)))


@contextmanager
def open_dask_pipeline(
    settings: Settings, protection: VendorProtection | None, threads: int
) -> Iterator[Enrich]:
    """In a Dask worker's process: all that enriches, for so many threads."""
    with (
        open_database(settings, pool_size=threads + 2, application="enrichment-dask") as db,
        open_resilience(db, f"dask:{process_name()}") as found,
        closing(found.manager),
        _pipeline(settings, db, found, protection) as pipeline,
    ):
        yield pipeline.enrich


@contextmanager
def _needing_dask() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as exc:
        raise ConfigurationError(
            f"ENRICHMENT_EXECUTOR names a Dask scheduler, but {exc.name} is not installed: "
            "pip install 'market-enrichment[dask]'"
        ) from exc


def _portable_settings(settings: Settings, db: Database) -> Settings:
    """What travels: the settings with the address of the database in use."""
    url = SecretStr(db.url.render_as_string(hide_password=False))
    return settings.model_copy(update={"database_url": url})


def _reach(settings: Settings) -> None:
    """In a Dask worker's process: DatabaseUnavailable unless the database answers there."""
    with open_database(settings, pool_size=1, application="enrichment-doctor"):
        pass


@contextmanager
def _pipeline(
    settings: Settings, db: Database, found: ResilienceContext, protection: VendorProtection | None
) -> Iterator[EnrichmentPipeline[Future[RowCounts]]]:
    source = build_providers(
        settings,
        found.manager,
        shared=found.shared_limits,
        protection=protection,
        paused=ProviderPauses(db),
    )
    with BatchWriter(Warehouse(db)) as warehouse:
        yield EnrichmentPipeline(
            source,
            warehouse,
            history_days=settings.history_days,
            now=DatabaseClock(db),
            parallel_timeframes=settings.parallel_timeframes,
        )
