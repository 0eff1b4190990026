"""One embedded PostgreSQL per test session, one database of its own per test.

TEST_DATABASE_URL names another server to use instead, where databases may be created.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import settings
from sqlalchemy import text
from xdist.scheduler import LoadScopeScheduling

from enrichment.warehouse.database import Database, parse_url
from enrichment.warehouse.embedded import EmbeddedPostgres
from enrichment.wiring.database import upgrade_schema
from tests.helpers.memory_folder import memory, memory_folder

settings.register_profile("thorough", max_examples=2000)  # pytest --hypothesis-profile=thorough
_numbers = itertools.count()
os.environ.pop("COLUMNS", None)  # pytest-xdist says 80; a console keeps what it reads when made


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--crash-seeds",
        type=int,
        default=12,
        metavar="N",
        help="how many random histories of killed workers tests/crash lives through (default 12)",
    )
    parser.addoption(
        "--fuzz-minutes",
        type=float,
        default=0.0,
        metavar="N",
        help="for how long tests/crash sends random input to each of the fuzz targets (default 0)",
    )
    parser.addoption(
        "--stops",
        type=int,
        default=0,
        metavar="N",
        help="how many workers tests/crash stops by a signal (default 0)",
    )


class ModuleScheduling(LoadScopeScheduling):
    """Gives each module to one process, and all modules that use the demo to the same one."""

    DEMO = ("tests/e2e/test_dashboard.py", "tests/e2e/test_demo.py", "tests/e2e/test_quality.py")

    def _split_scope(self, nodeid: str) -> str:
        module = nodeid.partition("::")[0]
        return "demo" if module in self.DEMO else module


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ModuleScheduling:
    return ModuleScheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the type checker, the longest single test."""
    items.sort(key=lambda item: item.path.name != "test_style.py")


@pytest.fixture(scope="module", autouse=True)
def nothing_left_open() -> Iterator[None]:
    """Fails the module that leaves a socket, file or event loop open, not a later one by chance."""
    yield
    asyncio.set_event_loop(None)
    gc.collect()


def pytest_collection_finish() -> None:
    """Let the garbage collector pass over what the imports made, and so take little time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def server_url() -> Iterator[str]:
    """The URL of the session's server."""
    if given := os.environ.get("TEST_DATABASE_URL"):
        yield given
        return
    with memory_folder() as folder, EmbeddedPostgres(folder / "postgres") as postgres:
        yield postgres.url


@pytest.fixture(scope="session")
def server(server_url: str) -> Iterator[Database]:
    """The server's own database, with a migrated template beside it."""
    admin = Database(server_url, pool_size=1)
    _run(admin, "DROP DATABASE IF EXISTS template_enrichment")
    _run(admin, "CREATE DATABASE template_enrichment")
    template = Database(_address(admin, "template_enrichment"), pool_size=1)
    upgrade_schema(template)
    template.close()
    yield admin
    admin.close()


@contextmanager
def own_database(server: Database) -> Iterator[Database]:
    """An empty database with the current schema, dropped at the end of the block."""
    name = f"test_{next(_numbers)}"
    _run(server, f"CREATE DATABASE {name} TEMPLATE template_enrichment {_strategy(server)}")
    database = Database(_address(server, name), pool_size=5)
    try:
        yield database
    finally:
        database.close()
        _run(server, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def db(server: Database) -> Iterator[Database]:
    """An empty database with the current schema for one test."""
    with own_database(server) as database:
        yield database


@pytest.fixture(scope="module")
def shared_db(server: Database) -> Iterator[Database]:
    """One database for all tests of a module, which must not depend on each other's rows."""
    with own_database(server) as database:
        yield database


@pytest.fixture
def main_module_kept() -> Iterator[None]:
    """Restores `__main__`, which AppTest replaces and a spawned process would run."""
    main = sys.modules["__main__"]
    yield
    sys.modules["__main__"] = main


@pytest.fixture
def db_url(db: Database) -> str:
    """The URL of this test's database."""
    return db.url.render_as_string(hide_password=False)


def _strategy(server: Database) -> str:
    """Copying the template's files is the fastest way to copy it, except on a disk."""
    version: tuple[int, ...] = server.engine.dialect.server_version_info  # type: ignore[attr-defined]
    return "STRATEGY FILE_COPY" if version >= (15,) and memory() else ""


def _address(server: Database, name: str) -> str:
    return (
        parse_url(server.url.render_as_string(hide_password=False))
        .set(database=name)
        .render_as_string(hide_password=False)
    )


def _run(server: Database, statement: str) -> None:
    with server.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
        conn.execute(text(statement))
