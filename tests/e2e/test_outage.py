"""Outage rehearsals: a real worker, real HTTP, a vendor that fails in every way it can."""

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
from enrichment.engine.worker import WorkerTiming
from enrichment.sandbox import create_app, running
from enrichment.services.commands import Commands, parse_tracked
from enrichment.vendors.guard import VendorProtection
from enrichment.warehouse.database import Database
from enrichment.warehouse.read_models.dto import Progress
from enrichment.wiring.database import build_read_models
from enrichment.wiring.worker import open_worker_process
from tests.helpers.waiting import in_thread, until

SYMBOLS = [f"SIM{n}" for n in range(1, 9)]
BRIEF = VendorProtection(max_retries=0, recovery_timeout=0.5, connect_timeout=1.0, read_timeout=1.0)
QUICK = WorkerTiming(poll=0.05, heartbeat=0.2)
OPENED_AND_HEALED = [("closed", "open"), ("open", "half_open"), ("half_open", "closed")]


@dataclass
class Stage:
    """A vendor, a worker with one thread, and their database."""

    db: Database
    vendor: str

    def faults(self, *described: dict[str, Any]) -> None:
        body = json.dumps(described).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.vendor}/_sandbox/faults", body, headers)
        urllib.request.urlopen(request, timeout=5).close()

    def outcomes(self) -> dict[str, int]:
        """How many requests the vendor saw, by what became of them."""
        with urllib.request.urlopen(f"{self.vendor}/_sandbox/requests", timeout=5) as response:
            return dict(json.load(response)["by_outcome"])

    def run(self, *symbols: str) -> Progress:
        """Trigger the symbols and wait for the job's end."""
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
def working(settings: Settings, protection: VendorProtection = BRIEF) -> Iterator[None]:
    with (
        open_worker_process(settings, protection=protection, timing=QUICK) as process,
        in_thread(process),
    ):
        yield


@pytest.fixture
def stage(db: Database, db_url: str) -> Iterator[Stage]:
    Commands(db).track([parse_tracked(s, "stock", "1d") for s in SYMBOLS], actor="test")
    app = create_app()
    app.extensions["sandbox"].market.warm_up()
    with running(app) as vendor:
        settings = Settings(
            enrichment_sandbox=True,
            providers_stock=("polygon",),
            database_url=SecretStr(db_url),
            enrichment_sandbox_port=urlsplit(vendor).port or 0,
            max_concurrent_symbols=1,
            enable_daily_enrichment=False,
        )
        with working(settings):
            yield Stage(db, vendor)


def assert_whole(stage: Stage, progress: Progress) -> None:
    """Every symbol completed, every bar once."""
    assert progress.counts == {"completed": len(SYMBOLS)}
    series = stage.rows(
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
def test_an_outage_opens_the_breaker_and_is_waited_for(stage: Stage, fault: dict[str, Any]) -> None:
    stage.faults({"ticker": "*", "times": 6, **fault})
    progress = stage.run(*SYMBOLS)
    assert_whole(stage, progress)
    # Five failures open the breaker; the sixth is the one probe that is let through and fails.
    assert stage.outcomes() == {fault["kind"]: 6, "ok": len(SYMBOLS)}
    assert stage.transitions() == [
        ("closed", "open"),
        ("open", "half_open"),
        ("half_open", "open"),
        ("open", "half_open"),
        ("half_open", "closed"),
    ]
    (retries,) = stage.rows("SELECT sum(retry_count), max(retry_count) FROM enrichment_job_items")
    assert retries[0] == 6
    assert retries[1] <= 3


def test_a_used_up_quota_pauses_everybody_and_counts_no_retry(stage: Stage) -> None:
    stage.faults({"ticker": "*", "kind": "rate_limit", "seconds": 1, "times": 1})
    progress = stage.run(*SYMBOLS)
    assert_whole(stage, progress)
    assert stage.outcomes() == {"rate_limit": 1, "ok": len(SYMBOLS)}
    assert stage.transitions() == []
    assert stage.rows("SELECT max(retry_count) FROM enrichment_job_items") == [(0,)]
    assert progress.duration_seconds is not None
    assert progress.duration_seconds >= 1.0


def test_an_operator_takes_a_vendor_out_and_puts_it_back(stage: Stage) -> None:
    commands, reader = Commands(stage.db), build_read_models(stage.db, Settings())

    def breaker_is(state: str) -> bool:
        mine = (p for p in reader.resilience() if p.name == "polygon_api")
        return [p.state for p in mine if p.kind == "circuit_breaker"] == [state]

    def snoozed() -> bool:
        query = "SELECT 1 FROM enrichment_job_items WHERE last_error LIKE '%is open%'"
        return stage.rows(query) != []

    until(lambda: breaker_is("closed"))
    commands.override_breaker("polygon_api", "force_open", actor="test", reason="maintenance")
    until(lambda: breaker_is("open"))
    job = commands.trigger(actor="test", symbols=["SIM1"])
    until(snoozed)
    assert stage.outcomes() == {}
    commands.override_breaker("polygon_api", "reset", actor="test")
    until(lambda: breaker_is("closed"))

    def finished() -> bool:
        progress = reader.progress(job.job_id)
        return progress is not None and progress.finished

    until(finished)
    assert stage.rows("SELECT status, retry_count FROM enrichment_job_items") == [("completed", 0)]


def test_the_quota_of_the_plan_is_kept_and_waited_for(db: Database, db_url: str) -> None:
    commands = Commands(db)
    commands.track([parse_tracked(s, "stock", "1d") for s in SYMBOLS], actor="test")
    impatient = replace(BRIEF, max_wait=0.1)
    with running(create_app(api_key="the key")) as vendor:
        settings = Settings(
            providers_stock=("polygon",),
            database_url=SecretStr(db_url),
            polygon_api_key=SecretStr("the key"),
            polygon_base_url=vendor,
            polygon_rate=3,
            max_concurrent_symbols=2,
            enable_daily_enrichment=False,
        )
        stage = Stage(db, vendor)
        with working(settings, impatient):
            commands.trigger(actor="test")
            waiting = "SELECT count(*) FROM enrichment_job_items WHERE last_error LIKE '%limit%'"
            until(lambda: stage.rows(waiting) == [(5,)])
        assert stage.outcomes() == {"ok": 3}
        items = stage.rows(
            "SELECT status, count(*), max(retry_count),"
            " min(run_after) > now() + interval '45 s' FROM enrichment_job_items"
            " GROUP BY status ORDER BY status"
        )
    assert items == [("completed", 3, 0, False), ("pending", 5, 0, True)]
    assert stage.rows("SELECT DISTINCT source FROM enrichment_status") == [("polygon",)]
