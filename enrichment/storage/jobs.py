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

from enrichment.domain import AssetClass, Failure, Task, Timeframe, Window, Written
from enrichment.storage import backfills, logs
from enrichment.storage.database import Database
from enrichment.storage.ownership import OWNED, lost, owner

CHANNEL = "enrichment_jobs"


class JobQueue:
    """What a worker asks of the queue. Seconds everywhere."""

    def __init__(self, db: Database, *, lease_seconds: float = 30.0) -> None:
        self._db = db
        self._lease = lease_seconds

    def claim(self, worker_id: str, limit: int) -> list[Task]:
        """Take up to `limit` items that are due, oldest job first, manual triggers before the
        night's.
        """
        try:
            with self._db.begin() as conn:
                rows = conn.execute(
                    text(_CLAIM), {"worker": worker_id, "limit": limit, "lease": self._lease}
                ).all()
                if rows:
                    conn.execute(text(_START_JOBS), {"jobs": list({row.job_id for row in rows})})
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
            for task, step in tasks.items():
                conn.execute(text(_RENEW), {**owner(task), "step": step, "lease": self._lease})
            jobs = {task.job_id for task in tasks}
            cancelled = set(conn.execute(text(_CANCELLED), {"jobs": list(jobs)}).scalars())
        return {task for task in tasks if task.job_id in cancelled}

    def drop(self, task: Task) -> None:
        """End an item of a cancelled job without an effect."""
        with self._db.begin() as conn:
            conn.execute(text(_DROP), owner(task))

    def give_back(self, task: Task, seconds: float = 0.0, why: str | None = None) -> None:
        """Return an item as it was, due after `seconds`: a drain, a snooze; no retry is counted."""
        with self._db.begin() as conn:
            conn.execute(text(_GIVE_BACK), {**owner(task), "seconds": seconds, "why": why})

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
            if conn.execute(text(_FAIL if retry_after is None else _RETRY), values).rowcount != 1:
                raise lost(task)
            logs.write_failure(
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

    def close_finished(self) -> list[UUID]:
        """Freeze the totals of every job whose items are all final; returns their ids."""
        with self._db.begin() as conn:
            return close_finished(conn)

    def reap(self, max_retries: int) -> int:
        """Give expired items that nobody stores back to the queue, or fail them at the limit.

        Items that came back to a job which was cancelled meanwhile end here. Returns the number of
        leases that had run out.
        """
        with self._db.begin() as conn:
            reaped = conn.execute(text(_REAP), {"max_retries": max_retries}).rowcount
            conn.execute(text(_END_CANCELLED))
            return reaped


def close_finished(conn: Connection) -> list[UUID]:
    """Freeze the totals of every job whose items are all final; returns their ids."""
    return list(conn.execute(text(_CLOSE)).scalars())


def complete(conn: Connection, task: Task, written: Written) -> None:
    """Make the item final, in the transaction that stores its effect."""
    done = conn.execute(
        text(_COMPLETE),
        {**owner(task), "inserted": written.inserted, "updated": written.updated},
    )
    if done.rowcount != 1:
        raise lost(task)


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
        text(_INSERT_JOB),
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
        text(_SNAPSHOT),
        {
            "job_id": job_id,
            "symbols": list(symbols) if symbols is not None else None,
            "asset_class": asset_class,
            "priority": priority,
            "backfill": backfills.text_of(backfill),
        },
    ).rowcount
    conn.execute(
        text("UPDATE enrichment_jobs SET total = :n WHERE job_id = :id"), {"n": count, "id": job_id}
    )
    notify(conn)
    return count


def notify(conn: Connection) -> None:
    """Wake every listening worker when this transaction commits."""
    conn.execute(text("SELECT pg_notify(:channel, '')"), {"channel": CHANNEL})


def _mark_series_failed(conn: Connection, task: Task, error: str) -> None:
    for timeframe in task.timeframes:
        conn.execute(
            text(_SERIES_FAILED), {"symbol": task.symbol, "timeframe": timeframe, "error": error}
        )


