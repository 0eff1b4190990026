"""A standby takes over from its primary while a worker and the API run on both their addresses."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from uuid import UUID

import pytest
import requests
from sqlalchemy import text

from enrichment.domain.errors import DatabaseUnavailable
from enrichment.domain.symbol_csv import parse_tracked
from enrichment.engine.worker import WorkerTiming
from enrichment.sandbox import create_app, running
from enrichment.services.commands import Commands
from enrichment.warehouse.database import Database
from enrichment.wiring.database import upgrade_schema
from tests.helpers.database_servers import replicated_servers
from tests.helpers.server_process import ServerProcess, serving
from tests.helpers.waiting import until
from tests.helpers.worker_in_process import running_worker_process, settings_for

BACK_SECONDS = 20.0  # of a busy machine; tests/benchmarks/outage.py measures an idle one


def test_worker_and_api_follow_a_failover(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with replicated_servers() as (primary, standby), running(create_app()) as vendor:
        both = f"127.0.0.1:{primary.port},127.0.0.1:{standby.port}"
        url = f"postgresql://postgres@{both}/postgres"
        with (
            closing(Database(url, pool_size=1)) as db,
            closing(Database(url.replace(both, both.split(",")[1]), pool_size=1)) as copy,
        ):
            upgrade_schema(db)
            commands = Commands(db)
            commands.track([parse_tracked(f"SIM{n}", "stock", "1d") for n in (1, 2)], actor="test")
            with (
                serving(url, tmp_path) as api,
                running_worker_process(settings_for(url, vendor), WorkerTiming()),
            ):
                first = commands.trigger(actor="test").job_id
                until(lambda: is_finished(copy, first), "the standby has the job", 30)
                primary.stop()
                until(lambda: ready(api) == 503, "the API says so")
                until(lambda: "can't claim items" in caplog.text, "the worker says so")
                standby.promote()
                second = until_given(lambda: commands.trigger(actor="test").job_id)
                until(lambda: is_finished(db, second), "the worker goes on", BACK_SECONDS)
                until(lambda: ready(api) == 200, "the API is ready again")
                assert api.process.poll() is None
                with db.begin() as conn:
                    failed = "SELECT count(*) FROM enrichment_job_items WHERE status <> 'completed'"
                    assert conn.execute(text(failed)).scalar_one() == 0


def ready(api: ServerProcess) -> int:
    return requests.get(f"{api.url}/readyz", timeout=10).status_code


def is_finished(db: Database, job: UUID) -> bool:
    query = text("SELECT completed_at IS NOT NULL FROM enrichment_jobs WHERE job_id = :job")
    with suppress(DatabaseUnavailable), db.begin() as conn:
        return bool(conn.execute(query, {"job": job}).scalar())
    return False


def until_given(command: Callable[[], UUID]) -> UUID:
    """The result of the command, once the database takes it."""
    given: list[UUID] = []

    def is_taken() -> bool:
        with suppress(DatabaseUnavailable):
            given.append(command())
        return bool(given)

    until(is_taken, "the command is taken", BACK_SECONDS)
    return given[0]
