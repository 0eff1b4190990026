"""The warehouse: what is stored of a series, and the transactions that add to it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from sqlalchemy import Connection

from enrichment.domain.errors import LeaseLost
from enrichment.domain.model import RowCounts, Task, Timeframe
from enrichment.domain.series import SeriesSnapshot, SeriesUpdate, StoredTail
from enrichment.pipeline import fetch_plan
from enrichment.pipeline.features import FEATURES, LOOKBACK
from enrichment.warehouse.database import Database
from enrichment.warehouse.queue import backfills, jobs, leases
from enrichment.warehouse.series import flags_and_gaps, run_log, snapshots, status, upsert
from enrichment.warehouse.series.snapshots import TailRequest


def feature_set(names: Iterable[str] = FEATURES) -> str:
    """A short name of a set of features, in their order."""
    return hashlib.sha256(",".join(names).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True, eq=False)
class FinishedItem:
    """All that a task produced."""

    task: Task
    series: Sequence[SeriesUpdate]

    @property
    def rows(self) -> int:
        return sum(len(enriched.bars) for enriched in self.series)


class Warehouse:
    """Reads what a run needs of a series and writes what it made of it."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._feature_set = feature_set()

    def read_snapshots(
        self, tasks: Sequence[Task], now: datetime
    ) -> Mapping[Task, Mapping[Timeframe, SeriesSnapshot]]:
        """What is known of every series of the tasks, each with its tail from the overlap on; a
        bare one where nothing is expected to have come since.
        """
        series = [(task, timeframe) for task in tasks for timeframe in task.timeframes]
        keys = [(task.symbol, timeframe) for task, timeframe in series]
        with self._db.begin() as conn:
            found = snapshots.read_snapshots(conn, keys, self._feature_set)
            wanted = [
                (n, _wanted(task, timeframe, known, known.overlap_from, now))
                for n, ((task, timeframe), known) in enumerate(zip(series, found, strict=True))
                if known.overlap_from is not None and known.features_current
            ]
            tails = snapshots.read_tails(conn, [one for _, one in wanted]) if wanted else []
        for (n, _), tail in zip(wanted, tails, strict=True):
            found[n] = replace(found[n], tail=tail)
        rest = iter(found)
        return {task: {timeframe: next(rest) for timeframe in task.timeframes} for task in tasks}

    def snapshot(self, symbol: str, timeframe: Timeframe) -> SeriesSnapshot:
        """What is known of the series without its bars."""
        with self._db.begin() as conn:
            return snapshots.read_snapshots(conn, [(symbol, timeframe)], self._feature_set)[0]

    def read_tail(
        self, symbol: str, timeframe: Timeframe, since: datetime | None, lookback: int
    ) -> StoredTail:
        """All bars from `since` on (None: all there are), after `lookback` bars before it."""
        with self._db.begin() as conn:
            if since is None:
                return snapshots.read_whole(conn, symbol, timeframe)
            return snapshots.read_tails(conn, [TailRequest(symbol, timeframe, since, lookback)])[0]

    def store_chunk(self, task: Task, enriched: SeriesUpdate, left: datetime) -> None:
        """Write one piece of a backfill, and that what is left to do ends at `left`."""
        with self._db.begin() as conn:
            leases.assert_owned(conn, task)
            (written,) = self._write(conn, [(task, enriched)])
            backfills.record_progress(conn, task, enriched.timeframe, left, written)

    def commit(self, task: Task, series: Sequence[SeriesUpdate]) -> RowCounts:
        """Write everything a task produced, and its completion, in one transaction.

        Raises LeaseLost, and writes nothing, if the item no longer belongs to the task's worker.
        """
        (outcome,) = self.store_batch([FinishedItem(task, series)])
        if isinstance(outcome, LeaseLost):
            raise outcome
        return outcome

    def store_batch(self, batch: Sequence[FinishedItem]) -> list[RowCounts | LeaseLost]:
        """Write everything that tasks produced, and their completion, in one transaction.

        What belongs to another worker by now is left out: LeaseLost in its place.
        """
        with self._db.begin() as conn:
            owned = leases.select_owned(conn, [finished.task for finished in batch])
            mine = [finished for finished in batch if finished.task in owned]
            written = iter(
                self._write(conn, [(done.task, one) for done in mine for one in done.series])
            )
            totals = {
                done.task: sum((next(written) for _ in done.series), RowCounts()) for done in mine
            }
            jobs.complete(conn, totals)
        return [
            totals[finished.task] if finished.task in totals else leases.lease_lost(finished.task)
            for finished in batch
        ]

    def _write(
        self, conn: Connection, series: Sequence[tuple[Task, SeriesUpdate]]
    ) -> list[RowCounts]:
        written = upsert.write(conn, series)
        flags_and_gaps.write(conn, series)
        run_log.write_success(conn, series)
        status.write(conn, series, written, self._feature_set)
        return written


def _wanted(
    task: Task, timeframe: Timeframe, known: SeriesSnapshot, overlap_from: datetime, now: datetime
) -> TailRequest:
    """What a run will most likely need of what is stored of a series."""
    nothing = fetch_plan.nothing_due(known, task.asset_class, timeframe, now)
    return TailRequest(task.symbol, timeframe, overlap_from, 0 if nothing else LOOKBACK)