_CLAIM = """
WITH due AS (
    SELECT i.job_id, i.symbol
    FROM enrichment_job_items i JOIN enrichment_jobs j USING (job_id)
    WHERE i.status IN ('pending', 'retry') AND i.run_after <= now()
        AND j.state IN ('queued', 'running') AND j.cancel_requested_at IS NULL
        AND NOT EXISTS (
            SELECT 1 FROM pauses p WHERE (p.until IS NULL OR p.until > now())
                AND (p.scope = 'global' OR (p.scope, p.key) IN
                    (('asset_class', i.asset_class), ('symbol', i.symbol))))
        AND NOT EXISTS (
            SELECT 1 FROM enrichment_job_items o
            WHERE o.symbol = i.symbol AND o.status = 'in_progress')
    ORDER BY i.priority, i.created_at, i.symbol
    LIMIT :limit
    FOR UPDATE OF i SKIP LOCKED
), one_per_symbol AS (
    SELECT DISTINCT ON (symbol) job_id, symbol FROM due ORDER BY symbol, job_id
)
UPDATE enrichment_job_items i
SET status = 'in_progress', step = 'claimed', worker_id = :worker, fence = i.fence + 1,
    lease_until = now() + make_interval(secs => :lease),
    started_at = coalesce(i.started_at, now())
FROM one_per_symbol o
WHERE i.job_id = o.job_id AND i.symbol = o.symbol
RETURNING i.job_id, i.symbol, i.asset_class, i.timeframes, i.fence, i.retry_count, i.backfill
"""

_RENEW = f"""
UPDATE enrichment_job_items SET step = :step, lease_until = now() + make_interval(secs => :lease)
WHERE (job_id, symbol) IN (
    SELECT job_id, symbol FROM enrichment_job_items WHERE {OWNED} FOR UPDATE SKIP LOCKED)
"""

# Whoever holds a job's row is about to cancel it, and waits for the items this claim has locked.
_START_JOBS = """
UPDATE enrichment_jobs SET state = 'running', started_at = coalesce(started_at, now())
WHERE job_id IN (
    SELECT job_id FROM enrichment_jobs
    WHERE job_id = ANY(:jobs) AND state = 'queued' FOR UPDATE SKIP LOCKED)
"""

_GIVE_BACK = f"""
UPDATE enrichment_job_items
SET status = CASE WHEN retry_count > 0 THEN 'retry' ELSE 'pending' END,
    lease_until = NULL, worker_id = NULL, step = NULL,
    last_error = coalesce(:why, last_error),
    run_after = now() + make_interval(secs => :seconds)
WHERE {OWNED}
"""

_RETRY = f"""
UPDATE enrichment_job_items
SET status = 'retry', retry_count = retry_count + 1, lease_until = NULL, step = :step,
    error_class = :error_class, last_error = :error,
    run_after = now() + make_interval(secs => :seconds)
WHERE {OWNED}
"""

_FAIL = f"""
UPDATE enrichment_job_items
SET status = 'failed', lease_until = NULL, step = :step, error_class = :error_class,
    last_error = :error, completed_at = clock_timestamp()
WHERE {OWNED}
"""

_COMPLETE = f"""
UPDATE enrichment_job_items
SET status = 'completed', lease_until = NULL, step = NULL, error_class = NULL, last_error = NULL,
    inserted = inserted + :inserted, updated = updated + :updated,
    completed_at = clock_timestamp()
WHERE {OWNED}
"""

_REAP = """
UPDATE enrichment_job_items
SET status = CASE WHEN retry_count < :max_retries THEN 'retry' ELSE 'failed' END,
    completed_at = CASE WHEN retry_count < :max_retries THEN NULL ELSE now() END,
    retry_count = least(retry_count + 1, :max_retries), lease_until = NULL, run_after = now(),
    error_class = 'WorkerLost', last_error = 'worker ' || worker_id || ' stopped answering'
WHERE (job_id, symbol) IN (
    SELECT job_id, symbol FROM enrichment_job_items
    WHERE status = 'in_progress' AND lease_until < now() FOR UPDATE SKIP LOCKED)
"""

