"""The same tasks on a Dask cluster of two processes: each effect once, whatever befalls it."""

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
from enrichment.engine import dask_worker
from enrichment.engine.dask_client import DaskExecutor
from enrichment.engine.worker import Enrich
from enrichment.sandbox import create_app, running
from enrichment.services.commands import Commands, parse_tracked
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
    PACE,
    Gate,
    Vendor,
    cluster_on,
    running_on,
    settings_of,
    work_until_killed,
    working,
)
from tests.helpers.running_stack import free_ports

until = partial(waiting.until, seconds=30.0)
ITEMS = "SELECT symbol, status, retry_count FROM enrichment_job_items ORDER BY symbol"
YEAR = (datetime(2024, 1, 1, tzinfo=UTC), datetime(2025, 1, 1, tzinfo=UTC))
POOLS = """
SELECT count(*) FROM pg_stat_activity
WHERE application_name = 'enrichment-dask' AND datname = current_database()
"""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A scheduler's, before two processes with two threads each."""
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 1}),
        LocalCluster(
            n_workers=2,
            threads_per_worker=2,
            dashboard_address="127.0.0.1:0",
            silence_logs=logging.CRITICAL,
        ) as built,
    ):
        yield built.scheduler_address


@pytest.fixture(scope="module")
def own_client(address: str) -> Iterator[Client]:
    with Client(address, set_as_default=False) as connected:
        yield connected


@pytest.fixture
def client(own_client: Client) -> Client:
    """The test's own, once nothing runs in the two processes, of which one may just be back."""
    own_client.wait_for_workers(2, timeout=30)
    until(lambda: not any(running_on(own_client).values()), "nothing runs any more")
    return own_client


@pytest.fixture
def vendor() -> Iterator[Vendor]:
    """Its clock stands still."""
    now, gate = datetime.now(UTC), Gate()
    app = create_app(clock=lambda: now)
    app.before_request(gate)
    with running(app) as address:
        yield Vendor(address, gate)
        gate.release()


class Job:
    """A job over symbols that are tracked for it."""

    def __init__(
        self,
        db: Database,
        *symbols: str,
        timeframes: str = "1d",
        backfill: tuple[datetime, datetime] | None = None,
    ) -> None:
        self.db, self.commands = db, Commands(db)
        self.reader = ReadModels(db, hour=1, minute=30, enabled=True)
        tracked = [parse_tracked(symbol, "stock", timeframes) for symbol in symbols]
        self.commands.track(tracked, actor="test")
        if backfill is None:
            opened = self.commands.trigger(actor="test")
        else:
            opened = self.commands.backfill(symbols, *backfill, actor="test")
        self.job_id = opened.job_id

    def at_work(self) -> dict[str, str]:
        return dict(self.reader.progress(self.job_id).at_work)

    def until_ended(self) -> None:
        until(lambda: self.reader.progress(self.job_id).finished, lambda: str(self.items()))

    def worker(self) -> tuple[str, str | None]:
        """The state of the only worker, and what it waits for."""
        (worker,) = self.reader.workers()
        return worker.state, worker.note

    def far_processes(self, pattern: str) -> set[str]:
        """The processes of Dask workers that have published this pattern."""
        published = {p.worker_id for p in self.reader.resilience() if p.name == pattern}
        return {name for name in published if name.startswith("dask:")}

    def items(self) -> list[tuple[object, ...]]:
        return rows(self.db, ITEMS)


def test_a_cluster_stores_what_threads_store(
    db: Database, shared_db: Database, address: str, client: Client, vendor: Vendor
) -> None:
    for database, executor in ((db, address), (shared_db, "threads")):
        job = Job(database, "SIM1", "SIM2", timeframes="1d,1h", backfill=YEAR)
        with working(settings_of(database, vendor, executor)):
            job.until_ended()
    stored = fingerprints(db)
    assert len(stored) == 4
    assert stored == fingerprints(shared_db)


def test_steps_are_seen_and_each_process_publishes_its_breakers(
    db: Database, address: str, client: Client, vendor: Vendor
) -> None:
    symbols = [f"SIM{n}" for n in range(1, 7)]
    vendor.gate.hold(*symbols)
    job = Job(db, *symbols)
    with working(settings_of(db, vendor, address)):
        until(lambda: list(job.at_work().values()).count("fetch 1d") == 4, "four are fetched")
        assert sorted(len(keys) for keys in running_on(client).values()) == [2, 2]
        assert sorted(job.at_work().values()) == ["fetch 1d"] * 4 + ["queued"] * 2
        vendor.gate.release()
        job.until_ended()
        until(lambda: len(job.far_processes("polygon_api")) == 2, "both have published")
    assert job.items() == [(symbol, "completed", 0) for symbol in symbols]
    until(lambda: rows(db, POOLS) == [(0,)], "what was opened there is closed")


