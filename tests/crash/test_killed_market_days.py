"""A worker killed while it fetches a day of the whole market: only that request is made again."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pydantic import SecretStr
from sqlalchemy import text

from enrichment.config import Settings
from enrichment.domain.symbol_csv import parse_tracked
from enrichment.engine.worker import WorkerTiming
from enrichment.sandbox import create_app, running
from enrichment.sandbox.faults import Fault
from enrichment.services.commands import Commands
from enrichment.warehouse.database import Database
from enrichment.wiring.worker import open_worker_process
from tests.helpers.waiting import until

SYMBOLS = [f"SIM{n}" for n in range(1, 15)]
OVERLAP = 10
_processes = multiprocessing.get_context("forkserver")


def run_worker(settings: Settings) -> None:
    timing = WorkerTiming(poll=0.1, heartbeat=0.3, lease=2.0)
    with open_worker_process(settings, timing=timing) as worker:
        worker.run()


@contextmanager
def killed_afterwards(settings: Settings) -> Iterator[Any]:
    process = _processes.Process(target=run_worker, args=(settings,), daemon=True)
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()
        process.close()


def test_the_day_of_a_killed_worker_is_fetched_by_the_next_one(db: Database) -> None:
    app, days = create_app(), []
    vendor, answer = app.extensions["sandbox"], app.wsgi_app

    def noting(environ: Any, start_response: Any) -> Any:
        if "/grouped/" in environ["PATH_INFO"]:
            days.append(environ["PATH_INFO"])
        return answer(environ, start_response)

    app.wsgi_app = noting  # type: ignore[method-assign]
    Commands(db).track([parse_tracked(symbol, "stock", "1d") for symbol in SYMBOLS], actor="test")

    def rows(query: str) -> list[tuple[Any, ...]]:
        with db.begin() as conn:
            return [tuple(row) for row in conn.execute(text(query))]

    def finished(jobs: int) -> bool:
        query = "SELECT count(*) FROM enrichment_jobs WHERE state = 'completed'"
        return bool(rows(query) == [(jobs,)])

    with running(app) as url:
        settings = Settings(
            polygon_api_key=SecretStr("key"),
            polygon_base_url=url,
            polygon_rate=3000,
            providers_stock=("polygon",),
            database_url=SecretStr(db.url.render_as_string(hide_password=False)),
            enable_daily_enrichment=False,
            history_days=60,
        )
        with killed_afterwards(settings):
            Commands(db).trigger(actor="test")
            until(lambda: finished(1), "the history is stored", seconds=60)
            vendor.faults.add([Fault("MARKET", "hang", times=1)])
            Commands(db).trigger(actor="test")
            until(lambda: days, "a day is being fetched", seconds=30)
        assert rows("SELECT status, count(*) FROM market_days GROUP BY status") == [
            ("pending", OVERLAP)
        ]
        with killed_afterwards(settings):
            until(lambda: finished(2), "the job is finished by the second worker", seconds=60)
            stored = "SELECT 1 FROM market_days WHERE content IS NOT NULL"
            until(lambda: not rows(stored), "what the job no longer needs is removed", seconds=30)
        assert rows("SELECT status, count(*) FROM market_days GROUP BY status") == [
            ("fetched", OVERLAP)
        ]
        assert len(days) == OVERLAP + 1
        assert len(set(days)) == OVERLAP
