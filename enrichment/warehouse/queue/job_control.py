"""Changes to jobs by operators and the nightly slot: open, cancel, reopen, supersede."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from uuid import UUID

from sqlalchemy import Connection, text

from enrichment.domain.model import JobKind, SeriesRepair, Window
from enrichment.domain.schedules import Slot
from enrichment.domain.statuses import ItemStatus, JobState
from enrichment.warehouse.queue import audit
from enrichment.warehouse.queue.jobs import (
    add_repairs,
    close_finished,
    insert_job,
    notify,
    snapshot_items,
)
from enrichment.warehouse.state_lists import NIGHTLY_JOBS, OPEN_JOBS, WAITING_ITEMS


def open_job(
    conn: Connection,
    kind: JobKind,
    *,
    action: str,
    actor: str,
    reason: str | None,
    params: Mapping[str, object],
    symbols: Sequence[str] | None,
    priority: int,
    asset_class: str | None = None,
    idempotency_key: str | None = None,
    backfill: Window | None = None,
    repairs: Mapping[str, Sequence[SeriesRepair]] | None = None,
) -> tuple[UUID, int] | None:
    """Insert a job with its items and its row in the audit log.

    repairs: the items of a repair; None: one for each of the symbols. Returns its id and its number
    of items; None if the idempotency key exists already.
    """
    job_id = insert_job(
        conn,
        kind=kind,
        requested_by=actor,
        params=json.dumps(params),
        reason=reason,
        idempotency_key=idempotency_key,
    )
    if job_id is None:
        return None
    if repairs is not None:
        count = add_repairs(conn, job_id, repairs, priority)
    else:
        count = snapshot_items(
            conn,
            job_id,
            symbols=symbols,
            asset_class=asset_class,
            priority=priority,
            backfill=backfill,
        )
    audit.record(conn, actor=actor, action=action, target=str(job_id), reason=reason, params=params)
    return job_id, count


def request_cancel(conn: Connection, job_id: UUID) -> None:
    """Cancel a job's waiting items now; items in progress are discarded at their next step."""
    conn.execute(
        text("UPDATE enrichment_jobs SET cancel_requested_at = now() WHERE job_id = :job_id"),
        {"job_id": job_id},
    )
    conn.execute(text(_CANCEL_ITEMS), {"jobs": [job_id]})
    close_finished(conn)


def reopen_failed(conn: Connection, job_id: UUID, error_class: str | None) -> int:
    """Requeue a finished job's failed items (all, or one error class); returns their number."""
    count = conn.execute(
        text(_REOPEN_ITEMS), {"job_id": job_id, "error_class": error_class}
    ).rowcount
    if count:
        conn.execute(text(_REOPEN_JOB), {"job_id": job_id})
        notify(conn)
    return count


def cancel_symbol(conn: Connection, symbol: str) -> None:
    """Cancel the waiting items of a symbol that is no longer tracked."""
    conn.execute(text(_CANCEL_SYMBOL), {"symbol": symbol})
    close_finished(conn)


def open_repair(conn: Connection) -> UUID | None:
    """A repair that is not finished yet."""
    job_id: UUID | None = conn.execute(text(_OPEN_REPAIR)).scalar()
    return job_id


def job_state(conn: Connection, job_id: UUID) -> str | None:
    """A job's state, locked for this transaction; None for an unknown job."""
    state: str | None = conn.execute(
        text("SELECT state FROM enrichment_jobs WHERE job_id = :job_id FOR UPDATE"),
        {"job_id": job_id},
    ).scalar()
    return state


def wake_snoozed(conn: Connection, seconds: float) -> None:
    """Make items that wait for a vendor due in `seconds`; retries keep their delay."""
    conn.execute(text(_WAKE), {"seconds": seconds})


def supersede_older(conn: Connection, slot: Slot) -> None:
    """Cancel jobs of the schedule's earlier slots that have not started."""
    values = {"schedule": slot.schedule, "date": slot.date}
    ids: list[UUID] = list(conn.execute(text(_SUPERSEDE), values).scalars())
    if ids:
        conn.execute(text(_CANCEL_ITEMS), {"jobs": ids})
        close_finished(conn)


_OPEN_REPAIR = f"""
SELECT job_id FROM enrichment_jobs
WHERE state IN {OPEN_JOBS} AND kind = '{JobKind.BACKFILL}' AND params ->> 'repair' = 'true' LIMIT 1
"""

_CANCEL_ITEMS = f"""
UPDATE enrichment_job_items SET status = '{ItemStatus.CANCELLED}', completed_at = now()
WHERE job_id = ANY(:jobs) AND status IN {WAITING_ITEMS}
"""

_CANCEL_SYMBOL = f"""
UPDATE enrichment_job_items SET status = '{ItemStatus.CANCELLED}', completed_at = now(),
    last_error = 'the symbol was removed'
WHERE symbol = :symbol AND status IN {WAITING_ITEMS}
"""

_WAKE = f"""
UPDATE enrichment_job_items SET run_after = now() + make_interval(secs => :seconds)
WHERE status = '{ItemStatus.PENDING}' AND run_after > now() + make_interval(secs => :seconds)
"""

_REOPEN_ITEMS = f"""
UPDATE enrichment_job_items
SET status = '{ItemStatus.PENDING}', retry_count = 0, run_after = now(), started_at = NULL,
    completed_at = NULL, step = NULL, market_days = false
WHERE job_id = :job_id AND status = '{ItemStatus.FAILED}'
    AND (CAST(:error_class AS text) IS NULL OR error_class = :error_class)
"""

_REOPEN_JOB = f"""
UPDATE enrichment_jobs j
SET state = '{JobState.RUNNING}', completed_at = NULL, cancel_requested_at = NULL,
    worked_seconds = coalesce(job_seconds(j), 0), resumed_at = now(),
    successful = NULL, failed = NULL, cancelled = NULL, retried = NULL, inserted = NULL,
    updated = NULL
WHERE job_id = :job_id
"""

_SUPERSEDE = f"""
UPDATE enrichment_jobs SET cancel_requested_at = now(), reason = 'superseded by a later slot'
WHERE kind IN {NIGHTLY_JOBS} AND state = '{JobState.QUEUED}' AND schedule = :schedule
    AND slot_date < :date AND cancel_requested_at IS NULL
RETURNING job_id
"""
