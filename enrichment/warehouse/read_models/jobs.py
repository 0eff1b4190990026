"""One job in detail: its request, its items and the errors by class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from uuid import UUID

from sqlalchemy import Connection

from enrichment.domain.statuses import ItemStatus
from enrichment.warehouse.database import Reader, fetch_one
from enrichment.warehouse.read_models.dto import LastJob
from enrichment.warehouse.read_models.night import last_run
from enrichment.warehouse.state_lists import FINISHED_JOBS

EXAMPLES = 5


@dataclass(frozen=True, slots=True)
class ErrorGroup:
    """Failed symbols of one error class."""

    error_class: str
    count: int
    example: str  # the newest message
    symbols: Sequence[str]  # the first few


@dataclass(frozen=True, slots=True)
class JobRequest:
    """By whom a job was requested, when and why."""

    kind: str
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
    started_at: datetime | None
    completed_at: datetime | None


@dataclass(frozen=True, slots=True)
class SymbolsOfDay:
    """Distinct symbols of the jobs created on a UTC day, by their last outcome on that day."""

    date: date
    successful: int
    failed: int


class JobReports(Reader):
    """Reads the items of jobs."""

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
        self, job_id: UUID, limit: int, *, status: str | None = None, after: str | None = None
    ) -> list[JobItem]:
        """Up to `limit` symbols of a job, ascending, after this one."""
        return self._all(JobItem, _ITEMS, job_id=job_id, limit=limit, status=status, after=after)

    def longest(self, job_id: UUID, limit: int) -> list[JobItem]:
        """The symbols of a job that have started, by their duration, longest first."""
        return self._all(JobItem, _LONGEST, job_id=job_id, limit=limit)


def last_job(conn: Connection) -> LastJob | None:
    """The run that the installation is judged by; where there is none, the newest finished job.

    Its failed symbols are those that no later run has enriched.
    """
    run = last_run(conn)
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
SELECT kind, requested_by, reason, created_at, started_at, completed_at, cancel_requested_at
FROM enrichment_jobs WHERE job_id = :job_id
"""

_ERROR_GROUPS = f"""
SELECT coalesce(error_class, 'unknown') AS error_class, count(*) AS count,
    (array_agg(coalesce(last_error, '') ORDER BY completed_at DESC, symbol))[1] AS example,
    (array_agg(symbol ORDER BY symbol))[1:CAST(:examples AS integer)] AS symbols
FROM enrichment_job_items WHERE job_id = :job_id AND status = '{ItemStatus.FAILED}'
GROUP BY 1 ORDER BY count(*) DESC, 1
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

_ITEM = """
SELECT symbol, status, step, retry_count, run_after, worker_id, error_class, last_error,
    inserted, updated, started_at, completed_at
FROM enrichment_job_items"""

_LONGEST = f"""{_ITEM}
WHERE job_id = :job_id AND started_at IS NOT NULL
ORDER BY coalesce(completed_at, now()) - started_at DESC, symbol LIMIT :limit
"""

_ITEMS = f"""{_ITEM}
WHERE job_id = :job_id AND (CAST(:status AS text) IS NULL OR status = :status)
    AND (CAST(:after AS text) IS NULL OR symbol > :after)
ORDER BY symbol LIMIT :limit
"""
