"""Reads the stored series before a run, and writes its result in one transaction."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from sqlalchemy import Connection

from enrichment.domain.calendars import market_of
from enrichment.domain.errors import LeaseLost
from enrichment.domain.model import RowCounts, Task, Timeframe
from enrichment.domain.series import SeriesSnapshot, SeriesUpdate, StoredTail
from enrichment.pipeline import fetch_plan
from enrichment.pipeline.features import FEATURES, LOOKBACK
from enrichment.warehouse import closures, corporate_actions
from enrichment.warehouse.database import Database
from enrichment.warehouse.queue import jobs
from enrichment.warehouse.series import market, results, snapshots, upsert
from enrichment.warehouse.series.results import Batch
from enrichment.warehouse.series.snapshots import TailRequest


def feature_set(names: Iterable[str] = FEATURES) -> str:
    """A short hash of the features' names, in their order: 16 hexadecimal digits."""
    return hashlib.sha256(",".join(names).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True, eq=False)
class FinishedItem:
    """A task with its result, one update per timeframe."""

    task: Task
    updates: Sequence[SeriesUpdate]

    @property
    def rows(self) -> int:
        return sum(len(update.bars) for update in self.updates)


class Warehouse:
    """The stored series. Every method is one transaction."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._feature_set = feature_set()

    def read_snapshots(
        self, tasks: Sequence[Task], now: datetime
    ) -> Mapping[Task, Mapping[Timeframe, SeriesSnapshot]]:
        """A snapshot of every series of the tasks, most of them with the tail that a run needs.

        There is no tail where nothing is stored or the features have changed, and one without
        lookback where no new bar is expected yet.
        """
        series = [(task, timeframe) for task in tasks for timeframe in task.timeframes]
        keys = [(task.symbol, timeframe) for task, timeframe in series]
        with self._db.begin() as conn:
            closures.refresh(conn)
            read = snapshots.read_snapshots(conn, keys, self._feature_set)
            requests = {
                n: _tail_request(task, timeframe, snapshot, snapshot.overlap_from, now)
                for n, ((task, timeframe), snapshot) in enumerate(zip(series, read, strict=True))
                if snapshot.overlap_from is not None and snapshot.features_current
            }
            tails = snapshots.read_tails(conn, list(requests.values())) if requests else []
            markets = [(_market(task), timeframe) for task, timeframe in series]
            since = min((request.since for request in requests.values()), default=None)
            returns = {} if since is None else market.read_returns(conn, markets, since)
        for n, tail in zip(requests, tails, strict=True):
            read[n] = replace(read[n], tail=tail, market_returns=returns.get(markets[n], {}))
        in_order = iter(read)
        return {
            task: {timeframe: next(in_order) for timeframe in task.timeframes} for task in tasks
        }

    def snapshot(self, symbol: str, timeframe: Timeframe) -> SeriesSnapshot:
        """The series without its bars."""
        with self._db.begin() as conn:
            closures.refresh(conn)
            return snapshots.read_snapshots(conn, [(symbol, timeframe)], self._feature_set)[0]

    def read_tail(
        self, symbol: str, timeframe: Timeframe, since: datetime | None, lookback: int
    ) -> StoredTail:
        """All bars from `since` on, after `lookback` bars before it; None for the whole series."""
        with self._db.begin() as conn:
            if since is None:
                return snapshots.read_whole(conn, symbol, timeframe)
            return snapshots.read_tails(conn, [TailRequest(symbol, timeframe, since, lookback)])[0]

    def store_chunk(self, task: Task, update: SeriesUpdate, remaining_until: datetime) -> None:
        """Write one chunk of a backfill, and where its remaining window ends.

        Raises LeaseLost, and writes nothing, if the item no longer belongs to the task's worker.
        """
        with self._db.begin() as conn:
            jobs.assert_owned(conn, task)
            (counts,) = self._write(conn, [(task, update)])
            main = update.fetches[0]
            unserved = main.served_from if main.served_from > main.window.start else None
            jobs.record_backfill(conn, task, update.timeframe, remaining_until, counts, unserved)

    def commit(self, task: Task, updates: Sequence[SeriesUpdate]) -> RowCounts:
        """Write a task's result and complete its item.

        Raises LeaseLost, and writes nothing, if the item no longer belongs to the task's worker.
        """
        (outcome,) = self.store_batch([FinishedItem(task, updates)])
        if isinstance(outcome, LeaseLost):
            raise outcome
        return outcome

    def store_batch(self, batch: Sequence[FinishedItem]) -> list[RowCounts | LeaseLost]:
        """Write the results of several tasks and complete their items.

        An item that no longer belongs to its worker is left out, and has LeaseLost in its place.
        """
        with self._db.begin() as conn:
            owned = jobs.select_owned(conn, [item.task for item in batch])
            items = [item for item in batch if item.task in owned]
            updates = [(item.task, update) for item in items for update in item.updates]
            counts = iter(self._write(conn, updates))
            totals = {item.task: _total([next(counts) for _ in item.updates]) for item in items}
            jobs.complete(conn, totals)
        return [
            totals[item.task] if item.task in totals else jobs.lease_lost(item.task)
            for item in batch
        ]

    def _write(self, conn: Connection, batch: Batch) -> list[RowCounts]:
        for task, update in batch:
            if update.replaces_series:
                upsert.give_up(conn, task, update)
            if len(update.withdrawn):
                upsert.withdraw(conn, task, update)
            if update.repairs:
                results.reopen_gaps(conn, task, update)
        actions = [action for _, update in batch for action in update.fetched.actions]
        if actions:
            corporate_actions.record(conn, actions)
        changed = any(len(update.bars.ts) for _, update in batch)
        counts = upsert.write(conn, batch) if changed else [RowCounts()] * len(batch)
        results.write(conn, batch, counts, self._feature_set)
        return counts


def _total(counts: Sequence[RowCounts]) -> RowCounts:
    return RowCounts(sum(c.inserted for c in counts), sum(c.updated for c in counts))


def _market(task: Task) -> str:
    return market.market_name(market_of(task.symbol, task.asset_class))


def _tail_request(
    task: Task,
    timeframe: Timeframe,
    snapshot: SeriesSnapshot,
    overlap_from: datetime,
    now: datetime,
) -> TailRequest:
    """The tail that a run of the series will most likely need."""
    nothing_due = fetch_plan.nothing_due(
        snapshot, market_of(task.symbol, task.asset_class, timeframe), timeframe, now
    )
    return TailRequest(task.symbol, timeframe, overlap_from, 0 if nothing_due else LOOKBACK)
