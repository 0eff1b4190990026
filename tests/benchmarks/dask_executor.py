"""A Dask cluster against the worker's own threads: work that computes, and work that waits.

    python -m tests.benchmarks.dask_executor [--symbols 24] [--timeframe 5m] [--rounds 3]
        [--waiting 400] [--latency 0.05 0.5] [--concurrency 5 10 20 40]

Computing: a year of bars a symbol, the vendor's answers from memory, on two Dask processes and on
threads, in turns. Waiting: short series from a vendor that takes its time to answer, on four Dask
processes, with more and more symbols in flight; each against the first, so that 1 is linear growth.
Where processors are busy, no executor brings more: their share is told beside it.
"""

from __future__ import annotations

import statistics
import threading
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import dask
import psutil
from distributed import LocalCluster
from sqlalchemy import text

from tests.benchmarks.installation import Installation, installation
from tests.benchmarks.report import Figure, parser, tell
from tests.helpers.vendor_faults import inject_faults

LINEAR = 0.8


class Replay(ThreadingHTTPServer):
    """Answers from memory what it has once been asked, whatever the window of the first page."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Replaying)
        self.vendor = ""
        self.known: dict[str, bytes] = {}

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Replaying(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Replay

    def do_GET(self) -> None:
        series, _, query = self.path.partition("?")
        key = self.path if "cursor" in query else series.rsplit("/", 2)[0]
        body = self.server.known.get(key)
        if body is None:
            headers = {"Host": self.headers["Host"], "Authorization": "Bearer replay"}
            request = urllib.request.Request(self.server.vendor + self.path, headers=headers)
            with urllib.request.urlopen(request) as answer:
                body = self.server.known[key] = answer.read()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing."""


@contextmanager
def replaying() -> Iterator[Replay]:
    with Replay() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def cluster(processes: int, threads: int) -> Iterator[LocalCluster]:
    """Without Dask's profiler, as the README says."""
    with (
        dask.config.set({"distributed.worker.profile.enabled": False}),
        LocalCluster(
            n_workers=processes, threads_per_worker=threads, dashboard_address="127.0.0.1:0"
        ) as built,
    ):
        yield built


def computing(symbols: int, timeframe: str, rounds: int) -> Iterator[Figure]:
    """Bars a second of both, in turns on installations of their own."""
    with ExitStack() as ending:
        replay = ending.enter_context(replaying())
        scheduler = ending.enter_context(cluster(2, 2)).scheduler_address
        vendor = {
            "POLYGON_API_KEY": "replay",
            "POLYGON_BASE_URL": replay.address,
            "POLYGON_RATE": "1000000",
            "PROVIDERS_STOCK": "polygon",
        }
        built = {
            name: ending.enter_context(installation(threads, ENRICHMENT_EXECUTOR=name, **vendor))
            for name, threads in (("threads", 5), (scheduler, 6))
        }
        speed: dict[str, list[float]] = {name: [] for name in built}
        busy: dict[str, list[float]] = {name: [] for name in built}
        for number in range(rounds + 1):
            for name, each in built.items():
                if number == 0:
                    replay.vendor = each.vendor
                    each.track([f"SIM{n}" for n in range(symbols)], timeframe)
                psutil.cpu_percent()
                found = each.run().bars_per_second
                if number:  # the first turn warms up
                    busy[name].append(psutil.cpu_percent())
                    speed[name].append(found)
                forget(each)
    threads, processes = speed.values()
    ratio = statistics.median(p / t for p, t in zip(processes, threads, strict=True))
    places = ("on threads", "on two Dask processes")
    for place, found, share in zip(places, (threads, processes), busy.values(), strict=True):
        yield Figure(f"computing, {place}", statistics.median(found), "bars/s")
        yield Figure(f"computing, {place}: processors busy", statistics.median(share), "%")
    yield Figure("two Dask processes against threads", ratio, "×", "≥", 1.6)


def waiting(symbols: int, latency: float, concurrency: Sequence[int]) -> Iterator[Figure]:
    """Symbols a second with so many in flight, each against the first."""
    first = 0.0
    with cluster(4, 10) as far:
        for number in concurrency:
            with installation(
                number, ENRICHMENT_EXECUTOR=far.scheduler_address, HISTORY_DAYS="30"
            ) as built:
                slow_down(built, latency)
                built.track([f"SIM{n}" for n in range(symbols)], "1w")
                built.run()
                forget(built)
                psutil.cpu_percent()
                pace = built.run().symbols_per_second
                busy = psutil.cpu_percent()
            name = f"{1000 * latency:.0f} ms, {number} in flight"
            yield Figure(name, pace, "symbols/s")
            yield Figure(f"{name}: processors busy", busy, "%")
            first = first or pace / number
            if number != concurrency[0]:
                yield Figure(f"{name}: of linear growth", pace / number / first, "×", "≥", LINEAR)


def slow_down(built: Installation, latency: float) -> None:
    """The vendor answers so many seconds later."""
    inject_faults(built.vendor, {"kind": "latency", "seconds": latency})


def forget(built: Installation) -> None:
    """As on the first day."""
    with built.db.begin() as conn:
        conn.execute(text("TRUNCATE bars, enrichment_status, bar_flags, bar_gaps"))


def main() -> None:
    parsing = parser(__doc__)
    parsing.add_argument("--symbols", type=int, default=24)
    parsing.add_argument("--timeframe", default="5m")
    parsing.add_argument("--rounds", type=int, default=3)
    parsing.add_argument("--waiting", type=int, default=400)
    parsing.add_argument("--latency", type=float, nargs="+", default=[0.05, 0.5])
    parsing.add_argument("--concurrency", type=int, nargs="+", default=[5, 10, 20, 40])
    options = parsing.parse_args()
    found = list(computing(options.symbols, options.timeframe, options.rounds))
    for latency in options.latency:
        found += waiting(options.waiting, latency, options.concurrency)
    tell("Dask cluster", found, options)


if __name__ == "__main__":
    main()
