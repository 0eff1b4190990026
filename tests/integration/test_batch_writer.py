"""Group commit on real Postgres: symbols share a transaction, and none shares another's trouble."""

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


class Slow(Warehouse):
    """Stores its first batch once it may, so that the next ones come together behind it."""

    def __init__(self, db: Database) -> None:
        super().__init__(db)
        self.began, self.may_go = threading.Event(), threading.Event()
        self.batches: list[list[str]] = []

    def store_batch(self, batch: Sequence[FinishedItem]) -> list[RowCounts | LeaseLost]:
        self.batches.append([finished.task.symbol for finished in batch])
        self.began.set()
        assert self.may_go.wait(20)
        return super().store_batch(batch)


def claimed(db: Database, *symbols: str) -> list[Task]:
    commands = Commands(db)
    commands.track([parse_tracked(symbol, "stock", "1d") for symbol in symbols], actor="test")
    commands.trigger(actor="test")
    tasks = JobQueue(db).claim("w", len(symbols))
    return sorted(tasks, key=lambda task: task.symbol)


def committed_behind(
    slow: Slow, first: Task, rest: Sequence[tuple[Task, object]]
) -> list[Future[RowCounts]]:
    """The promises of the tasks that are finished while the first one's transaction runs."""
    with BatchWriter(slow) as group:
        group.commit(first, [series_update(bars(3), appends=True)])
        assert slow.began.wait(20)
        promises = [group.commit(task, [series]) for task, series in rest]  # type: ignore[list-item]
        slow.may_go.set()
    return promises


def test_what_is_finished_meanwhile_shares_a_transaction(db: Database) -> None:
    first, *rest = claimed(db, "A", "B", "C", "D")
    slow = Slow(db)
    series = [series_update(bars(n), appends=True) for n in (5, 6, 7)]
    promises = committed_behind(slow, first, list(zip(rest, series, strict=True)))
    assert slow.batches == [["A"], ["B", "C", "D"]]
    assert [promise.result(0) for promise in promises] == [RowCounts(n) for n in (5, 6, 7)]
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
    lost, kept = committed_behind(Slow(db), first, rest)
    assert isinstance(lost.exception(0), LeaseLost)
    assert kept.result(0) == RowCounts(4)
    assert rows(db, "SELECT DISTINCT symbol FROM bars ORDER BY symbol") == [("A",), ("C",)]
    assert rows(db, "SELECT count(*) FROM enrichment_fetch_log WHERE symbol = 'B'") == [(0,)]


def test_an_item_that_cannot_be_stored_fails_alone(db: Database) -> None:
    first, bad, good = claimed(db, "A", "B", "C")
    wrong = series_update(bars(4), features={"no_such_feature": np.zeros(4)}, appends=True)
    slow = Slow(db)
    failed, kept = committed_behind(
        slow, first, [(bad, wrong), (good, series_update(bars(4), appends=True))]
    )
    failure = failed.exception(0)
    assert isinstance(failure, StepFailed)
    assert failure.step == "store"
    assert "no_such_feature" in str(failure.__cause__)
    assert kept.result(0) == RowCounts(4)
    assert slow.batches == [["A"], ["B", "C"], ["B"], ["C"]]
    assert rows(db, "SELECT symbol, status FROM enrichment_job_items ORDER BY symbol") == [
        ("A", "completed"),
        ("B", "in_progress"),
        ("C", "completed"),
    ]


def test_without_a_database_every_promise_fails_with_the_reason() -> None:
    nowhere = Database("postgresql://nobody@127.0.0.1:1/none")
    with BatchWriter(Warehouse(nowhere)) as group:
        promise = group.commit(TASK, [series_update(bars(3))])
    failure = promise.exception(0)
    assert isinstance(failure, StepFailed)
    assert isinstance(failure.__cause__, DatabaseUnavailable)


def test_series_are_read_together_as_they_are_read_alone(db: Database) -> None:
    warehouse = Warehouse(db)
    a, b = claimed(db, "A", "B")
    warehouse.commit(a, [series_update(bars(30), appends=True)])
    warehouse.commit(b, [series_update(bars(900), appends=True)])
    tasks = claimed(db, "A", "B", "C")
    found = warehouse.read_snapshots(tasks, datetime(2030, 1, 1, tzinfo=UTC))
    assert [known[Timeframe.D1].bars for known in found.values()] == [30, 900, 0]
    for task in tasks[:2]:
        together = found[task][Timeframe.D1]
        alone = warehouse.snapshot(task.symbol, Timeframe.D1)
        assert together.overlap_from == alone.overlap_from
        assert together.tail is not None
        tail = warehouse.read_tail(task.symbol, Timeframe.D1, alone.overlap_from, 700)
        for name, column in tail.bars.columns().items():
            np.testing.assert_array_equal(together.tail.bars.columns()[name], column)
    assert found[tasks[2]][Timeframe.D1].tail is None


def test_where_nothing_is_expected_only_the_overlap_is_read(db: Database) -> None:
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


def test_commit_waits_where_too_much_is_waiting(db: Database) -> None:
    first, second, third = claimed(db, "A", "B", "C")
    slow = Slow(db)
    with BatchWriter(slow, max_items=1) as group:
        group.commit(first, [series_update(bars(3))])
        assert slow.began.wait(20)
        group.commit(second, [series_update(bars(3))])
        late = threading.Thread(target=lambda: group.commit(third, [series_update(bars(3))]))
        late.start()
        late.join(0.05)
        assert late.is_alive()
        slow.may_go.set()
        late.join(20)
        assert not late.is_alive()
    assert slow.batches == [["A"], ["B"], ["C"]]
