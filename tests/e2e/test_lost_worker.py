"""A worker killed outright in the middle of a job: another finishes it, nothing lost or twice."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from sqlalchemy import text

from enrichment.domain.symbol_csv import parse_tracked
from enrichment.sandbox import Fault, create_app, running
from enrichment.services.commands import Commands
from enrichment.warehouse.database import Database
from enrichment.warehouse.read_models.facade import ReadModels
from tests.helpers.waiting import until

LEASE_SECONDS, HEARTBEAT_SECONDS = 30.0, 10.0


@contextmanager
def worker(script: Path, url: str, vendor: str) -> Iterator[subprocess.Popen[bytes]]:
    environment = {
        **os.environ,
        "DATABASE_URL": url,
        "ENRICHMENT_SANDBOX_PORT": str(urlsplit(vendor).port),
        "MAX_CONCURRENT_SYMBOLS": "2",
        "ENABLE_DAILY_ENRICHMENT": "false",
    }
    process = subprocess.Popen(
        [str(script), "worker"],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_another_worker_finishes_the_job(db: Database, db_url: str, script: Path) -> None:
    commands = Commands(db)
    symbols = [f"SIM{n}" for n in range(1, 7)]
    commands.track([parse_tracked(s, "stock", "1d") for s in symbols], actor="test")
    reader = ReadModels(db, enabled=False)

    def rows(query: str) -> list[tuple[object, ...]]:
        with db.begin() as conn:
            return [tuple(row) for row in conn.execute(text(query))]

    def first_completed() -> bool:
        return rows("SELECT symbol FROM enrichment_job_items WHERE status = 'completed'") != []

    hanging = [Fault.of({"ticker": symbol, "kind": "hang"}) for symbol in symbols[1:]]
    app = create_app(faults=hanging)
    with running(app) as vendor:
        job = commands.trigger(actor="test")
        with worker(script, db_url, vendor) as killed:
            until(first_completed, seconds=30)
            killed.send_signal(signal.SIGKILL)
            killed.wait()
        held = rows("SELECT symbol FROM enrichment_job_items WHERE status = 'in_progress'")
        app.extensions["sandbox"].faults.clear()
        assert held
        with worker(script, db_url, vendor):

            def finished() -> bool:
                progress = reader.progress(job.job_id)
                return progress is not None and progress.finished

            until(finished, seconds=LEASE_SECONDS + HEARTBEAT_SECONDS + 15)
    assert rows("SELECT status, count(*) FROM enrichment_job_items GROUP BY status") == [
        ("completed", len(symbols))
    ]
    retried = rows("SELECT symbol FROM enrichment_job_items WHERE retry_count = 1")
    assert sorted(retried) == sorted(held)
    assert rows(
        "SELECT count(DISTINCT n) FROM (SELECT count(*) AS n FROM bars GROUP BY symbol) AS c"
    ) == [(1,)]
    for log in ("enrichment_fetch_log", "enrichment_compute_log"):
        assert rows(
            f"SELECT symbol, count(*) FROM {log} WHERE success GROUP BY symbol ORDER BY symbol"
        ) == [(symbol, 1) for symbol in symbols]
