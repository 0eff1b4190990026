"""How soon everything is back after an outage of the database, without a restart of anything.

    python -m tests.benchmarks.outage [--seconds 30] [--rounds 3]

Worker, API and dashboard run as processes on an embedded server, which is shut down in immediate
mode and started again after so many seconds. Measured from the moment at which the server answers.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from sqlalchemy import text

from enrichment.domain.errors import EnrichmentError
from enrichment.domain.symbol_csv import parse_tracked
from enrichment.services.commands import Commands
from enrichment.warehouse.database import Database
from enrichment.warehouse.embedded import EmbeddedPostgres
from enrichment.wiring.database import upgrade_schema
from tests.benchmarks.report import Figure, parser, tell
from tests.helpers.own_server import OwnServer
from tests.helpers.running_stack import free_ports

MAX_SECONDS = 120.0
TARGET_SECONDS = 5.0


@contextmanager
def running(part: str, environment: dict[str, str]) -> Iterator[None]:
    with subprocess.Popen(
        [sys.executable, "-m", "enrichment", part], env=environment, stderr=subprocess.DEVNULL
    ) as process:
        try:
            yield
            assert process.poll() is None, f"{part} has ended"
        finally:
            process.terminate()


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=10) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, ConnectionError):
        return False


def seconds_until(what: str, condition: Callable[[], object]) -> float:
    began = time.perf_counter()
    while time.perf_counter() - began < MAX_SECONDS:
        with suppress(EnrichmentError):
            if condition():
                return time.perf_counter() - began
        time.sleep(0.02)
    raise SystemExit(f"not within {MAX_SECONDS:.0f} s: {what}")


def measure(db: Database, server: OwnServer, api: str, outage: float) -> dict[str, float]:
    """Seconds after the end of one outage until each is back."""
    server.stop_immediately()
    time.sleep(outage)
    server.restart()
    began = time.perf_counter()
    commands = Commands(db)
    job = commands.trigger(actor="benchmark").job_id
    back: dict[str, float] = {}

    def finished() -> bool:
        with db.begin() as conn:
            return bool(conn.execute(text(_FINISHED), {"job": job}).scalar())

    def beats() -> bool:
        with db.begin() as conn:
            return bool(conn.execute(text(_BEATS)).scalar())

    waiting = {"API ready": lambda: answers(f"{api}/readyz"), "job done": finished, "beat": beats}
    seconds_until("everything is back", lambda: _note(waiting, back, began))
    return back


def _note(waiting: dict[str, Callable[[], bool]], back: dict[str, float], began: float) -> bool:
    for name, condition in waiting.items():
        if name not in back:
            with suppress(EnrichmentError):
                if condition():
                    back[name] = time.perf_counter() - began
    return len(back) == len(waiting)


def main() -> None:
    parsing = parser(__doc__)
    parsing.add_argument("--seconds", type=float, default=30.0)
    parsing.add_argument("--rounds", type=int, default=3)
    options = parsing.parse_args()
    with TemporaryDirectory() as folder, EmbeddedPostgres(Path(folder) / "postgres") as postgres:
        server, ports = OwnServer(postgres), free_ports()
        api = f"http://127.0.0.1:{ports['api']}"
        environment = {
            **os.environ,
            "DATABASE_URL": postgres.url,
            "ENRICHMENT_HOME": folder,
            "ENRICHMENT_SANDBOX": "true",
            "ENRICHMENT_API_PORT": str(ports["api"]),
            "ENRICHMENT_SANDBOX_PORT": str(ports["sandbox"]),
        }
        with closing(Database(postgres.url)) as db, ExitStack() as stack:
            upgrade_schema(db)
            Commands(db).track([parse_tracked("SIM1", "stock", "1d")], actor="benchmark")
            for part in ("sandbox", "worker", "api"):
                stack.enter_context(running(part, environment))
            seconds_until("the API is ready", lambda: answers(f"{api}/readyz"))
            rounds = [measure(db, server, api, options.seconds) for _ in range(options.rounds)]
    figures = [
        Figure(name, statistics.median(r[name] for r in rounds), "s", "≤", TARGET_SECONDS)
        for name in rounds[0]
    ]
    tell(f"after an outage of {options.seconds:.0f} s", figures, options)


_FINISHED = "SELECT completed_at IS NOT NULL FROM enrichment_jobs WHERE job_id = :job"
_BEATS = "SELECT heartbeat_at > pg_postmaster_start_time() FROM workers ORDER BY 1 DESC LIMIT 1"

if __name__ == "__main__":
    main()