# A cancel ends the items that wait; one at work may still come back: snoozed, retried or reaped.
_END_CANCELLED = """
UPDATE enrichment_job_items i SET status = 'cancelled', completed_at = now()
FROM enrichment_jobs j
WHERE j.job_id = i.job_id AND j.state IN ('queued', 'running')
    AND j.cancel_requested_at IS NOT NULL AND i.status IN ('pending', 'retry')
"""

_CLOSE = """
WITH done AS (
    SELECT j.job_id FROM enrichment_jobs j
    WHERE j.state IN ('queued', 'running') AND NOT EXISTS (
        SELECT 1 FROM enrichment_job_items i
        WHERE i.job_id = j.job_id AND i.status IN ('pending', 'retry', 'in_progress'))
    FOR UPDATE OF j SKIP LOCKED
), totals AS (
    SELECT done.job_id,
        count(*) FILTER (WHERE i.status = 'completed') AS successful,
        count(*) FILTER (WHERE i.status = 'failed') AS failed,
        count(*) FILTER (WHERE i.status = 'cancelled') AS cancelled,
        count(*) FILTER (WHERE i.retry_count > 0) AS retried,
        coalesce(sum(i.inserted), 0) AS inserted, coalesce(sum(i.updated), 0) AS updated
    FROM done LEFT JOIN enrichment_job_items i USING (job_id) GROUP BY done.job_id
)
UPDATE enrichment_jobs j
SET state = CASE
        WHEN j.cancel_requested_at IS NOT NULL AND t.cancelled > 0 THEN 'cancelled'
        WHEN t.failed = 0 THEN 'completed'
        WHEN t.successful = 0 THEN 'failed'
        ELSE 'partial' END,
    successful = t.successful, failed = t.failed, cancelled = t.cancelled, retried = t.retried,
    inserted = t.inserted, updated = t.updated,
    started_at = coalesce(j.started_at, clock_timestamp()), completed_at = clock_timestamp()
FROM totals t WHERE t.job_id = j.job_id
RETURNING j.job_id
"""

_INSERT_JOB = """
INSERT INTO enrichment_jobs (kind, requested_by, params, reason, idempotency_key, slot_date)
VALUES (:kind, :by, CAST(:params AS jsonb), :reason, :key, :slot)
ON CONFLICT DO NOTHING RETURNING job_id
"""

_SNAPSHOT = """
INSERT INTO enrichment_job_items (job_id, symbol, asset_class, timeframes, priority, backfill)
SELECT :job_id, symbol, asset_class, timeframes, :priority, CAST(:backfill AS jsonb)
FROM tracked_symbols
WHERE active AND (CAST(:symbols AS text[]) IS NULL OR symbol = ANY(CAST(:symbols AS text[])))
    AND (CAST(:asset_class AS text) IS NULL OR asset_class = :asset_class)
"""

_CANCELLED = """
SELECT job_id FROM enrichment_jobs
WHERE job_id = ANY(:jobs) AND cancel_requested_at IS NOT NULL
"""

_DROP = f"""
UPDATE enrichment_job_items
SET status = 'cancelled', lease_until = NULL, step = NULL, completed_at = clock_timestamp()
WHERE {OWNED}
"""

_SERIES_FAILED = """
INSERT INTO enrichment_status (symbol, timeframe, status, last_error, last_error_at)
VALUES (:symbol, :timeframe, 'error', :error, now())
ON CONFLICT (symbol, timeframe) DO UPDATE
SET status = 'error', last_error = EXCLUDED.last_error, last_error_at = EXCLUDED.last_error_at
"""
