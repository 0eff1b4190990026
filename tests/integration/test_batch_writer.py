"""Group commit: items share a transaction, and a failing item fails alone."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np

from enrichment.domain.bars import to_datetime
from enrichment.domain.errors import DatabaseUnavailable, LeaseLost, StepFailed
from enrichment.domain.model import RowCounts, Task, Timeframe
from enrichment.domain.symbol_csv import parse_tracked
from enrichment.pipeline.features import LOOKBACK
from enrichment.pipeline.fetch_plan import OVERLAP
from enrichment.services.commands import Commands
from enrichment.warehouse.database import Database
from enrichment.warehouse.queue.jobs import JobQueue
from enrichment.warehouse.series.batch_writer import BatchWriter
from enrichment.warehouse.series.warehouse import FinishedItem, Warehouse
from tests.helpers.fakes import TASK
from tests.helpers.series_updates import bars, rows, series_update


class BlockedWarehouse(Warehouse):
    """Stores its first batch when it is released, so that later items gather meanwhile."""

    def __init__(self, db: Database) -> None:
        super().__init__(db)
        self.started, self.released = threading.Event(), threading.Event()
        self.batches: list[list[str]] = []

    def store_batch(self, batch: Sequence[FinishedItem]) -> list[RowCounts | LeaseLost]:
        self.batches.append([finished.task.symbol for finished in batch])
        self.started.set()
        assert self.released.wait(20)
        return super().store_batch(batch)


def claimed(db: Database, *symbols: str) -> list[Task]:
    commands = Commands(db)
    commands.track([parse_tracked(symbol, "stock", "1d") for symbol in symbols], actor="test")
    commands.trigger(actor="test")
    tasks = JobQueue(db).claim("w", len(symbols))
    return sorted(tasks, key=lambda task: task.symbol)


def commit_behind(
    blocked: BlockedWarehouse, first: Task, rest: Sequence[tuple[Task, object]]
) -> list[Future[RowCounts]]:
    """The futures of tasks committed while the first one's transaction runs."""
    with BatchWriter(blocked) as writer:
        writer.commit(first, [series_update(bars(3), appends=True)])
        assert blocked.started.wait(20)
        futures = [writer.commit(task, [series]) for task, series in rest]  # type: ignore[list-item]
        blocked.released.set()
    return futures


def test_items_finished_during_a_transaction_share_the_next(db: Database) -> None:
    first, *rest = claimed(db, "A", "B", "C", "D")
    blocked = BlockedWarehouse(db)
    series = [series_update(bars(n), appends=True) for n in (5, 6, 7)]
    futures = commit_behind(blocked, first, list(zip(rest, series, strict=True)))
    assert blocked.batches == [["A"], ["B", "C", "D"]]
    assert [future.result(0) for future in futures] == [RowCounts(n) for n in (5, 6, 7)]
    assert rows(db, "SELECT symbol, count(*) FROM bars GROUP BY symbol ORDER BY symbol") == [
        ("A", 3),
        ("B", 5),
        ("C", 6),
        ("D", 7),
    ]
    assert rows(db, "SELECT DISTINCT status FROM enrichment_job_items") == [("completed",)]
    assert rows(db, "SELECT symbol, bars FROM enrichment_status ORDER BY symbol") == [
        ("A", 3),
        ("B", 5),
        ("C", 6),
        ("D", 7),
    ]
    assert rows(
        db, "SELECT count(DISTINCT xmin::text) FROM enrichment_job_items WHERE symbol > 'A'"
    ) == [(1,)]


def test_an_item_that_another_worker_owns_is_left_out_of_its_batch(db: Database) -> None:
    first, stale, mine = claimed(db, "A", "B", "C")
    rest = [
        (replace(stale, fence=stale.fence - 1), series_update(bars(4))),
        (mine, series_update(bars(4))),
    ]
    lost, kept = commit_behind(BlockedWarehouse(db), first, rest)
    assert isinstance(lost.exception(0), LeaseLost)
    assert kept.result(0) == RowCounts(4)
    assert rows(db, "SELECT DISTINCT symbol FROM bars ORDER BY symbol") == [("A",), ("C",)]
    assert rows(db, "SELECT count(*) FROM enrichment_fetch_log WHERE symbol = 'B'") == [(0,)]


