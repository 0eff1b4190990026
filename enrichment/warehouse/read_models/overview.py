"""Queries of the overview page: the past nights, recent errors, and unhealthy series.

Times are timezone-aware UTC, durations in seconds, scores in [0, 1]. Inactive symbols do not count.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import text

from enrichment.domain.statuses import ItemStatus, JobState, SeriesStatus
from enrichment.warehouse.database import Database, Reader
from enrichment.warehouse.read_models.dto import TrackedSeries
from enrichment.warehouse.read_models.night import ENRICHED_SINCE
from enrichment.warehouse.read_models.symbols import SERIES_OF_T, STATE, STATUS
from enrichment.warehouse.state_lists import NIGHTLY_JOBS


@dataclass(frozen=True, slots=True)
class Night:
    """A UTC date and the job of its nightly slot.

    The state is that of the job; without one, 'manual' if another job was successful on the date,
    'missed' if none was, and 'before' for dates before the first job ever. Figures are None without
    a job, or before its end.
    """

    date: dt.date
    state: str
    successful: int | None
    failed: int | None
    duration_seconds: float | None
    late_seconds: float | None  # from the slot's time until the job was opened


@dataclass(frozen=True, slots=True)
class RecentError:
    """Failed symbols of one error class in the jobs of the last days."""

    error_class: str
    symbols: int
    still_failing: int  # of the symbols: no later run has enriched them, and they are active
    jobs: int
    example: str  # the newest message
    job_id: UUID  # that the message is from
    at: dt.datetime  # when it failed


class OverviewQueries(Reader):
    """Reads the overview page; hour and minute are the time of the nightly slot, UTC."""

    def __init__(self, db: Database, *, hour: int, minute: int) -> None:
        super().__init__(db)
        self._slot = {"hour": hour, "minute": minute}

    def nights(self, days: int = 90) -> list[Night]:
        """The last `days` dates with a past slot, oldest first."""
        return self._all(Night, _NIGHTS, **self._slot, days=days)

    def errors(self, days: int = 7) -> list[RecentError]:
        """The error classes in the jobs of the last days, the most frequent first."""
        return self._all(RecentError, _ERRORS, days=days)

    def symbols(self) -> dict[str, str]:
        """Active symbol → asset class, by name."""
        with self._db.begin() as conn:
            return {row.symbol: row.asset_class for row in conn.execute(text(_SYMBOLS))}

    def needs_attention(self, limit: int = 50) -> list[TrackedSeries]:
        """The series that are not healthy, the most severe first."""
        return self._all(TrackedSeries, _ATTENTION, limit=limit)


_NIGHTS = f"""
WITH dates AS (
    SELECT (date_trunc('day', (now() AT TIME ZONE 'UTC') - make_interval(hours => :hour,
        mins => :minute))::date - n) AS date
    FROM generate_series(0, CAST(:days AS integer) - 1) n
), first_job AS (
    SELECT min(created_at AT TIME ZONE 'UTC')::date AS date FROM enrichment_jobs
)
SELECT d.date,
    coalesce(j.state, CASE
        WHEN first_job.date IS NULL OR d.date < first_job.date THEN 'before'
        WHEN EXISTS (SELECT 1 FROM enrichment_jobs m
            WHERE m.state IN ('{JobState.COMPLETED}', '{JobState.PARTIAL}')
            AND m.created_at >= d.date AT TIME ZONE 'UTC'
            AND m.created_at < (d.date + 1) AT TIME ZONE 'UTC') THEN 'manual'
        ELSE 'missed' END) AS state,
    j.successful, j.failed,
    CASE WHEN j.completed_at IS NOT NULL THEN job_seconds(j) END AS duration_seconds,
    extract(epoch FROM j.created_at - coalesce(j.slot_at,
        (d.date + make_interval(hours => :hour, mins => :minute)) AT TIME ZONE 'UTC'))::float8
        AS late_seconds
FROM dates d CROSS JOIN first_job
LEFT JOIN enrichment_jobs j ON j.slot_date = d.date AND j.kind IN {NIGHTLY_JOBS}
ORDER BY d.date
"""

_ERRORS = f"""
SELECT coalesce(i.error_class, 'unknown') AS error_class, count(DISTINCT i.symbol) AS symbols,
    count(DISTINCT i.symbol) FILTER (WHERE t.active AND NOT {ENRICHED_SINCE}) AS still_failing,
    count(DISTINCT i.job_id) AS jobs,
    (array_agg(coalesce(i.last_error, '') ORDER BY i.completed_at DESC, i.symbol))[1] AS example,
    (array_agg(i.job_id ORDER BY i.completed_at DESC, i.symbol))[1] AS job_id,
    max(i.completed_at) AS at
FROM enrichment_jobs j JOIN enrichment_job_items i USING (job_id)
LEFT JOIN tracked_symbols t ON t.symbol = i.symbol
WHERE j.created_at > now() - make_interval(days => :days) AND i.status = '{ItemStatus.FAILED}'
GROUP BY 1 ORDER BY still_failing DESC, symbols DESC, 1
"""

_SYMBOLS = "SELECT symbol, asset_class FROM tracked_symbols WHERE active ORDER BY symbol"

_ATTENTION = f"""
SELECT t.symbol, t.asset_class, tf.timeframe, t.active, {STATE}
FROM tracked_symbols t {SERIES_OF_T}
WHERE t.active AND {STATUS} <> '{SeriesStatus.HEALTHY}'
ORDER BY array_position(ARRAY['{SeriesStatus.ERROR}', '{SeriesStatus.STALE}',
    '{SeriesStatus.WARNING}', '{SeriesStatus.NOT_ENRICHED}'], {STATUS}),
    e.quality_score NULLS LAST, t.symbol, tf.position
LIMIT :limit
"""
