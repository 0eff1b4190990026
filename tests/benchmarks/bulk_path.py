"""Storing bars: this product's path against bare binary COPY and against pandas' to_sql.

    python -m tests.benchmarks.bulk_path [--series 20] [--bars 5000] [--rounds 5]

Every way stores the same rows, 8 prices and all features, in the same keyed table of the same
server; ratios are taken within a round and reported as medians.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
from sqlalchemy import text

from enrichment.domain.bars import Bars, to_datetime
from enrichment.domain.model import FetchedBars, Quality, Task, Timeframe, ValidationResult, Window
from enrichment.domain.series import FetchResult, QualityInputs, SeriesUpdate
from enrichment.domain.statuses import SeriesStatus
from enrichment.domain.symbol_csv import parse_tracked
from enrichment.pipeline.features import compute
from enrichment.services.commands import Commands
from enrichment.warehouse.database import Database
from enrichment.warehouse.embedded import EmbeddedPostgres
from enrichment.warehouse.queue.jobs import JobQueue
from enrichment.warehouse.series.upsert import copy, encode, repeat
from enrichment.warehouse.series.warehouse import Warehouse
from enrichment.wiring.database import upgrade_schema
from tests.benchmarks.report import Figure, parser, tell

SCORE = Quality(1.0, 1.0, 1.0, 1.0, 1.0, SeriesStatus.HEALTHY)


def walk(count: int, seed: int) -> Bars:
    random = np.random.default_rng(seed)
    close = 100 * np.exp(np.cumsum(random.normal(0, 0.01, count)))
    spread = close * random.uniform(0.001, 0.01, count)
    ts = np.datetime64("2020-01-01", "us") + np.arange(count) * np.timedelta64(5, "m")
    volume = random.uniform(1e3, 1e6, count)
    return Bars.of(
        ts, close, close + spread, close - spread, close, volume, vwap=close, trades=volume
    )


def enriched(bars: Bars, features: dict[str, Any], *, appends: bool) -> SeriesUpdate:
    end = to_datetime(bars.ts[-1]) + timedelta(minutes=5)
    return SeriesUpdate(
        timeframe=Timeframe.M5,
        fetches=[
            FetchResult(
                Window(to_datetime(bars.ts[0]), end),
                FetchedBars(bars, "benchmark", adjusted=True),
                0.0,
                ValidationResult(bars),
            )
        ],
        bars=bars,
        features=features,
        compute_ms=0.0,
        flags=[],
        gaps=[],
        quality=SCORE,
        quality_inputs=QualityInputs(len(bars), 0, len(bars), 0, 0, 0),
        history_from=datetime(2020, 1, 1, tzinfo=UTC),
        appends=appends,
    )


class Contest:
    def __init__(self, db: Database, series: int, count: int) -> None:
        self.db = db
        self.count = count
        self.symbols = [f"SIM{n}" for n in range(series)]
        bars = [walk(count, seed) for seed in range(series)]
        self.series = [(b, compute(b)) for b in bars]
        Commands(db).track([parse_tracked(s, "stock", "5m") for s in self.symbols], actor="bench")

    def clear(self) -> None:
        with self.db.begin() as conn:
            conn.execute(text("TRUNCATE bars, enrichment_status, data_quality_metrics"))

    def claim(self) -> list[Task]:
        Commands(self.db).trigger(actor="bench")
        tasks = JobQueue(self.db).claim("bench", len(self.symbols))
        return sorted(tasks, key=lambda task: self.symbols.index(task.symbol))

    def timed(self, work: Callable[[], None]) -> float:
        began = time.perf_counter()
        work()
        return self.count * len(self.symbols) / (time.perf_counter() - began)

    def ours(self, *, appends: bool = True) -> float:
        """One transaction per series: lease, bars, logs, quality, status, completion."""
        tasks, warehouse = self.claim(), Warehouse(self.db)

        def work() -> None:
            for task, (bars, features) in zip(tasks, self.series, strict=True):
                warehouse.commit(task, [enriched(bars, features, appends=appends)])

        return self.timed(work)

    def ours_staged(self) -> float:
        """The same where the newest bar is stored already: staged, compared, corrected, merged."""
        warehouse = Warehouse(self.db)
        for task, (bars, features) in zip(self.claim(), self.series, strict=True):
            newest = {name: column[-1:] for name, column in features.items()}
            warehouse.commit(task, [enriched(bars.take(slice(-1, None)), newest, appends=True)])
        return self.ours(appends=False)

    def bare_copy(self) -> float:
        """Binary COPY of the finished rows, a transaction per series, and nothing else."""
        batches = [
            encode(
                {
                    "symbol": repeat([symbol], [self.count]),
                    "timeframe": repeat(["5m"], [self.count]),
                    **bars.columns(),
                    **features,
                }
            )
            for symbol, (bars, features) in zip(self.symbols, self.series, strict=True)
        ]

        def work() -> None:
            for batch in batches:
                with self.db.begin() as conn:
                    copy(conn, "bars", batch)

        return self.timed(work)

    def to_sql(self) -> float:
        """pandas' to_sql of the first series, as a script would write it."""
        bars, features = self.series[0]
        frame = pd.DataFrame({**bars.columns(), **features})
        frame["ts"] = frame["ts"].dt.tz_localize("UTC")
        frame.insert(0, "symbol", self.symbols[0])
        frame.insert(1, "timeframe", "5m")
        began = time.perf_counter()
        with self.db.begin() as conn:
            frame.to_sql("bars", conn, if_exists="append", index=False)
        return self.count / (time.perf_counter() - began)


def run(series: int, count: int, rounds: int) -> dict[str, list[float]]:
    speeds: dict[str, list[float]] = {
        "bare COPY": [],
        "new rows": [],
        "staged rows": [],
        "to_sql": [],
    }
    with TemporaryDirectory() as folder, EmbeddedPostgres(Path(folder) / "postgres") as server:
        db = Database(server.url)
        upgrade_schema(db)
        contest = Contest(db, series, count)
        for _ in range(rounds + 1):
            contest.clear()
            speeds["bare COPY"].append(contest.bare_copy())
            contest.clear()
            speeds["to_sql"].append(contest.to_sql())
            contest.clear()
            speeds["new rows"].append(contest.ours())
            contest.clear()
            speeds["staged rows"].append(contest.ours_staged())
        db.close()
    return {name: values[1:] for name, values in speeds.items()}  # the first round warms up


def main() -> None:
    parsing = parser(__doc__)
    parsing.add_argument("--series", type=int, default=20)
    parsing.add_argument("--bars", type=int, default=5000)
    parsing.add_argument("--rounds", type=int, default=5)
    options = parsing.parse_args()
    tell("storing bars", figures(run(options.series, options.bars, options.rounds)), options)


def figures(speeds: Mapping[str, Sequence[float]]) -> Iterator[Figure]:
    for name, values in speeds.items():
        yield Figure(name, statistics.median(values), "rows/s")
    for name in ("new rows", "staged rows"):
        for peer in ("bare COPY", "to_sql"):
            pairs = zip(speeds[name], speeds[peer], strict=True)
            yield Figure(f"{name} against {peer}", statistics.median(a / b for a, b in pairs), "×")


if __name__ == "__main__":
    main()
