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
from enrichment.domain.model import Written
from enrichment.engine.worker import Enrich, Ready, Waits
from enrichment.pipeline.enrich import Pipeline
from enrichment.vendors.guard import Protection
from enrichment.warehouse.database import Database, DatabaseClock
from enrichment.warehouse.queue.pauses import ProviderPauses
from enrichment.warehouse.resilience_state import ResilienceStore, SharedLimits
from enrichment.warehouse.series.batch_writer import GroupCommit
from enrichment.warehouse.series.warehouse import Warehouse
from enrichment.wiring.database import open_database
from enrichment.wiring.vendors import build_providers
from resilience import ResilienceManager, init_resilience_manager


@dataclass(frozen=True)
class Executor:
    """Where a worker's items are enriched; the fields are `Worker`'s arguments of these names."""

    enrich: Enrich
    ready: Ready | None
    waits: Waits


@dataclass(frozen=True)
class Patterns:
    """The resilience of one process, published as one worker's, and the limits of all."""

    manager: ResilienceManager
    limits: SharedLimits


def process_name() -> str:
    """A name of this process that no other has had."""
    return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(3)}"


@contextmanager
def patterns(db: Database, worker_id: str) -> Iterator[Patterns]:
    """On a pool of their own, so that what they say never waits for the bars."""
    url = db.url.render_as_string(hide_password=False)
    application = "enrichment-resilience"
    pool = Database(url, pool_size=2, application=application, statement_timeout_ms=2000)
    with closing(pool) as shared:
        store = ResilienceStore(shared, worker_id)
        yield Patterns(
            init_resilience_manager(publisher=store, commands=store), SharedLimits(shared)
        )


@contextmanager
def executor(
    settings: Settings, db: Database, found: Patterns, protection: Protection | None
) -> Iterator[Executor]:
    """As the settings say. protection: how vendors are protected."""
    if settings.dask_scheduler is not None:
        with _needing_dask():
            from enrichment.engine.dask_client import Cluster
        opened = partial(line, _sent(settings, db), protection)
        with Cluster(settings.dask_scheduler, opened) as dask_client:
            yield Executor(dask_client.enrich, None, dask_client.waits)
        return
    with _pipeline(settings, db, found, protection) as pipeline:
        yield Executor(pipeline.enrich, pipeline.ready, lambda: None)


def examine_cluster(settings: Settings, address: str) -> str:
    """For `enrichment doctor`: what the cluster is made of; ConfigurationError: what to mend."""
    with _needing_dask():
        from enrichment.engine import dask_client
    with open_database(settings, application="enrichment-doctor") as db:
        return dask_client.examine(address, partial(_reach, _sent(settings, db)))


@contextmanager
def line(settings: Settings, protection: Protection | None, threads: int) -> Iterator[Enrich]:
    """In a Dask worker's process: all that enriches, for so many threads."""
    with (
        open_database(settings, pool_size=threads + 2, application="enrichment-dask") as db,
        patterns(db, f"dask:{process_name()}") as found,
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


def _sent(settings: Settings, db: Database) -> Settings:
    """What travels: the settings with the address of the database in use."""
    url = SecretStr(db.url.render_as_string(hide_password=False))
    return settings.model_copy(update={"database_url": url})


def _reach(settings: Settings) -> None:
    """In a Dask worker's process: DatabaseUnavailable unless the database answers there."""
    with open_database(settings, pool_size=1, application="enrichment-doctor"):
        pass


@contextmanager
def _pipeline(
    settings: Settings, db: Database, found: Patterns, protection: Protection | None
) -> Iterator[Pipeline[Future[Written]]]:
    source = build_providers(
        settings,
        found.manager,
        shared=found.limits,
        protection=protection,
        paused=ProviderPauses(db),
    )
    with GroupCommit(Warehouse(db)) as warehouse:
        yield Pipeline(
            source,
            warehouse,
            history_days=settings.history_days,
            now=DatabaseClock(db),
            side_by_side=settings.parallel_timeframes,
        )
