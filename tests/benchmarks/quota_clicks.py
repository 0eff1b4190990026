"""The part `clicks` of `tests.benchmarks.quota`: a triggered symbol during a night, on fast clocks.

Single symbols are triggered, one after another, while a night uses up the quota of two workers with
default settings: real workers, queue and embedded server against the sandbox. The clocks of the
limiters, of the shared quota in Postgres and of the sandbox run several times as fast: a
millisecond of this machine is 8 there, so the figures are rather too high. Seconds are those of
the fast clock.
"""

from __future__ import annotations

import random
import statistics
import threading
import time
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from flask import request
from pydantic import SecretStr
from sqlalchemy import event, text

from enrichment.config import Settings
from enrichment.domain.model import JobKind, Task
from enrichment.domain.schedules import nightly
from enrichment.domain.statuses import ItemPriority
from enrichment.domain.symbol_csv import parse_tracked
from enrichment.engine.worker import RESERVED_THREADS, Worker, WorkerTiming
from enrichment.pipeline.enrich import EnrichmentPipeline
from enrichment.sandbox import create_app, running
from enrichment.services.commands import Commands
from enrichment.warehouse.database import Database
from enrichment.warehouse.embedded import EmbeddedPostgres
from enrichment.warehouse.queue import jobs
from enrichment.warehouse.queue.jobs import JobQueue
from enrichment.warehouse.queue.notify import JobListener
from enrichment.warehouse.queue.workers import WorkerRegistry
from enrichment.warehouse.resilience_state import SharedLimits
from enrichment.warehouse.series.batch_writer import BatchWriter
from enrichment.warehouse.series.warehouse import Warehouse
from enrichment.wiring.database import upgrade_schema
from enrichment.wiring.vendors import build_providers
from resilience import init_resilience_manager
from tests.benchmarks.report import Figure

WORKERS = 2
WARM_UP_REQUESTS = 10
SECONDS_BETWEEN_CLICKS = (5, 45)
_FAST_CLOCK = """
CREATE SCHEMA fast;
CREATE FUNCTION fast.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS $$
    SELECT timestamptz '{start}' + (pg_catalog.clock_timestamp() - timestamptz '{start}') * {speed}
$$
"""

_SLOTS = "SELECT unnest(slots)::bigint FROM resilience_limits WHERE name = 'polygon_api'"


class FastClock:
    """A clock that runs several times as fast, from now on."""

    def __init__(self, speed: float) -> None:
        self.speed, self.start = speed, datetime.now(UTC)
        self._began = time.monotonic_ns()
        self.stopped = threading.Event()

    def nanoseconds(self) -> int:
        return round((time.monotonic_ns() - self._began) * self.speed)

    def seconds(self) -> float:
        return self.nanoseconds() / 1e9

    def now(self) -> datetime:
        return self.start + timedelta(seconds=self.seconds())

    def sleep(self, seconds: float) -> None:
        self.stopped.wait(seconds / self.speed)

    @property
    def injectables(self) -> dict[str, Any]:
        return {"clock": self.nanoseconds, "wall_clock": self.now, "sleep": self.sleep}


class Arrivals:
    """When the sandbox was asked for bars, by symbol and in all."""

    def __init__(self, clock: FastClock) -> None:
        self._clock = clock
        self.times: list[float] = []
        self._of_symbol: dict[str, float] = {}
        self._changed = threading.Condition()

    def note(self) -> None:
        """Flask's before_request hook."""
        _, ticker, rest = request.path.partition("/ticker/")
        if ticker:
            with self._changed:
                self.times.append(self._clock.seconds())
                self._of_symbol.setdefault(rest.partition("/")[0], self.times[-1])
                self._changed.notify_all()

    def of(self, symbol: str) -> float:
        """When a symbol was first asked for; waits for it."""
        with self._changed:
            if not self._changed.wait_for(lambda: symbol in self._of_symbol, timeout=60):
                raise SystemExit(f"{symbol} was not asked for within a minute of this machine")
            return self._of_symbol[symbol]

    def forget_the_first(self, count: int) -> None:
        """Wait for so many requests, which are slow."""
        with self._changed:
            if not self._changed.wait_for(lambda: len(self.times) >= count, timeout=120):
                raise SystemExit("the night does not begin")
            self.times.clear()


def most_in_a_minute(slots: set[int]) -> int:
    """The most permits of any minute; slots in microseconds."""
    times = sorted(slots)
    return max(bisect_left(times, at + 60_000_000) - i for i, at in enumerate(times))


class FastQueue(JobQueue):
    """The queue, with snoozes that end by the fast clock."""

    def __init__(self, db: Database, clock: FastClock) -> None:
        super().__init__(db)
        self._clock = clock

    def release(self, task: Task, seconds: float = 0.0, why: str | None = None) -> None:
        super().release(task, seconds / self._clock.speed, why)


