"""One job in detail: its request, its items and the errors by class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from uuid import UUID

from sqlalchemy import Connection

from enrichment.domain.statuses import WAITING_ITEM_STATUSES, ItemStatus
from enrichment.warehouse.database import Database, Reader, fetch_all, fetch_one, sql
from enrichment.warehouse.read_models.dto import LastJob, WaitReason
from enrichment.warehouse.read_models.schedules import ENRICHED_SINCE, NightRun
from enrichment.warehouse.read_models.waiting import ProviderOrders, waits_of
from enrichment.warehouse.state_lists import FINISHED_JOBS

EXAMPLES = 5


@dataclass(frozen=True, slots=True)
class ErrorGroup:
    """Failed symbols of one error class."""

    error_class: str
    count: int
    still_failing: int  # of these: not enriched since by a later run, and active
    example: str  # the newest message
    symbols: Sequence[str]  # the first few, those that still fail before the others


@dataclass(frozen=True, slots=True)
class JobRequest:
    """By whom a job was requested, when and why."""

    kind: str
    schedule: str | None  # whose run it is
    requested_by: str
    reason: str | None
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None
    cancel_requested_at: datetime | None


@dataclass(frozen=True, slots=True)
class JobItem:
    """A symbol of a job."""

    symbol: str
    status: str
    step: str | None
    retry_count: int
    run_after: datetime
    worker_id: str | None
    error_class: str | None
    last_error: str | None
    inserted: int  # bars
    updated: int  # bars
    started_at: datetime | None  # when it was first claimed
    completed_at: datetime | None  # when its end was committed
    thread: int | None  # of the worker, in the last attempt; None before it began
    begun_at: datetime | None  # when the thread began the last attempt
    finished_at: datetime | None  # when the thread was done with it
    enriched_since: bool  # it failed, and a later run has enriched it
    waiting: WaitReason | None = None  # why it has not started


@dataclass(frozen=True, slots=True)
class ThreadSpan:
    """The last attempt at a symbol of a job.

    Spans of one thread do not overlap. Without a thread, as in runs of earlier versions, a span
    begins with the first claim and ends with the commit, and may overlap others.
    """

    symbol: str
    status: str
    worker_id: str | None
    thread: int | None
    begun_at: datetime
    ended_at: datetime  # now, where it is still running


@dataclass(frozen=True, slots=True)
class Timeline:
    """How threads were used for a job."""

    spans: Sequence[ThreadSpan]  # the longest, longest first
    total: int  # spans that there are
    earlier_attempts: int  # at the same symbols; their times are not kept


@dataclass(frozen=True, slots=True)
class SymbolsOfDay:
    """Distinct symbols of the jobs created on a UTC day, by their last outcome on that day."""

    date: date
    successful: int
    failed: int


@dataclass(frozen=True, slots=True)
class ItemLog:
    """What workers logged about a symbol of a job in attempts that failed."""

    job_id: UUID
    symbol: str
    status: str
    lines: Sequence[str]  # the oldest first; at most 100


class JobReports(Reader):
    """Reads the items of jobs. providers: asset class → its providers, in their order."""

    def __init__(self, db: Database, providers: ProviderOrders) -> None:
        super().__init__(db)
        self._providers = providers

    def log(self, job_id: UUID, symbol: str) -> ItemLog | None:
        """None if the job has no such symbol."""
        return self._one(ItemLog, _LOG, job_id=job_id, symbol=symbol)

    def logs_of_failures(
        self, limit: int, *, symbol: str | None = None, job: str | None = None
    ) -> list[ItemLog]:
        """The newest items with lines, the newest last. job: the beginning of the job's id."""
        return self._all(ItemLog, _FAILURE_LOGS, limit=limit, symbol=symbol, job=job)

    def symbols_by_day(self, job_ids: Sequence[UUID]) -> list[SymbolsOfDay]:
        """The days of these jobs, ascending."""
        return self._all(SymbolsOfDay, _SYMBOLS_BY_DAY, job_ids=list(job_ids))

    def request(self, job_id: UUID) -> JobRequest | None:
        """None for an unknown job."""
        return self._one(JobRequest, _REQUEST, job_id=job_id)

    def error_groups(self, job_id: UUID) -> list[ErrorGroup]:
        """The failed symbols by error class, the most frequent first."""
        return self._all(ErrorGroup, _ERROR_GROUPS, job_id=job_id, examples=EXAMPLES)

    def items(
        self,
        job_id: UUID,
        limit: int,
        *,
        status: str | None = None,
        error_class: str | None = None,
        after: str | None = None,
    ) -> list[JobItem]:
        """Up to `limit` symbols of a job, ascending, after this one."""
        values = {
            "job_id": job_id,
            "limit": limit,
            "status": status,
            "error_class": error_class,
            "after": after,
        }
        with self._db.begin() as conn:
            items = fetch_all(conn, JobItem, _ITEMS, values)
            waiting = [item.symbol for item in items if item.status in WAITING_ITEM_STATUSES]
            waits = waits_of(conn, job_id, waiting, self._providers)
        return [replace(item, waiting=waits.get(item.symbol)) for item in items]

    def timeline(self, job_id: UUID, limit: int) -> Timeline:
        """Up to `limit` spans, the longest."""
        with self._db.begin() as conn:
            totals = conn.execute(sql(_SPAN_TOTALS), {"job_id": job_id}).one()
            spans = fetch_all(conn, ThreadSpan, _SPANS, {"job_id": job_id, "limit": limit})
        return Timeline(spans, totals.spans, totals.earlier_attempts)


