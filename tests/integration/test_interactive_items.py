"""What a person asked for is fetched while a night uses up the vendor's quota."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from uuid import UUID

import pytest
from flask import request
from pydantic import SecretStr

from enrichment.config import Settings
from enrichment.domain.model import JobKind
from enrichment.domain.schedules import nightly
from enrichment.domain.statuses import ItemPriority
from enrichment.domain.symbol_csv import parse_tracked
from enrichment.engine.worker import WorkerTiming
from enrichment.sandbox import create_app, running
from enrichment.services.commands import Commands
from enrichment.warehouse.database import Database
from enrichment.warehouse.queue import jobs
from enrichment.warehouse.read_models.facade import ReadModels
from tests.helpers.dask_cluster import dask_cluster, running_worker
from tests.helpers.running_stack import free_ports
from tests.helpers.seeded_warehouse import keep_actions_unasked
from tests.helpers.waiting import until

TIMING = WorkerTiming(poll=0.05, heartbeat=0.2, lease=30.0, drain=0.2)
NIGHT = tuple(f"SIM{number}" for number in range(1, 9))


@dataclass
class Vendor:
    """A sandbox, and the symbols of which bars were requested, in order."""

    url: str = ""
    fetched: list[str] = field(default_factory=list)

    def note(self) -> None:
        _, ticker, rest = request.path.partition("/ticker/")
        if ticker:
            self.fetched.append(rest.partition("/")[0])


@pytest.fixture
def vendor() -> Iterator[Vendor]:
    now, noted = datetime.now(UTC), Vendor()
    app = create_app(clock=lambda: now)
    app.before_request(noted.note)
    with running(app) as noted.url:
        yield noted


def settings_of(db: Database, vendor: Vendor, executor: str) -> Settings:
    return Settings(
        _env_file=None,
        database_url=SecretStr(db.url.render_as_string(hide_password=False)),
        polygon_api_key=SecretStr("free"),
        polygon_base_url=vendor.url,
        polygon_rate=3,  # the night gets a permit every 20 s
        providers_stock=("polygon",),
        providers_crypto=("polygon",),
        enrichment_executor=executor,
        enable_daily_enrichment=False,
        history_days=30,
        max_concurrent_symbols=2,
    )


def open_night(db: Database) -> UUID:
    with db.begin() as conn:
        slot = nightly().slot(date(2026, 3, 3))
        job = jobs.insert_job(conn, kind=JobKind.SCHEDULED, requested_by="scheduler", slot=slot)
        assert job is not None
        jobs.snapshot_items(
            conn, job, symbols=NIGHT, asset_class=None, priority=ItemPriority.NIGHTLY
        )
    return job


@pytest.mark.parametrize("executor", ["threads", "dask"])
def test_a_click_is_fetched_while_all_threads_wait_for_the_quota(
    db: Database, vendor: Vendor, executor: str
) -> None:
    commands, reader = Commands(db), ReadModels(db)
    names = (*NIGHT, "AAPL", "MSFT")
    commands.track([parse_tracked(name, "stock", "1d") for name in names], actor="test")
    keep_actions_unasked(db, "polygon")
    with ExitStack() as stack:
        if executor == "dask":
            port = free_ports()["api"]
            stack.enter_context(dask_cluster(port))
            executor = f"tcp://127.0.0.1:{port}"
        stack.enter_context(running_worker(settings_of(db, vendor, executor), timing=TIMING))
        night = open_night(db)

        def waiting() -> int:
            progress = reader.progress(night)
            assert progress is not None
            steps = progress.at_work.values()
            return progress.done * sum(step.startswith("fetch") for step in steps)

        until(lambda: waiting() == 2, "one is done, both threads wait for a permit", seconds=30)
        clicks = [commands.trigger(actor="me", symbols=[name]).job_id for name in names[-2:]]

        def finished() -> bool:
            return all(job and job.finished for job in map(reader.progress, clicks))

        until(finished, "what was clicked is enriched", seconds=20)
        assert set(vendor.fetched[1:3]) == {"AAPL", "MSFT"}
        commands.cancel(night, actor="test")
