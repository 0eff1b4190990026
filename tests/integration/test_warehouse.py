"""Storing a series on real Postgres: everything in one transaction, nothing twice, nothing lost."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from sqlalchemy import text

from enrichment.domain.bars import Bars
from enrichment.domain.errors import LeaseLost
from enrichment.domain.model import (
    FetchedBars,
    Flag,
    Quality,
    QuarantinedBar,
    Severity,
    Task,
    Timeframe,
    ValidationResult,
    Window,
)
from enrichment.domain.series import FetchResult, Gap, QualityInputs, SeriesUpdate
from enrichment.services.commands import Commands, parse_tracked
from enrichment.warehouse.database import Database
from enrichment.warehouse.queue.jobs import JobQueue
from enrichment.warehouse.series.warehouse import Warehouse

START = datetime(2026, 1, 5, tzinfo=UTC)
EVIDENCE = QualityInputs(30, 0, 30, 600, 0, 0)
SCORE = Quality(0.97, 1.0, 1.0, 0.85, 1.0, "healthy", ("something small",))


def bars(days: int, *, first: int = 0, close: float = 100.0) -> Bars:
    ts = np.datetime64("2026-01-05", "us") + np.arange(first, first + days) * np.timedelta64(1, "D")
    base = close + np.arange(first, first + days, dtype=float)
    return Bars.of(ts, base, base + 1, base - 1, base + 0.5, base * 1000)


WINDOW = Window(START, START + timedelta(days=400))


def enriched(
    found: Bars, *, checked: ValidationResult | None = None, **changes: object
) -> SeriesUpdate:
    fetched = FetchedBars(found, "sandbox", adjusted=False)
    result = SeriesUpdate(
        timeframe=Timeframe.D1,
        fetches=[FetchResult(WINDOW, fetched, 12.0, checked or ValidationResult(found))],
        bars=found,
        features={
            "sma_20": np.where(np.arange(len(found)) < 3, np.nan, found.close),
            "trend_direction": np.array([None, *["up"] * (len(found) - 1)], dtype=object),
        },
        compute_ms=3.0,
        flags=[],
        gaps=[],
        quality=SCORE,
        quality_inputs=EVIDENCE,
        history_from=START,
    )
    return replace(result, **changes)  # type: ignore[arg-type]  # fields by name


def claim(db: Database, symbol: str = "AAPL") -> Task:
    commands = Commands(db)
    commands.track([parse_tracked(symbol, "stock", "1d")], actor="test")
    commands.trigger(actor="test", symbols=[symbol])
    (task,) = JobQueue(db).claim("w", 1)
    return task


def table(db: Database, query: str) -> list[tuple[object, ...]]:
    with db.begin() as conn:
        return [tuple(row) for row in conn.execute(text(query))]


def test_bars_features_logs_quality_and_completion_arrive_together(db: Database) -> None:
    task = claim(db)
    written = Warehouse(db).commit(task, [enriched(bars(30))])
    assert (written.inserted, written.updated) == (30, 0)
    rows = table(
        db, "SELECT ts, open, close, volume, vwap, sma_20, trend_direction FROM bars ORDER BY ts"
    )
    assert rows[0] == (START, 100.0, 100.5, 100_000.0, None, None, None)
    assert rows[29][1:] == (129.0, 129.5, 129_000.0, None, 129.5, "up")
    assert table(db, "SELECT success, bars FROM enrichment_fetch_log") == [(True, 30)]
    assert table(db, "SELECT success, bars, features FROM enrichment_compute_log") == [
        (True, 30, 2)
    ]
    assert table(db, "SELECT status, inserted FROM enrichment_job_items") == [("completed", 30)]
    assert table(db, "SELECT status, bars, quality_score FROM enrichment_status") == [
        ("healthy", 30, 0.97)
    ]
    assert table(db, "SELECT avg_quality_score, reasons FROM data_quality_metrics") == [
        (0.97, ["something small"])
    ]


def test_a_task_without_its_lease_writes_nothing(db: Database) -> None:
    task = claim(db)
    with pytest.raises(LeaseLost):
        Warehouse(db).commit(replace(task, fence=task.fence + 1), [enriched(bars(30))])
    for name in ("bars", "enrichment_fetch_log", "enrichment_status", "data_quality_metrics"):
        assert table(db, f"SELECT count(*) FROM {name}") == [(0,)]


def test_appending_and_restating(db: Database) -> None:
    warehouse = Warehouse(db)
    warehouse.commit(claim(db), [enriched(bars(30))])
    more = warehouse.commit(claim(db), [enriched(bars(5, first=30))])
    assert (more.inserted, more.updated) == (5, 0)
    restated = bars(10, first=30)
    restated.close[0] = 77.0
    restated.volume[0] = np.nan_to_num(restated.volume[0]) + 1
    third = warehouse.commit(claim(db), [enriched(restated)])
    assert (third.inserted, third.updated) == (5, 5)
    assert table(db, "SELECT count(*), count(DISTINCT ts) FROM bars") == [(40, 40)]
    corrections = table(
        db, "SELECT field, old_value, new_value, reason FROM data_corrections ORDER BY field"
    )
    assert corrections == [
        ("close", 130.5, 77.0, "source_updated"),
        ("volume", 130_000.0, 130_001.0, "source_updated"),
    ]
    assert table(db, "SELECT bars FROM enrichment_status") == [(40,)]


def test_bars_of_one_symbol_leave_those_of_another_alone(db: Database) -> None:
    warehouse = Warehouse(db)
    warehouse.commit(claim(db, "AAPL"), [enriched(bars(10))])
    warehouse.commit(claim(db, "MSFT"), [enriched(bars(10, close=50.0))])
    warehouse.commit(claim(db, "AAPL"), [enriched(bars(12, close=90.0))])
    assert table(db, "SELECT min(open) FROM bars WHERE symbol = 'MSFT'") == [(50.0,)]
    assert table(db, "SELECT count(*) FROM bars WHERE symbol = 'AAPL'") == [(12,)]


def test_what_is_stored_is_read_back(db: Database) -> None:
    warehouse = Warehouse(db)
    gap = START + timedelta(days=40)
    found = enriched(bars(30), gaps=[Gap(gap)])
    warehouse.commit(claim(db), [found])
    known = warehouse.snapshot("AAPL", Timeframe.D1)
    assert (known.bars, known.first_ts, known.history_from) == (30, START, START)
    assert (known.source, known.adjusted) == ("sandbox", False)
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
    first = enriched(bars(30), checked=checked, flags=[flag], gaps=[Gap(bad)])
    for _ in range(2):
        warehouse.commit(claim(db), [first])
    assert warehouse.snapshot("AAPL", Timeframe.D1).flagged == {(bad, "ohlc")}
    assert table(db, "SELECT check_name, severity FROM bar_flags") == [("ohlc", "error")]
    assert table(db, "SELECT check_name, bar->>'high', bar->>'open' FROM bar_quarantine") == [
        ("ohlc", "1.0", None)
    ]
    assert table(db, "SELECT attempts, resolved_at FROM bar_gaps") == [(2, None)]
    warehouse.commit(claim(db), [enriched(bars(30))])
    assert table(db, "SELECT count(*) FROM bar_flags") == [(0,)]
    assert table(db, "SELECT count(*) FROM bar_gaps WHERE resolved_at IS NULL") == [(0,)]
    assert table(db, "SELECT resolution FROM bar_gaps") == [("filled",)]
