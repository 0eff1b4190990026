"""A whole job through every part: sandbox HTTP → bars → features → quality → Postgres.

    python tests/benchmarks/whole_job.py [--symbols 50] [--timeframes 1h,1d] [--threads 5]

Starts the sandbox vendor and a worker as processes of their own on a new embedded server, runs one
job over simulated symbols and then the same job again with nothing new.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
from rich.console import Console
from rich.table import Table

from enrichment import bootstrap
from enrichment.commands import Commands, parse_tracked
from enrichment.config import Settings
from enrichment.storage.database import Database
from enrichment.storage.embedded import EmbeddedPostgres
from enrichment.storage.figures import Progress
from enrichment.storage.read_models import ReadModels


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(command: str, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "enrichment", command],
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def until_answers(url: str) -> None:
    for _ in range(300):
        try:
            urllib.request.urlopen(url, timeout=1).close()
            return
        except OSError:
            time.sleep(0.1)
    raise SystemExit(f"{url} does not answer")


def run_job(
    commands: Commands, reader: ReadModels, worker: psutil.Process
) -> tuple[Progress, float]:
    """One job over everything, and the worker's peak resident memory meanwhile, in MB."""
    job = commands.trigger(actor="benchmark")
    peak = 0.0
    while True:
        peak = max(peak, worker.memory_info().rss / 1e6)
        progress = reader.progress(job.job_id)
        if progress is not None and progress.finished:
            return progress, peak
        time.sleep(0.1)


def measure(db: Database, options: argparse.Namespace, environment: dict[str, str]) -> None:
    commands, reader = Commands(db), bootstrap.read_models(db, Settings())
    tracked = [
        parse_tracked(f"SIM{n}", "stock", options.timeframes) for n in range(options.symbols)
    ]
    commands.track(tracked, actor="benchmark")
    worker = start("worker", environment)
    table = Table("job", "seconds", "symbols/s", "bars", "bars/s", "worker's peak MB", "states")
    try:
        until_alive(reader)
        for name in ("first", "again, nothing new"):
            progress, peak = run_job(commands, reader, psutil.Process(worker.pid))
            seconds = progress.duration_seconds or float("nan")
            table.add_row(
                name,
                f"{seconds:.1f}",
                f"{progress.total / seconds:.1f}",
                f"{progress.inserted:,}",
                f"{progress.inserted / seconds:,.0f}",
                f"{peak:.0f}",
                str(dict(progress.counts)),
            )
    finally:
        worker.terminate()
        worker.wait(30)
    Console().print(table)


def until_alive(reader: ReadModels) -> None:
    while not any(worker.alive for worker in reader.workers()):
        time.sleep(0.1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--symbols", type=int, default=50)
    parser.add_argument("--timeframes", default="1h,1d")
    parser.add_argument("--threads", type=int, default=5)
    options = parser.parse_args()
    port = free_port()
    with TemporaryDirectory() as folder, EmbeddedPostgres(Path(folder) / "postgres") as server:
        environment = {
            "DATABASE_URL": server.url,
            "ENRICHMENT_HOME": folder,
            "ENRICHMENT_SANDBOX_PORT": str(port),
            "MAX_CONCURRENT_SYMBOLS": str(options.threads),
        }
        db = Database(server.url)
        bootstrap.upgrade(db)
        sandbox = start("sandbox", environment)
        try:
            until_answers(f"http://127.0.0.1:{port}/_sandbox/health")
            measure(db, options, environment)
        finally:
            sandbox.terminate()
            sandbox.wait(30)
            db.close()


if __name__ == "__main__":
    main()
