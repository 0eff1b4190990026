"""A response that equals the stored bars is not validated again, with the same state as if it were.

A response with anything new, missing, restated or flagged is validated.
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

SKIPPING, VALIDATING = "AAPL", "MSFT"  # the first may skip validation, the second never does
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


class RecordingWarehouse(Warehouse):
    """Records what is written, and for which symbols further bars are read after the snapshot."""

    def __init__(self, db: Database) -> None:
        super().__init__(db)
        self.written: list[tuple[str, SeriesUpdate]] = []
        self.tails: list[str] = []

    def store_batch(self, batch: Sequence[FinishedItem]) -> list[object]:  # type: ignore[override]
        self.written += [(item.task.symbol, update) for item in batch for update in item.updates]
        return list(super().store_batch(batch))

    def read_tail(
        self, symbol: str, timeframe: Timeframe, since: datetime | None, lookback: int
    ) -> StoredTail:
        self.tails.append(symbol)
        return super().read_tail(symbol, timeframe, since, lookback)


class WithoutTails(Warehouse):
    """Reads snapshots without tails, so that every response is validated."""

    def read_snapshots(
        self, tasks: Sequence[Task], now: datetime
    ) -> Mapping[Task, Mapping[Timeframe, SeriesSnapshot]]:
        return {
            task: {timeframe: replace(one, tail=None) for timeframe, one in snapshots.items()}
            for task, snapshots in super().read_snapshots(tasks, now).items()
        }


class SwitchableVendor(FakeVendor):
    """The same bars with a chosen source and adjustment."""

    def __init__(self, bars: Bars) -> None:
        super().__init__(bars)
        self.source, self.adjusted = "memory", False

    def fetch(
        self, symbol: str, asset_class: AssetClass, timeframe: Timeframe, window: Window
    ) -> FetchedBars:
        fetched = super().fetch(symbol, asset_class, timeframe, window)
        return replace(fetched, source=self.source, adjusted=self.adjusted)


class Pair(NightlyRuns):
    """Two symbols with the same responses, one of which is validated in every run."""

    def __init__(self, db: Database, bars: Bars) -> None:
        super().__init__(db, bars, SKIPPING, VALIDATING)
        self.vendor = self.switchable = SwitchableVendor(bars)
        self.warehouse = RecordingWarehouse(db)
        self.use_history(9000)

    def use_history(self, history_days: int) -> None:
        self.pipeline, self.validating = (
            EnrichmentPipeline(
                self.vendor, warehouse, history_days=history_days, now=lambda: self.now
            )
            for warehouse in (self.warehouse, WithoutTails(self.db))
        )

    def run_at(self, sessions: int, at: Bars | None = None) -> None:
        super().run_at(sessions, quiet_bars() if at is None else at)

    def claim(self) -> list[Task]:
        tasks = super().claim()
        for task in tasks:
            if task.symbol == VALIDATING:
                self.validating.enrich(task)
        return [task for task in tasks if task.symbol == SKIPPING]

    def state(self, symbol: str) -> dict[str, list[tuple[object, ...]]]:
        return {
            table: self.rows(
                f"SELECT {columns} FROM {table} WHERE symbol = '{symbol}' ORDER BY {columns}"
            )
            for table, columns in _STATE.items()
        }

    @property
    def skipped(self) -> bool:
        """Whether the last run skipped validation where it may."""
        last = [update for symbol, update in self.warehouse.written if symbol == SKIPPING][-1]
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
    validated = pair.state(VALIDATING)
    for table, rows in pair.state(SKIPPING).items():
        assert rows == validated[table], table


def test_an_unchanged_response_is_not_validated_again(pair: Pair) -> None:
    pair.warehouse.tails.clear()
    pair.run_at(NIGHT)
    assert pair.skipped
    assert SKIPPING not in pair.warehouse.tails
    assert_same_state(pair)


def test_a_new_bar_is_validated_with_its_overlap(pair: Pair) -> None:
    pair.warehouse.tails.clear()
    pair.run_at(NIGHT + 1)
    assert not pair.skipped
    assert SKIPPING not in pair.warehouse.tails  # the tail of the snapshot was enough
    assert_same_state(pair)


def without(row: int) -> Callable[[Bars], Bars]:
    return lambda bars: bars.take(np.arange(len(bars)) != row)


def twice(row: int) -> Callable[[Bars], Bars]:
    return lambda bars: bars.take(np.sort(np.append(np.arange(len(bars)), row)))


def restated(row: int, **values: float) -> Callable[[Bars], Bars]:
    return lambda bars: changed(bars, row, **values)


@pytest.mark.parametrize(
    "change",
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
def test_a_changed_response_is_validated(pair: Pair, change: Callable[[Bars], Bars]) -> None:
    good = pair.vendor.bars
    pair.vendor.bars = change(good)
    pair.run_at(NIGHT)
    assert not pair.skipped
    assert_same_state(pair)
    pair.vendor.bars = good  # findings are dropped once the response is right
    for _ in range(2):
        pair.run_at(NIGHT)
        assert_same_state(pair)


@pytest.mark.parametrize(("source", "adjusted"), [("other", False), ("memory", True)])
def test_another_source_or_adjustment_is_validated(pair: Pair, source: str, adjusted: bool) -> None:
    pair.switchable.source, pair.switchable.adjusted = source, adjusted
    pair.run_at(NIGHT)
    assert not pair.skipped
    assert_same_state(pair)
    pair.run_at(NIGHT)
    assert pair.skipped is not adjusted  # bars of two bases are never taken for equal
    assert_same_state(pair)


def test_a_missing_session_of_the_overlap_is_fetched_each_night(db: Database) -> None:
    pair = Pair(db, without(NIGHT - 3)(quiet_bars()))
    for _ in range(2):
        pair.run_at(NIGHT)
        assert not pair.skipped
        assert_same_state(pair)


def test_a_longer_history_is_fetched(pair: Pair) -> None:
    pair.use_history(9500)
    pair.run_at(NIGHT)
    assert not pair.skipped
    assert_same_state(pair)


def test_a_flagged_bar_of_the_overlap_is_validated_each_night(db: Database) -> None:
    bars = quiet_bars()
    spike = float(bars.close[NIGHT - 3]) * 1.9
    pair = Pair(db, changed(bars, NIGHT - 3, close=spike, high=spike))
    for _ in range(2):
        pair.run_at(NIGHT)
        assert not pair.skipped
        assert pair.rows("SELECT count(*) FROM bar_flags WHERE check_name = 'outlier'") != [(0,)]
        assert_same_state(pair)
    pair.run_at(NIGHT + 12)
    pair.run_at(NIGHT + 12)
    assert pair.skipped  # the flag is older than the overlap by now
    assert_same_state(pair)
