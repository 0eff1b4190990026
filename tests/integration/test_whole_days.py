"""Days of the whole market in place of one request a symbol: the same tables, fewer requests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import text

from enrichment.config import Settings
from enrichment.domain.errors import StepFailed
from enrichment.domain.market_days import MarketDay
from enrichment.domain.symbol_csv import parse_tracked
from enrichment.pipeline.enrich import EnrichmentPipeline
from enrichment.sandbox import create_app, running
from enrichment.sandbox.faults import Fault
from enrichment.services.commands import Commands
from enrichment.services.market_days import MarketDayFetcher
from enrichment.services.request_plan import plan_requests
from enrichment.warehouse.database import Database
from enrichment.warehouse.queue import symbols as tracked_symbols
from enrichment.warehouse.queue.jobs import JobQueue
from enrichment.warehouse.queue.market_days import StoredMarketDays
from enrichment.warehouse.queue.workers import WorkerRegistry
from enrichment.warehouse.series.warehouse import Warehouse
from enrichment.wiring.database import request_settings
from enrichment.wiring.vendors import build_market_days, build_providers
from resilience import init_resilience_manager
from tests.conftest import own_database
from tests.helpers.api_client import ROOT, api_client, json_body

SYMBOLS = [*(f"SIM{n}" for n in range(1, 15)), "BRK.B"]
NIGHT = datetime(2026, 3, 4, 6, 30, tzinfo=UTC)  # half past one in New York
TABLES = {  # table → its columns that say when or by which job
    "bars": ["known_from"],
    "bar_flags": ["found_at"],
    "bar_quarantine": ["quarantined_at"],
    "bar_gaps": ["found_at", "next_try_at", "tried_at", "resolved_at"],
    "bar_versions": ["known_from", "known_until"],
    "enrichment_status": ["last_success_at", "last_error_at", "history_checked_at", "updated_at"],
}


class Nights:
    """Jobs over all symbols, run on this thread, with or without whole days."""

    def __init__(self, db: Database, url: str, vendor: Any, *, whole: bool) -> None:
        self.db, self.vendor, self.now = db, vendor, NIGHT
        self.settings = Settings(
            polygon_api_key=SecretStr("key"),
            polygon_base_url=url,
            yahoo_base_url=url,
            polygon_rate=10_000,
            history_days=60,
        )
        manager = init_resilience_manager()
        self.queue = JobQueue(db, plans_market_days=whole)
        self.pipeline = EnrichmentPipeline(
            build_providers(
                self.settings, manager, now=lambda: self.now, read_days=StoredMarketDays(db)
            ),
            Warehouse(db),
            history_days=60,
            now=lambda: self.now,
        )
        source = build_market_days(self.settings, manager, now=lambda: self.now)
        assert source is not None
        self.days = (
            MarketDayFetcher(db, source, request_settings(self.settings), now=lambda: self.now)
            if whole
            else None
        )

    def trigger(self) -> Any:
        return Commands(self.db).trigger(actor="test").job_id

    def run(self) -> int:
        """Run a job; its number of requests."""
        self.vendor.requests.clear()
        self.trigger()
        if self.days is not None:
            assert self.queue.claim("w", 100) == []  # all of them wait for the plan
            while self.days.plan_next():
                pass
            self.fetch_days()
        self.enrich()
        return int(sum(self.vendor.requests.describe()["by_outcome"].values()))

    def fetch_days(self) -> None:
        """Fetch all planned days, without waiting between attempts."""
        assert self.days is not None
        while self.days.fetch_next() or self.days_by_status().get("pending"):
            with self.db.begin() as conn:
                conn.execute(text("UPDATE market_days SET run_after = now()"))

    def enrich(self) -> None:
        while tasks := self.queue.claim("w", 100):
            for task, enrich in zip(tasks, self.pipeline.prepare_batch(tasks), strict=True):
                try:
                    enrich(task, lambda step: None)
                except StepFailed as exc:
                    self.queue.release(task, 3600.0, str(exc.__cause__))
        self.queue.close_finished_jobs()

    def next_night(self, days: int = 1) -> None:
        self.now += timedelta(days=days)

    def rows(self, query: str, **values: object) -> list[tuple[Any, ...]]:
        with self.db.begin() as conn:
            return [tuple(row) for row in conn.execute(text(query), values)]

    def tables(self) -> dict[str, list[Any]]:
        """All that is stored of the series, apart from when."""
        statement = "SELECT to_jsonb(t) - CAST(:left_out AS text[]) FROM {} t"
        return {
            table: sorted(str(row) for row in self.rows(statement.format(table), left_out=left_out))
            for table, left_out in TABLES.items()
        }

    def days_by_status(self) -> dict[str, int]:
        return dict(self.rows("SELECT status, count(*) FROM market_days GROUP BY status"))


@contextmanager
def nights(
    db: Database, *, whole: bool = True, plan: str = "paid", timeframes: str = "1d"
) -> Iterator[Nights]:
    clock = [NIGHT]
    app = create_app(clock=lambda: clock[0], plan=plan)
    vendor = app.extensions["sandbox"]
    Commands(db).track([parse_tracked(s, "stock", timeframes) for s in SYMBOLS], actor="test")
    with running(app) as url:
        built = Nights(db, url, vendor, whole=whole)
        vendor.clock = lambda: built.now
        yield built


def test_a_night_takes_one_request_a_day_of_the_overlap(db: Database) -> None:
    with nights(db) as market:
        assert market.run() == len(SYMBOLS)  # 41 sessions of 60 days would be more
        market.next_night()
        assert market.run() == 11
        assert market.days_by_status() == {"fetched": 11}
        assert market.rows("SELECT count(*) FROM bars WHERE ts = '2026-03-04'") == [(len(SYMBOLS),)]
        states = market.rows("SELECT DISTINCT state, failed FROM enrichment_jobs")
        assert states == [("completed", 0)]


@pytest.mark.parametrize("timeframes", ["1d", "1d,1w"])
def test_the_preview_of_a_night_is_what_it_takes(db: Database, timeframes: str) -> None:
    with nights(db, timeframes=timeframes) as market:
        for days in (1, 1, 4):
            with db.begin() as conn:
                planned = plan_requests(
                    conn,
                    tracked_symbols.select(conn),
                    now=market.now,
                    settings=request_settings(market.settings),
                )
            assert market.run() == planned.total_requests
            market.next_night(days)


def _at(day: int, month: int = 3) -> tuple[datetime, ...]:
    return (datetime(2026, month, day, tzinfo=UTC),)


FAULTS = {
    "clean": [],
    "restated": [Fault("SIM3", "restated", bars=_at(26, 2), factor=1.05)],
    "every price restated": [Fault("SIM3", "restated", bars=_at(26, 2), columns="all")],
    "rebased": [Fault("SIM4", "rebase", bars=_at(4), factor=0.5)],
    "bad bars": [
        Fault("SIM1", "corrupt", bars=_at(4), mode="inverted"),
        Fault("SIM2", "corrupt", bars=_at(4), mode="null"),
        Fault("SIM3", "corrupt", bars=_at(3), mode="zero_price"),
        Fault("SIM4", "corrupt", bars=_at(4), mode="negative_volume"),
    ],
    "missing and doubled": [
        Fault("SIM1", "missing", bars=_at(4)),
        Fault("SIM2", "missing", bars=_at(25, 2)),
        Fault("SIM5", "duplicate", bars=_at(4)),
    ],
    "cut once": [Fault("MARKET", "truncated", times=1)],
    "an error once": [Fault("MARKET", "server_error", times=2)],
    "never an answer": [Fault("MARKET", "html")],
    "not in the plan": [Fault("MARKET", "forbidden")],
    "empty": [Fault("MARKET", "empty")],
}


@pytest.mark.parametrize(
    ("name", "timeframes"), [*((name, "1d") for name in FAULTS), ("restated", "1d,1w")]
)
def test_tables_are_those_of_the_requests_symbol_by_symbol(
    server: Database, name: str, timeframes: str
) -> None:
    stored, requests = [], []
    for whole in (False, True):
        with own_database(server) as db, nights(db, whole=whole, timeframes=timeframes) as market:
            market.run()
            market.next_night()
            market.vendor.faults.add(FAULTS[name])
            requests.append(market.run())
            market.next_night()
            market.run()
            stored.append(market.tables())
            if name == "not in the plan":  # remembered for a day
                assert market.days_by_status().get("refused", 0) <= 1
    for table, rows in stored[0].items():
        assert rows == stored[1][table], table
    assert len(stored[0]["bars"]) > 15 * 30


def test_a_job_shows_its_days_and_what_its_symbols_wait_for(db: Database) -> None:
    with nights(db) as market:
        market.run()
        market.next_night()
        job, days = market.trigger(), market.days
        assert days is not None
        assert days.plan_next()
        WorkerRegistry(db, "w").register(host="test", pid=0, version="test", threads=1)
        client = api_client(db)
        for _ in range(3):
            days.fetch_next()
        body = json_body(client.get(f"{ROOT}/jobs/{job}"))
        assert body["state"] == "running"
        assert body["started_at"] is not None
        expected = {"planned": 11, "fetched": 3, "given_up": 0, "symbols": len(SYMBOLS)}
        assert body["market_days"] == expected
        (waiting,) = body["waiting"]
        assert waiting["symbols"] == len(SYMBOLS)
        assert waiting["reason"] == "3 of 11 days of the whole market are fetched"
        market.fetch_days()
        market.enrich()
        body = json_body(client.get(f"{ROOT}/jobs/{job}"))
        assert (body["state"], body["market_days"]["fetched"]) == ("completed", 11)


def test_a_cancelled_job_asks_for_no_more_days(db: Database) -> None:
    with nights(db) as market:
        market.run()
        market.next_night()
        job, days = market.trigger(), market.days
        assert days is not None
        days.plan_next()
        days.fetch_next()
        market.vendor.requests.clear()
        Commands(db).cancel(job, actor="test")
        assert not days.fetch_next()
        assert market.vendor.requests.describe()["by_outcome"] == {}
        days_left = market.days_by_status()
        assert days_left == {"fetched": 1, "pending": 10}


def test_a_paused_vendor_is_asked_for_no_day(db: Database) -> None:
    with nights(db) as market:
        market.run()
        market.next_night()
        market.trigger()
        days = market.days
        assert days is not None
        days.plan_next()
        commands = Commands(db)
        for scope, key in (("provider", "polygon"), ("asset_class", "stock"), ("global", "")):
            commands.pause(scope=scope, key=key, actor="test")
            assert not days.fetch_next(), scope
            commands.resume(scope=scope, key=key, actor="test")
        assert days.fetch_next()


class BrokenSource:
    """A vendor whose answers nobody foresaw."""

    name = source = "polygon"

    def fetch_day(self, day: date) -> MarketDay:
        raise ZeroDivisionError(str(day))


def test_a_fault_of_the_program_holds_no_job_back(db: Database) -> None:
    with nights(db) as market:
        market.run()
        market.next_night()
        settings = request_settings(market.settings)
        market.days = MarketDayFetcher(db, BrokenSource(), settings, now=lambda: market.now)
        assert market.run() == len(SYMBOLS)
        assert market.days_by_status() == {"failed": 1, "dropped": 10}
        market.next_night()
        unknown = replace(settings, providers={"stock": ["a vendor of another version"]})
        market.days = MarketDayFetcher(db, BrokenSource(), unknown, now=lambda: market.now)
        assert market.run() == len(SYMBOLS)
        assert market.days_by_status() == {"failed": 1, "dropped": 10}
