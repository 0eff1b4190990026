"""A vendor with a fixed clock, a harness per test, and what a run without faults stores."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from enrichment.sandbox import create_app, running
from enrichment.warehouse.database import Database
from enrichment.warehouse.embedded import EmbeddedPostgres
from tests.helpers.crash_harness import (
    NOW,
    SYMBOLS,
    TIMEFRAMES,
    CrashHarness,
    SeriesFingerprints,
    assert_exactly_once,
    fingerprints,
)
from tests.helpers.memory_folder import memory_folder
from tests.helpers.own_server import OwnServer


@pytest.fixture(scope="session")
def vendor() -> Iterator[str]:
    """The sandbox, with the workers' fixed time, so that every run fetches the same bars."""
    with running(create_app(clock=lambda: NOW)) as address:
        yield address


@pytest.fixture
def harness(db: Database, vendor: str, tmp_path: Path) -> Iterator[CrashHarness]:
    built = CrashHarness(db, vendor, NOW, tmp_path)
    yield built
    built.close()


@pytest.fixture(scope="session")
def own_server() -> Iterator[OwnServer]:
    with memory_folder() as folder, EmbeddedPostgres(folder / "postgres") as postgres:
        server = OwnServer(postgres)
        yield server
        server.close()


@pytest.fixture(scope="session")
def undisturbed(
    server: Database, vendor: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SeriesFingerprints]:
    """What a run without faults stores of every symbol in every timeframe."""
    with server.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
        conn.execute(text("CREATE DATABASE undisturbed TEMPLATE template_enrichment"))
        database = Database(server.url.set(database="undisturbed").render_as_string(False))
        harness = CrashHarness(database, vendor, NOW, tmp_path_factory.mktemp("undisturbed"))
        try:
            job = harness.trigger(SYMBOLS, ",".join(TIMEFRAMES))
            worker = harness.start("undisturbed")
            harness.until_closed(job)
            assert worker.terminate() == 0, worker.log_text
            series = fingerprints(database)
            assert sorted(series) == sorted(itertools.product(SYMBOLS, TIMEFRAMES))
            assert_exactly_once(harness, job, series)
            yield series
        finally:
            harness.close()
            database.close()
            conn.execute(text("DROP DATABASE undisturbed WITH (FORCE)"))
