"""A whole installation to be measured: embedded server, sandbox vendor and workers, each a process
of its own, and the processor time that each of them takes.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

from enrichment.config import Settings
from enrichment.domain.symbol_csv import parse_tracked
from enrichment.services.commands import Commands
from enrichment.warehouse.database import Database
from enrichment.warehouse.embedded import EmbeddedPostgres
from enrichment.warehouse.read_models.dto import Progress
from enrichment.warehouse.read_models.facade import ReadModels
from enrichment.wiring.database import build_read_models, upgrade_schema


@dataclass(frozen=True)
class Run:
    """A job to its end. peak_mb: one worker's resident memory at its highest; cpu_seconds: by part
    of the installation.
    """

    progress: Progress
    peak_mb: float
    cpu_seconds: dict[str, float]

    @property
    def seconds(self) -> float:
        return self.progress.duration_seconds or float("nan")

    @property
    def symbols_per_second(self) -> float:
        return self.progress.total / self.seconds

    @property
    def bars_per_second(self) -> float:
        return self.progress.inserted / self.seconds


class Installation:
    """What runs, and jobs on it."""

    def __init__(
        self, db: Database, vendor: str, parts: Mapping[str, Sequence[psutil.Process]]
    ) -> None:
        self.db, self.vendor = db, vendor
        self.commands = Commands(db)
        self.reader: ReadModels = build_read_models(db, Settings())
        self._parts = parts

    def track(self, symbols: Sequence[str], timeframes: str, asset_class: str = "stock") -> None:
        tracked = [parse_tracked(symbol, asset_class, timeframes) for symbol in symbols]
        self.commands.track(tracked, actor="benchmark")

    def run(self, symbols: Sequence[str] | None = None) -> Run:
        """One job over these symbols or all; SystemExit unless every one is completed."""
        before = self._cpu()
        job = self.commands.trigger(actor="benchmark", symbols=symbols)
        peak = 0.0
        while True:
            peak = max(peak, *(p.memory_info().rss / 1e6 for p in self._parts["worker"]))
            progress = self.reader.progress(job.job_id)
            if progress is not None and progress.finished:
                break
            time.sleep(0.1)
        if progress.counts != {"completed": progress.total}:
            raise SystemExit(f"the job went wrong: {dict(progress.counts)}")
        after = self._cpu()
        return Run(progress, peak, {name: after[name] - before[name] for name in before})

    def _cpu(self) -> dict[str, float]:
        return {name: sum(map(_cpu_seconds, found)) for name, found in self._parts.items()}


@contextmanager
def embedded_server() -> Iterator[str]:
    """The address of a new embedded server."""
    with TemporaryDirectory() as folder, EmbeddedPostgres(Path(folder) / "postgres") as server:
        yield server.url


@contextmanager
def installation(
    threads: int,
    workers: int = 1,
    *,
    server: str | None = None,
    vendor: str | None = None,
    **settings: str,
) -> Iterator[Installation]:
    """Everything, stopped at the end of the block.

    Args:
        threads: Of a worker.
        workers: Processes.
        server: Address of the database server; None for a new one.
        vendor: Address of Polygon; None for the sandbox in place of all vendors.
        settings: Of the workers.
    """
    port = _free_port()
    with ExitStack() as ending:
        folder = ending.enter_context(TemporaryDirectory())
        server = server or ending.enter_context(embedded_server())
        environment = {
            "DATABASE_URL": server,
            "ENRICHMENT_HOME": folder,
            "MAX_CONCURRENT_SYMBOLS": str(threads),
            **settings,
        }
        if vendor is None:
            environment["ENRICHMENT_SANDBOX_PORT"] = str(port)
        else:
            environment |= {"POLYGON_API_KEY": "key", "POLYGON_BASE_URL": vendor}
            environment["PROVIDERS_STOCK"] = "polygon"
        db = Database(server)
        ending.callback(db.close)
        upgrade_schema(db)
        parts = {"postgres": [_postgres(db)]}
        started = [("worker", workers)] if vendor else [("sandbox", 1), ("worker", workers)]
        vendor = vendor or f"http://127.0.0.1:{port}"
        for command, count in started:
            parts[command] = [
                ending.enter_context(_started(command, environment)) for _ in range(count)
            ]
        _until_answers(f"{vendor}/_sandbox/health")
        built = Installation(db, vendor, parts)
        while sum(worker.alive for worker in built.reader.workers()) < workers:
            time.sleep(0.05)
        yield built


@contextmanager
def _started(command: str, environment: dict[str, str]) -> Iterator[psutil.Process]:
    process = subprocess.Popen(
        [sys.executable, "-m", "enrichment", command],
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(30)


def _postgres(db: Database) -> psutil.Process:
    """The server's first process, the parent of the one that serves us."""
    with db.begin() as conn:
        pid = conn.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
    parent = psutil.Process(pid).parent()
    if parent is None:
        raise SystemExit("the server's first process is not to be found")
    return parent


def _cpu_seconds(process: psutil.Process) -> float:
    total = 0.0
    for one in (process, *process.children()):
        with suppress(psutil.Error):
            times = one.cpu_times()
            total += times.user + times.system
    with suppress(psutil.Error):
        ended = process.cpu_times()
        total += ended.children_user + ended.children_system
    return total


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _until_answers(url: str) -> None:
    for _ in range(300):
        try:
            urllib.request.urlopen(url, timeout=1).close()
            return
        except OSError:
            time.sleep(0.1)
    raise SystemExit(f"{url} does not answer")
