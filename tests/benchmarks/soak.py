"""A compressed life: hundreds of nightly slots with a vendor that fails in every way, by workers
one of which is killed now and then.

    python tests/benchmarks/soak.py [--slots 300] [--symbols 24] [--workers 2] [--seed 1]

The slots are real ones, opened by the scheduler's own tick: after each night, its date and all
earlier ones are put one day back in the database, so that the newest slot is due again. Everything
else is the product's, at a quicker pace. It ends with what must not have grown, and what must not
be left.
"""

from __future__ import annotations

import multiprocessing
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.context import SpawnProcess
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import psutil
from pydantic import SecretStr
from report import Figure, parser, tell
from sqlalchemy import text

from enrichment import bootstrap
from enrichment.commands import Commands, parse_tracked
from enrichment.config import Settings
from enrichment.providers.guard import Protection
from enrichment.sandbox import Fault, create_app, running
from enrichment.storage.database import Database
from enrichment.storage.embedded import EmbeddedPostgres
from enrichment.worker import Pace

QUICK = Pace(poll=0.1, heartbeat=0.5, lease=2.0, drain=5.0)
BRIEF = Protection(max_retries=1, initial_delay=0.05, recovery_timeout=1.0, read_timeout=2.0)
KINDS = (
    "latency",
    "hang",
    "rate_limit",
    "server_error",
    "reset",
    "truncated",
    "html",
    "empty",
    "missing",
    "duplicate",
    "out_of_order",
    "corrupt",
    "restated",
    "rebase",
)
KILLED_EVERY = 40  # slots
LONGEST_SLOT_SECONDS = 120.0
_processes = multiprocessing.get_context("spawn")


@dataclass(frozen=True)
class Sample:
    """The workers together after a slot; connections: of all, at the server."""

    megabytes: float
    threads: int
    files: int
    connections: int


def work(settings: Settings) -> None:
    """The worker's process."""
    with bootstrap.worker_process(settings, protection=BRIEF, pace=QUICK) as process:
        process.run()