def test_a_scheduler_that_forgot_the_worker_is_told_again(
    db: Database, address: str, client: Client, vendor: Vendor
) -> None:
    with working(settings_of(db, vendor, address)):
        until(lambda: client.run_on_scheduler(lines), "the worker has connected")
        for name in client.run_on_scheduler(lines):
            client.unregister_worker_plugin(name)
        job = Job(db, "SIM1")
        job.until_ended()
    assert job.items() == [("SIM1", "completed", 0)]


def test_a_cancel_ends_the_run_at_its_next_step(
    db: Database, address: str, client: Client, vendor: Vendor
) -> None:
    vendor.gate.hold("SIM1")
    job = Job(db, "SIM1", timeframes="1d,1w")
    with working(settings_of(db, vendor, address)):
        until(lambda: job.at_work() == {"SIM1": "fetch 1d"})
        job.commands.cancel(job.job_id, actor="test")
        job.until_ended()
        assert any(running_on(client).values())
        vendor.gate.release()
        until(lambda: not any(running_on(client).values()), "the run ends")
    assert job.items() == [("SIM1", "cancelled", 0)]
    assert vendor.gate.asked == {"SIM1": 1}
    assert rows(db, "SELECT count(*) FROM bars") == [(0,)]


def test_a_drain_waits_for_what_runs_there_and_gives_back_what_hangs(
    db: Database, address: str, client: Client, vendor: Vendor
) -> None:
    vendor.gate.hold("SIM1", "SIM2")
    job = Job(db, "SIM1", "SIM2")
    with working(settings_of(db, vendor, address), pace=replace(PACE, drain=2.0)) as process:
        until(lambda: job.at_work() == {"SIM1": "fetch 1d", "SIM2": "fetch 1d"})
        process.stop()
        vendor.gate.release("SIM1")
    assert job.items() == [("SIM1", "completed", 0), ("SIM2", "pending", 0)]
    vendor.gate.release()
    until(lambda: not any(running_on(client).values()), "the run ends")
    assert rows(db, "SELECT DISTINCT symbol FROM bars") == [("SIM1",)]


def test_all_processes_share_a_vendors_quota(
    db: Database, address: str, client: Client, vendor: Vendor
) -> None:
    quota = {
        "polygon_api_key": SecretStr("key"),
        "polygon_base_url": vendor.address,
        "polygon_rate": 3,
        "providers_stock": ("polygon",),
    }
    job = Job(db, *(f"SIM{n}" for n in range(8)))
    with working(
        settings_of(db, vendor, address, **quota), protection=VendorProtection(max_wait=0.1)
    ):
        until(lambda: Counter(i[1] for i in job.items()) == {"completed": 3, "pending": 5})
        until(lambda: len(job.far_processes("polygon_api")) == 2, "both have published")
    assert vendor.gate.asked.total() == 3
    assert {retries for _, _, retries in job.items()} == {0}


def test_what_a_killed_process_ran_runs_elsewhere_once(
    db: Database, address: str, client: Client, vendor: Vendor, tmp_path: Path
) -> None:
    stage = CrashHarness(db, vendor.address, datetime.now(UTC), tmp_path)
    vendor.gate.hold(*SYMBOLS[:4])
    job = stage.trigger(SYMBOLS, "1d,1w")
    with working(settings_of(db, vendor, address)):
        until(lambda: [len(k) for k in running_on(client).values()] == [2, 2], "both are at work")
        doomed = next(iter(client.run(os.getpid).values()))
        os.kill(doomed, signal.SIGKILL)
        vendor.gate.release()
        stage.until_closed(job)
    stored = fingerprints(db)
    assert len(stored) == 2 * len(SYMBOLS)
    assert_exactly_once(stage, job, stored)
    assert rows(db, ITEMS) == [(symbol, "completed", 0) for symbol in SYMBOLS]


