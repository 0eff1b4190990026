"""Workers as processes that tests stop, freeze and kill, and the exactly-once check afterwards."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from multiprocessing.connection import Connection as Pipe
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlalchemy import text

from enrichment.domain.symbol_csv import parse_tracked
from enrichment.services.commands import Commands
from enrichment.warehouse.database import Database
from tests.helpers import waiting
from tests.helpers.crash_worker import WorkerOptions, run_worker

NOW = datetime(2026, 3, 18, 9, 20, tzinfo=UTC)
SYMBOLS = tuple(f"X:SIM{n}USD" for n in range(1, 7))
TIMEFRAMES = ("4h", "1d", "1w")
TIMEOUT_SECONDS = 30.0

until = partial(waiting.until, seconds=TIMEOUT_SECONDS)
LEASE, HEARTBEAT = 0.6, 0.15
LOGS = ("enrichment_fetch_log", "enrichment_compute_log")

# A fork server imports the product once; every worker is then a process of its own within
# milliseconds, and shares no thread, connection or file with the tests.
_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(
    [
        "enrichment.wiring.database",
        "enrichment.pipeline.features",
        "enrichment.pipeline.enrich",
        "enrichment.vendors.failover",
        "enrichment.vendors.guard",
        "enrichment.vendors.http",
        "enrichment.vendors.polygon",
        "enrichment.warehouse.series.batch_writer",
        "enrichment.warehouse.queue.notify",
        "enrichment.warehouse.resilience_state",
        "enrichment.warehouse.queue.nightly_slot",
        "enrichment.engine.worker",
    ]
)
_numbers = itertools.count(1)

# Triggers record every change of an item and of a job, with the time of the database.
_HISTORY = """
CREATE TABLE item_history (at timestamptz, symbol text, status text, fence bigint, worker text);
CREATE FUNCTION note_item() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO item_history
    VALUES (clock_timestamp(), NEW.symbol, NEW.status, NEW.fence, NEW.worker_id); RETURN NEW;
END $$;
CREATE TRIGGER note_item AFTER UPDATE OF status ON enrichment_job_items FOR EACH ROW
    WHEN (OLD.status IS DISTINCT FROM NEW.status) EXECUTE FUNCTION note_item();
CREATE TABLE job_history (at timestamptz, job_id uuid, state text);
CREATE FUNCTION note_job() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO job_history VALUES (clock_timestamp(), NEW.job_id, NEW.state); RETURN NEW;
END $$;
CREATE TRIGGER note_job AFTER UPDATE OF state ON enrichment_jobs FOR EACH ROW
    WHEN (OLD.state IS DISTINCT FROM NEW.state) EXECUTE FUNCTION note_job();
"""

# Rows and a hash of their values for each series, without the time at which they were stored.
_FINGERPRINTS = """
SELECT symbol, timeframe, count(*),
    md5(string_agg((to_jsonb(b) - 'known_from')::text, '|' ORDER BY ts))
