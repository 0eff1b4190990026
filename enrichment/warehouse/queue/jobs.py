"""The queue: jobs, their items, and the workers that own them, by the database's clock.

An item goes pending → in_progress → completed. It goes back to pending when its worker releases it,
to retry after a counted failure or an expired lease, and ends as failed or cancelled otherwise.
While in progress it belongs to one worker by lease and fence: every claim increments the fence, and
results are written only while worker and fence still match.

The column `backfill` of an item holds {"from", "to"} of the history that it fetches and, for every
timeframe that has started, the end of its remaining window. Chunks are stored newest first, so an
interrupted backfill resumes there. Of a repair it also holds `repair`, timeframe → {"from", "to",
"restart", "as_traded"}, and `unserved`, timeframe → the time before which vendors served nothing.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, text
from sqlalchemy.exc import IntegrityError

from enrichment.domain.errors import LeaseLost
from enrichment.domain.model import (
    AssetClass,
    Failure,
    RowCounts,
    SeriesRepair,
    Task,
    Timeframe,
    Window,
)
from enrichment.domain.schedules import Slot
from enrichment.domain.statuses import ItemPriority
from enrichment.warehouse.database import Database, sql
from enrichment.warehouse.queue import sql as statements
from enrichment.warehouse.series import market, results

CHANNEL = "enrichment_jobs"
_ANY_PRIORITY = 32_767


class JobQueue:
    """A worker's side of the queue. Every method is one transaction; durations are in seconds."""

    def __init__(
        self, db: Database, *, lease_seconds: float = 30.0, plans_market_days: bool = False
    ) -> None:
        """Build a queue. plans_market_days: whether something beside it plans them, so that items
        are to wait for it.
        """
        self._db = db
        self._lease = lease_seconds
        self._plans_market_days = plans_market_days

    def claim(self, worker_id: str, limit: int, *, interactive: bool = False) -> list[Task]:
        """Claim up to `limit` due items, by priority and age.

        interactive: claim only what a person asked for.

        The commit does not wait for the disk: a claim that is lost in a crash of the server leaves
        the item waiting, as it was.
        """
        try:
            with self._db.begin() as conn:
                rows = conn.execute(
                    sql(statements.CLAIM),
                    {
                        "worker": worker_id,
                        "limit": limit,
                        "lease": self._lease,
                        "max_priority": ItemPriority.BACKFILL if interactive else _ANY_PRIORITY,
                        "plans_market_days": self._plans_market_days,
                    },
                ).all()
        except IntegrityError:
            return []  # another worker claimed the same symbol of another job at the same time
        return [
            Task(
                job_id=row.job_id,
                symbol=row.symbol,
                asset_class=AssetClass(row.asset_class),
                timeframes=tuple(Timeframe(t) for t in row.timeframes),
                worker_id=worker_id,
                fence=row.fence,
                retry_count=row.retry_count,
                interactive=row.priority <= ItemPriority.BACKFILL,
                market_days=row.market_days and row.retry_count == 0,
                **_backfill_fields(row.backfill),
            )
            for row in rows
        ]

    def renew(self, tasks: Mapping[Task, str]) -> set[Task]:
        """Extend the leases of the tasks (task → its present step) and publish their steps.

        An item that is being stored, and so locked, is skipped: it must not delay the others.
        Returns the tasks whose job has been cancelled.
        """
        if not tasks:
            return set()
        with self._db.begin() as conn:
            steps = [_step(task, step) for task, step in tasks.items()]
            values = {**statements.STEPS.bind(steps), "lease": self._lease}
            conn.execute(sql(statements.RENEW), values)
        return self.cancelled(tasks)

    def cancelled(self, tasks: Collection[Task]) -> set[Task]:
        """The tasks whose job has been cancelled."""
        jobs = list({task.job_id for task in tasks})
        with self._db.begin() as conn:
            cancelled = set(conn.execute(sql(statements.CANCELLED), {"jobs": jobs}).scalars())
        return {task for task in tasks if task.job_id in cancelled}

    def discard(self, task: Task) -> None:
        """Cancel an item whose job has been cancelled, without storing anything."""
        with self._db.begin() as conn:
            conn.execute(sql(statements.CANCEL), {**owner(task), **thread_use(task)})

    def release(self, task: Task, seconds: float = 0.0, why: str | None = None) -> None:
        """Return an item to the queue, due after `seconds`, without counting a retry.

        `why` replaces its last error, unless it is None.
        """
        with self._db.begin() as conn:
            conn.execute(sql(statements.RELEASE), {**owner(task), "seconds": seconds, "why": why})

    def fail(self, task: Task, failure: Failure, retry_after: float | None) -> None:
        """Record a failed attempt; the next one follows in `retry_after` seconds, None for none.

        Raises LeaseLost, and writes nothing, if the item no longer belongs to the task's worker.
        """
        with self._db.begin() as conn:
            values = {
                **owner(task),
                **thread_use(task),
                "error_class": failure.error_class,
                "error": failure.error,
                "step": failure.step,
                "seconds": retry_after,
                "log_lines": list(failure.log_lines),
            }
            statement = statements.FAIL if retry_after is None else statements.RETRY
            if conn.execute(sql(statement), values).rowcount != 1:
                raise lease_lost(task)
            results.write_failure(
                conn,
                task,
                failure.timeframe,
                fetching=failure.step == "fetch",
                duration_ms=failure.duration_ms,
                error_class=failure.error_class,
                error=failure.error,
            )
            if retry_after is None:
                _mark_series_failed(conn, task, failure.error)

    def close_finished_jobs(self) -> list[UUID]:
        """Freeze the totals of every job whose items are all final; returns their ids.

        Then the outliers that these jobs found are judged by the returns of their markets.
        """
        with self._db.begin() as conn:
            closed = close_finished(conn)
        if closed:
            market.review_outliers(self._db)
        return closed

    def reclaim_expired(self, max_retries: int) -> int:
        """Return items with an expired lease to the queue, or fail them after `max_retries`.

        An item that is being stored is skipped, as it is locked. If its lease expired a whole lease
        ago and its session waits for its client, the process is frozen: the session is terminated,
        and a later call reclaims the item. Waiting items of cancelled jobs are cancelled too.
        Returns the number of leases that had expired.
        """
        with self._db.begin() as conn:
            expired = conn.execute(sql(statements.RECLAIM), {"max_retries": max_retries}).rowcount
            conn.execute(sql(statements.TERMINATE_FROZEN), {"lease": self._lease})
            conn.execute(sql(statements.CANCEL_RETURNED))
            return expired