def test_a_task_that_runs_twice_at_once_is_stored_once(
    db: Database, address: str, client: Client, vendor: Vendor
) -> None:
    job = Job(db, "SIM1")
    (task,) = JobQueue(db).claim("w", 1)
    vendor.gate.hold("SIM1", "SIM1")
    opened = partial(execution.open_dask_pipeline, settings_of(db, vendor, "threads"), None)
    client.register_plugin(dask_worker.PipelinePlugin("test", opened), name="test")
    runs = [
        client.submit(
            dask_worker.enrich, task, "test", key=f"run-{place}", workers=[place], pure=False
        )
        for place in client.nthreads()
    ]
    until(lambda: vendor.gate.asked["SIM1"] == 2, "both have asked the vendor")
    vendor.gate.release()
    outcomes = sorted(
        client.gather(runs), key=lambda outcome: isinstance(outcome, dask_worker.TaskFailed)
    )
    client.unregister_worker_plugin("test")
    assert isinstance(outcomes[0], RowCounts)
    assert isinstance(outcomes[1].error, LeaseLost)
    assert outcomes[0].inserted == rows(db, "SELECT count(*) FROM bars")[0][0] > 0
    assert job.items() == [("SIM1", "completed", 0)]


def test_when_its_worker_dies_another_takes_over_and_what_still_ran_touches_nothing(
    db: Database, address: str, client: Client, vendor: Vendor, tmp_path: Path
) -> None:
    stage = CrashHarness(db, vendor.address, datetime.now(UTC), tmp_path)
    vendor.gate.hold("X:SIM1USD", "X:SIM2USD")
    job = stage.trigger(SYMBOLS[:2], "1d")
    processes = multiprocessing.get_context("forkserver")
    doomed = processes.Process(
        target=work_until_killed, args=(settings_of(db, vendor, address),), daemon=True
    )
    doomed.start()
    until(lambda: vendor.gate.asked.total() == 2, "both are fetched")
    doomed.kill()
    doomed.join()
    with working(settings_of(db, vendor, "threads")):
        stage.until_closed(job)
    before = stage.effects()
    assert any(running_on(client).values())
    vendor.gate.release()
    until(lambda: not any(running_on(client).values()), "the runs end")
    until(lambda: rows(db, POOLS) == [(0,)], "what the dead worker opened there is closed")
    assert stage.effects() == before
    assert rows(db, ITEMS) == [(symbol, "completed", 1) for symbol in SYMBOLS[:2]]


def test_a_task_that_kills_its_processes_fails(client: Client, address: str) -> None:
    @contextmanager
    def deadly(threads: int) -> Iterator[Enrich]:
        yield lambda task, report: os.kill(os.getpid(), signal.SIGKILL)

    task = Task(UUID(int=1), "AAPL", AssetClass.STOCK, (Timeframe.D1,), "w", 1)
    with DaskExecutor(address, deadly) as cluster:
        until(lambda: cluster.blocked_reason() is None, cluster.blocked_reason)
        with pytest.raises(StepFailed) as failed:
            cluster.enrich(task, lambda step: None)
    assert isinstance(failed.value.__cause__, WorkerLost)
    assert "2 Dask workers died" in str(failed.value.__cause__)


def test_a_lost_scheduler_is_waited_for(db: Database, vendor: Vendor, tmp_path: Path) -> None:
    port = free_ports()["api"]
    address = f"tcp://127.0.0.1:{port}"
    settings = settings_of(db, vendor, address)
    vendor.gate.hold("SIM1")
    with working(settings):
        job = Job(db, "SIM1", "SIM2")
        with cluster_on(port):
            until(lambda: job.at_work().get("SIM1") == "fetch 1d", lambda: str(job.worker()))
            assert doctor_on_dask(settings).ok
        until(lambda: job.worker()[0] == "waiting", "the worker says that it waits")
        assert f"{address} does not answer" in str(job.worker()[1])
        assert job.reader.overview().scheduler.running
        assert ("SIM1", "pending", 0) in job.items()
        found = doctor_on_dask(settings)
        assert not found.ok
        assert "start it with 'dask scheduler'" in found.detail
        vendor.gate.release()
        with cluster_on(port, PYTHONPATH=another_version(tmp_path)):
            job.until_ended()
            until(lambda: job.worker() == ("running", None))
            assert "has market-enrichment 9.9, this process" in doctor_on_dask(settings).detail
    assert job.items() == [(symbol, "completed", 0) for symbol in ("SIM1", "SIM2")]


def test_without_dask_the_mend_is_named(db: Database, vendor: Vendor) -> None:
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


def doctor_on_dask(settings: Settings) -> doctor.Finding:
    (found,) = (f for f in doctor.examine(lambda: settings) if f.check == "dask")
    return found


def lines(dask_scheduler: Scheduler) -> list[str]:
    """What enrichment workers have registered."""
    return [name for name in dask_scheduler.worker_plugins if "enrichment" in name]


def another_version(folder: Path) -> str:
    """Where a process finds another version of the package installed."""
    described = folder / "market_enrichment-9.9.dist-info"
    described.mkdir()
    (described / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: market-enrichment\nVersion: 9.9\n"
    )
    return str(folder)
