"""Tasks on a Dask cluster of two processes are stored exactly once, whatever fails."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from itertools import pairwise
from pathlib import Path
from uuid import UUID

import dask
import pytest
from distributed import Client, LocalCluster, Scheduler
from pydantic import SecretStr

from enrichment.cli import doctor
from enrichment.config import Settings
from enrichment.domain.errors import LeaseLost, StepFailed, WorkerLost
from enrichment.domain.model import AssetClass, RowCounts, Task, Timeframe
from enrichment.domain.symbol_csv import parse_tracked
from enrichment.engine import dask_worker
from enrichment.engine.dask_client import DaskExecutor
from enrichment.engine.ports import Enrich
from enrichment.sandbox import create_app, running
from enrichment.services.commands import Commands
from enrichment.vendors.guard import VendorProtection
from enrichment.warehouse.database import Database
from enrichment.warehouse.queue.jobs import JobQueue
from enrichment.warehouse.read_models.facade import ReadModels
from enrichment.wiring import execution
from tests.helpers import waiting
from tests.helpers.crash_harness import (
    SYMBOLS,
    CrashHarness,
    assert_exactly_once,
    fingerprints,
    rows,
)
from tests.helpers.dask_cluster import (
    TIMING,
    GatedVendor,
    ResponseGate,
    dask_cluster,
    running_worker,
    settings_of,
    tasks_by_worker,
    work_until_killed,
)
from tests.helpers.running_stack import free_ports
from tests.helpers.seeded_warehouse import keep_actions_unasked

until = partial(waiting.until, seconds=30.0)
ITEMS = "SELECT symbol, status, retry_count FROM enrichment_job_items ORDER BY symbol"
YEAR = (datetime(2024, 1, 1, tzinfo=UTC), datetime(2025, 1, 1, tzinfo=UTC))
POOLS = """
SELECT count(*) FROM pg_stat_activity
WHERE application_name = 'enrichment-dask' AND datname = current_database()
"""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """The address of a scheduler of two processes with two threads each."""
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 1}),
        LocalCluster(
            n_workers=2,
            threads_per_worker=2,
            dashboard_address="127.0.0.1:0",
            silence_logs=logging.CRITICAL,
        ) as cluster,
    ):
        yield cluster.scheduler_address


@pytest.fixture(scope="module")
def shared_client(address: str) -> Iterator[Client]:
    with Client(address, set_as_default=False) as client:
        yield client


@pytest.fixture
def client(shared_client: Client) -> Client:
    """A client of the idle cluster, after the previous test's processes have restarted."""
    shared_client.wait_for_workers(2, timeout=30)
    until(lambda: not any(tasks_by_worker(shared_client).values()), "all tasks have ended")
    return shared_client


@pytest.fixture
def vendor() -> Iterator[GatedVendor]:
    """A sandbox vendor with a fixed clock."""
    now, gate = datetime.now(UTC), ResponseGate()
    app = create_app(clock=lambda: now)
    app.before_request(gate)
    with running(app) as address:
        yield GatedVendor(address, gate)
        gate.release()


class Job:
    """A job for these symbols, which it tracks."""

    def __init__(
        self,
        db: Database,
        *symbols: str,
        timeframes: str = "1d",
        backfill: tuple[datetime, datetime] | None = None,
    ) -> None:
        self.db, self.commands = db, Commands(db)
        self.reader = ReadModels(db)
        tracked = [parse_tracked(symbol, "stock", timeframes) for symbol in symbols]
        self.commands.track(tracked, actor="test")
        if backfill is None:
            result = self.commands.trigger(actor="test")
        else:
            result = self.commands.backfill(symbols, *backfill, actor="test")
        self.job_id = result.job_id

    def running(self) -> dict[str, str]:
        return dict(self.reader.progress(self.job_id).at_work)

    def until_ended(self) -> None:
        until(lambda: self.reader.progress(self.job_id).finished, lambda: str(self.items()))

    def worker(self) -> tuple[str, str | None]:
        """State and note of the only worker."""
        (worker,) = self.reader.workers()
        return worker.state, worker.note

    def dask_processes(self, pattern: str) -> set[str]:
        """The Dask workers' processes that have published this resilience pattern."""
        published = {p.worker_id for p in self.reader.resilience() if p.name == pattern}
        return {name for name in published if name.startswith("dask:")}

    def items(self) -> list[tuple[object, ...]]:
        return rows(self.db, ITEMS)


