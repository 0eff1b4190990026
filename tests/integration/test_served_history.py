"""What is wanted but not served stays wanted: outages, fallbacks of short reach, plans."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from sqlalchemy import text

from enrichment.domain.bars import to_datetime, to_datetime64
from enrichment.domain.damage import DamageKind
from enrichment.domain.errors import ProviderUnavailable, StepFailed
from enrichment.domain.model import AssetClass, FetchedBars, Timeframe, Window
from enrichment.domain.statuses import HistoryLimit
from enrichment.pipeline.enrich import EnrichmentPipeline
from enrichment.vendors.canonical import CanonicalProvider
from enrichment.vendors.failover import Failover
from enrichment.warehouse.database import Database
from enrichment.warehouse.read_models.damage import DamageReports
from enrichment.warehouse.read_models.facade import ReadModels
from enrichment.warehouse.read_models.quality_symbol import QualityReports, SeriesReport
from enrichment.warehouse.series.warehouse import Warehouse
from tests.helpers.fakes import FakeVendor, recorded_bars
from tests.helpers.nightly_runs import NightlyRuns

YEAR = timedelta(days=365)
HISTORY = 3 * YEAR


class Vendor(FakeVendor):
    """Cuts what is older than its reach without a word, and refuses windows wholly beyond it."""

    def __init__(self, name: str, nights: NightlyRuns, reach: timedelta | None = None) -> None:
        super().__init__(recorded_bars())
        self.name = self.source = name
        self.nights, self.reach, self.down = nights, reach, False

    def fetch(
        self, symbol: str, asset_class: AssetClass, timeframe: Timeframe, window: Window
    ) -> FetchedBars:
        if self.down:
            self.windows.append(window)
            raise ProviderUnavailable("answered 503")
        start = window.start if self.reach is None else self.nights.now - self.reach
        if start >= window.end:
            self.windows.append(window)
            limit, nothing = HistoryLimit.PLAN, self.bars.take(slice(0, 0))
            return FetchedBars(nothing, self.name, True, served_from=window.end, limit=limit)
        asked = Window(max(start, window.start), window.end)
        served = super().fetch(symbol, asset_class, timeframe, asked)
        return FetchedBars(served.bars, self.name, adjusted=True)


class Nights(NightlyRuns):
    """Nightly runs on vendors in an order of failover."""

    def use(self, *vendors: Vendor, chunk: int = 10_000) -> None:
        providers = {v.name: CanonicalProvider(v, now=lambda: self.now) for v in vendors}
        self.pipeline = EnrichmentPipeline(
            Failover(providers, lambda _: tuple(providers)),
            Warehouse(self.db),
            history_days=HISTORY.days,
            now=lambda: self.now,
            bars_per_chunk=chunk,
        )

    @property
    def report(self) -> SeriesReport:
        (report,) = QualityReports(self.db).of("AAPL") or []
        return report

    @property
    def fallback_share(self) -> float | None:
        models = ReadModels(self.db)
        return models.metrics().data_quality.fallback_share

    @property
    def history(self) -> list[str]:
        return [d.observed for d in self.report.deductions if d.check == "history"]

    @property
    def points(self) -> dict[str, float]:
        """Points that the source of the bars costs, by check."""
        checks = ("fallback", "currency", "history")
        return {d.check: d.points for d in self.report.deductions if d.check in checks}

    @property
    def unproven(self) -> int:
        """Gaps of which nobody could know that there were no trades."""
        found = DamageReports(self.db).find(now=self.now)
        return sum(f.count for f in found if f.kind is DamageKind.UNPROVEN_NO_TRADES)

    def assert_complete_from(self, start: datetime) -> None:
        bars = recorded_bars()
        expected = (bars.ts >= to_datetime64(start)) & (bars.ts < to_datetime64(self.now))
        np.testing.assert_array_equal(self.bars().ts, bars.ts[expected])


@pytest.fixture
def nights(db: Database) -> Nights:
    return Nights(db, recorded_bars())


def night_of(session: int) -> datetime:
    """When `run_at` runs."""
    return to_datetime(recorded_bars().ts[session - 1]) + timedelta(days=1)


def midnight(moment: datetime) -> datetime:
    return moment.replace(hour=0, minute=0, second=0, microsecond=0)


def test_an_outage_of_the_first_vendor_is_made_good_by_itself(nights: Nights) -> None:
    first, second = Vendor("first", nights), Vendor("second", nights, timedelta(days=60))
    nights.use(first, second)
    first.down = True
    for session in (3000, 3001):
        nights.run_at(session)
        wanted = night_of(3000) - HISTORY
        served = to_datetime(nights.bars().ts[0])
        assert served > nights.now - timedelta(days=65)
        assert (nights.report.source, nights.report.fallback) == ("second", True)
        assert nights.fallback_share == 1.0
        assert nights.points == {"fallback": 0.01, "history": 0.02}
        assert nights.report.score == pytest.approx(0.97)
        assert nights.history == [
            f"asked from {wanted:%Y-%m-%d}, served from {served:%Y-%m-%d},"
            f" {(served - wanted) / (nights.now - wanted):.1%} less: unknown, to be asked for"
            " again, second served as a fallback"
        ]
        assert (nights.report.wanted_from, nights.report.served_from) == (wanted, served)
    first.down = False
    nights.run_at(3002)
    nights.assert_complete_from(wanted)
    assert nights.history == []
    assert nights.points == {}
    assert nights.fallback_share == 0.0
    first_range, second_range = nights.report.served_by
    assert (first_range.source, first_range.start) == ("first", wanted)
    assert (second_range.source, second_range.end) == ("second", night_of(3001))
    asked = len(first.windows)
    nights.run_at(3003)
    assert len(first.windows) == asked + 1
    nights.assert_complete_from(wanted)


def test_what_a_plan_does_not_reach_is_stated_and_asked_for_once_a_month(nights: Nights) -> None:
    first = Vendor("first", nights, 2 * YEAR)
    nights.use(first)
    nights.run_at(3000)
    served = to_datetime(nights.bars().ts[0])
    wanted = midnight(nights.now) - HISTORY
    stated = [
        f"asked from {wanted:%Y-%m-%d}, served from {served:%Y-%m-%d}, 33.3% less: the plan's reach"
    ]
    assert nights.history == stated
    assert nights.rows("SELECT reasons[1] LIKE '%reach (full marks: %' FROM enrichment_status") == [
        (True,)
    ]
    assert nights.report.history_limit == "plan"
    asked = len(first.windows)
    nights.run_at(3001)
    assert len(first.windows) == asked + 1
    with nights.db.begin() as conn:
        conn.execute(
            text("UPDATE enrichment_status SET history_checked_at = now() - '31 d'::interval")
        )
    nights.run_at(3002)
    assert first.windows[-1] == Window(wanted, served)
    assert nights.history == stated
    asked = len(first.windows)
    nights.run_at(3003)
    assert len(first.windows) == asked + 1


def test_a_backfill_beyond_the_plan_says_what_was_served(nights: Nights) -> None:
    first = Vendor("first", nights, 2 * YEAR)
    nights.use(first, chunk=250)
    nights.run_at(3000)
    served = to_datetime(nights.bars().ts[0])
    asked, start = len(first.windows), datetime(2000, 1, 1, tzinfo=UTC)
    nights.commands.backfill(["AAPL"], start, nights.now, actor="test")
    (task,) = nights.claim()
    nights.pipeline.enrich(task)
    nights.queue.close_finished_jobs()
    assert nights.rows("SELECT state FROM enrichment_jobs WHERE kind = 'backfill'") == [
        ("completed",)
    ]
    assert nights.history == [
        f"asked from 2000-01-01, served from {served:%Y-%m-%d}, 83.5% less: the plan's reach"
    ]
    assert len(first.windows) - asked <= 5  # none of the chunks that are older still
    asked = len(first.windows)
    nights.run_at(3001)
    assert len(first.windows) == asked + 1


def test_a_gap_closed_for_want_of_trades_is_fetched_once_more(nights: Nights) -> None:
    rows = np.arange(len(recorded_bars()))
    thin = recorded_bars().take(np.flatnonzero((rows % 3 != 1) | (rows > 2900)))
    first, second = Vendor("first", nights), Vendor("second", nights)
    first.bars = second.bars = thin
    nights.use(first, second)
    nights.run_at(3000, recorded_bars())
    ledger = "SELECT DISTINCT resolution, extract(day FROM next_try_at - tried_at) FROM bar_gaps"
    nights.run_at(3001, recorded_bars())
    assert nights.rows(ledger) == [("no_trades", 30)]
    assert nights.unproven == 0
    with nights.db.begin() as conn:  # as if the second vendor had not been asked
        asked_one = "UPDATE enrichment_fetch_log SET requests = {} WHERE source = 'second'"
        conn.execute(text(asked_one.format(0)))
    assert nights.unproven == nights.rows("SELECT count(*) FROM bar_gaps")[0][0]
    with nights.db.begin() as conn:
        conn.execute(text(asked_one.format(1)))
    asked = len(first.windows)
    nights.run_at(3002, recorded_bars())
    assert len(first.windows) == asked + 1
    with nights.db.begin() as conn:
        conn.execute(text("UPDATE bar_gaps SET next_try_at = now()"))
    filled = nights.rows("SELECT max(ts) FROM bar_gaps")[0][0]
    assert isinstance(filled, datetime)
    here = recorded_bars().ts == to_datetime64(filled)
    second.bars = recorded_bars().take(np.flatnonzero((rows % 3 != 1) | (rows > 2900) | here))
    nights.run_at(3003, recorded_bars())
    assert nights.rows("SELECT ts FROM bar_gaps WHERE resolution = 'filled'") == [(filled,)]
    assert nights.rows(
        "SELECT DISTINCT resolution, next_try_at::text FROM bar_gaps WHERE resolution <> 'filled'"
    ) == [("no_trades", "infinity")]
    asked = len(first.windows)
    nights.run_at(3004, recorded_bars())
    assert len(first.windows) == asked + 1


def test_real_bars_never_join_those_of_the_sandbox(nights: Nights) -> None:
    sandbox, real = Vendor("sandbox:yahoo", nights), Vendor("yahoo", nights)
    simulated = recorded_bars()
    simulated.close[:] = simulated.open
    sandbox.bars = simulated
    nights.use(sandbox)
    nights.run_at(3000)
    known_on = nights.rows("SELECT clock_timestamp()")[0][0]
    before = nights.report.bars
    nights.use(real)
    nights.run_at(3001)
    bars = nights.bars()
    expected = recorded_bars().take(np.isin(recorded_bars().ts, bars.ts))
    np.testing.assert_array_equal(bars.close, expected.close)
    nights.assert_complete_from(nights.report.wanted_from or nights.now)
    assert (nights.report.source, nights.report.bars) == ("yahoo", len(bars))
    assert nights.rows("SELECT reason, field, old_value, source FROM data_corrections") == [
        ("sandbox_replaced", "bars", before, "yahoo")
    ]
    assert isinstance(known_on, datetime)
    assert len(nights.bars(known_on)) == before
    nights.run_at(3002)
    assert len(nights.rows("SELECT 1 FROM data_corrections")) == 1


def test_the_sandbox_is_not_stored_beside_real_bars(nights: Nights) -> None:
    nights.use(Vendor("yahoo", nights))
    nights.run_at(3000)
    stored = nights.report.bars
    nights.use(Vendor("sandbox:yahoo", nights))
    with pytest.raises(StepFailed) as raised:
        nights.run_at(3001)
    assert "ENRICHMENT_SANDBOX=false" in str(raised.value.__cause__)
    assert (nights.report.source, nights.report.bars) == ("yahoo", stored)
