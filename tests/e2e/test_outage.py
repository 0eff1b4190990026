"""Outages of a provider: a real worker and real HTTP, against a sandbox that injects faults."""

from __future__ import annotations

import json
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

import pytest
from pydantic import SecretStr
from sqlalchemy import text

from enrichment.config import Settings
from enrichment.domain.symbol_csv import parse_tracked
from enrichment.engine.worker import WorkerTiming
from enrichment.sandbox import create_app, running
from enrichment.services.commands import Commands
from enrichment.vendors.guard import VendorProtection
from enrichment.warehouse.database import Database
from enrichment.warehouse.read_models.dto import Progress
from enrichment.wiring.database import build_read_models
from enrichment.wiring.worker import open_worker_process
from tests.helpers.seeded_warehouse import keep_actions_unasked
from tests.helpers.vendor_faults import inject_faults
from tests.helpers.waiting import in_thread, until

SYMBOLS = [f"SIM{n}" for n in range(1, 9)]
SHORT_TIMEOUTS = VendorProtection(
    max_retries=0, recovery_timeout=0.5, connect_timeout=1.0, read_timeout=1.0
)
FAST_TIMING = WorkerTiming(poll=0.05, heartbeat=0.2)


@dataclass
class Stack:
    """A sandbox provider, a worker with one thread, and their database."""

    db: Database
    sandbox: str

    def inject_faults(self, *faults: dict[str, Any]) -> None:
        inject_faults(self.sandbox, *faults)

    def outcomes(self) -> dict[str, int]:
        """Outcome → number of requests that the sandbox has answered with it."""
        with urllib.request.urlopen(f"{self.sandbox}/_sandbox/requests", timeout=5) as response:
            return dict(json.load(response)["by_outcome"])

    def run_job(self, *symbols: str) -> Progress:
        """Trigger the symbols and wait until the job has finished."""
        job = Commands(self.db).trigger(actor="test", symbols=symbols)
        reader = build_read_models(self.db, Settings())
        waiting = threading.Event()
        for _ in range(600):
            progress = reader.progress(job.job_id)
            assert progress is not None
            if progress.finished:
                return progress
            waiting.wait(0.05)
        raise AssertionError(f"the job did not finish: {progress}")

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        with self.db.begin() as conn:
            return [tuple(row) for row in conn.execute(text(query))]

    def transitions(self) -> list[tuple[Any, ...]]:
        return self.rows("SELECT from_state, to_state FROM resilience_transitions ORDER BY id")


@contextmanager
def worker_thread(
    settings: Settings, protection: VendorProtection = SHORT_TIMEOUTS
) -> Iterator[None]:
    with (
        open_worker_process(settings, protection=protection, timing=FAST_TIMING) as process,
        in_thread(process),
    ):
        yield


@pytest.fixture
def stack(db: Database, db_url: str) -> Iterator[Stack]:
    Commands(db).track([parse_tracked(s, "stock", "1d") for s in SYMBOLS], actor="test")
    keep_actions_unasked(db, "sandbox")
    app = create_app()
    app.extensions["sandbox"].market.warm_up()
    with running(app) as sandbox:
        settings = Settings(
            enrichment_sandbox=True,
            providers_stock=("polygon",),
            database_url=SecretStr(db_url),
            enrichment_sandbox_port=urlsplit(sandbox).port or 0,
            max_concurrent_symbols=1,
            enable_daily_enrichment=False,
        )
        with worker_thread(settings):
            yield Stack(db, sandbox)