def test_an_item_that_cannot_be_stored_fails_alone(db: Database) -> None:
    first, bad, good = claimed(db, "A", "B", "C")
    wrong = series_update(bars(4), features={"no_such_feature": np.zeros(4)}, appends=True)
    blocked = BlockedWarehouse(db)
    failed, kept = commit_behind(
        blocked, first, [(bad, wrong), (good, series_update(bars(4), appends=True))]
    )
    failure = failed.exception(0)
    assert isinstance(failure, StepFailed)
    assert failure.step == "store"
    assert "no_such_feature" in str(failure.__cause__)
    assert kept.result(0) == RowCounts(4)
    assert blocked.batches == [["A"], ["B", "C"], ["B"], ["C"]]
    assert rows(db, "SELECT symbol, status FROM enrichment_job_items ORDER BY symbol") == [
        ("A", "completed"),
        ("B", "in_progress"),
        ("C", "completed"),
    ]


def test_without_a_database_every_write_fails_with_the_reason() -> None:
    nowhere = Database("postgresql://nobody@127.0.0.1:1/none")
    with BatchWriter(Warehouse(nowhere)) as writer:
        future = writer.commit(TASK, [series_update(bars(3))])
    failure = future.exception(0)
    assert isinstance(failure, StepFailed)
    assert isinstance(failure.__cause__, DatabaseUnavailable)


def test_series_read_together_equal_those_read_alone(db: Database) -> None:
    warehouse = Warehouse(db)
    a, b = claimed(db, "A", "B")
    warehouse.commit(a, [series_update(bars(30), appends=True)])
    warehouse.commit(b, [series_update(bars(900), appends=True)])
    tasks = claimed(db, "A", "B", "C")
    snapshots = warehouse.read_snapshots(tasks, datetime(2030, 1, 1, tzinfo=UTC))
    assert [by_timeframe[Timeframe.D1].bars for by_timeframe in snapshots.values()] == [30, 900, 0]
    for task in tasks[:2]:
        together = snapshots[task][Timeframe.D1]
        alone = warehouse.snapshot(task.symbol, Timeframe.D1)
        assert together.overlap_from == alone.overlap_from
        assert together.tail is not None
        tail = warehouse.read_tail(task.symbol, Timeframe.D1, alone.overlap_from, 700)
        for name, column in tail.bars.columns().items():
            np.testing.assert_array_equal(together.tail.bars.columns()[name], column)
    assert snapshots[tasks[2]][Timeframe.D1].tail is None


def test_where_no_bar_is_due_only_the_overlap_is_read(db: Database) -> None:
    warehouse = Warehouse(db)
    (task,) = claimed(db, "A")
    stored = bars(900)
    warehouse.commit(task, [series_update(stored, appends=True)])
    (task,) = claimed(db, "A")
    evening = to_datetime(stored.ts[-1]) + timedelta(days=1)
    for now, count in ((evening, OVERLAP), (evening + timedelta(days=7), OVERLAP + LOOKBACK)):
        tail = warehouse.read_snapshots([task], now)[task][Timeframe.D1].tail
        assert tail is not None
        assert tail.without_lookback == (count == OVERLAP)
        np.testing.assert_array_equal(tail.bars.close, stored.close[-count:])


def test_commit_blocks_while_the_queue_is_full(db: Database) -> None:
    first, second, third = claimed(db, "A", "B", "C")
    blocked = BlockedWarehouse(db)
    with BatchWriter(blocked, max_items=1) as writer:
        writer.commit(first, [series_update(bars(3))])
        assert blocked.started.wait(20)
        writer.commit(second, [series_update(bars(3))])
        late = threading.Thread(target=lambda: writer.commit(third, [series_update(bars(3))]))
        late.start()
        late.join(0.05)
        assert late.is_alive()
        blocked.released.set()
        late.join(20)
        assert not late.is_alive()
    assert blocked.batches == [["A"], ["B"], ["C"]]
