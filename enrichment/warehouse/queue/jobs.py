"""The queue: jobs, their items, and who owns them. Postgres is the truth and the only clock.

An item goes pending → in_progress → completed, with the side roads retry (a counted failure, after
a delay), pending (returned, snoozed or reaped), failed and cancelled. While it is in progress it
belongs to one worker by lease and fence: every claim raises the fence, and whatever is written for
an item is written only while worker and fence still match.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy import Connection, text
from sqlalchemy.exc import IntegrityError

from enrichment.domain.model import AssetClass, Failure, RowCounts, Task, Timeframe, Window
from enrichment.warehouse.database import Database, sql
from enrichment.warehouse.queue import backfills
from enrichment.warehouse.queue import sql as statements
from enrichment.warehouse.queue.leases import lease_lost, owner
from enrichment.warehouse.series import run_log

CHANNEL = "enrichment_jobs"


class JobQueue:
    """What a worker asks of the queue. Seconds everywhere."""

    def __init__(self, db: Database, *, lease_seconds: float = 30.0) -> None:
        self._db = db
        self._lease = lease_seconds

    def claim(self, worker_id: str, limit: int) -> list[Task]:
        """Take up to `limit` items that are due, oldest job first, manual triggers before the
        night's.

        A claim need not outlive a crash of the server, so its commit does not wait for the disk:
        the item is then simply waiting again.
        """
        try:
            with self._db.begin() as conn:
                rows = conn.execute(
                    sql(statements.CLAIM),
                    {"worker": worker_id, "limit": limit, "lease": self._lease},
                ).all()
        except IntegrityError:
            return []  # another worker took the same symbol from another job: look again later
        return [
            Task(
                job_id=row.job_id,
                symbol=row.symbol,
                asset_class=AssetClass(row.asset_class),
                timeframes=tuple(Timeframe(t) for t in row.timeframes),
                worker_id=worker_id,
                fence=row.fence,
                retry_count=row.retry_count,
                **backfills.parse(row.backfill),
            )
            for row in rows
        ]

    def renew(self, tasks: Mapping[Task, str]) -> set[Task]:
        """Extend the leases of the tasks at hand and publish the step each has reached.

        Returns those whose job has been cancelled meanwhile. An item that is being stored, and so
        locked, is passed over: it must not hold up the others.
        """
        if not tasks:
            return set()
        with self._db.begin() as conn:
            steps = [{**owner(task), "step": step} for task, step in tasks.items()]
            values = {**statements.STEPS.bind(steps), "lease": self._lease}
            conn.execute(sql(statements.RENEW), values)
            jobs = {task.job_id for task in tasks}
            cancelled = set(conn.execute(sql(statements.CANCELLED), {"jobs": list(jobs)}).scalars())
        return {task for task in tasks if task.job_id in cancelled}

    def discard(self, task: Task) -> None:
        """End an item of a cancelled job without an effect."""
        with self._db.begin() as conn:
            conn.execute(sql(statements.DROP), owner(task))

    def release(self, task: Task, seconds: float = 0.0, why: str | None = None) -> None:
        """Return an item as it was, due after `seconds`: a drain, a snooze; no retry is counted."""
        with self._db.begin() as conn:
            conn.execute(sql(statements.GIVE_BACK), {**owner(task), "seconds": seconds, "why": why})

    def fail(self, task: Task, failure: Failure, retry_after: float | None) -> None:
        """Record a failed attempt; `retry_after` seconds until the next one, None for the last."""
        with self._db.begin() as conn:
            values = {
                **owner(task),
                "error_class": failure.error_class,
                "error": failure.error,
                "step": failure.step,
                "seconds": retry_after,
            }
            statement = statements.FAIL if retry_after is None else statements.RETRY
            if conn.execute(sql(statement), values).rowcount != 1:
                raise lease_lost(task)
            run_log.write_failure(
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
        """Freeze the totals of every job whose items are all final; returns their ids."""
        with self._db.begin() as conn:
            return close_finished(conn)

    def reclaim_expired(self, max_retries: int) -> int:
        """Give expired items that nobody stores back to the queue, or fail them at the limit.

        A session that stores one for another lease, and waits for its client for as long, is
        ended: its process is frozen, and a later call gets the item. Items that came back to a job
        which was cancelled meanwhile end here. Returns the number of leases that had run out.
        """
        with self._db.begin() as conn:
            reaped = conn.execute(sql(statements.REAP), {"max_retries": max_retries}).rowcount
            conn.execute(sql(statements.END_FORGOTTEN), {"lease": self._lease})
            conn.execute(sql(statements.END_CANCELLED))
            return reaped


def close_finished(conn: Connection) -> list[UUID]:
    """Freeze the totals of every job whose items are all final; returns their ids."""
    return list(conn.execute(sql(statements.CLOSE)).scalars())


def complete(conn: Connection, totals: Mapping[Task, RowCounts]) -> None:
    """Make the items final, in the transaction that stores their effect.

    Raises LeaseLost for the first that belongs to another worker.
    """
    rows = [
        {**owner(task), "inserted": written.inserted, "updated": written.updated}
        for task, written in totals.items()
    ]
    completed = conn.execute(sql(statements.COMPLETE), statements.TOTALS.bind(rows))
    done = {(row.job_id, row.symbol) for row in completed}
    for task in totals:
        if (task.job_id, task.symbol) not in done:
            raise lease_lost(task)


def insert_job(
    conn: Connection,
    *,
    kind: str,
    requested_by: str,
    params: str = "{}",
    reason: str | None = None,
    idempotency_key: str | None = None,
    slot: datetime | None = None,
) -> UUID | None:
    """A new queued job, or None where its slot or its idempotency key exists already."""
    job_id: UUID | None = conn.execute(
        sql(statements.INSERT_JOB),
        {
            "kind": kind,
            "by": requested_by,
            "params": params,
            "reason": reason,
            "key": idempotency_key,
            "slot": slot.date() if slot else None,
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
    """Copy the active symbols (all, these, or a class) into the job's items and wake the
    workers.
    """
    count = conn.execute(
        sql(statements.SNAPSHOT),
        {
            "job_id": job_id,
            "symbols": list(symbols) if symbols is not None else None,
            "asset_class": asset_class,
            "priority": priority,
            "backfill": backfills.to_json(backfill),
        },
    ).rowcount
    conn.execute(
        text("UPDATE enrichment_jobs SET total = :n WHERE job_id = :id"), {"n": count, "id": job_id}
    )
    notify(conn)
    return count


def find_by_key(conn: Connection, idempotency_key: str) -> tuple[UUID, int] | None:
    """The job that this key created, and how many items it has."""
    row = conn.execute(
        text("SELECT job_id, total FROM enrichment_jobs WHERE idempotency_key = :key"),
        {"key": idempotency_key},
    ).one_or_none()
    return None if row is None else (row.job_id, row.total)


def notify(conn: Connection) -> None:
    """Wake every listening worker when this transaction commits."""
    conn.execute(text("SELECT pg_notify(:channel, '')"), {"channel": CHANNEL})


def _mark_series_failed(conn: Connection, task: Task, error: str) -> None:
    for timeframe in task.timeframes:
        conn.execute(
            sql(statements.SERIES_FAILED),
            {"symbol": task.symbol, "timeframe": timeframe, "error": error},
        )