def assert_complete(stack: Stack, progress: Progress) -> None:
    """Every symbol is completed, and no bar is missing or duplicated."""
    assert progress.counts == {"completed": len(SYMBOLS)}
    series = stack.rows(
        "SELECT symbol, count(*), count(DISTINCT ts) FROM bars GROUP BY symbol ORDER BY symbol"
    )
    assert [row[0] for row in series] == SYMBOLS
    assert len({row[1:] for row in series}) == 1
    assert all(count == distinct >= 250 for _, count, distinct in series)


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "server_error", "status": 500},
        {"kind": "hang", "seconds": 5},
        {"kind": "reset"},
        {"kind": "truncated"},
        {"kind": "html", "status": 200},
    ],
    ids=lambda fault: str(fault["kind"]),
)
def test_the_worker_waits_until_the_breaker_closes_after_an_outage(
    stack: Stack, fault: dict[str, Any]
) -> None:
    stack.inject_faults({"ticker": "*", "times": 6, **fault})
    progress = stack.run_job(*SYMBOLS)
    assert_complete(stack, progress)
    # Five failures open the breaker; the sixth request is the probe that fails.
    assert stack.outcomes() == {fault["kind"]: 6, "ok": len(SYMBOLS)}
    assert stack.transitions() == [
        ("closed", "open"),
        ("open", "half_open"),
        ("half_open", "open"),
        ("open", "half_open"),
        ("half_open", "closed"),
    ]
    (retries,) = stack.rows("SELECT sum(retry_count), max(retry_count) FROM enrichment_job_items")
    assert retries[0] == 6
    assert retries[1] <= 3


def test_an_exhausted_quota_delays_all_symbols_without_counting_retries(
    stack: Stack,
) -> None:
    stack.inject_faults({"ticker": "*", "kind": "rate_limit", "seconds": 1, "times": 1})
    progress = stack.run_job(*SYMBOLS)
    assert_complete(stack, progress)
    assert stack.outcomes() == {"rate_limit": 1, "ok": len(SYMBOLS)}
    assert stack.transitions() == []
    assert stack.rows("SELECT max(retry_count) FROM enrichment_job_items") == [(0,)]
    assert progress.duration_seconds is not None
    assert progress.duration_seconds >= 1.0


def test_an_operator_forces_a_breaker_open_and_resets_it(stack: Stack) -> None:
    commands, reader = Commands(stack.db), build_read_models(stack.db, Settings())

    def breaker_is(state: str) -> bool:
        patterns = (p for p in reader.resilience() if p.name == "polygon_api")
        return [p.state for p in patterns if p.kind == "circuit_breaker"] == [state]

    def is_delayed() -> bool:
        query = "SELECT 1 FROM enrichment_job_items WHERE last_error LIKE '%is open%'"
        return stack.rows(query) != []

    until(lambda: breaker_is("closed"))
    commands.override_breaker("polygon_api", "force_open", actor="test", reason="maintenance")
    until(lambda: breaker_is("open"))
    job = commands.trigger(actor="test", symbols=["SIM1"])
    until(is_delayed)
    assert stack.outcomes() == {}
    commands.override_breaker("polygon_api", "reset", actor="test")
    until(lambda: breaker_is("closed"))

    def finished() -> bool:
        progress = reader.progress(job.job_id)
        return progress is not None and progress.finished

    until(finished)
    assert stack.rows("SELECT status, retry_count FROM enrichment_job_items") == [("completed", 0)]


def test_symbols_wait_for_the_quota_of_the_plan(db: Database, db_url: str) -> None:
    commands = Commands(db)
    commands.track([parse_tracked(s, "stock", "1d") for s in SYMBOLS], actor="test")
    without_waiting = replace(SHORT_TIMEOUTS, max_wait=0.1)
    with running(create_app(api_key="the key")) as sandbox:
        settings = Settings(
            providers_stock=("polygon",),
            database_url=SecretStr(db_url),
            polygon_api_key=SecretStr("the key"),
            polygon_base_url=sandbox,
            polygon_rate=3,
            max_concurrent_symbols=2,
            enable_daily_enrichment=False,
        )
        stack = Stack(db, sandbox)
        with worker_thread(settings, without_waiting):
            commands.trigger(actor="test")
            limited = "SELECT count(*) FROM enrichment_job_items WHERE last_error LIKE '%quota%'"
            until(lambda: stack.rows(limited) == [(5,)])
        assert stack.outcomes() == {"ok": 3}
        items = stack.rows(
            "SELECT status, count(*), max(retry_count),"
            " min(run_after) > now() + interval '45 s' FROM enrichment_job_items"
            " GROUP BY status ORDER BY status"
        )
    assert items == [("completed", 3, 0, False), ("pending", 5, 0, True)]
    assert stack.rows("SELECT DISTINCT source FROM enrichment_status") == [("polygon",)]