def close_finished(conn: Connection) -> list[UUID]:
    """Freeze the totals of every job whose items are all final; returns their ids."""
    return list(conn.execute(sql(statements.CLOSE)).scalars())


def owner(task: Task) -> dict[str, object]:
    """The parameters of `sql.OWNED`."""
    return {
        "job_id": task.job_id,
        "symbol": task.symbol,
        "worker": task.worker_id,
        "fence": task.fence,
    }


def thread_use(task: Task) -> dict[str, object]:
    """The parameters of THREAD_USE."""
    use = task.thread_use
    return {
        "thread": use and use.thread,
        "begun_at": use and use.begun_at,
        "finished_at": use and use.finished_at,
    }


def lease_lost(task: Task) -> LeaseLost:
    """The error to raise when an item no longer belongs to the task's worker."""
    return LeaseLost(f"{task.symbol} belongs to another worker now; this result was discarded")


def assert_owned(conn: Connection, task: Task) -> None:
    """Lock the item for this transaction.

    Raises LeaseLost unless the task's worker and fence still match.
    """
    if task not in select_owned(conn, [task]):
        raise lease_lost(task)


def select_owned(conn: Connection, tasks: Sequence[Task]) -> set[Task]:
    """Lock the items for this transaction; returns those whose worker and fence still match."""
    by_key = {(task.job_id, task.symbol): task for task in tasks}
    rows = conn.execute(
        sql(statements.LOCK_OWNED), statements.OWNERS.bind([owner(task) for task in tasks])
    )
    return {by_key[row.job_id, row.symbol] for row in rows}


def complete(conn: Connection, totals: Mapping[Task, RowCounts]) -> None:
    """Complete the items, in the transaction that stores their results.

    Raises LeaseLost for the first item that no longer belongs to its task's worker.
    """
    rows = [
        {
            **owner(task),
            **thread_use(task),
            "inserted": counts.inserted,
            "updated": counts.updated,
        }
        for task, counts in totals.items()
    ]
    updated = conn.execute(sql(statements.COMPLETE), statements.TOTALS.bind(rows))
    completed = {(row.job_id, row.symbol) for row in updated}
    for task in totals:
        if (task.job_id, task.symbol) not in completed:
            raise lease_lost(task)


def record_backfill(
    conn: Connection,
    task: Task,
    timeframe: Timeframe,
    remaining_until: datetime,
    counts: RowCounts,
    unserved_before: datetime | None = None,
) -> None:
    """Record the end of the remaining window, in the transaction that stores a chunk.

    unserved_before: what of the chunk vendors did not serve; the first chunk's value stays. Raises
    LeaseLost if the item no longer belongs to the task's worker.
    """
    updated = conn.execute(
        sql(statements.RECORD_BACKFILL),
        {
            **owner(task),
            "timeframe": timeframe,
            "remaining_until": remaining_until.isoformat(),
            "inserted": counts.inserted,
            "updated": counts.updated,
            "unserved": unserved_before and unserved_before.isoformat(),
        },
    )
    if updated.rowcount != 1:
        raise lease_lost(task)


