"""How long commands take to begin: whole processes, against a bare interpreter.

    python -m tests.benchmarks.start_up [--rounds 7]

A worker is ready with its first heartbeat, which goes out with its first claim; the API once it
says so itself. The database is an existing one with the current schema. Of an editable install,
which has no compiled files where PYTHONDONTWRITEBYTECODE is set, every start compiles the product
anew: then measure with the wheel.
"""

from __future__ import annotations

import os
import socket
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from sqlalchemy import text

from enrichment.warehouse.database import Database
from enrichment.warehouse.embedded import EmbeddedPostgres
from enrichment.wiring.database import upgrade_schema
from tests.benchmarks.report import Figure, parser, tell

SCRIPT = Path(sys.executable).with_name("enrichment")
MAX_SECONDS = 60.0


def to_the_end(command: Sequence[str], environment: dict[str, str]) -> float:
    """Seconds of a process from its start to its end."""
    began = time.perf_counter()
    subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began


def until(command: str, ready: Callable[[], bool], environment: dict[str, str]) -> float:
    """Seconds from the start of a command that goes on until it is ready."""
    began = time.perf_counter()
    process = subprocess.Popen(
        [str(SCRIPT), command],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while not ready():
            if process.poll() is not None or time.perf_counter() - began > MAX_SECONDS:
                raise SystemExit(f"'enrichment {command}' did not get ready: {process.poll()}")
            time.sleep(0.005)
        return time.perf_counter() - began
    finally:
        process.terminate()
        process.wait(30)


def worker(db: Database, environment: dict[str, str]) -> float:
    with db.begin() as conn:
        conn.execute(text("TRUNCATE workers"))

    def beats() -> bool:
        with db.begin() as conn:
            return bool(conn.execute(text(_BEATS)).first())

    return until("worker", beats, environment)


def api(environment: dict[str, str]) -> float:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])

    def answers() -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5):
                return True
        except (urllib.error.URLError, ConnectionError):
            return False

    return until("api", answers, {**environment, "ENRICHMENT_API_PORT": port})


def figures(ways: dict[str, Callable[[], float]], rounds: int) -> Iterator[Figure]:
    """The ways take turns, so that a noisy moment meets all."""
    took: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            took[name].append(way())
    bare = statistics.median(took["python -c pass"])
    aims = {"enrichment --help": 0.4, "worker, until ready": 2.0}
    for name, seconds in took.items():
        median = statistics.median(seconds)
        yield Figure(name, median, "s", *(("≤", aims[name]) if name in aims else ()))
        if name != "python -c pass":
            yield Figure(f"{name}, against a bare interpreter", median / bare, "×")


def main() -> None:
    parsing = parser(__doc__)
    parsing.add_argument("--rounds", type=int, default=7)
    options = parsing.parse_args()
    with TemporaryDirectory() as folder, EmbeddedPostgres(Path(folder) / "postgres") as server:
        db = Database(server.url)
        upgrade_schema(db)
        environment = {**os.environ, "DATABASE_URL": server.url, "ENRICHMENT_HOME": folder}
        ways: dict[str, Callable[[], float]] = {
            "python -c pass": lambda: to_the_end([sys.executable, "-c", "pass"], environment),
            "enrichment --help": lambda: to_the_end([str(SCRIPT), "--help"], environment),
            "enrichment status": lambda: to_the_end([str(SCRIPT), "status"], environment),
            "worker, until ready": lambda: worker(db, environment),
            "API, until ready": lambda: api(environment),
        }
        found = list(figures(ways, options.rounds))
        db.close()
    tell("start-up", found, options)


_BEATS = "SELECT 1 FROM workers WHERE state = 'running' AND heartbeat_at > started_at"

if __name__ == "__main__":
    main()
