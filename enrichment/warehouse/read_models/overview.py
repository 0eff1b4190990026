"""Queries of the overview page: the past nights, recent errors, and unhealthy series.

Times are timezone-aware UTC, durations in seconds, scores in [0, 1]. Inactive symbols do not count.
"""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from operator import attrgetter
from typing import Any
from uuid import UUID

from sqlalchemy import text

from enrichment.domain.schedules import Schedule, Slot, nightly
from enrichment.domain.statuses import ItemStatus, JobState, SeriesStatus
from enrichment.warehouse.database import Database, Reader, database_now, from_row
from enrichment.warehouse.read_models.dto import TrackedSeries
from enrichment.warehouse.read_models.schedules import (
    ENRICHED_SINCE,
    known_since,
    seconds_late,
    slot_time,
)
from enrichment.warehouse.read_models.symbols import SERIES_OF_T, STATE, STATUS
from enrichment.warehouse.state_lists import NIGHTLY_JOBS

MISSED, MANUAL, BEFORE, UNPLANNED = "missed", "manual", "before", "unplanned"  # without a job
_WORST_FIRST = (
    *(JobState.FAILED, MISSED, JobState.PARTIAL, JobState.CANCELLED, JobState.RUNNING),
    *(JobState.QUEUED, MANUAL, JobState.COMPLETED, BEFORE, UNPLANNED),
)


@dataclass(frozen=True, slots=True)
class Night:
    """A date and the worst of the schedules' jobs that were planned for it.

    The state is that of the job; without one, 'manual' if a job that somebody opened was
    successful on the date, 'missed' if none was, 'before' for dates before the first job ever or
    before the schedule was known, and 'unplanned' if no schedule runs on the date.
    Figures are None without a job, or before its end.
    """

    date: dt.date
    state: str
    successful: int | None = None
    failed: int | None = None
    duration_seconds: float | None = None
    late_seconds: float | None = None  # from the slot's time until the job was opened
    schedule: str | None = None

    @property
    def badness(self) -> tuple[int, int]:
        return -_WORST_FIRST.index(self.state), self.failed or 0


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
    """Reads the overview page."""

    def __init__(self, db: Database, schedules: Sequence[Schedule] = (nightly(),)) -> None:
        super().__init__(db)
        self._schedules = schedules

    def nights(self, days: int = 90) -> list[Night]:
        """The dates up to that of the newest past slot, oldest first."""
        with self._db.begin() as conn:
            now, since = database_now(conn), known_since(conn)
            newest = max(schedule.last_slot(now).date for schedule in self._schedules)
            first = newest - dt.timedelta(days=days - 1)
            jobs = conn.execute(text(_NIGHTLY), {"first": first}).all()
            first_job = conn.execute(text(_FIRST_JOB)).scalar()
            by_hand = set(conn.execute(text(_DATES_RUN_BY_HAND), {"first": first}).scalars())

        def without_job(slot: Slot) -> Night:
            before = first_job is None or slot.date < first_job
            if before or slot.at < since.get(slot.schedule, now):
                return Night(slot.date, BEFORE, schedule=slot.schedule)
            state = MANUAL if slot.date in by_hand else MISSED
            return Night(slot.date, state, schedule=slot.schedule)

        nights = defaultdict(list)
        for job in jobs:
            nights[job.slot_date].append(self._night(job))
        with_job = {(job.schedule, job.slot_date) for job in jobs}
        for slot in self._slots_since(first, now):
            if (slot.schedule, slot.date) not in with_job:
                nights[slot.date].append(without_job(slot))
        dates = (first + dt.timedelta(days=n) for n in range(days))
        return [max(nights[d] or [Night(d, UNPLANNED)], key=attrgetter("badness")) for d in dates]

    def _night(self, job: Any) -> Night:
        planned = slot_time(self._schedules, job.schedule, job.slot_date, job.slot_at)
        late = seconds_late(planned, job.created_at)
        return from_row(Night, job, date=job.slot_date, late_seconds=late)

    def _slots_since(self, first: dt.date, now: dt.datetime) -> Iterator[Slot]:
        for schedule in self._schedules:
            yield from takewhile(lambda slot: slot.date >= first, schedule.slots_before(now))

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


_NIGHTLY = f"""
SELECT schedule, slot_date, slot_at, state, successful, failed, created_at,
    CASE WHEN completed_at IS NOT NULL THEN job_seconds(j) END AS duration_seconds
FROM enrichment_jobs j WHERE kind IN {NIGHTLY_JOBS} AND slot_date >= :first
"""

_FIRST_JOB = "SELECT min(created_at AT TIME ZONE 'UTC')::date FROM enrichment_jobs"

_DATES_RUN_BY_HAND = f"""
SELECT DISTINCT (created_at AT TIME ZONE 'UTC')::date FROM enrichment_jobs
WHERE schedule IS NULL AND state IN ('{JobState.COMPLETED}', '{JobState.PARTIAL}')
    AND created_at >= CAST(:first AS timestamp) AT TIME ZONE 'UTC'
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
