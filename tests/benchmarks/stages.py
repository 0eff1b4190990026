"""Where the time of a symbol goes: each stage of the pipeline by itself, against its floor.

    python -m tests.benchmarks.stages [--symbols 12] [--rounds 3]

One thread, a year of bars a symbol, the real vendor's format over HTTP, the real database. The
floors, in the same run: for fetching, the same bytes over a bare socket and decoded; for computing,
the features alone (`features.py` holds these against TA-Lib); for storing, binary COPY of the same
finished rows. Reading and validating have no floor but nothing: their shares are told.
"""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit
from urllib.request import urlopen

import orjson
from pydantic import SecretStr
from sqlalchemy import text

from enrichment.config import Settings
from enrichment.domain.model import Timeframe
from enrichment.domain.symbol_csv import parse_tracked
from enrichment.pipeline.enrich import EnrichmentPipeline
from enrichment.pipeline.features import compute
from enrichment.sandbox import create_app, running
from enrichment.services.commands import Commands
from enrichment.warehouse.database import Database, DatabaseClock
from enrichment.warehouse.embedded import EmbeddedPostgres
from enrichment.warehouse.queue.jobs import JobQueue
from enrichment.warehouse.read_models.quality_symbol import QualityReports
from enrichment.warehouse.series.warehouse import Warehouse
from enrichment.wiring.database import upgrade_schema
from enrichment.wiring.vendors import build_providers
from resilience import init_resilience_manager
from tests.benchmarks.report import Figure, parser, tell

STAGES = ("read", "fetch", "validate", "compute", "store")


class Stopwatch:
    """Told the name of each step as it begins; adds up seconds by stage."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._stage, self._since = "", 0.0

    def __call__(self, step: str) -> None:
        now = time.perf_counter()
        if self._stage:
            self.seconds[self._stage] += now - self._since
        self._stage, self._since = step.partition(" ")[0], now

    def stop(self) -> None:
        self("")


def ours(db: Database, pipeline: EnrichmentPipeline[Any], symbols: list[str]) -> dict[str, float]:
    """Seconds by stage, for all symbols' first run."""
    with db.begin() as conn:
        conn.execute(text("TRUNCATE bars, enrichment_status, bar_flags, bar_gaps"))
    Commands(db).trigger(actor="benchmark")
    watch = Stopwatch()
    for task in JobQueue(db, lease_seconds=600).claim("benchmark", len(symbols)):
        pipeline.enrich(task, watch)
        watch.stop()
    JobQueue(db).close_finished_jobs()
    return dict(watch.seconds)


def floors(db: Database, addresses: list[str], symbols: list[str]) -> dict[str, float]:
    """Seconds of the least that each stage has to do."""
    found = {"fetch": 0.0, "compute": 0.0, "store": 0.0}
    stored: list[BytesIO] = []
    for address, symbol in zip(addresses, symbols, strict=True):
        began = time.perf_counter()
        with urlopen(address) as answer:  # our own vendor on loopback
            orjson.loads(answer.read())
        found["fetch"] += time.perf_counter() - began
        bars = QualityReports(db).bars(symbol, Timeframe.M5)
        began = time.perf_counter()
        compute(bars)
        found["compute"] += time.perf_counter() - began
        stored.append(_copied(db, symbol))
    with db.begin() as conn:
        conn.execute(text("TRUNCATE bars"))
    began = time.perf_counter()
    for rows in stored:
        with db.begin() as conn:
            driver: Any = conn.connection.driver_connection
            with driver.cursor() as cursor:
                cursor.copy_expert("COPY bars FROM STDIN BINARY", rows, 1 << 18)
    found["store"] = time.perf_counter() - began
    return found


def _copied(db: Database, symbol: str) -> BytesIO:
    out = BytesIO()
    with db.begin() as conn:
        driver: Any = conn.connection.driver_connection
        with driver.cursor() as cursor:
            query = cursor.mogrify("SELECT * FROM bars WHERE symbol = %s", [symbol]).decode()
            cursor.copy_expert(f"COPY ({query}) TO STDOUT BINARY", out)
    out.seek(0)
    return out


def figures(rounds: list[tuple[dict[str, float], dict[str, float]]]) -> Iterator[Figure]:
    total = statistics.median(sum(own.values()) for own, _ in rounds)
    for stage in STAGES:
        own = statistics.median(own[stage] for own, _ in rounds)
        yield Figure(f"{stage}, share", 100 * own / total, "%")
        if stage in rounds[0][1]:
            ratio = statistics.median(own[stage] / floor[stage] for own, floor in rounds)
            yield Figure(f"{stage}, against its floor", ratio, "×", "≤", 3)


def main() -> None:
    parsing = parser(__doc__)
    parsing.add_argument("--symbols", type=int, default=12)
    parsing.add_argument("--rounds", type=int, default=3)
    options = parsing.parse_args()
    symbols = [f"SIM{n}" for n in range(options.symbols)]
    with TemporaryDirectory() as folder, EmbeddedPostgres(Path(folder) / "postgres") as server:
        db = Database(server.url, pool_size=2)
        upgrade_schema(db)
        Commands(db).track([parse_tracked(s, "stock", "5m") for s in symbols], actor="benchmark")
        with running(create_app()) as vendor:
            settings = Settings(
                database_url=SecretStr(server.url),
                enrichment_sandbox_port=urlsplit(vendor).port or 0,
                polygon_api_key=None,
            )
            pipeline = EnrichmentPipeline(
                build_providers(settings, init_resilience_manager()),
                Warehouse(db),
                history_days=365,
                now=DatabaseClock(db),
            )
            day = time.time() * 1000
            asked = f"range/5/minute/{day - 365 * 86_400_000:.0f}/{day:.0f}?limit=50000&apiKey=k"
            addresses = [f"{vendor}/v2/aggs/ticker/{symbol}/{asked}" for symbol in symbols]
            ours(db, pipeline, symbols)  # warms everything up
            rounds = [
                (ours(db, pipeline, symbols), floors(db, addresses, symbols))
                for _ in range(options.rounds)
            ]
        db.close()
    tell("stages", figures(rounds), options)


if __name__ == "__main__":
    main()