def test_a_cluster_stores_the_same_bars_as_threads(
    db: Database, shared_db: Database, address: str, client: Client, vendor: GatedVendor
) -> None:
    for database, executor in ((db, address), (shared_db, "threads")):
        job = Job(database, "SIM1", "SIM2", timeframes="1d,1h", backfill=YEAR)
        with running_worker(settings_of(database, vendor, executor)):
            job.until_ended()
    stored = fingerprints(db)
    assert len(stored) == 4
    assert stored == fingerprints(shared_db)


def test_steps_and_each_process_breakers_are_published(
    db: Database, address: str, client: Client, vendor: GatedVendor
) -> None:
    symbols = [f"SIM{n}" for n in range(1, 7)]
    vendor.gate.hold(*symbols)
    job = Job(db, *symbols)
    with running_worker(settings_of(db, vendor, address)):
        until(lambda: list(job.running().values()).count("fetch 1d") == 4, "four run")
        assert sorted(len(keys) for keys in tasks_by_worker(client).values()) == [2, 2]
        assert sorted(job.running().values()) == ["fetch 1d"] * 4 + ["queued"] * 2
        vendor.gate.release()
        job.until_ended()
        until(lambda: len(job.dask_processes("polygon_api")) == 2, "both have published")
    assert job.items() == [(symbol, "completed", 0) for symbol in symbols]
    until(lambda: rows(db, POOLS) == [(0,)], "the pipelines are closed")


def test_an_unregistered_pipeline_is_registered_again(
    db: Database, address: str, client: Client, vendor: GatedVendor
) -> None:
    with running_worker(settings_of(db, vendor, address)):
        until(lambda: client.run_on_scheduler(pipelines), "the worker has connected")
        for name in client.run_on_scheduler(pipelines):
            client.unregister_worker_plugin(name)
        job = Job(db, "SIM1")
        job.until_ended()
    assert job.items() == [("SIM1", "completed", 0)]


def test_a_cancelled_task_ends_at_its_next_step(
    db: Database, address: str, client: Client, vendor: GatedVendor
) -> None:
    vendor.gate.hold("SIM1")
    job = Job(db, "SIM1", timeframes="1d,1w")
    with running_worker(settings_of(db, vendor, address)):
        until(lambda: job.running() == {"SIM1": "fetch 1w"})
        job.commands.cancel(job.job_id, actor="test")
        job.until_ended()
        assert any(tasks_by_worker(client).values())
        vendor.gate.release()
        until(lambda: not any(tasks_by_worker(client).values()), "the task ends")
    assert job.items() == [("SIM1", "cancelled", 0)]
    assert vendor.gate.requests == {"SIM1": 1}
    assert rows(db, "SELECT count(*) FROM bars") == [(0,)]


def test_a_drain_waits_for_running_tasks_and_releases_hanging_ones(
    db: Database, address: str, client: Client, vendor: GatedVendor
) -> None:
    vendor.gate.hold("SIM1", "SIM2")
    job = Job(db, "SIM1", "SIM2")
    with running_worker(
        settings_of(db, vendor, address), timing=replace(TIMING, drain=2.0)
    ) as process:
        until(lambda: job.running() == {"SIM1": "fetch 1d", "SIM2": "fetch 1d"})
        process.stop()
        vendor.gate.release("SIM1")
    assert job.items() == [("SIM1", "completed", 0), ("SIM2", "pending", 0)]
    vendor.gate.release()
    until(lambda: not any(tasks_by_worker(client).values()), "the task ends")
    assert rows(db, "SELECT DISTINCT symbol FROM bars") == [("SIM1",)]


def test_all_processes_share_a_vendors_quota(
    db: Database, address: str, client: Client, vendor: GatedVendor
) -> None:
    quota = {
        "enrichment_sandbox": False,
        "polygon_api_key": SecretStr("key"),
        "polygon_base_url": vendor.address,
        "polygon_rate": 3,
        "providers_stock": ("polygon",),
    }
    job = Job(db, *(f"SIM{n}" for n in range(8)))
    keep_actions_unasked(db, "polygon")
    with running_worker(
        settings_of(db, vendor, address, **quota), protection=VendorProtection(max_wait=0.1)
    ):
        until(lambda: Counter(i[1] for i in job.items()) == {"completed": 3, "pending": 5})
        until(lambda: len(job.dask_processes("polygon_api")) == 2, "both have published")
    assert vendor.gate.requests.total() == 3
    assert {retries for _, _, retries in job.items()} == {0}