def shared_limits(url: str, stack: ExitStack) -> SharedLimits:
    """The quota of all workers, on the fast clock."""
    db = stack.enter_context(closing(Database(url, pool_size=2)))

    @event.listens_for(db.engine, "connect")
    def use_fast_clock(connection: Any, _: object) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SET search_path = fast, public, pg_catalog")
        connection.commit()

    return SharedLimits(db)


@contextmanager
def worker(url: str, name: str, settings: Settings, clock: FastClock) -> Iterator[None]:
    """A worker wired as in production, but for the clocks of its limiters."""
    threads = settings.max_concurrent_symbols
    with ExitStack() as stack:
        db, heart = (
            stack.enter_context(closing(Database(url, pool_size=size)))
            for size in (threads + RESERVED_THREADS + 3, 1)
        )
        manager = stack.enter_context(closing(init_resilience_manager(**clock.injectables)))
        source = build_providers(
            settings, manager, shared=shared_limits(url, stack), now=clock.now, clock=clock.seconds
        )
        warehouse = stack.enter_context(BatchWriter(Warehouse(db)))
        pipeline = EnrichmentPipeline(
            source, warehouse, history_days=settings.history_days, now=clock.now
        )
        registry = WorkerRegistry(heart, name)
        registry.register(host="here", pid=1, version="benchmark", threads=threads)
        built = Worker(
            pipeline.enrich,
            FastQueue(db, clock),
            registry,
            heartbeat_queue=JobQueue(heart),
            threads=threads,
            reserved_threads=RESERVED_THREADS,
            max_retries=settings.max_retries,
            timing=WorkerTiming(poll=1.0 / clock.speed, drain=5.0),
            prepare=pipeline.prepare_batch,
        )
        listener = JobListener(db, built.wake)
        listener.start()
        thread = threading.Thread(target=built.run)
        thread.start()
        try:
            yield
        finally:
            built.stop()
            manager.close()
            clock.stopped.set()
            thread.join()
            listener.stop()


def open_night(db: Database, symbols: list[str]) -> None:
    with db.begin() as conn:
        slot = nightly().slot(date(2026, 3, 3))
        job = jobs.insert_job(conn, kind=JobKind.SCHEDULED, requested_by="scheduler", slot=slot)
        if job is None:
            raise SystemExit("the night could not be opened")
        priority = ItemPriority.NIGHTLY
        jobs.snapshot_items(conn, job, symbols=symbols, asset_class=None, priority=priority)


def clicks(options: Any) -> Iterator[Figure]:
    """How long a triggered symbol waits for its first request during a night."""
    with TemporaryDirectory() as folder, EmbeddedPostgres(Path(folder) / "postgres") as server:
        with closing(Database(server.url)) as db:
            upgrade_schema(db)
        yield from _clicks(server.url, options)


def _clicks(url: str, options: Any) -> Iterator[Figure]:
    clock, rng = FastClock(options.speed), random.Random(7)
    symbols = [f"SIM{number}" for number in range(1, options.symbols + 1)]
    clicked = sorted(symbols)[: -options.clicks - 1 : -1]  # what the night reaches last
    arrivals = Arrivals(clock)
    app = create_app(clock=clock.now)
    app.before_request(arrivals.note)
    with ExitStack() as stack:
        db = stack.enter_context(closing(Database(url)))
        with db.begin() as conn:
            conn.execute(text(_FAST_CLOCK.format(start=clock.start, speed=clock.speed)))
        commands = Commands(db)
        commands.track([parse_tracked(s, "stock", "1d") for s in symbols], actor="benchmark")
        settings = Settings(
            _env_file=None,
            polygon_api_key=SecretStr("free"),
            polygon_base_url=stack.enter_context(running(app)),
            providers_stock=("polygon",),
        )
        open_night(db, symbols)
        for number in range(WORKERS):
            stack.enter_context(worker(url, f"w{number}", settings, clock))
        arrivals.forget_the_first(WARM_UP_REQUESTS)
        waits, slots = [], set()
        for symbol in clicked:
            clock.sleep(rng.uniform(*SECONDS_BETWEEN_CLICKS))
            at = clock.seconds()
            commands.trigger(actor="benchmark", symbols=[symbol])
            waits.append(arrivals.of(symbol) - at)
            with db.begin() as conn:
                slots |= set(conn.execute(text(_SLOTS)).scalars())
        seconds, requests = clock.seconds() - arrivals.times[0], len(arrivals.times)
    yield Figure("click to first request, median", statistics.median(waits), "s")
    p99 = statistics.quantiles(waits, n=100, method="inclusive")[98]
    yield Figure("click to first request, p99", p99, "s", "≤", 15.0)
    yield Figure("permits in any minute, at most", most_in_a_minute(slots), "", "≤", 5)
    yield Figure("requests a minute, clicks and night", 60 * requests / seconds, "", "≥", 4.8)
