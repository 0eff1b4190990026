"""Nightly runs of the real pipeline, queue and warehouse on a vendor in memory."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import numpy as np
from sqlalchemy import text

from enrichment.domain.bars import Bars, to_datetime
from enrichment.domain.model import Task, Timeframe
from enrichment.domain.symbol_csv import parse_tracked
from enrichment.pipeline import features
from enrichment.pipeline.enrich import EnrichmentPipeline
from enrichment.services.commands import Commands
from enrichment.warehouse.database import Database
from enrichment.warehouse.queue.jobs import JobQueue
from enrichment.warehouse.read_models.quality_symbol import QualityReports
from enrichment.warehouse.series.warehouse import Warehouse
from tests.helpers.fakes import FakeVendor, recorded_bars


def quiet_bars(count: int = 900) -> Bars:
    """Recorded daily bars in which no check finds anything."""
    return recorded_bars().take(slice(1400, 1400 + count))


def after_split(bars: Bars) -> Bars:
    """The bars as a vendor restates them after a split of 2 for 1."""
    prices = {name: getattr(bars, name) * 0.5 for name in ("open", "high", "low", "close")}
    return replace(bars, **prices, volume=bars.volume * 2)


class NightlyRuns:
    """Runs one job after another, each on the evening of a chosen session."""

    def __init__(self, db: Database, bars: Bars, *symbols: str) -> None:
        self.db, self.vendor = db, FakeVendor(bars)
        self.symbols = symbols or ("AAPL",)
        self.now = to_datetime(bars.ts[-1])
        self.queue, self.commands = JobQueue(db), Commands(db)
        self.pipeline = EnrichmentPipeline(
            self.vendor, Warehouse(db), history_days=9000, now=lambda: self.now
        )
        self.commands.track([parse_tracked(s, "stock", "1d") for s in self.symbols], actor="test")

    def run_at(self, sessions: int, at: Bars | None = None) -> None:
        """Run a job on the night after the `sessions`-th of these bars (default: the vendor's)."""
        at = self.vendor.bars if at is None else at
        self.now = to_datetime(at.ts[sessions - 1]) + timedelta(days=1)
        self.commands.trigger(actor="test")
        tasks = self.claim()
        for task, enrich in zip(tasks, self.pipeline.prepare_batch(tasks), strict=True):
            enrich(task, lambda step: None)
        self.queue.close_finished_jobs()

    def claim(self) -> list[Task]:
        return self.queue.claim("w", len(self.symbols))

    def rows(self, query: str) -> list[tuple[object, ...]]:
        with self.db.begin() as conn:
            return [tuple(row) for row in conn.execute(text(query))]

    def bars(self, known_on: datetime | None = None) -> Bars:
        return QualityReports(self.db).bars("AAPL", Timeframe.D1, known_on=known_on)


def assert_stored(nights: NightlyRuns, expected: Bars) -> None:
    """The stored bars equal these, and the stored features one full computation, to 1e-9."""
    found = nights.bars()
    for name, column in expected.columns().items():
        np.testing.assert_array_equal(found.columns()[name], column, err_msg=name)
    computed = features.compute(expected)
    names = [n for n, f in features.FEATURES.items() if f.kind == "number"]
    stored = np.array(nights.rows(f"SELECT {', '.join(names)} FROM bars ORDER BY ts"), dtype=float)
    for name, column in zip(names, stored.T, strict=True):
        np.testing.assert_allclose(column, computed[name], rtol=1e-9, atol=1e-10, err_msg=name)
