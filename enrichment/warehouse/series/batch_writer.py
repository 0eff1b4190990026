"""Group commit: items that finish while one transaction runs share the next one.

One thread writes for all others, so that fetching a symbol never waits for another one's
transaction. A single item is stored at once; where several finish at a time, they wait for a moment
and share statements and commit.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from datetime import datetime
from typing import Self

from enrichment.domain.clock import utc_now
from enrichment.domain.errors import DatabaseUnavailable, LeaseLost, StepFailed
from enrichment.domain.model import RowCounts, Task, Timeframe
from enrichment.domain.series import SeriesSnapshot, SeriesUpdate, StoredTail
from enrichment.warehouse.series.warehouse import FinishedItem, Warehouse
from resilience.supervised_thread import supervised_thread

MAX_ITEMS = 100
MAX_ROWS = 20_000
LINGER_SECONDS = 0.05


class _PendingWrite:
    """A finished item that waits to be stored, and the future of its row counts."""

    def __init__(self, item: FinishedItem) -> None:
        self.item = item
        self.future: Future[RowCounts] = Future()

    def resolve(self, outcome: RowCounts | LeaseLost) -> None:
        if isinstance(outcome, LeaseLost):
            self.future.set_exception(outcome)
        else:
            self.future.set_result(outcome)

    def fail(self, cause: Exception, milliseconds: float) -> None:
        failure = StepFailed("store", None, milliseconds)
        failure.__cause__ = cause
        self.future.set_exception(failure)


class BatchWriter:
    """A warehouse that many threads share until `close()`.

    While one batch is written, the next one fills. Once that is full, `commit` blocks.
    """

    def __init__(
        self,
        warehouse: Warehouse,
        *,
        max_items: int = MAX_ITEMS,
        max_rows: int = MAX_ROWS,
        linger: float = LINGER_SECONDS,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        """Start the writing thread.

        Args:
            warehouse: Writes the batches.
            max_items: Size of a batch.
            max_rows: A batch also ends with the item that brings it to this number of rows.
            linger: Seconds that a batch waits to fill, if the one before had several items.
            now: The clock by which it is recorded when an item was handed over.
        """
        self._warehouse, self._now = warehouse, now
        self._max_items, self._max_rows, self._linger = max_items, max_rows, linger
        self._queue: deque[_PendingWrite] = deque()
        self._queued_rows = 0
        lock = threading.Lock()
        self._not_empty, self._not_full = threading.Condition(lock), threading.Condition(lock)
        self._closed = False
        self._writer = supervised_thread("writer", self._write_until_closed, threading.Event())
        self._writer.start()

    def read_snapshots(
        self, tasks: Sequence[Task], now: datetime
    ) -> Mapping[Task, Mapping[Timeframe, SeriesSnapshot]]:
        return self._warehouse.read_snapshots(tasks, now)

    def snapshot(self, symbol: str, timeframe: Timeframe) -> SeriesSnapshot:
        return self._warehouse.snapshot(symbol, timeframe)

    def read_tail(
        self, symbol: str, timeframe: Timeframe, since: datetime | None, lookback: int
    ) -> StoredTail:
        return self._warehouse.read_tail(symbol, timeframe, since, lookback)

    def store_chunk(self, task: Task, update: SeriesUpdate, remaining_until: datetime) -> None:
        self._warehouse.store_chunk(task, update, remaining_until)

    def commit(self, task: Task, updates: Sequence[SeriesUpdate]) -> Future[RowCounts]:
        """The future counts of written rows, set when they and the item's completion are committed.

        It fails with StepFailed from the cause, or with LeaseLost if the item no longer belongs to
        the task's worker.
        """
        with self._not_full:
            self._not_full.wait_for(self._has_room)
            write = _PendingWrite(FinishedItem(self._finished(task), updates))
            self._queue.append(write)
            self._queued_rows += write.item.rows
            if len(self._queue) == 1 or not self._has_room():  # between these the writer lingers
                self._not_empty.notify()
        return write.future

    def close(self) -> None:
        """Store what is queued, then end the thread."""
        with self._not_empty:
            self._closed = True
            self._not_empty.notify()
        self._writer.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _finished(self, task: Task) -> Task:
        """The task, which its thread has finished now."""
        use = task.thread_use
        return (
            task if use is None else replace(task, thread_use=replace(use, finished_at=self._now()))
        )

    def _has_room(self) -> bool:
        return len(self._queue) < self._max_items and self._queued_rows < self._max_rows

    def _write_until_closed(self) -> None:
        size = 0
        while batch := self._next_batch(self._linger if size > 1 else 0.0):
            size = len(batch)
            self._write(batch)

    def _next_batch(self, linger: float) -> list[_PendingWrite]:
        """The next writes; none when the writer is closed and its queue empty."""
        with self._not_empty:
            self._not_empty.wait_for(lambda: self._queue or self._closed)
            self._not_empty.wait_for(lambda: self._closed or not self._has_room(), timeout=linger)
            batch: list[_PendingWrite] = []
            rows = 0
            while self._queue and len(batch) < self._max_items and rows < self._max_rows:
                batch.append(self._queue.popleft())
                rows += batch[-1].item.rows
            self._queued_rows -= rows
            self._not_full.notify_all()
        return batch

    def _write(self, batch: Sequence[_PendingWrite]) -> None:
        """Store a batch; if that fails, item by item, so that only the faulty ones fail.

        Once the database is unavailable, the items after it fail without another attempt.
        """
        failure = self._try_store(batch)
        if failure is None:
            return
        if len(batch) == 1:
            batch[0].fail(*failure)
            return
        unavailable: tuple[Exception, float] | None = None
        for write in batch:
            failed = unavailable or self._try_store([write])
            if failed is not None:
                write.fail(*failed)
                unavailable = failed if isinstance(failed[0], DatabaseUnavailable) else None

    def _try_store(self, batch: Sequence[_PendingWrite]) -> tuple[Exception, float] | None:
        """Store the batch; on failure its exception, and after how many milliseconds it came."""
        started = time.perf_counter()
        try:
            outcomes = self._warehouse.store_batch([write.item for write in batch])
        except Exception as exc:
            return exc, (time.perf_counter() - started) * 1000.0
        for write, outcome in zip(batch, outcomes, strict=True):
            write.resolve(outcome)
        return None