def test_days_of_the_market_are_fetched_once_for_all_processes(
    db: Database, vendor: GatedVendor, client: Client, address: str
) -> None:
    symbols = [f"SIM{n}" for n in range(1, 15)]
    polygon = {"polygon_api_key": SecretStr("key"), "polygon_base_url": vendor.address}
    settings = settings_of(
        db,
        vendor,
        address,
        enrichment_sandbox=False,
        providers_stock=("polygon",),
        polygon_rate=3000,
        history_days=40,
        **polygon,
    )
    with running_worker(settings):
        Job(db, *symbols).until_ended()
        vendor.gate.requests.clear()
        Job(db, *symbols).until_ended()
    assert vendor.gate.requests == {}  # of single symbols
    days = "SELECT status, count(*) FROM market_days GROUP BY status"
    assert rows(db, days) == [("fetched", 10)]  # the overlap
    outcome = "SELECT DISTINCT status FROM enrichment_job_items"
    assert rows(db, outcome) == [("completed",)]


def test_tasks_of_a_killed_process_run_in_the_other_one(
    db: Database, address: str, client: Client, vendor: GatedVendor, tmp_path: Path
) -> None:
    harness = CrashHarness(db, vendor.address, datetime.now(UTC), tmp_path)
    vendor.gate.hold(*SYMBOLS[:4])
    job = harness.trigger(SYMBOLS, "1d,1w")
    with running_worker(settings_of(db, vendor, address)):
        until(
            lambda: [len(k) for k in tasks_by_worker(client).values()] == [2, 2],
            "both processes run tasks",
        )
        killed = next(iter(client.run(os.getpid).values()))
        os.kill(killed, signal.SIGKILL)
        vendor.gate.release()
        harness.until_closed(job)
    stored = fingerprints(db)
    assert len(stored) == 2 * len(SYMBOLS)
    assert_exactly_once(harness, job, stored)
    assert rows(db, ITEMS) == [(symbol, "completed", 0) for symbol in SYMBOLS]
    used = ReadModels(db).jobs.timeline(job, 100).spans
    lanes = sorted(used, key=lambda span: (span.thread, span.begun_at))
    assert {span.thread for span in lanes} <= set(range(1, 7))
    for before, after in pairwise(lanes):
        assert before.thread != after.thread or before.ended_at <= after.begun_at


def test_a_task_that_runs_twice_at_once_is_stored_once(
    db: Database, address: str, client: Client, vendor: GatedVendor
) -> None:
    job = Job(db, "SIM1")
    (task,) = JobQueue(db).claim("w", 1)
    vendor.gate.hold("SIM1", "SIM1")
    open_pipeline = partial(execution.open_dask_pipeline, settings_of(db, vendor, "threads"), None)
    client.register_plugin(dask_worker.PipelinePlugin("test", open_pipeline), name="test")
    runs = [
        client.submit(
            dask_worker.enrich, task, "test", key=f"run-{worker}", workers=[worker], pure=False
        )
        for worker in client.nthreads()
    ]
    until(lambda: vendor.gate.requests["SIM1"] == 2, "both have sent a request")
    vendor.gate.release()
    rows_written, failure = sorted(
        client.gather(runs), key=lambda result: isinstance(result, dask_worker.TaskFailed)
    )
    client.unregister_worker_plugin("test")
    assert isinstance(rows_written, RowCounts)
    assert isinstance(failure.error, LeaseLost)
    assert rows_written.inserted == rows(db, "SELECT count(*) FROM bars")[0][0] > 0
    assert job.items() == [("SIM1", "completed", 0)]


