"""Days on which the market moves: what is an outlier then, whatever the order of the symbols."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

import numpy as np
import pytest

from enrichment.domain.bars import Bars, to_datetime, to_datetime64
from enrichment.domain.model import AssetClass, FetchedBars, Task, Timeframe, Window
from enrichment.warehouse.database import Database
from tests.benchmarks.detection import CRASH, Market, simulated
from tests.helpers.nightly_runs import NightlyRuns

HISTORY, SESSION = 130, 121  # bars, and the number of sessions up to the day of the crash
ALONE = "S07"  # falls a day before the others


class MarketVendor:
    """Serves bars of each symbol."""

    def __init__(self, bars: dict[str, Bars]) -> None:
        self.of, self.bars = bars, next(iter(bars.values()))

    def fetch(
        self, symbol: str, asset_class: AssetClass, timeframe: Timeframe, window: Window
    ) -> FetchedBars:
        bars = self.of[symbol]
        bounds = bars.ts.searchsorted([to_datetime64(window.start), to_datetime64(window.end)])
        return FetchedBars(bars.take(slice(*bounds)), "memory", adjusted=False)

    def fetch_from_other(self, *_: object, excluding: str) -> None:
        return None


class MarketNights(NightlyRuns):
    """Nights of many symbols, which are enriched in a given order."""

    backwards = False

    def claim(self) -> list[Task]:
        tasks = sorted(super().claim(), key=lambda task: task.symbol)
        return tasks[::-1] if self.backwards else tasks

    def outliers(self, day: datetime) -> list[object]:
        rows = self.rows("SELECT symbol, ts FROM bar_flags WHERE check_name = 'outlier' ORDER BY 1")
        return [symbol for symbol, ts in rows if ts == day]


def fallen(count: int, by: float) -> dict[str, Bars]:
    """Symbol → bars of which the market falls at one, on the usual volume."""
    random = np.random.default_rng(5)
    market = Market.of(random).crashing(by)
    series = {}
    for number in range(count):
        whole = simulated(random, market)
        volume = whole.volume.copy()
        volume[CRASH - 1 : CRASH + 1] = np.median(volume[CRASH - 30 : CRASH - 1])
        first = CRASH + 1 - SESSION
        bars = replace(whole, volume=volume, trades=np.full(len(whole), np.nan))
        series[f"S{number:02}"] = bars.take(slice(first, first + HISTORY))
    return series


def alone(series: dict[str, Bars]) -> dict[str, Bars]:
    bars = series[ALONE]
    shifted = np.arange(len(bars)) >= SESSION - 2
    prices = {
        name: np.where(shifted, getattr(bars, name) * 0.75, getattr(bars, name))
        for name in ("open", "high", "low", "close")
    }
    return {**series, ALONE: replace(bars, **prices)}


def nights(db: Database, series: dict[str, Bars]) -> MarketNights:
    run = MarketNights(db, next(iter(series.values())), *series)
    vendor = MarketVendor(series)
    run.vendor.fetch = vendor.fetch  # type: ignore[method-assign]
    return run


@pytest.mark.parametrize("backwards", [False, True], ids=["forwards", "backwards"])
@pytest.mark.parametrize("sessions", [[SESSION - 2, SESSION, SESSION + 1], [HISTORY]])
def test_a_fall_of_all_is_no_outlier_and_that_of_one_is(
    db: Database, sessions: Sequence[int], backwards: bool
) -> None:
    series = alone(fallen(24, by=0.12))
    run = nights(db, series)
    run.backwards = backwards
    for session in sessions:
        run.run_at(session)
    day_before, day = (to_datetime(run.vendor.bars.ts[n]) for n in (SESSION - 2, SESSION - 1))
    assert run.outliers(day_before) == [ALONE]
    assert run.outliers(day) == []
    [(median, count)] = run.rows(
        f"SELECT median_return, series FROM market_returns WHERE ts = '{day.isoformat()}'"
    )
    close = np.array([bars.close[SESSION - 2 : SESSION] for bars in series.values()])
    expected = np.median(np.log(close[:, 1] / close[:, 0]))
    assert (median, count) == (pytest.approx(expected, abs=1e-12), 24)
    scores = run.rows(
        "SELECT symbol, quality_score, evidence -> 'objections' FROM enrichment_status"
    )
    assert {symbol for symbol, _, flags in scores if "outlier" in flags} == {ALONE}  # type: ignore[operator]
    assert run.rows(
        "SELECT count(*) FROM enrichment_status s JOIN data_quality_metrics m"
        " USING (symbol, timeframe) WHERE m.avg_quality_score <> s.quality_score"
        f" AND m.date = '{run.now.date()}'"
    ) == [(0,)]


def test_too_few_symbols_make_no_market(db: Database) -> None:
    run = nights(db, fallen(19, by=0.12))
    run.run_at(SESSION)
    day = to_datetime(run.vendor.bars.ts[SESSION - 1])
    assert len(run.outliers(day)) > 3
    assert run.rows("SELECT count(*) FROM market_returns") == [(0,)]


def test_symbols_that_join_later_explain_earlier_outliers(db: Database) -> None:
    series = fallen(24, by=0.12)
    run = nights(db, dict(list(series.items())[:10]))
    run.run_at(SESSION)
    day = to_datetime(run.vendor.bars.ts[SESSION - 1])
    assert len(run.outliers(day)) > 0
    rest = nights(db, series)
    rest.now += timedelta(days=1)
    rest.run_at(SESSION)
    assert rest.outliers(day) == []
