"""Repairs of what vendors do not serve any more, and of series with bars of the sandbox."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from enrichment.domain.bars import to_datetime, to_datetime64
from enrichment.domain.damage import DamageKind, Finding
from enrichment.domain.errors import NoProvider, Snooze, StepFailed
from enrichment.domain.model import AssetClass, FetchedBars, Task, Timeframe, Window
from enrichment.domain.statuses import HistoryLimit
from enrichment.pipeline.enrich import EnrichmentPipeline
from enrichment.warehouse.database import Database
from enrichment.warehouse.read_models.damage import DamageReports
from enrichment.warehouse.series.warehouse import Warehouse
from tests.helpers.fakes import FakeVendor
from tests.helpers.nightly_runs import NightlyRuns, quiet_bars

SATURDAYS = (datetime(2007, 1, 6, tzinfo=UTC), datetime(2009, 1, 10, tzinfo=UTC))
SATURDAY_BARS = np.array([to_datetime64(saturday) for saturday in SATURDAYS])


class Vendor(FakeVendor):
    """Serves nothing before a time, under a name, perhaps as a fallback."""

    source, fallback = "first", False
    reach: datetime | None = None

    def fetch(
        self, symbol: str, asset_class: AssetClass, timeframe: Timeframe, window: Window
    ) -> FetchedBars:
        served = super().fetch(symbol, asset_class, timeframe, window)
        served = replace(served, source=self.source, fallback=self.fallback)
        if self.reach is None or self.reach <= window.start:
            return served
        from_, limit = min(self.reach, window.end), HistoryLimit.PLAN
        bars = served.bars.take(served.bars.ts >= to_datetime64(from_))
        return replace(served, bars=bars, served_from=from_, limit=limit)


class Repairs(NightlyRuns):
    """A daily series with bars on two Saturdays, 500 sessions apart."""

    def __init__(self, db: Database) -> None:
        bars = quiet_bars()
        super().__init__(db, bars)
        self.vendor: Vendor = Vendor(bars)
        self.pipeline = EnrichmentPipeline(
            self.vendor,
            Warehouse(db),
            history_days=1200,
            now=lambda: self.now,
            bars_per_chunk=200,
        )

    def damage(self) -> None:
        self.run_at(len(self.vendor.bars))
        for saturday in SATURDAYS:
            self.execute(
                "INSERT INTO bars (symbol, timeframe, ts, open, high, low, close, volume)"
                f" VALUES ('AAPL', '1d', '{saturday:%Y-%m-%d}', 5, 5, 5, 5, 0)"
            )
        self.execute("UPDATE enrichment_status SET bars = bars + 2")

    def execute(self, statement: str) -> None:
        with self.db.begin() as conn:
            conn.exec_driver_sql(statement)

    def find(self) -> list[Finding]:
        return DamageReports(self.db).find(now=self.now)

    def repair(self) -> Task:
        self.commands.repair(actor="test", reason="bars on Saturdays")
        (task,) = self.claim()
        self.pipeline.enrich(task)
        self.queue.close_finished_jobs()
        return task


@pytest.fixture
def repairs(db: Database) -> Repairs:
    return Repairs(db)


def test_what_is_not_served_any_more_stays_and_is_stated(repairs: Repairs) -> None:
    repairs.damage()
    (finding,) = repairs.find()
    assert (finding.kind, finding.count) == (DamageKind.OUTSIDE_SESSION, 2)
    before = repairs.bars()
    repairs.vendor.reach = reach = datetime(2008, 1, 2, tzinfo=UTC)
    repairs.repair()
    (finding,) = repairs.find()
    assert (finding.first, finding.last) == (SATURDAYS[0], SATURDAYS[0])
    assert finding.unserved_before == reach
    after = repairs.bars()
    removed = before.ts[before.missing_from(after)]
    assert [to_datetime(ts) for ts in removed] == [SATURDAYS[1]]
    assert repairs.rows("SELECT ts, close FROM bar_versions") == [(SATURDAYS[1], 5.0)]
    assert repairs.rows("SELECT bars FROM enrichment_status") == [(len(after),)]
    assert repairs.rows("SELECT state FROM enrichment_jobs WHERE kind = 'backfill'") == [
        ("completed",)
    ]
    repairs.vendor.reach = None
    repairs.repair()
    assert repairs.find() == []
    np.testing.assert_array_equal(repairs.bars().ts, np.setdiff1d(before.ts, SATURDAY_BARS))


def test_an_outage_of_the_series_vendor_is_waited_for(repairs: Repairs) -> None:
    repairs.damage()
    before = repairs.bars()
    repairs.vendor.source, repairs.vendor.fallback = "second", True
    repairs.commands.repair(actor="test", reason="bars on Saturdays")
    (task,) = repairs.claim()
    with pytest.raises(StepFailed) as failed:
        repairs.pipeline.enrich(task)
    assert isinstance(failed.value.__cause__, Snooze)
    np.testing.assert_array_equal(repairs.bars().ts, before.ts)
    repairs.queue.release(task)
    repairs.vendor.source, repairs.vendor.fallback = "first", False
    (task,) = repairs.claim()
    repairs.pipeline.enrich(task)
    assert repairs.find() == []


def test_an_interrupted_repair_continues_where_it_stopped(repairs: Repairs) -> None:
    repairs.damage()
    asked = len(repairs.vendor.windows)
    repairs.commands.repair(actor="test", reason="bars on Saturdays")
    (task,) = repairs.claim()

    class Interrupted(Exception):
        pass

    def stop(step: str) -> None:
        if step.startswith("fetch") and len(repairs.vendor.windows) == asked + 2:
            raise Interrupted

    with pytest.raises(Interrupted):
        repairs.pipeline.enrich(task, stop)
    done = repairs.vendor.windows[asked:]
    repairs.queue.release(task)
    (task,) = repairs.claim()
    repairs.pipeline.enrich(task)
    rest = repairs.vendor.windows[asked + 2 :]
    assert rest[0] == done[1]  # the second chunk was fetched and not stored
    assert repairs.find() == []


def test_bars_of_the_sandbox_are_replaced_by_real_ones(repairs: Repairs) -> None:
    real = repairs.vendor.bars
    overlap = np.arange(len(real)) >= 500  # equal in both, so that the change was not noticed
    simulated = replace(real, close=np.where(overlap, real.close, real.open))
    repairs.vendor.source, repairs.vendor.bars = "sandbox", simulated
    repairs.run_at(880)
    stored = len(repairs.bars())
    # An older version stored real bars after those of the sandbox, and did not compare them all.
    compared = to_datetime(real.ts[-1])
    repairs.execute(f"UPDATE enrichment_status SET source = 'first', compared_at = '{compared}'")
    repairs.vendor.source, repairs.vendor.bars = "first", real
    repairs.run_at(len(real))
    (finding,) = repairs.find()
    assert (finding.kind, finding.count) == (DamageKind.SANDBOX_BARS, stored)
    repairs.repair()
    assert repairs.find() == []
    after = repairs.bars()
    np.testing.assert_array_equal(after.close, real.take(np.isin(real.ts, after.ts)).close)
    assert repairs.rows("SELECT count(*) FROM bar_versions") == [(len(after),)]


def test_the_sandbox_does_not_repair_a_real_series(repairs: Repairs) -> None:
    repairs.vendor.source = "sandbox"
    repairs.run_at(880)
    repairs.execute("UPDATE enrichment_status SET source = 'first'")
    repairs.vendor.source = "first"
    repairs.run_at(len(repairs.vendor.bars))
    before = repairs.bars()
    repairs.vendor.source = "sandbox"
    with pytest.raises(StepFailed) as failed:
        repairs.repair()
    assert isinstance(failed.value.__cause__, NoProvider)
    np.testing.assert_array_equal(repairs.bars().close, before.close)


def test_the_plan_ends_now(repairs: Repairs) -> None:
    repairs.damage()
    (planned,) = repairs.commands.plan_repair().series
    assert planned.start == SATURDAYS[0] - timedelta(days=4)
    assert planned.end == SATURDAYS[1] + timedelta(days=1)
