"""Group commit: what is finished while one transaction runs is stored together by the next.

One thread writes for all others, so that the database's work on one symbol never holds up the
fetching of another. Where little is finished at a time, a symbol is stored at once and by itself;
where much is, small ones wait for each other a little and share the statements and the commit.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from datetime import datetime
from typing import Self

from enrichment.domain.errors import DatabaseUnavailable, LeaseLost, StepFailed
from enrichment.domain.model import RowCounts, Task, Timeframe
from enrichment.domain.series import SeriesSnapshot, SeriesUpdate, StoredTail
from enrichment.warehouse.series.warehouse import FinishedItem, Warehouse

MAX_ITEMS = 100
MAX_ROWS = 20_000
LINGER_SECONDS = 0.05


class _PendingWrite:
    """What a task produced, and the future of its being stored."""

    def __init__(self, finished: FinishedItem) -> None:
        self.finished = finished
        self.outcome: Future[RowCounts] = Future()

    def keep(self, written: RowCounts | LeaseLost) -> None:
        if isinstance(written, LeaseLost):
            self.outcome.set_exception(written)
        else:
            self.outcome.set_result(written)

    def fail(self, cause: Exception, milliseconds: float) -> None:
        failure = StepFailed("store", None, milliseconds)
        failure.__cause__ = cause
        self.outcome.set_exception(failure)


class BatchWriter:
    """A warehouse that many threads share, until `close()`.

    A batch ends with `most_items` items or with the one that takes it to `most_rows` rows. As much
    may wait for the batch at work to end; then `commit` blocks. After a batch of several items the
    next one waits `linger` seconds for its own to come together.
    """

    def __init__(
        self,
        warehouse: Warehouse,
        *,
        max_items: int = MAX_ITEMS,
        max_rows: int = MAX_ROWS,
        linger: float = LINGER_SECONDS,
    ) -> None:
        self._warehouse = warehouse
        self._most_items, self._most_rows, self._linger = max_items, max_rows, linger
        self._waiting: deque[_PendingWrite] = deque()
        self._rows = 0  # of those that wait
        lock = threading.Lock()
        self._filled, self._emptied = threading.Condition(lock), threading.Condition(lock)
        self._closed = False
        self._writer = threading.Thread(target=self._write_until_closed, name="writer", daemon=True)
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

    def store_chunk(self, task: Task, enriched: SeriesUpdate, left: datetime) -> None:
        self._warehouse.store_chunk(task, enriched, left)

    def commit(self, task: Task, series: Sequence[SeriesUpdate]) -> Future[RowCounts]:
        """A promise of the rows written, kept once they and the item's completion are committed.

        It fails with StepFailed from the cause; with LeaseLost if the item no longer belongs to the
        task's worker.
        """
        promise = _PendingWrite(FinishedItem(task, series))
        with self._emptied:
            self._emptied.wait_for(self._has_room)
            self._waiting.append(promise)
            self._rows += promise.finished.rows
            if len(self._waiting) == 1 or not self._has_room():  # a lingering writer sleeps on
                self._filled.notify()
        return promise.outcome

    def close(self) -> None:
        """Store what waits, then end."""
        with self._filled:
            self._closed = True
            self._filled.notify()
        self._writer.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _has_room(self) -> bool:
        return len(self._waiting) < self._most_items and self._rows < self._most_rows

    def _write_until_closed(self) -> None:
        size = 0
        while batch := self._next(self._linger if size > 1 else 0.0):
            size = len(batch)
            self._write(batch)

    def _next(self, linger: float) -> list[_PendingWrite]:
        """All that waits, up to a batch; nothing once the end has come."""
        with self._filled:
            self._filled.wait_for(lambda: self._waiting or self._closed)
            self._filled.wait_for(lambda: self._closed or not self._has_room(), timeout=linger)
            batch: list[_PendingWrite] = []
            rows = 0
            while self._waiting and len(batch) < self._most_items and rows < self._most_rows:
                batch.append(self._waiting.popleft())
                rows += batch[-1].finished.rows
            self._rows -= rows
            self._emptied.notify_all()
        return batch

    def _write(self, batch: Sequence[_PendingWrite]) -> None:
        """A batch that fails is tried item by item, until the database itself refuses one: only
        what can't be stored fails.
        """
        failure = self._stored(batch)
        if failure is None:
            return
        if len(batch) == 1:
            batch[0].fail(*failure)
            return
        down: tuple[Exception, float] | None = None
        for promise in batch:
            failed = down or self._stored([promise])
            if failed is not None:
                promise.fail(*failed)
                down = failed if isinstance(failed[0], DatabaseUnavailable) else None

    def _stored(self, batch: Sequence[_PendingWrite]) -> tuple[Exception, float] | None:
        """Store the batch; what kept it from that, and after how many milliseconds."""
        began = time.perf_counter()
        try:
            outcomes = self._warehouse.store_batch([promise.finished for promise in batch])
        except Exception as exc:
            return exc, (time.perf_counter() - began) * 1000.0
        for promise, outcome in zip(batch, outcomes, strict=True):
            promise.keep(outcome)
        return None
