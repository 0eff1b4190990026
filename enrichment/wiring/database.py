"""Opens the databases and builds what reads them."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from enrichment.config import Settings
from enrichment.domain.calendars import set_default_stock_session
from enrichment.services.commands import Commands
from enrichment.services.request_plan import RequestSettings
from enrichment.warehouse.database import Database, outage_of
from enrichment.warehouse.read_models.facade import ReadModels

if TYPE_CHECKING:
    from enrichment.warehouse.embedded import EmbeddedPostgres


_log = logging.getLogger(__name__)
WAIT_SECONDS = 2.0


@contextmanager
def embedded_server(settings: Settings) -> Iterator[EmbeddedPostgres | None]:
    """The embedded server, running during the block; None if DATABASE_URL is set."""
    if settings.database_url is not None:
        yield None
        return
    from enrichment.warehouse.embedded import EmbeddedPostgres

    home = settings.enrichment_home
    if not home.exists():
        _log.warning("creating an empty warehouse in %s, the folder ENRICHMENT_HOME", home)
    server = EmbeddedPostgres(home / "postgres")
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
def direct_database_url(settings: Settings) -> Iterator[str]:
    """The address of the server itself, past a pooler: for upgrades and dumps."""
    if settings.database_url is None or settings.direct_database_url is None:
        with database_url(settings) as url:
            yield url
    else:
        yield settings.direct_database_url.get_secret_value()


def wait_for_database(settings: Settings, *, writable: bool = True) -> None:
    """Wait while the server of DATABASE_URL starts, fails over or can't be reached.

    Raises DatabaseUnavailable where waiting can't help: a wrong user, password, database or host.
    """
    if settings.database_url is None:
        return
    last = ""
    with closing(Database(settings.database_url.get_secret_value(), pool_size=1)) as db:
        while (outage := outage_of(db, writable=writable)) is not None:
            if outage != last:
                _log.warning("waiting: %s", outage)
            last = outage
            time.sleep(WAIT_SECONDS)


@contextmanager
def open_database(
    settings: Settings, *, pool_size: int = 2, application: str = "enrichment"
) -> Iterator[Database]:
    """A connection pool on a database whose schema is current.

    The schema of the embedded server is upgraded here, that of DATABASE_URL only by
    'enrichment db upgrade'.
    """
    from enrichment.warehouse.schema import is_current, require_current

    set_default_stock_session(settings.stock_session)
    columns = feature_columns()
    with (
        database_url(settings) as url,
        closing(Database(url, pool_size=pool_size, application=application)) as db,
    ):
        if settings.database_url is None and not is_current(db, columns):
            upgrade_schema(db)
        require_current(db, columns)
        yield db


@contextmanager
def open_reading_database(settings: Settings, *, timeout_seconds: float) -> Iterator[Database]:
    """A read-only connection for notebooks. timeout_seconds: of each query."""
    from enrichment.warehouse.schema import require_current

    set_default_stock_session(settings.stock_session)
    with database_url(settings) as url, closing(Database(url, pool_size=1)) as db:
        require_current(db, feature_columns())
        with open_reader(
            db, pool_size=1, application="enrichment-notebook", timeout_seconds=timeout_seconds
        ) as reader:
            yield reader


@contextmanager
def open_reader(
    db: Database, *, pool_size: int, application: str, timeout_seconds: float
) -> Iterator[Database]:
    """A read-only pool on the same database, with the rights of the reader role."""
    from enrichment.warehouse import reader_role

    url = db.url.render_as_string(hide_password=False)
    role = reader_role.role(db)
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


def upgrade_schema(db: Database) -> None:
    """Migrate the schema to the current version."""
    from enrichment.warehouse.schema import migrate

    migrate(db, feature_columns())


def feature_columns() -> dict[str, str]:
    """Feature name → 'number' or 'label', its kind of column."""
    from enrichment.pipeline.features import FEATURES

    return {name: feature.kind for name, feature in FEATURES.items()}


def build_commands(db: Database, settings: Settings) -> Commands:
    """The commands of API, dashboard and CLI."""
    return Commands(db, request_settings(settings))


def request_settings(settings: Settings) -> RequestSettings:
    """What requests depend on; the sandbox has no quotas, so nothing is gained by whole days."""
    chosen = RequestSettings(settings.provider_orders, settings.quotas, settings.history_days)
    return replace(chosen, whole_days=()) if settings.uses_sandbox else chosen


def build_read_models(db: Database, settings: Settings) -> ReadModels:
    """The queries of API, dashboard, CLI and notebooks."""
    return ReadModels(
        db,
        settings.run_schedules,
        enabled=settings.enable_daily_enrichment,
        providers=settings.provider_orders,
        quotas=settings.quotas,
        deadline=settings.enrichment_deadline,
    )
