"""Storing a series on real Postgres: everything in one transaction, nothing twice, nothing lost."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest

from enrichment.domain.errors import LeaseLost
from enrichment.domain.model import Flag, QuarantinedBar, Severity, Timeframe, ValidationResult
from enrichment.domain.series import Gap
from enrichment.warehouse.database import Database
from enrichment.warehouse.series.warehouse import Warehouse
from tests.helpers.series_updates import START, bars, claim, rows, series_update


def test_bars_features_logs_quality_and_completion_arrive_together(db: Database) -> None:
    task = claim(db)
    written = Warehouse(db).commit(task, [series_update(bars(30))])
    assert (written.inserted, written.updated) == (30, 0)
    stored = rows(
        db, "SELECT ts, open, close, volume, vwap, sma_20, trend_direction FROM bars ORDER BY ts"
    )
    assert stored[0] == (START, 100.0, 100.5, 100_000.0, None, None, None)
    assert stored[29][1:] == (129.0, 129.5, 129_000.0, None, 129.5, "up")
    assert rows(db, "SELECT success, bars FROM enrichment_fetch_log") == [(True, 30)]
    assert rows(db, "SELECT success, bars, features FROM enrichment_compute_log") == [(True, 30, 2)]
    assert rows(db, "SELECT status, inserted FROM enrichment_job_items") == [("completed", 30)]
    assert rows(db, "SELECT status, bars, quality_score FROM enrichment_status") == [
        ("healthy", 30, 0.97)
    ]
    assert rows(db, "SELECT avg_quality_score, reasons FROM data_quality_metrics") == [
        (0.97, ["something small"])
    ]


def test_a_task_without_its_lease_writes_nothing(db: Database) -> None:
    task = claim(db)
    with pytest.raises(LeaseLost):
        Warehouse(db).commit(replace(task, fence=task.fence + 1), [series_update(bars(30))])
    for name in ("bars", "enrichment_fetch_log", "enrichment_status", "data_quality_metrics"):
        assert rows(db, f"SELECT count(*) FROM {name}") == [(0,)]


def test_appending_and_restating(db: Database) -> None:
    warehouse = Warehouse(db)
    warehouse.commit(claim(db), [series_update(bars(30))])
    more = warehouse.commit(claim(db), [series_update(bars(5, first=30))])
    assert (more.inserted, more.updated) == (5, 0)
    restated = bars(10, first=30)
    restated.close[0] = 77.0
    restated.volume[0] = np.nan_to_num(restated.volume[0]) + 1
    third = warehouse.commit(claim(db), [series_update(restated)])
    assert (third.inserted, third.updated) == (5, 5)
    assert rows(db, "SELECT count(*), count(DISTINCT ts) FROM bars") == [(40, 40)]
    corrections = rows(
        db, "SELECT field, old_value, new_value, reason FROM data_corrections ORDER BY field"
    )
    assert corrections == [
        ("close", 130.5, 77.0, "source_updated"),
        ("volume", 130_000.0, 130_001.0, "source_updated"),
    ]
    assert rows(db, "SELECT bars FROM enrichment_status") == [(40,)]


def test_bars_of_one_symbol_leave_those_of_another_alone(db: Database) -> None:
    warehouse = Warehouse(db)
    warehouse.commit(claim(db, "AAPL"), [series_update(bars(10))])
    warehouse.commit(claim(db, "MSFT"), [series_update(bars(10, close=50.0))])
    warehouse.commit(claim(db, "AAPL"), [series_update(bars(12, close=90.0))])
    assert rows(db, "SELECT min(open) FROM bars WHERE symbol = 'MSFT'") == [(50.0,)]
    assert rows(db, "SELECT count(*) FROM bars WHERE symbol = 'AAPL'") == [(12,)]


def test_what_is_stored_is_read_back(db: Database) -> None:
    warehouse = Warehouse(db)
    gap = START + timedelta(days=40)
    found = series_update(bars(30), gaps=[Gap(gap)])
    warehouse.commit(claim(db), [found])
    known = warehouse.snapshot("AAPL", Timeframe.D1)
    assert (known.bars, known.first_ts, known.history_from) == (30, START, START)
    assert (known.source, known.adjusted_until) == ("sandbox", None)
    assert known.overlap_from == START + timedelta(days=20)
    assert known.gaps.tolist() == known.gaps_due.tolist() == [gap.replace(tzinfo=None)]
    tail = warehouse.read_tail("AAPL", Timeframe.D1, known.overlap_from, 5).bars
    np.testing.assert_array_equal(tail.close, found.bars.close[-15:])
    assert np.isnan(tail.vwap).all()
    assert len(warehouse.read_tail("AAPL", Timeframe.D1, None, 5).bars) == 30
    assert len(warehouse.read_tail("AAPL", Timeframe.H1, START, 5).bars) == 0
    assert warehouse.snapshot("AAPL", Timeframe.H1).bars == 0


def test_findings_follow_the_window(db: Database) -> None:
    warehouse = Warehouse(db)
    bad = START + timedelta(days=3)
    flag = Flag(bad, "ohlc", Severity.ERROR, "high 1 below low 2")
    kept = QuarantinedBar(
        bad, "ohlc", "high 1 below low 2", {"high": 1.0, "low": 2.0, "open": None}
    )
    checked = ValidationResult(bars(30), (flag,), (kept,))
    first = series_update(bars(30), validation=checked, flags=[flag], gaps=[Gap(bad)])
    for _ in range(2):
        warehouse.commit(claim(db), [first])
    assert warehouse.snapshot("AAPL", Timeframe.D1).flagged == {(bad, "ohlc")}
    assert rows(db, "SELECT check_name, severity FROM bar_flags") == [("ohlc", "error")]
    assert rows(db, "SELECT check_name, bar->>'high', bar->>'open' FROM bar_quarantine") == [
        ("ohlc", "1.0", None)
    ]
    assert rows(db, "SELECT attempts, resolved_at FROM bar_gaps") == [(2, None)]
    warehouse.commit(claim(db), [series_update(bars(30))])
    assert rows(db, "SELECT count(*) FROM bar_flags") == [(0,)]
    assert rows(db, "SELECT count(*) FROM bar_gaps WHERE resolved_at IS NULL") == [(0,)]
    assert rows(db, "SELECT resolution FROM bar_gaps") == [("filled",)]
