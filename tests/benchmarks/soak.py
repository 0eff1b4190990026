"""A compressed life: hundreds of nightly slots with a vendor that fails in every way, by workers
of which all but the first are killed now and then.

    python -m tests.benchmarks.soak [--slots 300] [--symbols 24] [--workers 2] [--kill-every 40]

The slots are real ones, opened by the scheduler's own tick: after each night, its date and all
earlier ones are put one day back in the database, so that the newest slot is due again. Everything
else is the product's, at a quicker pace. It ends with what must not have grown, what must not be
left, and where the database's bytes are; it fails where one of that is not so.

The first worker lives through it all, so that what it holds can be seen to grow.
"""

from __future__ import annotations

import multiprocessing
import random
import signal
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.context import SpawnProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import psutil
from pydantic import SecretStr
from sqlalchemy import text

from enrichment.config import Settings
from enrichment.domain.symbol_csv import parse_tracked
from enrichment.engine.worker import WorkerTiming
from enrichment.sandbox import Fault, create_app, running
from enrichment.sandbox.faults import CORRUPT_MODES, FaultRegistry
from enrichment.services.commands import Commands
from enrichment.vendors.guard import VendorProtection
from enrichment.warehouse.database import Database
from enrichment.warehouse.embedded import EmbeddedPostgres
from enrichment.wiring.database import upgrade_schema
from enrichment.wiring.worker import build_scheduler, open_worker_process
from tests.benchmarks import soak_tables
from tests.benchmarks.report import Figure, parser, tell

QUICK = WorkerTiming(poll=0.1, heartbeat=0.5, lease=2.0, drain=5.0)
BRIEF = VendorProtection(max_retries=1, initial_delay=0.05, recovery_timeout=1.0, read_timeout=1.0)
KINDS: Mapping[str, Mapping[str, object]] = {
    "latency": {"seconds": 0.3},
    "hang": {"seconds": 1.5},  # longer than a read may take
    "rate_limit": {"seconds": 0.3},
    "server_error": {},
    "unauthorized": {},
    "forbidden": {},
    "reset": {},
    "truncated": {},
    "html": {},
    "empty": {},
    "missing": {"n": 2},
    "duplicate": {},
    "out_of_order": {},
    "corrupt": {},
    "restated": {},
    "rebase": {},
}
MAX_SLOT_SECONDS = 120.0
ENOUGH = 100  # slots from which on growth is judged: a young worker is still filling its pools
CONNECTIONS_BESIDE_THREADS = 16  # of a worker, at most; the README says so
_processes = multiprocessing.get_context("spawn")


@dataclass(frozen=True)
class Sample:
    """After a slot, of the first worker; vendor_megabytes: of this process; connections: of all, at
    the server.
    """

    megabytes: float
    vendor_megabytes: float
    threads: int
    files: int
    connections: int


def work(settings: Settings) -> None:
    """The worker's process."""
    with open_worker_process(settings, protection=BRIEF, timing=QUICK) as process:
        signal.signal(signal.SIGTERM, lambda *_: process.stop())
        process.run()