class Soak:
    def __init__(self, db: Database, settings: Settings, options: dict[str, int]) -> None:
        self.db, self.settings = db, settings
        self.draw = random.Random(options["seed"])
        self.tick = bootstrap.scheduler(settings, db).tick
        self.workers: list[SpawnProcess] = []
        self.samples: list[Sample] = []
        self.count = options["workers"]
        names = [f"SIM{n}" for n in range(options["symbols"])]
        self.names = names
        commands = Commands(db)
        commands.track([parse_tracked(name, "stock", "1h,1d") for name in names], actor="soak")
        with db.begin() as conn:  # a slot concerns what was tracked before it
            conn.execute(text("UPDATE tracked_symbols SET created_at = now() - interval '1 year'"))

    def live(self, slots: int, faults: object) -> None:
        """So many nights, each to its end."""
        for slot in range(slots):
            self._staff()
            faults.clear()  # type: ignore[attr-defined]
            faults.add(self._troubles())  # type: ignore[attr-defined]
            self.tick()
            self._require_job(slot)
            if slot % KILLED_EVERY == KILLED_EVERY - 1:
                self._kill_one()
            self._until_closed(slot)
            self.samples.append(self._sample())
            self._a_day_back()

    def dismiss(self) -> None:
        for process in self.workers:
            process.terminate()
        for process in self.workers:
            process.join(10)

    def _staff(self) -> None:
        self.workers = [process for process in self.workers if process.is_alive()]
        while len(self.workers) < self.count:
            process = _processes.Process(target=work, args=(self.settings,), daemon=True)
            process.start()
            self.workers.append(process)

    def _troubles(self) -> list[Fault]:
        chosen = self.draw.sample(self.names, max(1, len(self.names) // 4))
        return [
            Fault(name, self.draw.choice(KINDS), times=self.draw.randint(1, 2), seconds=0.3)
            for name in chosen
        ]

    def _require_job(self, slot: int) -> None:
        with self.db.begin() as conn:
            count = conn.execute(text("SELECT count(*) FROM enrichment_jobs")).scalar_one()
        if count != slot + 1:
            raise SystemExit(f"slot {slot} opened no job of its own: there are {count}")

    def _kill_one(self) -> None:
        time.sleep(0.3)  # into the middle of its work
        doomed = self.draw.choice(self.workers)
        doomed.kill()
        doomed.join(10)

    def _until_closed(self, slot: int) -> None:
        until = time.monotonic() + LONGEST_SLOT_SECONDS
        while time.monotonic() < until:
            with self.db.begin() as conn:
                if not conn.execute(text(_OPEN)).scalar_one():
                    return
            self._staff()
            time.sleep(0.1)
        raise SystemExit(f"the job of slot {slot} did not end")

    def _sample(self) -> Sample:
        alive = [psutil.Process(p.pid) for p in self.workers if p.is_alive()]
        with self.db.begin() as conn:
            connections = conn.execute(text("SELECT count(*) FROM pg_stat_activity")).scalar_one()
        return Sample(
            sum(p.memory_info().rss for p in alive) / 1e6 / len(alive),
            sum(p.num_threads() for p in alive),
            sum(p.num_fds() for p in alive),
            connections,
        )

    def _a_day_back(self) -> None:
        with self.db.begin() as conn:
            conn.execute(text(_FAR), {"days": 1_000_001})
            conn.execute(text(_FAR), {"days": -1_000_000})


def figures(soak: Soak, slots: int, seconds: float) -> Iterator[Figure]:
    half = soak.samples[len(soak.samples) // 2 :]
    yield Figure("slots", slots, "")
    yield Figure("a slot", seconds / slots, "s")
    yield Figure("a worker's memory at the end", half[-1].megabytes, "MB")
    growth = _slope([sample.megabytes for sample in half]) * 365
    yield Figure("its growth over the second half, a year", growth, "MB", "≤", 50)
    for name in ("threads", "files", "connections"):
        values = [getattr(sample, name) for sample in half]
        yield Figure(f"{name}, median", float(np.median(values)), "")
        yield Figure(f"{name}, growth over the second half", _slope(values) * len(half), "", "≤", 2)
    with soak.db.begin() as conn:
        for name, query in _LEFT.items():
            found = float(conn.execute(text(query)).scalar_one())
            yield Figure(name, found, "", "≤", 0)
        for name, query in _DONE.items():
            yield Figure(name, float(conn.execute(text(query)).scalar_one()), "")


def _slope(values: Sequence[float]) -> float:
    """Growth a slot, by least squares."""
    return float(np.polyfit(np.arange(len(values)), values, 1)[0]) if len(values) > 1 else 0.0


@contextmanager
def stage(options: dict[str, int]) -> Iterator[tuple[Soak, object]]:
    with TemporaryDirectory() as folder, EmbeddedPostgres(Path(folder) / "postgres") as server:
        db = Database(server.url)
        bootstrap.upgrade(db)
        with db.begin() as conn:
            hour = conn.execute(
                text("SELECT extract(hour FROM now() - interval '1 hour')")
            ).scalar()
        app = create_app(seed=options["seed"])
        with running(app) as address:
            settings = Settings(
                database_url=SecretStr(server.url),
                enrichment_home=Path(folder),
                enrichment_sandbox_port=int(address.rpartition(":")[2]),
                polygon_api_key=None,
                history_days=30,
                enrichment_hour=int(hour),
            )
            soak = Soak(db, settings, options)
            try:
                yield soak, app.extensions["sandbox"].faults
            finally:
                soak.dismiss()
        db.close()


def main() -> None:
    parsing = parser(__doc__)
    for name, value in (("slots", 300), ("symbols", 24), ("workers", 2), ("seed", 1)):
        parsing.add_argument(f"--{name}", type=int, default=value)
    options = parsing.parse_args()
    chosen = {name: getattr(options, name) for name in ("symbols", "workers", "seed")}
    with stage(chosen) as (soak, faults):
        began = time.monotonic()
        soak.live(options.slots, faults)
        found = list(figures(soak, options.slots, time.monotonic() - began))
    tell("soak", found, options)


_AN_HOUR_AGO = "SELECT extract(hour FROM now() - interval '1 hour')"

_OPEN = "SELECT count(*) FROM enrichment_jobs WHERE state IN ('queued', 'running')"

_FAR = "UPDATE enrichment_jobs SET slot_date = slot_date - CAST(:days AS integer)"

_LEFT = {
    "jobs left open": _OPEN,
    "items left open": (
        "SELECT count(*) FROM enrichment_job_items"
        " WHERE status IN ('pending', 'retry', 'in_progress')"
    ),
    "slots without their one job": (
        "SELECT abs(count(*) - count(DISTINCT slot_date)) FROM enrichment_jobs"
    ),
    "bars stored twice": (
        "SELECT count(*) FROM (SELECT 1 FROM bars GROUP BY symbol, timeframe, ts"
        " HAVING count(*) > 1) twice"
    ),
    "series whose count of bars is wrong": (
        "SELECT count(*) FROM enrichment_status s WHERE bars <> (SELECT count(*) FROM bars b"
        " WHERE (b.symbol, b.timeframe) = (s.symbol, s.timeframe))"
    ),
}

_DONE = {
    "jobs": "SELECT count(*) FROM enrichment_jobs",
    "items completed": "SELECT count(*) FROM enrichment_job_items WHERE status = 'completed'",
    "items failed": "SELECT count(*) FROM enrichment_job_items WHERE status = 'failed'",
    "items retried": "SELECT count(*) FROM enrichment_job_items WHERE retry_count > 0",
    "workers killed or started": "SELECT count(*) FROM workers",
}

if __name__ == "__main__":
    main()