def last_job(conn: Connection, run: NightRun | None) -> LastJob | None:
    """`run`, by which the installation is judged; where there is none, the newest finished job.

    Its failed symbols are those that no later run has enriched.
    """
    if run is None:
        return fetch_one(conn, LastJob, _NEWEST)
    return LastJob(
        run.started_at,
        run.completed_at,
        run.duration_seconds,
        successful=run.successful + run.enriched_since,
        failed=run.still_failing,
        retried=run.retried,
    )


_NEWEST = f"""
SELECT started_at, completed_at,
    job_seconds(j) AS duration_seconds, successful, failed, retried
FROM enrichment_jobs j WHERE state IN {FINISHED_JOBS}
ORDER BY completed_at DESC LIMIT 1
"""

_REQUEST = """
SELECT kind, schedule, requested_by, reason, created_at, started_at, completed_at,
    cancel_requested_at
FROM enrichment_jobs WHERE job_id = :job_id
"""

_ERROR_GROUPS = f"""
SELECT error_class, count(*) AS count, count(*) FILTER (WHERE failing) AS still_failing,
    (array_agg(last_error ORDER BY failing DESC, completed_at DESC, symbol))[1] AS example,
    (array_agg(symbol ORDER BY failing DESC, symbol))[1:CAST(:examples AS integer)] AS symbols
FROM (
    SELECT coalesce(i.error_class, 'unknown') AS error_class, i.symbol, i.completed_at,
        coalesce(i.last_error, '') AS last_error,
        coalesce(t.active, false) AND NOT {ENRICHED_SINCE} AS failing
    FROM enrichment_job_items i LEFT JOIN tracked_symbols t USING (symbol)
    WHERE i.job_id = :job_id AND i.status = '{ItemStatus.FAILED}') items
GROUP BY 1 ORDER BY still_failing DESC, count(*) DESC, 1
"""

_SYMBOLS_BY_DAY = f"""
SELECT date, count(*) FILTER (WHERE status = '{ItemStatus.COMPLETED}') AS successful,
    count(*) FILTER (WHERE status = '{ItemStatus.FAILED}') AS failed
FROM (
    SELECT DISTINCT ON (1, symbol) (j.created_at AT TIME ZONE 'UTC')::date AS date, symbol, status
    FROM enrichment_jobs j LEFT JOIN enrichment_job_items i ON i.job_id = j.job_id
        AND status IN ('{ItemStatus.COMPLETED}', '{ItemStatus.FAILED}')
    WHERE j.job_id = ANY(CAST(:job_ids AS uuid[]))
    ORDER BY 1, symbol, i.completed_at DESC) outcomes
GROUP BY date ORDER BY date
"""

# Items that a thread has begun; of earlier versions those that have ended. A thread is done with
# one at the latest when it begins the next.
_BEGUN = f"""
SELECT symbol, status, worker_id, thread, retry_count,
    coalesce(begun_at, started_at) AS begun_at,
    least(coalesce(finished_at, completed_at, now()), CASE WHEN thread IS NOT NULL THEN
        lead(begun_at) OVER (PARTITION BY worker_id, thread ORDER BY begun_at, symbol) END)
        AS ended_at
FROM enrichment_job_items
WHERE job_id = :job_id AND (thread IS NOT NULL
    OR started_at IS NOT NULL AND status IN ('{ItemStatus.COMPLETED}', '{ItemStatus.FAILED}'))
"""

_SPANS = f"""
SELECT symbol, status, worker_id, thread, begun_at, greatest(begun_at, ended_at) AS ended_at
FROM ({_BEGUN}) begun
ORDER BY ended_at - begun_at DESC, symbol LIMIT :limit
"""

_SPAN_TOTALS = f"""
SELECT count(*) AS spans, coalesce(sum(retry_count), 0) AS earlier_attempts FROM ({_BEGUN}) begun
"""

_LOG = """
SELECT job_id, symbol, status, log_lines AS lines
FROM enrichment_job_items WHERE job_id = :job_id AND symbol = :symbol
"""

_FAILURE_LOGS = """
SELECT job_id, symbol, status, log_lines AS lines FROM (
    SELECT * FROM enrichment_job_items
    WHERE log_lines <> '{}' AND (CAST(:symbol AS text) IS NULL OR symbol = :symbol)
        AND (CAST(:job AS text) IS NULL OR starts_with(job_id::text, :job))
    ORDER BY created_at DESC, symbol DESC LIMIT :limit) newest
ORDER BY created_at, symbol
"""

_ITEMS = f"""
SELECT symbol, status, step, retry_count, run_after, worker_id, error_class, last_error,
    inserted, updated, started_at, completed_at, thread, begun_at, finished_at,
    status = '{ItemStatus.FAILED}' AND {ENRICHED_SINCE} AS enriched_since
FROM enrichment_job_items i
WHERE job_id = :job_id AND (CAST(:status AS text) IS NULL OR status = :status)
    AND (CAST(:error_class AS text) IS NULL
        OR status = '{ItemStatus.FAILED}' AND coalesce(error_class, 'unknown') = :error_class)
    AND (CAST(:after AS text) IS NULL OR symbol > :after)
ORDER BY symbol LIMIT :limit
"""
