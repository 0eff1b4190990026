"""How long commands take to begin: whole processes, against a bare interpreter.

    python tests/benchmarks/start_up.py [--rounds 7]

A worker is ready once its row in `workers` says that it is alive; the database is an existing one
with the current schema.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from report import Figure, parser, tell
from sqlalchemy import text

from enrichment import bootstrap
from enrichment.storage.database import Database
from enrichment.storage.embedded import EmbeddedPostgres

SCRIPT = Path(sys.executable).with_name("enrichment")


def to_the_end(command: Sequence[str], environment: dict[str, str]) -> float:
    """Seconds of a process from its start to its end."""
    began = time.perf_counter()
    subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began


def until_ready(db: Database, environment: dict[str, str]) -> float:
    """Seconds from a worker's start until it is ready."""
    with db.begin() as conn:
        conn.execute(text("TRUNCATE workers"))
    began = time.perf_counter()
    process = subprocess.Popen(
        [str(SCRIPT), "worker"],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while True:
            with db.begin() as conn:
                if conn.execute(text("SELECT 1 FROM workers")).first():
                    return time.perf_counter() - began
            time.sleep(0.005)
    finally:
        process.terminate()
        process.wait(30)


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
        bootstrap.upgrade(db)
        environment = {**os.environ, "DATABASE_URL": server.url, "ENRICHMENT_HOME": folder}
        ways: dict[str, Callable[[], float]] = {
            "python -c pass": lambda: to_the_end([sys.executable, "-c", "pass"], environment),
            "enrichment --help": lambda: to_the_end([str(SCRIPT), "--help"], environment),
            "enrichment status": lambda: to_the_end([str(SCRIPT), "status"], environment),
            "worker, until ready": lambda: until_ready(db, environment),
        }
        found = list(figures(ways, options.rounds))
        db.close()
    tell("start-up", found, options)


if __name__ == "__main__":
    main()