FROM bars b
GROUP BY symbol, timeframe
"""

SeriesFingerprints = dict[tuple[str, str], tuple[int, str]]


def rows(db: Database, query: str, **values: object) -> list[tuple[Any, ...]]:
    with db.begin() as conn:
        return [tuple(row) for row in conn.execute(text(query), values)]


def fingerprints(db: Database) -> SeriesFingerprints:
    return {(row[0], row[1]): (row[2], row[3]) for row in rows(db, _FINGERPRINTS)}


@dataclass
class StartedWorker:
    """A running worker process."""

    process: ForkServerProcess
    pipe: Pipe
    log: Path

    def wait_until_stopped(self) -> str:
        """Wait until the worker holds at its step; returns the symbol it holds with."""
        if not self.pipe.poll(TIMEOUT_SECONDS):
            raise AssertionError(f"the worker did not reach its step:\n{self.log_text}")
        return str(self.pipe.recv())

    @property
    def log_text(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def kill(self) -> None:
        self.process.kill()
        self.process.join()

    def freeze(self) -> None:
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def resume(self) -> None:
        self.pipe.send("resume")

    def terminate(self) -> int | None:
        """Stop the worker with SIGTERM; returns its exit code."""
        if self.process.is_alive():
            self.process.terminate()
            self.process.join(TIMEOUT_SECONDS)
        return self.process.exitcode

    def _signal(self, number: signal.Signals) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, number)


@dataclass
class CrashHarness:
    """A database, a vendor and the worker processes that a test starts on them."""

    db: Database
    vendor: str  # base URL of the sandbox
    now: datetime  # the clock of every worker's pipeline, which stands still
    folder: Path  # for the workers' logs
    workers: list[StartedWorker] = field(default_factory=list)

    def __post_init__(self) -> None:
        with self.db.begin() as conn:
            conn.execute(text(_HISTORY))

    def trigger(self, symbols: Iterable[str], timeframes: str) -> UUID:
        commands, names = Commands(self.db), list(symbols)
        commands.track([parse_tracked(s, "crypto", timeframes) for s in names], actor="test")
        return commands.trigger(actor="test", symbols=names).job_id

    def start(self, name: str, **options: Any) -> StartedWorker:
        here, there = _processes.Pipe()
        log = self.folder / f"{name}-{next(_numbers)}.log"
        url = self.db.url.render_as_string(hide_password=False)
        rhythm = {"lease": LEASE, "heartbeat": HEARTBEAT}
        given = WorkerOptions(name, url, self.vendor, self.now, log, **{**rhythm, **options})
        process = _processes.Process(target=run_worker, args=(given, there), daemon=True)
        process.start()
        there.close()
        started = StartedWorker(process, here, log)
        self.workers.append(started)
        return started

    def close(self) -> None:
        for started in self.workers:
            started.kill()
            started.process.close()
            started.pipe.close()

    def rows(self, query: str, **values: object) -> list[tuple[Any, ...]]:
        return rows(self.db, query, **values)

    def database_time(self) -> datetime:
        """The database's current time."""
        now: datetime = self.rows("SELECT clock_timestamp()")[0][0]
        return now

    def unfinished_symbols(self) -> list[str]:
        return [
            row[0]
            for row in self.rows(
                "SELECT symbol FROM enrichment_job_items"
                " WHERE status NOT IN ('completed', 'failed', 'cancelled') ORDER BY symbol"
            )
        ]

    def owned_items(self, name: str) -> dict[str, int]:
        """Symbol → fence of the items that workers of this name own."""
        query = (
            "SELECT symbol, fence FROM enrichment_job_items"
            " WHERE status = 'in_progress' AND starts_with(worker_id, :name)"
        )
        return dict(self.rows(query, name=name))

    def until_closed(self, job: UUID) -> None:
        query = "SELECT 1 FROM enrichment_jobs WHERE job_id = :job AND completed_at IS NOT NULL"
        until(
            lambda: self.rows(query, job=job),
            lambda: f"job closed\n{self._history_and_logs()}",
        )

    def _history_and_logs(self) -> str:
        """All changes of items and all logs of workers, for the message of a failing test."""
        items = self.rows("SELECT * FROM item_history ORDER BY at")
        return "\n".join([*map(str, items), *(started.log_text for started in self.workers)])

    def stored_state(self) -> dict[str, Any]:
        """Table → row count and a hash of all rows, to compare before and after."""
        tables = ("bars", "enrichment_job_items", "enrichment_jobs", *LOGS, "enrichment_status")
        return {
            table: self.rows(
                f"SELECT count(*), md5(string_agg(t::text, '|' ORDER BY t::text)) FROM {table} t"
            )
            for table in (*tables, "data_corrections", "data_quality_metrics", "item_history")
        }


def assert_exactly_once(harness: CrashHarness, job: UUID, expected: SeriesFingerprints) -> None:
    """Every item completed once, every bar stored once, every computation logged once, and the job
    closed once with the totals of just that.
    """
    symbols = sorted({symbol for symbol, _ in expected})
    items = harness.rows(
        "SELECT symbol, status, inserted, updated FROM enrichment_job_items"
        " WHERE job_id = :job ORDER BY symbol",
        job=job,
    )
    inserted = {
        s: sum(count for (symbol, _), (count, _) in expected.items() if symbol == s)
        for s in symbols
    }
    assert items == [(symbol, "completed", inserted[symbol], 0) for symbol in symbols]
    assert fingerprints(harness.db) == expected
    assert harness.rows(
        "SELECT symbol, count(*) FROM item_history WHERE status = 'completed'"
        " GROUP BY symbol ORDER BY symbol"
    ) == [(symbol, 1) for symbol in symbols]
    series = [(*key, 1) for key in sorted(expected)]
    for log in LOGS:
        assert series == harness.rows(
            f"SELECT symbol, timeframe, count(*) FROM {log} WHERE success"
            " GROUP BY symbol, timeframe ORDER BY symbol, timeframe"
        )
    assert harness.rows(
        "SELECT symbol, timeframe, bars FROM enrichment_status ORDER BY symbol, timeframe"
    ) == [(*key, expected[key][0]) for key in sorted(expected)]
    assert harness.rows("SELECT count(*) FROM data_corrections") == [(0,)]
    assert harness.rows(
        "SELECT state FROM job_history WHERE job_id = :job ORDER BY at", job=job
    ) == [
        ("running",),
        ("completed",),
    ]
    assert harness.rows(
        "SELECT total, successful, failed, cancelled, inserted, updated FROM enrichment_jobs"
        " WHERE job_id = :job",
        job=job,
    ) == [(len(symbols), len(symbols), 0, 0, sum(inserted.values()), 0)]
