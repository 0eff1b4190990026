"""Where a vendor only says what is stored, a run judges nothing again: all stays as if it had, and
anything that is new, missing or in doubt is looked at in full.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

import numpy as np
import pytest

from enrichment.domain.bars import Bars
from enrichment.domain.model import AssetClass, FetchedBars, Task, Timeframe, Window
from enrichment.domain.series import SeriesSnapshot, SeriesUpdate, StoredTail
from enrichment.pipeline.enrich import EnrichmentPipeline
from enrichment.warehouse.database import Database
from enrichment.warehouse.series.warehouse import FinishedItem, Warehouse
from tests.helpers.fakes import FakeVendor
from tests.helpers.nightly_runs import NightlyRuns, after_split, quiet_bars

WATCHED, JUDGED = "AAPL", "MSFT"  # the first one may be passed over, the second is always judged
NIGHT = 700

_STATE = {
    "bars": "ts, open, high, low, close, volume, rsi_14, obv",
    "enrichment_status": "status, bars, first_ts, last_ts, history_from, source, adjusted,"
    " quality_score, reasons::text, evidence::text",
    "bar_flags": "ts, check_name, severity, detail",
    "bar_gaps": "ts, attempts, cause, error, resolved_at IS NULL, resolution",
    "bar_quarantine": "ts, check_name, bar::text",
    "data_corrections": "ts, field, old_value, new_value, reason",
    "data_quality_metrics": "date, total_records, validated_records, gaps_detected,"
    " anomalies_detected, avg_quality_score, status",
    "enrichment_compute_log": "bars, quality_score",
    "enrichment_fetch_log": "success, source, bars, window_start, window_end, adjusted",
}


class Watched(Warehouse):
    """Notes what was written, and how often bars were read beside what was read ahead."""

    def __init__(self, db: Database) -> None:
        super().__init__(db)
        self.written: list[tuple[str, SeriesUpdate]] = []
        self.tails: list[str] = []

    def store_batch(self, batch: Sequence[FinishedItem]) -> list[object]:  # type: ignore[override]
        self.written += [(done.task.symbol, series) for done in batch for series in done.updates]
        return list(super().store_batch(batch))

    def read_tail(
        self, symbol: str, timeframe: Timeframe, since: datetime | None, lookback: int
    ) -> StoredTail:
        self.tails.append(symbol)
        return super().read_tail(symbol, timeframe, since, lookback)


class Thorough(Warehouse):
    """Reads no bars ahead, so that every answer is judged."""

    def read_snapshots(
        self, tasks: Sequence[Task], now: datetime
    ) -> Mapping[Task, Mapping[Timeframe, SeriesSnapshot]]:
        return {
            task: {timeframe: replace(found, tail=None) for timeframe, found in known.items()}
            for task, known in super().read_snapshots(tasks, now).items()
        }


class Renamed(FakeVendor):
    """The same bars under another name, or adjusted otherwise."""

    def __init__(self, bars: Bars) -> None:
        super().__init__(bars)
        self.source, self.adjusted = "memory", False

    def fetch(
        self, symbol: str, asset_class: AssetClass, timeframe: Timeframe, window: Window
    ) -> FetchedBars:
        found = super().fetch(symbol, asset_class, timeframe, window)
        return replace(found, source=self.source, adjusted=self.adjusted)


class Pair(NightlyRuns):
    """Two symbols with one vendor's same answers."""

    def __init__(self, db: Database, bars: Bars) -> None:
        super().__init__(db, bars, WATCHED, JUDGED)
        self.vendor = self.renamed = Renamed(bars)
        self.warehouse = Watched(db)
        self.asking(9000)

    def asking(self, history_days: int) -> None:
        self.pipeline, self.thorough = (
            EnrichmentPipeline(
                self.vendor, warehouse, history_days=history_days, now=lambda: self.now
            )
            for warehouse in (self.warehouse, Thorough(self.db))
        )

    def run_at(self, sessions: int, at: Bars | None = None) -> None:
        super().run_at(sessions, quiet_bars() if at is None else at)

    def claimed(self) -> list[Task]:
        tasks = super().claim()
        for task in tasks:
            if task.symbol == JUDGED:
                self.thorough.enrich(task)
        return [task for task in tasks if task.symbol == WATCHED]

    def state(self, symbol: str) -> dict[str, list[tuple[object, ...]]]:
        return {
            table: self.rows(
                f"SELECT {columns} FROM {table} WHERE symbol = '{symbol}' ORDER BY {columns}"
            )
            for table, columns in _STATE.items()
        }

    @property
    def passed_over(self) -> bool:
        """Whether the last run of the one that may be passed over judged nothing again."""
        last = [series for symbol, series in self.warehouse.written if symbol == WATCHED][-1]
        return last.fetches[0].unchanged


