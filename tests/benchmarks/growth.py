"""Enriching one symbol's new day as the table of bars grows.

    python -m tests.benchmarks.growth [--rows 1000000 10000000 50000000] [--symbols 300]

Each table holds series of 1,000 daily bars with all features, in one of two layouts: loaded series
by series, as by a backfill, or grown night by night, so that the rows of a series lie far apart, as
in a warehouse of some years. The real pipeline and warehouse enrich symbols drawn at random, the
tables taking turns; the vendor answers from memory. Keys are built behind the rows, which is
quicker; the smallest table is grown once more with its key in place, which leaves room on its
pages. Fifty million rows take some minutes and 20 GB.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from sqlalchemy import text

from enrichment.domain.bars import Bars, to_datetime64
from enrichment.domain.model import AssetClass, FetchedBars, Timeframe, Window
from enrichment.domain.symbol_csv import parse_tracked
from enrichment.pipeline.enrich import EnrichmentPipeline
from enrichment.pipeline.features import FEATURES
from enrichment.services.commands import Commands
from enrichment.warehouse import schema
from enrichment.warehouse.database import Database
from enrichment.warehouse.embedded import EmbeddedPostgres
from enrichment.warehouse.queue.jobs import JobQueue
from enrichment.warehouse.series.warehouse import Warehouse, feature_set
from enrichment.wiring.database import upgrade_schema
from tests.benchmarks.report import Figure, parser, tell

BARS = 1_000
FIRST = datetime(2023, 1, 1, tzinfo=UTC)
LAST = FIRST + timedelta(days=BARS - 1)
NOW = LAST + timedelta(days=2)
# The inner series depends on the outer one, so that the rows come in this order without a sort.
_SERIES, _BAR = "generate_series(0, :series + 0 * {}) s", "generate_series(0, :last + 0 * {}) n"
LAYOUTS = {
    "series by series": f"{_SERIES.format(0)}, LATERAL {_BAR.format('s')}",
    "night by night": f"{_BAR.format(0)}, LATERAL {_SERIES.format('n')}",
}


class Memory:
    """A vendor that answers with the very bars that are stored, and the next one."""

    def fetch(
        self, symbol: str, asset_class: AssetClass, timeframe: Timeframe, window: Window
    ) -> FetchedBars:
        n = np.arange(BARS + 1)
        ts = to_datetime64(FIRST) + n * np.timedelta64(1, "D")
        close = 100.0 + n % 11
        bars = Bars.of(ts, close, close + 1, close - 1, close, 1000.0 + n % 97)
        asked = (ts >= to_datetime64(window.start)) & (ts < to_datetime64(window.end))
        return FetchedBars(bars.take(asked), "memory", adjusted=True)

    def fetch_from_other(self, *_: object, excluding: str) -> None:
        return None


@dataclass
class Table:
    """A database whose table of bars has so many rows."""

    rows: int
    db: Database
    took: list[float]

    def enrich(self, symbols: int, turn: int) -> None:
        """Some symbols' new day, one by one; other symbols at each turn."""
        numbers = list(range(self.rows // BARS))
        random.Random(1).shuffle(numbers)
        names = [f"X:SIM{n}USD" for n in numbers[turn * symbols : (turn + 1) * symbols]]
        commands = Commands(self.db)
        commands.track([parse_tracked(name, "crypto", "1d") for name in names], actor="benchmark")
        commands.trigger(actor="benchmark", symbols=names)
        pipeline = EnrichmentPipeline(
            Memory(), Warehouse(self.db), history_days=BARS, now=lambda: NOW
        )
        for task in JobQueue(self.db, lease_seconds=600).claim("benchmark", symbols):
            began = time.perf_counter()
            written = pipeline.enrich(task)
            self.took.append(time.perf_counter() - began)
            if (written.inserted, written.updated) != (1, 0):
                raise SystemExit(f"one new bar was expected, not {written}")
        JobQueue(self.db).close_finished_jobs()

    def bytes_a_row(self) -> tuple[float, float]:
        """Of the table, and of its key."""
        with self.db.begin() as conn:
            row = conn.execute(
                text(
                    "SELECT pg_relation_size('bars') AS heap, pg_relation_size('bars_pkey') AS key"
                )
            ).one()
        return row.heap / self.rows, row.key / self.rows


def seeded(url: str, name: str, rows: int, order: str, *, grown_key: bool = False) -> Database:
    """A database of its own. grown_key: the key is there from the start, not built at the end."""
    admin = Database(url, pool_size=1)
    with admin.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
        conn.execute(text(f"CREATE DATABASE {name}"))
    address = admin.url.set(database=name).render_as_string(hide_password=False)
    admin.close()
    db = Database(address, pool_size=2, idle_seconds=3600)
    upgrade_schema(db)
    numbers = [name for name, feature in FEATURES.items() if feature.kind == "number"]
    labels = [name for name, feature in FEATURES.items() if feature.kind == "label"]
    values = ", ".join(["100.5 + n % 11"] * len(numbers) + ["'neutral'"] * len(labels))
    listed = ", ".join(f'"{name}"' for name in (*numbers, *labels))
    with db.begin() as conn:
        if not grown_key:
            conn.execute(text("ALTER TABLE bars DROP CONSTRAINT bars_pkey"))
        statement = _BARS.format(listed=listed, values=values, order=order)
        last = {"series": rows // BARS - 1, "last": BARS - 1, "first": FIRST}
        conn.execute(text(statement), last)
        schema.include_in_key(conn)
        standing = {"first": FIRST, "last": LAST, "bars": BARS, "features": feature_set()}
        conn.execute(text(_STATUS), {**standing, "series": rows // BARS - 1})
    with db.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
        conn.execute(text("VACUUM ANALYZE"))
    return db


def measure(layout: str, sizes: Sequence[int], symbols: int, rounds: int) -> Iterator[Figure]:
    with ExitStack() as ending:
        folder = ending.enter_context(TemporaryDirectory())
        server = ending.enter_context(EmbeddedPostgres(Path(folder) / "postgres"))
        tables = [
            Table(rows, ending.enter_context(closing(_seed(server, n, rows, layout))), [])
            for n, rows in enumerate(sizes)
        ]
        _in_turns(tables, symbols, rounds)
        heap, key = tables[-1].bytes_a_row()
    medians = {table.rows: statistics.median(table.took) for table in tables}
    for rows, median in medians.items():
        yield Figure(f"{layout}, a new day at {rows:,} rows", 1000 * median, "ms")
    growth = medians[max(sizes)] / medians[min(sizes)]
    name = f"{layout}, {max(sizes):,} rows against {min(sizes):,}"
    yield Figure(name, growth, "×", "≤", 1.3)
    yield Figure(f"{layout}, the table", heap, "bytes/row")
    yield Figure(f"{layout}, its key", key, "bytes/row")


def grown(rows: int, symbols: int, rounds: int) -> Iterator[Figure]:
    """A table whose key has grown night by night, against one whose key was built at once."""
    order = LAYOUTS["night by night"]
    with ExitStack() as ending:
        folder = ending.enter_context(TemporaryDirectory())
        server = ending.enter_context(EmbeddedPostgres(Path(folder) / "postgres"))
        found = [
            seeded(server.url, f"key_{place}", rows, order, grown_key=place == "grown")
            for place in ("built", "grown")
        ]
        tables = [Table(rows, ending.enter_context(closing(db)), []) for db in found]
        _in_turns(tables, symbols, rounds)
        _, key = tables[-1].bytes_a_row()
    built, own = (statistics.median(table.took) for table in tables)
    yield Figure("a key that grew night by night", key, "bytes/row")
    yield Figure("a new day there against one built at once", own / built, "×")


def _in_turns(tables: Sequence[Table], symbols: int, rounds: int) -> None:
    for turn in range(rounds + 1):
        for table in tables:
            if turn == 1:
                table.took.clear()  # the first turn warms up
            table.enrich(symbols, turn)


def _seed(server: EmbeddedPostgres, number: int, rows: int, layout: str) -> Database:
    return seeded(server.url, f"growth_{number}", rows, LAYOUTS[layout])


def main() -> None:
    parsing = parser(__doc__)
    sizes = [1_000_000, 10_000_000, 50_000_000]
    parsing.add_argument("--rows", type=int, nargs="+", default=sizes)
    parsing.add_argument("--symbols", type=int, default=300, help="enriched in a round")
    parsing.add_argument("--rounds", type=int, default=3)
    options = parsing.parse_args()
    found = [
        figure
        for layout in LAYOUTS
        for figure in measure(layout, options.rows, options.symbols, options.rounds)
    ]
    found += grown(min(options.rows), options.symbols, options.rounds)
    tell("growth", found, options)


_BARS = """
INSERT INTO bars (symbol, timeframe, ts, open, high, low, close, volume, {listed})
SELECT 'X:SIM' || s || 'USD', '1d', CAST(:first AS timestamptz) + n * interval '1 day',
    100 + n % 11, 101 + n % 11, 99 + n % 11, 100 + n % 11, 1000 + n % 97, {values}
FROM {order}
"""

_STATUS = """
INSERT INTO enrichment_status (symbol, timeframe, status, bars, first_ts, last_ts, history_from,
    source, adjusted, quality_score, feature_set, last_success_at)
SELECT 'X:SIM' || s || 'USD', '1d', 'healthy', :bars, :first, :last, :first, 'memory', true, 1,
    :features, now()
FROM generate_series(0, :series) s
"""

if __name__ == "__main__":
    main()