def insert_job(
    conn: Connection,
    *,
    kind: str,
    requested_by: str,
    params: str = "{}",
    reason: str | None = None,
    idempotency_key: str | None = None,
    slot: Slot | None = None,
) -> UUID | None:
    """Insert a queued job and return its id; None if its slot or idempotency key exists already."""
    job_id: UUID | None = conn.execute(
        sql(statements.INSERT_JOB),
        {
            "kind": kind,
            "by": requested_by,
            "params": params,
            "reason": reason,
            "key": idempotency_key,
            "schedule": slot and slot.schedule,
            "slot_date": slot and slot.date,
            "slot_at": slot and slot.at,
        },
    ).scalar()
    return job_id


def snapshot_items(
    conn: Connection,
    job_id: UUID,
    *,
    symbols: Sequence[str] | None,
    asset_class: str | None,
    priority: int,
    backfill: Window | None = None,
) -> int:
    """Copy the active symbols (all, these, or a class) into the job's items and notify workers.

    Returns the number of items.
    """
    count = conn.execute(
        sql(statements.SNAPSHOT),
        {
            "job_id": job_id,
            "symbols": list(symbols) if symbols is not None else None,
            "asset_class": asset_class,
            "priority": priority,
            "backfill": _backfill_to_json(backfill),
        },
    ).rowcount
    _set_total(conn, job_id, count)
    return count


def _set_total(conn: Connection, job_id: UUID, count: int) -> None:
    conn.execute(
        text("UPDATE enrichment_jobs SET total = :n WHERE job_id = :id"), {"n": count, "id": job_id}
    )
    notify(conn)


def add_repairs(
    conn: Connection, job_id: UUID, repairs: Mapping[str, Sequence[SeriesRepair]], priority: int
) -> int:
    """Add an item for each of these active symbols and notify workers; returns their number.

    repairs: symbol → what of its series is to be replaced.
    """
    rows = [
        {
            "symbol": symbol,
            "timeframes": [repair.timeframe for repair in series],
            "backfill": _repairs_to_json(series),
        }
        for symbol, series in repairs.items()
    ]
    values = {"job_id": job_id, "priority": priority, **statements.REPAIRS.bind(rows)}
    count = conn.execute(sql(statements.ADD_REPAIRS), values).rowcount
    _set_total(conn, job_id, count)
    return count


def find_by_key(conn: Connection, idempotency_key: str) -> tuple[UUID, int] | None:
    """The job that this key created, and how many items it has."""
    row = conn.execute(
        text("SELECT job_id, total FROM enrichment_jobs WHERE idempotency_key = :key"),
        {"key": idempotency_key},
    ).one_or_none()
    return None if row is None else (row.job_id, row.total)


def notify(conn: Connection) -> None:
    """Notify every listening worker when this transaction commits."""
    conn.execute(text("SELECT pg_notify(:channel, '')"), {"channel": CHANNEL})


def _step(task: Task, step: str) -> dict[str, object]:
    """A row of STEPS."""
    use = task.thread_use
    times = {"thread": use and use.thread, "begun_at": use and use.begun_at}
    return {**owner(task), **times, "step": step}


def _mark_series_failed(conn: Connection, task: Task, error: str) -> None:
    for timeframe in task.timeframes:
        conn.execute(
            sql(statements.SERIES_FAILED),
            {"symbol": task.symbol, "timeframe": timeframe, "error": error},
        )


def _backfill_to_json(window: Window | None) -> str | None:
    """The column's value before anything is fetched."""
    return None if window is None else json.dumps(_window_to_json(window))


def _repairs_to_json(repairs: Sequence[SeriesRepair]) -> dict[str, Any]:
    """The same of a repair, as an object."""
    windows = [repair.window for repair in repairs]
    hull = Window(min(w.start for w in windows), max(w.end for w in windows))
    series = {
        repair.timeframe.value: {
            **_window_to_json(repair.window),
            "restart": repair.restart,
            "as_traded": repair.as_traded,
        }
        for repair in repairs
    }
    return {**_window_to_json(hull), "repair": series}


def _window_to_json(window: Window) -> dict[str, str]:
    return {"from": window.start.isoformat(), "to": window.end.isoformat()}


def _window_from_json(stored: Mapping[str, str]) -> Window:
    return Window(datetime.fromisoformat(stored["from"]), datetime.fromisoformat(stored["to"]))


def _backfill_fields(stored: Mapping[str, Any] | None) -> dict[str, Any]:
    """The fields `backfill`, `remaining` and `repairs` of a task, from the column's value."""
    if stored is None:
        return {}
    return {
        "backfill": _window_from_json(stored),
        "remaining": tuple(
            (timeframe, datetime.fromisoformat(stored[timeframe]))
            for timeframe in Timeframe
            if timeframe in stored
        ),
        "repairs": tuple(
            SeriesRepair(
                Timeframe(name),
                _window_from_json(part),
                part["restart"],
                part.get("as_traded", False),
            )
            for name, part in stored.get("repair", {}).items()
        ),
    }
