"""How quickly the API answers readers, as its logs grow: p50 and p99 of each endpoint under 16
clients while a job writes, with few and with many rows of the fetch log.

    python -m tests.benchmarks.api_reads  # 10,000 and 200,000 rows
    … --rows 10000000                                      # 13 months of 1,000 symbols

Paced clients ask ten times a second each, as tools that poll do; hurried ones as fast as they can,
which is what the machine gives. Seeding ten million rows takes some minutes and 3 GB of disk.
"""

from __future__ import annotations

import http.client
import platform
import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from sqlalchemy import text

from enrichment.domain.model import RowCounts
from enrichment.services.commands import Commands
from enrichment.warehouse.database import Database
from enrichment.warehouse.embedded import EmbeddedPostgres
from enrichment.warehouse.queue import jobs
from enrichment.warehouse.queue.jobs import JobQueue
from enrichment.wiring.database import upgrade_schema
from tests.benchmarks.report import Figure, write
from tests.benchmarks.report import parser as parser_of
from tests.benchmarks.seeding import seed
from tests.helpers.server_process import serving

ROOT = "/api/v1/enrichment"
ENDPOINTS = {
    "overview": f"{ROOT}/dashboard/overview",
    "metrics": f"{ROOT}/dashboard/metrics",
    "health": f"{ROOT}/dashboard/health",
    "job-status": f"{ROOT}/dashboard/job-status/SIM7",
    "history": f"{ROOT}/history",
    "quality": "/api/v1/data/quality/SIM7",
    "symbols": f"{ROOT}/symbols?limit=20",
    "alerts": f"{ROOT}/alerts",
    "/metrics": "/metrics",
}
POLLED = ("overview", "metrics", "health", "job-status", "history")
PACE_SECONDS = 0.1


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one endpoint; requests a second of all clients together."""

    endpoint: str
    rows: int
    clients: str
    p50_ms: float
    p99_ms: float
    per_second: float


@contextmanager
def writing(db: Database) -> Iterator[None]:
    """A job at work for as long as the block: about a hundred symbols a second, with their logs."""
    stop = threading.Event()

    def write() -> None:
        queue, commands = JobQueue(db), Commands(db)
        while not stop.is_set():
            tasks = queue.claim("writer", 10)
            if not tasks:
                queue.close_finished_jobs()
                commands.trigger(actor="benchmark")
            for task in tasks:
                with db.begin() as conn:
                    conn.execute(text(_ONE_FETCH), {"symbol": task.symbol})
                    jobs.complete(conn, {task: RowCounts(inserted=1)})
                stop.wait(0.01)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def ask(port: int, path: str, seconds: float, clients: int, pace: float) -> list[float]:
    """Seconds that each request took, of `clients` with a connection each."""
    took: list[float] = []
    until = time.perf_counter() + seconds

    def client(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        time.sleep(pace * number / clients)
        while (began := time.perf_counter()) < until:
            connection.request("GET", path)
            answer = connection.getresponse()
            answer.read()
            done = time.perf_counter()
            assert answer.status == 200, (path, answer.status)
            took.append(done - began)
            time.sleep(max(0.0, pace - (done - began)))
        connection.close()

    threads = [threading.Thread(target=client, args=(n,)) for n in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return took


def measure(rows: int, symbols: int, clients: int, seconds: float) -> list[Timing]:
    found = []
    with (
        TemporaryDirectory() as folder,
        EmbeddedPostgres(Path(folder) / "postgres") as postgres,
    ):
        db = Database(postgres.url, pool_size=4)
        upgrade_schema(db)
        seed(db, rows, symbols)
        with serving(postgres.url, Path(folder)) as api, writing(db):
            for name, path in ENDPOINTS.items():
                ask(api.port, path, min(1.0, seconds), clients, PACE_SECONDS)
                for label, pace in (("paced", PACE_SECONDS), ("hurried", 0.0)):
                    took = sorted(ask(api.port, path, seconds, clients, pace))
                    found.append(
                        Timing(
                            name,
                            rows,
                            label,
                            1000 * statistics.median(took),
                            1000 * took[int(0.99 * len(took))],
                            len(took) / seconds,
                        )
                    )
        db.close()
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--floor", type=int, default=10_000, help="rows to compare with")
    parser.add_argument("--symbols", type=int, default=1_000)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=4.0)
    chosen = parser.parse_args(arguments)
    found = [
        timing
        for rows in (chosen.floor, chosen.rows)
        for timing in measure(rows, chosen.symbols, chosen.clients, chosen.seconds)
    ]
    print(f"{platform.machine()}, Python {platform.python_version()}, {chosen.clients} clients\n")
    heads = f"{'p50 ms':>9}{'p99 ms':>9}{'per s':>8}{'p50 ×':>8}"
    print(f"{'endpoint':12}{'clients':>9}{'rows':>12}{heads}")
    floors = {(t.endpoint, t.clients): t for t in found if t.rows == chosen.floor}
    for timing in found:
        ratio = timing.p50_ms / floors[timing.endpoint, timing.clients].p50_ms
        print(
            f"{timing.endpoint:12}{timing.clients:>9}{timing.rows:>12,}{timing.p50_ms:9.1f}"
            f"{timing.p99_ms:9.1f}{timing.per_second:8.0f}{ratio:8.2f}"
        )
    timings = [asdict(timing) for timing in found]
    write("API reads", figures(found, chosen.floor), chosen, timings=timings)


def figures(found: Sequence[Timing], floor: int) -> Iterator[Figure]:
    """The aims are for what alerting tools poll."""
    paced = [timing for timing in found if timing.clients == "paced"]
    floors = {timing.endpoint: timing.p50_ms for timing in paced if timing.rows == floor}
    for timing in paced:
        if timing.rows == floor:
            continue
        name = f"{timing.endpoint} with {timing.rows:,} log rows"
        polled = timing.endpoint in POLLED
        yield Figure(f"{name}, p50", timing.p50_ms, "ms", *(("≤", 10) if polled else ()))
        yield Figure(f"{name}, p99", timing.p99_ms, "ms", *(("≤", 50) if polled else ()))
        ratio = timing.p50_ms / floors[timing.endpoint]
        yield Figure(f"{name}, p50 against few rows", ratio, "×", *(("≤", 1.5) if polled else ()))


_ONE_FETCH = """
INSERT INTO enrichment_fetch_log (symbol, timeframe, source, success, requests, bars, duration_ms)
VALUES (:symbol, '1d', 'polygon', true, 1, 1, 25)
"""

if __name__ == "__main__":
    main()
