"""The warehouse: what is stored of a series, and the transactions that add to it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from sqlalchemy import Connection

from enrichment.domain.errors import LeaseLost
from enrichment.domain.model import Task, Timeframe, Written
from enrichment.domain.series import Enriched, Known, Tail
from enrichment.pipeline import fetch_plan
from enrichment.pipeline.features import FEATURES, LOOKBACK
from enrichment.warehouse.database import Database
from enrichment.warehouse.queue import backfills, jobs, leases
from enrichment.warehouse.series import flags_and_gaps, run_log, snapshots, status, upsert
from enrichment.warehouse.series.snapshots import Wanted


def feature_set(names: Iterable[str] = FEATURES) -> str:
    """A short name of a set of features, in their order."""
    return hashlib.sha256(",".join(names).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True, eq=False)
class Finished:
    """All that a task produced."""

    task: Task
    series: Sequence[Enriched]

    @property
    def rows(self) -> int:
        return sum(len(enriched.bars) for enriched in self.series)


class Warehouse:
    """Reads what a run needs of a series and writes what it made of it."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._feature_set = feature_set()

    def read(
        self, tasks: Sequence[Task], now: datetime
    ) -> Mapping[Task, Mapping[Timeframe, Known]]:
        """What is known of every series of the tasks, each with its tail from the overlap on; a
        bare one where nothing is expected to have come since.
        """
        series = [(task, timeframe) for task in tasks for timeframe in task.timeframes]
        keys = [(task.symbol, timeframe) for task, timeframe in series]
        with self._db.begin() as conn:
            found = snapshots.known(conn, keys, self._feature_set)
            wanted = [
                (n, _wanted(task, timeframe, known, known.overlap_from, now))
                for n, ((task, timeframe), known) in enumerate(zip(series, found, strict=True))
                if known.overlap_from is not None and known.complete
            ]
            tails = snapshots.tails(conn, [one for _, one in wanted]) if wanted else []
        for (n, _), tail in zip(wanted, tails, strict=True):
            found[n] = replace(found[n], tail=tail)
        rest = iter(found)
        return {task: {timeframe: next(rest) for timeframe in task.timeframes} for task in tasks}

    def describe(self, symbol: str, timeframe: Timeframe) -> Known:
        """What is known of the series without its bars."""
        with self._db.begin() as conn:
            return snapshots.known(conn, [(symbol, timeframe)], self._feature_set)[0]

    def tail(
        self, symbol: str, timeframe: Timeframe, since: datetime | None, lookback: int
    ) -> Tail:
        """All bars from `since` on (None: all there are), after `lookback` bars before it."""
        with self._db.begin() as conn:
            if since is None:
                return snapshots.whole(conn, symbol, timeframe)
            return snapshots.tails(conn, [Wanted(symbol, timeframe, since, lookback)])[0]

    def keep(self, task: Task, enriched: Enriched, left: datetime) -> None:
        """Write one piece of a backfill, and that what is left to do ends at `left`."""
        with self._db.begin() as conn:
            leases.assert_owned(conn, task)
            (written,) = self._write(conn, [(task, enriched)])
            backfills.note(conn, task, enriched.timeframe, left, written)

    def commit(self, task: Task, series: Sequence[Enriched]) -> Written:
        """Write everything a task produced, and its completion, in one transaction.

        Raises LeaseLost, and writes nothing, if the item no longer belongs to the task's worker.
        """
        (outcome,) = self.store([Finished(task, series)])
        if isinstance(outcome, LeaseLost):
            raise outcome
        return outcome

    def store(self, batch: Sequence[Finished]) -> list[Written | LeaseLost]:
        """Write everything that tasks produced, and their completion, in one transaction.

        What belongs to another worker by now is left out: LeaseLost in its place.
        """
        with self._db.begin() as conn:
            owned = leases.owned(conn, [finished.task for finished in batch])
            mine = [finished for finished in batch if finished.task in owned]
            written = iter(
                self._write(conn, [(done.task, one) for done in mine for one in done.series])
            )
            totals = {
                done.task: sum((next(written) for _ in done.series), Written()) for done in mine
            }
            jobs.complete_all(conn, totals)
        return [
            totals[finished.task] if finished.task in totals else leases.lost(finished.task)
            for finished in batch
        ]

    def _write(self, conn: Connection, series: Sequence[tuple[Task, Enriched]]) -> list[Written]:
        written = upsert.write(conn, series)
        flags_and_gaps.write(conn, series)
        run_log.write_success(conn, series)
        status.write(conn, series, written, self._feature_set)
        return written


def _wanted(
    task: Task, timeframe: Timeframe, known: Known, overlap_from: datetime, now: datetime
) -> Wanted:
    """What a run will most likely need of what is stored of a series."""
    nothing = fetch_plan.expects_nothing(known, task.asset_class, timeframe, now)
    return Wanted(task.symbol, timeframe, overlap_from, 0 if nothing else LOOKBACK)
