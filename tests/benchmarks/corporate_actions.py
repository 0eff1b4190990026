"""Splits and dividends in a warehouse of 500 symbols: a night with splits, and reading by basis.

    python -m tests.benchmarks.corporate_actions [--symbols 500]

Three years of daily bars as traded, with 60 splits and 2,000 dividends, 20 of the splits on the
last night. The sandbox serves bars and actions over HTTP, and the real ledger, pipeline and
warehouse take them in.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

import numpy as np
from sqlalchemy import text

from enrichment.config import Settings
from enrichment.domain.bars import to_datetime
from enrichment.domain.calendars import bar_starts
from enrichment.domain.corporate_actions import Adjustment
from enrichment.domain.model import AssetClass, Timeframe
from enrichment.domain.symbol_csv import parse_tracked
from enrichment.pipeline.enrich import EnrichmentPipeline
from enrichment.pipeline.features import FEATURES
from enrichment.sandbox import create_app, running
from enrichment.sandbox.share_actions import ShareActions
from enrichment.services.action_refresh import ActionRefresh
from enrichment.services.commands import Commands
from enrichment.warehouse.corporate_actions import LedgerSplits
from enrichment.warehouse.database import Database
from enrichment.warehouse.embedded import EmbeddedPostgres
from enrichment.warehouse.queue.jobs import JobQueue
from enrichment.warehouse.read_models.bars import BarDownloads, default_columns
from enrichment.warehouse.series.warehouse import Warehouse
from enrichment.wiring.database import upgrade_schema
from enrichment.wiring.vendors import build_action_sources, build_providers
from resilience import init_resilience_manager
from tests.benchmarks.report import Figure, parser, tell

SESSIONS, SPLITS, LAST_NIGHT, DIVIDENDS = 756, 60, 20, 2_000
RATIOS = (2.0, 3.0, 4.0, 10.0, 0.1)
END = datetime(2025, 6, 6, tzinfo=UTC)
DAYS = bar_starts(AssetClass.STOCK, Timeframe.D1, END - timedelta(days=1200), END)[-SESSIONS:]


def actions_of(symbols: list[str]) -> dict[str, ShareActions]:
    """What happens to the shares of each."""
    random = np.random.default_rng(16)
    earlier = random.integers(30, SESSIONS - 30, SPLITS - LAST_NIGHT).tolist()
    rows = [SESSIONS - 1] * LAST_NIGHT + earlier
    holders = random.permutation(symbols)[:SPLITS].tolist()
    splits = {
        symbol: {DAYS[row]: ratio}
        for symbol, row, ratio in zip(holders, rows, RATIOS * 12, strict=True)
    }
    dividends = -(-DIVIDENDS // len(symbols))
    return {
        symbol: ShareActions(
            splits.get(symbol, {}),
            {
                DAYS[row]: 0.005
                for row in random.choice(np.arange(1, SESSIONS), dividends, replace=False)
            },
        )
        for symbol in symbols
    }


class Nights:
    """Runs the ledger's refresh and the pipeline on the sandbox at chosen times."""

    def __init__(self, db: Database, symbols: list[str]) -> None:
        self._db, self._symbols, self.now = db, symbols, END
        Commands(db).track([parse_tracked(s, "stock", "1d") for s in symbols], actor="benchmark")
        self._actions = actions_of(symbols)

    def run(self, session: int) -> None:
        """The night after a session."""
        self.now = to_datetime(DAYS[session]) + timedelta(days=1)
        app = {"clock": lambda: self.now, "anchor": self.now, "actions": self._actions}
        manager = init_resilience_manager()
        with running(create_app(**app)) as vendor, closing(manager):
            settings = Settings(
                enrichment_sandbox=True, enrichment_sandbox_port=urlsplit(vendor).port or 0
            )
            self._refresh(build_action_sources(settings, manager, now=lambda: self.now))
            ledger = LedgerSplits(self._db)
            source = build_providers(settings, manager, now=lambda: self.now, splits=ledger)
            self._enrich(source)

    def _refresh(self, sources: list[object]) -> None:
        refresh = ActionRefresh(
            self._db,
            sources,
            history_days=2_000,
            now=lambda: self.now,
        )
        refresh.refresh_all()

    def _enrich(self, source: object) -> None:
        queue = JobQueue(self._db)
        pipeline = EnrichmentPipeline(
            source, Warehouse(self._db), history_days=1_090, now=lambda: self.now
        )
        Commands(self._db).trigger(actor="benchmark")
        while tasks := queue.claim("w", 100):
            for task, enrich in zip(tasks, pipeline.prepare_batch(tasks), strict=True):
                enrich(task, lambda step: None)
        queue.close_finished_jobs()


