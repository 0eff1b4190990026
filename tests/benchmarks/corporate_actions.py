"""Splits and dividends in a warehouse of 500 symbols: a night with splits, and reading by basis.

    python -m tests.benchmarks.corporate_actions [--symbols 500]

Three years of daily bars as traded, with 60 splits and 2,000 dividends, 20 of the splits on the
last night. The real pipeline and warehouse enrich every symbol, the vendor answers from memory.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import date, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from sqlalchemy import text

from enrichment.domain.bars import Bars, to_datetime, to_datetime64
from enrichment.domain.corporate_actions import (
    ActionKind,
    Adjustment,
    CorporateAction,
    Splits,
    scaled,
)
from enrichment.domain.model import AssetClass, FetchedBars, Timeframe, Window
from enrichment.domain.symbol_csv import parse_tracked
from enrichment.pipeline.enrich import EnrichmentPipeline
from enrichment.pipeline.features import FEATURES
from enrichment.services.commands import Commands
from enrichment.warehouse import corporate_actions
from enrichment.warehouse.database import Database
from enrichment.warehouse.embedded import EmbeddedPostgres
from enrichment.warehouse.queue.jobs import JobQueue
from enrichment.warehouse.read_models.bars import BarDownloads
from enrichment.warehouse.series.warehouse import Warehouse
from enrichment.wiring.database import upgrade_schema
from tests.benchmarks.report import Figure, parser, tell
from tests.helpers.recorded_series import daily_stocks

SESSIONS, SPLITS, LAST_NIGHT, DIVIDENDS = 756, 60, 20, 2_000
RATIOS = (2.0, 3.0, 4.0, 10.0, 0.1)
COLUMNS = ["open", "high", "low", "close", "volume", "sma_20", "rsi_14", "obv"]


class Vendor:
    """Answers bars as traded; counts its answers."""

    def __init__(self, bars: dict[str, Bars]) -> None:
        self.bars, self.requests = bars, 0

    def fetch(
        self, symbol: str, asset_class: AssetClass, timeframe: Timeframe, window: Window
    ) -> FetchedBars:
        self.requests += 1
        bars = self.bars[symbol]
        first, end = bars.ts.searchsorted([to_datetime64(window.start), to_datetime64(window.end)])
        return FetchedBars(bars.take(slice(int(first), int(end))), "memory", adjusted=False)

    def fetch_from_other(self, *_: object, excluding: str) -> FetchedBars | None:
        return None


def market(symbols: list[str]) -> tuple[dict[str, Bars], list[CorporateAction]]:
    """Walks on the sessions of the recorded stocks, and what happened to their shares."""
    random = np.random.default_rng(16)
    sessions = daily_stocks()["AAPL"].bars.ts[-SESSIONS:]
    days: list[date] = sessions.astype("datetime64[D]").tolist()
    earlier = random.integers(30, SESSIONS - 30, SPLITS - LAST_NIGHT).tolist()
    rows = [SESSIONS - 1] * LAST_NIGHT + earlier
    holders = random.permutation(symbols)[:SPLITS].tolist()
    actions = [
        CorporateAction(symbol, ActionKind.SPLIT, days[row], "polygon", ratio)
        for symbol, row, ratio in zip(holders, rows, RATIOS * 12, strict=True)
    ]
    splits = {action.symbol: [(action.effective_date, action.ratio or 1.0)] for action in actions}
    bars = {}
    for symbol in symbols:
        close = 100 * np.exp(np.cumsum(random.normal(0, 0.01, SESSIONS)))
        volume = np.floor(1e6 * random.lognormal(0, 0.2, SESSIONS))
        adjusted = Bars.of(sessions, close, close * 1.01, close * 0.99, close, volume)
        shares = Splits.of(splits.get(symbol, []), Timeframe.D1).shares(sessions)
        bars[symbol] = scaled(adjusted, 1 / shares)
    for n in range(DIVIDENDS):
        symbol = symbols[n % len(symbols)]
        day = days[int(random.integers(1, SESSIONS))]
        actions.append(
            CorporateAction(symbol, ActionKind.CASH_DIVIDEND, day, "polygon", amount=0.25)
        )
    return bars, actions


def run_night(db: Database, vendor: Vendor, now: datetime, symbols: int) -> None:
    queue = JobQueue(db)
    pipeline = EnrichmentPipeline(vendor, Warehouse(db), history_days=2_000, now=lambda: now)
    Commands(db).trigger(actor="benchmark")
    for _ in range(0, symbols, 100):
        tasks = queue.claim("w", 100)
        for task, enrich in zip(tasks, pipeline.prepare_batch(tasks), strict=True):
            enrich(task, lambda step: None)
    queue.close_finished_jobs()


def read_seconds(db: Database, symbols: list[str], adjustment: Adjustment) -> float:
    downloads = BarDownloads(db)
    began = time.perf_counter()
    for symbol in symbols:
        extent = downloads.extent(symbol, Timeframe.D1, adjustment=adjustment)
        for _ in downloads.chunks(extent, COLUMNS):
            pass
    return time.perf_counter() - began


def measure(db: Database, count: int) -> Iterator[Figure]:
    symbols = [f"S{n:04}" for n in range(count)]
    bars, actions = market(symbols)
    vendor = Vendor(bars)
    Commands(db).track([parse_tracked(s, "stock", "1d") for s in symbols], actor="benchmark")
    with db.begin() as conn:
        corporate_actions.record(conn, actions)
    ts = bars[symbols[0]].ts
    run_night(db, vendor, to_datetime(ts[-2]) + timedelta(days=1), count)
    before, asked = checksum(db, to_datetime(ts[-2])), vendor.requests
    run_night(db, vendor, to_datetime(ts[-1]) + timedelta(days=1), count)
    with db.begin() as conn:
        stored = conn.execute(text("SELECT count(*) FROM bars")).scalar_one()
        corrections = conn.execute(text("SELECT count(*) FROM data_corrections")).scalar_one()
    rewritten = checksum(db, to_datetime(ts[-2])) != before
    yield Figure("bars stored", stored, "", "≥", count * SESSIONS)
    requests = (vendor.requests - asked) / count
    yield Figure("requests a symbol on the night of the splits", requests, "", "≤", 1)
    yield Figure("corrections", corrections, "", "≤", 0)
    yield Figure("stored bars or features that it changed", float(rewritten), "", "≤", 0)
    chosen = symbols[:200]
    read_seconds(db, chosen, Adjustment.NONE)
    ratios: dict[Adjustment, list[float]] = {Adjustment.SPLIT: [], Adjustment.TOTAL: []}
    for _ in range(5):
        plain = read_seconds(db, chosen, Adjustment.NONE)
        for adjustment, found in ratios.items():
            found.append(read_seconds(db, chosen, adjustment) / plain)
    for adjustment, found in ratios.items():
        name = f"reading on the basis {adjustment}, against as traded"
        yield Figure(name, statistics.median(found), "x", "≤", 1.2)


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