class Soak:
    def __init__(
        self, db: Database, settings: Settings, faults: FaultRegistry, options: Any
    ) -> None:
        self.db, self.settings, self.faults = db, settings, faults
        self.draw = random.Random(options.seed)
        self.tick = build_scheduler(settings, db).tick
        self.count, self.kill_every = options.workers, options.kill_every
        self.workers: list[SpawnProcess] = []
        self.samples: list[Sample] = []
        self.sizes: list[soak_tables.Sizes] = []
        self.killed = self.killed_at_work = 0
        self.names = [f"SIM{n}" for n in range(options.symbols)]
        tracked = [parse_tracked(name, "stock", "1h,1d") for name in self.names]
        Commands(db).track(tracked, actor="soak")
        with db.begin() as conn:  # a slot concerns what was tracked before it
            conn.execute(text("UPDATE tracked_symbols SET created_at = now() - interval '1 year'"))

    def live(self, slots: int) -> None:
        """So many nights, each to its end."""
        for slot in range(slots):
            self._staff()
            self.faults.clear()
            self.faults.add(self._troubles())
            self.tick()
            self._require_job(slot)
            if slot % self.kill_every == self.kill_every - 1:
                self._kill_one()
            self._until_closed(slot)
            self.samples.append(self._sample())
            if slot in (slots // 2, slots - 1):
                self.sizes.append(soak_tables.measured(self.db))
            self._a_day_back()

    def dismiss(self) -> list[int | None]:
        """Stop the workers as an operator does; their exit codes."""
        for process in self.workers:
            process.terminate()
        for process in self.workers:
            process.join(20)
        return [process.exitcode for process in self.workers]

    def _staff(self) -> None:
        alive = [process for process in self.workers if process.is_alive()]
        if self.workers and self.workers[0] not in alive:
            raise SystemExit(f"the first worker ended by itself: {self.workers[0].exitcode}")
        self.workers = alive
        while len(self.workers) < self.count:
            process = _processes.Process(target=work, args=(self.settings,), daemon=True)
            process.start()
            self.workers.append(process)

    def _troubles(self) -> list[Fault]:
        chosen = self.draw.sample(self.names, max(1, len(self.names) // 4))
        return [self._fault(name) for name in chosen]

    def _fault(self, name: str) -> Fault:
        kind = self.draw.choice(list(KINDS))
        more = {"mode": self.draw.choice(CORRUPT_MODES)} if kind == "corrupt" else {}
        times = self.draw.randint(1, 2)
        return Fault.of({"ticker": name, "kind": kind, "times": times, **KINDS[kind], **more})

    def _require_job(self, slot: int) -> None:
        with self.db.begin() as conn:
            count = conn.execute(text("SELECT count(*) FROM enrichment_jobs")).scalar_one()
        if count != slot + 1:
            raise SystemExit(f"slot {slot} opened no job of its own: there are {count}")

    def _kill_one(self) -> None:
        """Kill one in the middle of its work, if the night gives it any."""
        killed = self.draw.choice(self.workers[1:])
        name = f"{socket.gethostname()}:{killed.pid}:"
        while not (held := self._value(_HELD, name=name)) and self._value(_OPEN):
            time.sleep(0.002)
        killed.kill()
        killed.join(10)
        self.killed += 1
        self.killed_at_work += held > 0

    def _until_closed(self, slot: int) -> None:
        until = time.monotonic() + MAX_SLOT_SECONDS
        while self._value(_OPEN):
            if time.monotonic() > until:
                raise SystemExit(f"the job of slot {slot} did not end")
            self._staff()
            time.sleep(0.1)

    def _until_all_beat(self) -> None:
        until = time.monotonic() + MAX_SLOT_SECONDS
        pids = [process.pid for process in self.workers]
        while self._value(_BEATING, pids=pids) < len(pids):
            if time.monotonic() > until:
                raise SystemExit("a worker does not get ready")
            time.sleep(0.1)

    def _sample(self) -> Sample:
        kept = psutil.Process(self.workers[0].pid)
        return Sample(
            kept.memory_info().rss / 1e6,
            psutil.Process().memory_info().rss / 1e6,
            kept.num_threads(),
            kept.num_fds(),
            int(self._value(_CONNECTIONS)),
        )

    def _a_day_back(self) -> None:
        with self.db.begin() as conn:  # by way of days that are free: dates are unique
            conn.execute(text(_FAR), {"days": 1_000_001})
            conn.execute(text(_FAR), {"days": -1_000_000})

    def _value(self, query: str, **values: object) -> float:
        with self.db.begin() as conn:
            return float(conn.execute(text(query), values).scalar_one())

    def grown(self) -> Iterator[Figure]:
        """What the first worker holds, and how that grew over the second half."""
        half = self.samples[len(self.samples) // 2 :]
        judged = len(self.samples) >= ENOUGH
        for name, unit, most in _GROWTH:
            values = [getattr(sample, name) for sample in half]
            words = name.replace("_", " ")
            yield Figure(f"{words}, at the end", values[-1], unit)
            growth = _slope(values) * len(half)
            limit = ("≤", most) if judged else ()
            yield Figure(f"{words}, growth over the second half", growth, unit, *limit)
        each = self.settings.max_concurrent_symbols + CONNECTIONS_BESIDE_THREADS
        seen = max(sample.connections for sample in self.samples)
        yield Figure("connections of all workers, most", seen, "", "≤", self.count * each)

    def left(self) -> Iterator[Figure]:
        """What must not be there any more, and what was done."""
        for name, query in _LEFT.items():
            yield Figure(name, self._value(query), "", "≤", 0)
        for name, query in _DONE.items():
            yield Figure(name, self._value(query), "")
        yield Figure("workers killed", self.killed, "")
        yield Figure("workers killed with work at hand", self.killed_at_work, "")

    def over(self) -> Iterator[Figure]:
        """What the workers leave behind when they are dismissed."""
        self._until_all_beat()  # one that is still starting knows nothing of a clean end
        unclean = sum(code != 0 for code in self.dismiss())
        yield Figure("workers that did not end cleanly", unclean, "", "≤", 0)
        yield Figure("connections left by them", self._value(_CONNECTIONS), "", "≤", 0)


def figures(soak: Soak, slots: int) -> Iterator[Figure]:
    began = time.monotonic()
    soak.live(slots)
    yield Figure("slots", slots, "")
    yield Figure("a slot", (time.monotonic() - began) / slots, "s")
    yield from soak.grown()
    yield from soak.left()
    yield from soak_tables.figures(soak.sizes, slots - 1 - slots // 2, len(soak.names))
    yield from soak.over()


def _slope(values: Sequence[float]) -> float:
    """Growth a slot, by least squares."""
    return float(np.polyfit(np.arange(len(values)), values, 1)[0]) if len(values) > 1 else 0.0


@contextmanager
def stage(options: Any) -> Iterator[Soak]:
    app = create_app(seed=options.seed)
    with (
        TemporaryDirectory() as folder,
        EmbeddedPostgres(Path(folder) / "postgres") as server,
        running(app) as address,
    ):
        db = Database(server.url)
        upgrade_schema(db)
        with db.begin() as conn:
            hour = int(conn.execute(text(_AN_HOUR_AGO)).scalar_one())
        settings = Settings(
            database_url=SecretStr(server.url),
            enrichment_home=Path(folder),
            enrichment_sandbox_port=int(address.rpartition(":")[2]),
            polygon_api_key=None,
            history_days=30,
            enrichment_hour=hour,
        )
        soak = Soak(db, settings, app.extensions["sandbox"].faults, options)
        try:
            yield soak
        finally:
            soak.dismiss()
            db.close()


def main() -> None:
    parsing = parser(__doc__)
    wanted = {"slots": 300, "symbols": 24, "workers": 2, "kill-every": 40, "seed": 1}
    for name, value in wanted.items():
        parsing.add_argument(f"--{name}", type=int, default=value)
    options = parsing.parse_args()
    if options.workers < 2 or options.slots < 1 or options.kill_every < 1:
        parsing.error("at least two workers, one slot, and a kill every slot")
    with stage(options) as soak:
        found = list(figures(soak, options.slots))
    tell("soak", found, options)
    if missed := [figure.name for figure in found if figure.met is False]:
        raise SystemExit(f"not as it should be: {'; '.join(missed)}")


# Sample's fields, and by how much each may grow over the second half.
_GROWTH = (
    ("megabytes", "MB", 20.0),
    ("vendor_megabytes", "MB", 20.0),
    ("threads", "", 2.0),
    ("files", "", 4.0),
)

_AN_HOUR_AGO = "SELECT extract(hour FROM now() - interval '1 hour')"

_OPEN = "SELECT count(*) FROM enrichment_jobs WHERE state IN ('queued', 'running')"

_HELD = """
SELECT count(*) FROM enrichment_job_items
WHERE status = 'in_progress' AND starts_with(worker_id, :name)
"""

_BEATING = "SELECT count(*) FROM workers WHERE pid = ANY(:pids) AND heartbeat_at > started_at"

_CONNECTIONS = """
SELECT count(*) FROM pg_stat_activity
WHERE application_name LIKE 'enrichment-%' AND datname = current_database()
"""

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
    "jobs whose totals are not those of their items": (
        "SELECT count(*) FROM enrichment_jobs j CROSS JOIN LATERAL (SELECT count(*) AS items,"
        " count(*) FILTER (WHERE status = 'completed') AS completed,"
        " count(*) FILTER (WHERE status = 'failed') AS failed"
        " FROM enrichment_job_items WHERE job_id = j.job_id) i WHERE (j.total, j.successful,"
        " j.failed) IS DISTINCT FROM (i.items, i.completed, i.failed)"
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
    "breakers' transitions": "SELECT count(*) FROM resilience_transitions",
    "corrections recorded": "SELECT count(*) FROM data_corrections",
}

if __name__ == "__main__":
    main()