@pytest.fixture
def pair(db: Database) -> Pair:
    pair = Pair(db, quiet_bars())
    pair.run_at(NIGHT)
    return pair


def changed(bars: Bars, row: int, **values: float) -> Bars:
    columns = bars.columns()
    for name, value in values.items():
        columns[name] = columns[name].copy()
        columns[name][row] = value
    return Bars(**columns)


def assert_same_state(pair: Pair) -> None:
    judged = pair.state(JUDGED)
    for table, rows in pair.state(WATCHED).items():
        assert rows == judged[table], table


def test_what_is_stored_is_not_judged_again(pair: Pair) -> None:
    pair.warehouse.tails.clear()
    pair.run_at(NIGHT)
    assert pair.passed_over
    assert WATCHED not in pair.warehouse.tails
    assert_same_state(pair)


def test_a_new_bar_is_judged_with_its_overlap(pair: Pair) -> None:
    pair.warehouse.tails.clear()
    pair.run_at(NIGHT + 1)
    assert not pair.passed_over
    assert WATCHED not in pair.warehouse.tails  # what was read ahead was enough
    assert_same_state(pair)


def without(row: int) -> Callable[[Bars], Bars]:
    return lambda bars: bars.take(np.arange(len(bars)) != row)


def twice(row: int) -> Callable[[Bars], Bars]:
    return lambda bars: bars.take(np.sort(np.append(np.arange(len(bars)), row)))


def restated(row: int, **values: float) -> Callable[[Bars], Bars]:
    return lambda bars: changed(bars, row, **values)


@pytest.mark.parametrize(
    "answer",
    [
        restated(NIGHT - 3, volume=12_345.0),
        restated(NIGHT - 1, close=float(quiet_bars().high[NIGHT - 1])),
        restated(NIGHT - 2, low=-1.0),
        without(NIGHT - 4),
        without(NIGHT - 1),
        twice(NIGHT - 2),
        after_split,
    ],
    ids=["volume", "close", "bad", "lost", "newest-lost", "twice", "split"],
)
def test_whatever_else_is_answered_is_judged(pair: Pair, answer: Callable[[Bars], Bars]) -> None:
    good = pair.vendor.bars
    pair.vendor.bars = answer(good)
    pair.run_at(NIGHT)
    assert not pair.passed_over
    assert_same_state(pair)
    pair.vendor.bars = good  # and what was found is dropped when it is mended
    for _ in range(2):
        pair.run_at(NIGHT)
        assert_same_state(pair)


@pytest.mark.parametrize(("source", "adjusted"), [("other", False), ("memory", True)])
def test_another_source_or_basis_is_judged(pair: Pair, source: str, adjusted: bool) -> None:
    pair.renamed.source, pair.renamed.adjusted = source, adjusted
    pair.run_at(NIGHT)
    assert not pair.passed_over
    assert_same_state(pair)
    pair.run_at(NIGHT)
    assert pair.passed_over
    assert_same_state(pair)


def test_a_missing_session_of_the_overlap_is_looked_for_each_night(db: Database) -> None:
    pair = Pair(db, without(NIGHT - 3)(quiet_bars()))
    for _ in range(2):
        pair.run_at(NIGHT)
        assert not pair.passed_over
        assert_same_state(pair)


def test_a_longer_history_is_asked_for(pair: Pair) -> None:
    pair.asking(9500)
    pair.run_at(NIGHT)
    assert not pair.passed_over
    assert_same_state(pair)


def test_an_outlier_of_the_overlap_stays_in_doubt(db: Database) -> None:
    bars = quiet_bars()
    spike = float(bars.close[NIGHT - 3]) * 1.9
    pair = Pair(db, changed(bars, NIGHT - 3, close=spike, high=spike))
    for _ in range(2):
        pair.run_at(NIGHT)
        assert not pair.passed_over
        assert pair.rows("SELECT count(*) FROM bar_flags WHERE check_name = 'outlier'") != [(0,)]
        assert_same_state(pair)
    pair.run_at(NIGHT + 12)
    pair.run_at(NIGHT + 12)
    assert pair.passed_over  # the doubt lies behind the overlap by now
    assert_same_state(pair)