def test_tasks_of_a_dead_worker_write_nothing_after_another_has_taken_over(
    db: Database, address: str, client: Client, vendor: GatedVendor, tmp_path: Path
) -> None:
    harness = CrashHarness(db, vendor.address, datetime.now(UTC), tmp_path)
    vendor.gate.hold("X:SIM1USD", "X:SIM2USD")
    job = harness.trigger(SYMBOLS[:2], "1d")
    processes = multiprocessing.get_context("forkserver")
    killed = processes.Process(
        target=work_until_killed, args=(settings_of(db, vendor, address),), daemon=True
    )
    killed.start()
    until(lambda: vendor.gate.requests.total() == 2, "both have sent a request")
    killed.kill()
    killed.join()
    with running_worker(settings_of(db, vendor, "threads")):
        harness.until_closed(job)
    before = harness.stored_state()
    assert any(tasks_by_worker(client).values())
    vendor.gate.release()
    until(lambda: not any(tasks_by_worker(client).values()), "the tasks end")
    until(lambda: rows(db, POOLS) == [(0,)], "the dead worker's pipelines are closed")
    assert harness.stored_state() == before
    assert rows(db, ITEMS) == [(symbol, "completed", 1) for symbol in SYMBOLS[:2]]


def test_a_task_that_kills_every_process_fails(client: Client, address: str) -> None:
    @contextmanager
    def open_pipeline(threads: int) -> Iterator[Enrich]:
        yield lambda task, report: os.kill(os.getpid(), signal.SIGKILL)

    task = Task(UUID(int=1), "AAPL", AssetClass.STOCK, (Timeframe.D1,), "w", 1)
    with DaskExecutor(address, open_pipeline) as executor:
        until(lambda: executor.blocked_reason() is None, executor.blocked_reason)
        with pytest.raises(StepFailed) as failed:
            executor.enrich(task, lambda step: None)
    assert isinstance(failed.value.__cause__, WorkerLost)
    assert "2 Dask workers died" in str(failed.value.__cause__)


def test_a_worker_waits_for_a_lost_scheduler(
    db: Database, vendor: GatedVendor, tmp_path: Path
) -> None:
    port = free_ports()["api"]
    address = f"tcp://127.0.0.1:{port}"
    settings = settings_of(db, vendor, address)
    vendor.gate.hold("SIM1")
    with running_worker(settings):
        job = Job(db, "SIM1", "SIM2")
        with dask_cluster(port):
            until(lambda: job.running().get("SIM1") == "fetch 1d", lambda: str(job.worker()))
            assert doctor_on_dask(settings).ok
        until(lambda: job.worker()[0] == "waiting", "the worker waits")
        assert f"{address} does not answer" in str(job.worker()[1])
        assert job.reader.overview().scheduler.running
        assert ("SIM1", "pending", 0) in job.items()
        finding = doctor_on_dask(settings)
        assert not finding.ok
        assert "start it with 'dask scheduler'" in finding.detail
        vendor.gate.release()
        with dask_cluster(port, PYTHONPATH=another_version(tmp_path)):
            job.until_ended()
            until(lambda: job.worker() == ("running", None))
            assert "has market-enrichment 9.9, this process" in doctor_on_dask(settings).detail
    assert job.items() == [(symbol, "completed", 0) for symbol in ("SIM1", "SIM2")]


def test_without_dask_the_error_names_the_package(db: Database, vendor: GatedVendor) -> None:
    settings = settings_of(db, vendor, "tcp://127.0.0.1:1")
    assert settings.database_url is not None
    environment = {
        "DATABASE_URL": settings.database_url.get_secret_value(),
        "ENRICHMENT_EXECUTOR": settings.enrichment_executor,
    }
    program = "import sys; sys.modules['distributed'] = None; from enrichment.cli.main import main"
    done = subprocess.run(
        [sys.executable, "-c", f"{program}; main()", "worker"],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "pip install 'market-enrichment[dask]'" in done.stderr


def doctor_on_dask(settings: Settings) -> doctor.CheckResult:
    (finding,) = (f for f in doctor.run_checks(lambda: settings) if f.check == "dask")
    return finding


def pipelines(dask_scheduler: Scheduler) -> list[str]:
    """The plugins that enrichment workers have registered."""
    return [name for name in dask_scheduler.worker_plugins if "enrichment" in name]


def another_version(folder: Path) -> str:
    """A PYTHONPATH on which another version of the package is installed."""
    metadata = folder / "market_enrichment-9.9.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: market-enrichment\nVersion: 9.9\n"
    )
    return str(folder)