def read_seconds(db: Database, symbol: str, adjustment: Adjustment) -> float:
    downloads = BarDownloads(db)
    began = time.perf_counter()
    extent = downloads.extent(symbol, Timeframe.D1, adjustment=adjustment)
    for _ in downloads.chunks(extent, default_columns(Timeframe.D1)):
        pass
    return time.perf_counter() - began


def measure(db: Database, count: int) -> Iterator[Figure]:
    symbols = [f"SIM{n}" for n in range(1_000, 1_000 + count)]
    nights = Nights(db, symbols)
    nights.run(-2)
    until = to_datetime(DAYS[-2])
    before, asked = checksum(db, until), scalar(db, REQUESTS)
    nights.run(-1)
    yield Figure("splits in the ledger", scalar(db, LISTED.format(kind="split")), "", "≥", SPLITS)
    dividends = scalar(db, LISTED.format(kind="cash_dividend"))
    yield Figure("dividends in the ledger", dividends, "", "≥", DIVIDENDS)
    bars = scalar(db, "SELECT count(*) FROM bars")
    yield Figure("bars stored", bars, "", "≥", count * (SESSIONS - 10))
    requests = (scalar(db, REQUESTS) - asked) / count
    yield Figure("requests a symbol on the night of the splits", requests, "", "≤", 1)
    corrections = scalar(db, "SELECT count(*) FROM data_corrections")
    yield Figure("corrections", corrections, "", "≤", 0)
    rewritten = checksum(db, until) != before
    yield Figure("stored bars or features that it changed", float(rewritten), "", "≤", 0)
    seconds: dict[Adjustment, list[float]] = {adjustment: [] for adjustment in Adjustment}
    for _ in range(5):
        for symbol in symbols[:200]:
            for adjustment, found in seconds.items():
                found.append(read_seconds(db, symbol, adjustment))
    plain = statistics.median(seconds.pop(Adjustment.NONE))
    for adjustment, found in seconds.items():
        name = f"reading on the basis {adjustment}, against as traded"
        yield Figure(name, statistics.median(found) / plain, "x", "≤", 1.2)


REQUESTS = "SELECT sum(requests) FROM enrichment_fetch_log"
LISTED = "SELECT count(*) FROM corporate_actions WHERE applies AND kind = '{kind}'"


def scalar(db: Database, query: str) -> float:
    with db.begin() as conn:
        return float(conn.execute(text(query)).scalar_one())


def checksum(db: Database, until: datetime) -> str:
    """Of all bars and features up to a moment."""
    columns = ", ".join(f'"{name}"' for name in FEATURES)
    with db.begin() as conn:
        digest: str = conn.execute(
            text(
                f"SELECT md5(string_agg(md5(ROW(symbol, ts, open, high, low, close, volume,"
                f" {columns})::text), '' ORDER BY symbol, ts)) FROM bars WHERE ts <= :until"
            ),
            {"until": until},
        ).scalar_one()
        return digest


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--symbols", type=int, default=500)
    options = arguments.parse_args()
    with TemporaryDirectory() as folder, EmbeddedPostgres(Path(folder) / "postgres") as postgres:
        db = Database(postgres.url, pool_size=3)
        with closing(db):
            upgrade_schema(db)
            tell("corporate actions", measure(db, options.symbols), options)


if __name__ == "__main__":
    main()
