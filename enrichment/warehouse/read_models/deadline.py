"""Whether the runs that are open will be done by their deadline, and how often runs were lately.

The deadline of a run is the first moment with that time of day after the run was opened.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Connection

from enrichment.domain.forecast import deadline_after
from enrichment.domain.statuses import ItemStatus
from enrichment.warehouse.database import database_now, fetch_all
from enrichment.warehouse.read_models.dto import RunForecast, ServiceLevel, SessionLevel
from enrichment.warehouse.read_models.eta import VendorEtas
from enrichment.warehouse.state_lists import FINAL_ITEMS, NIGHTLY_JOBS, OPEN_JOBS

TARGET_SERIES = 0.99  # share of a session's series that are complete by the deadline
TARGET_SESSIONS = 0.99  # share of the sessions of which that is so
SESSIONS = 100
NEWEST = 14  # sessions that are listed


@dataclass(frozen=True, slots=True)
class _OpenRun:
    job_id: UUID
    schedule: str | None
    created_at: dt.datetime
    total: int
    final: int
    seconds: float | None


def read_forecasts(
    conn: Connection, etas: VendorEtas, deadline: dt.time | None
) -> list[RunForecast]:
    """Of the open scheduled and catch-up runs, the oldest first; none without a deadline."""
    if deadline is None:
        return []
    now = database_now(conn)
    forecasts = []
    for run in fetch_all(conn, _OpenRun, _OPEN_RUNS):
        expected = _end(conn, etas, run, now, at_best=False)
        soonest = _end(conn, etas, run, now, at_best=True)
        at = deadline_after(run.created_at, deadline)
        late = None if soonest is None else (soonest - at) / dt.timedelta(minutes=1)
        forecasts.append(RunForecast(run.job_id, run.schedule, at, expected, soonest, late))
    return forecasts


def _end(
    conn: Connection, etas: VendorEtas, run: _OpenRun, now: dt.datetime, *, at_best: bool
) -> dt.datetime | None:
    """When a run ends; None if that can't be told."""
    seconds = etas.seconds_left(
        conn, run.job_id, run.total, run.final, run.seconds, at_best=at_best
    )
    return None if seconds is None else now + dt.timedelta(seconds=seconds)


def read_service_level(conn: Connection, deadline: dt.time | None) -> ServiceLevel:
    """Of the newest sessions that are over: their deadline has passed, or nothing is left."""
    values = {"deadline": deadline, "limit": SESSIONS}
    levels = fetch_all(conn, SessionLevel, _SESSIONS, values) if deadline else []
    met = sum(level.series_complete >= TARGET_SERIES * level.series for level in levels)
    allowed = (1.0 - TARGET_SESSIONS) * len(levels)
    return ServiceLevel(
        timestamp=database_now(conn),
        deadline=None if deadline is None else f"{deadline:%H:%M}",
        target_series=TARGET_SERIES,
        target_sessions=TARGET_SESSIONS,
        sessions=len(levels),
        sessions_met=met,
        attained=met / len(levels) if levels else None,
        budget=allowed,
        burn=(len(levels) - met) / allowed if levels else None,
        newest=levels[:NEWEST],
    )


_OPEN_RUNS = f"""
SELECT j.job_id, j.schedule, j.created_at, j.total, job_seconds(j) AS seconds,
    (SELECT count(*) FROM enrichment_job_items i
        WHERE i.job_id = j.job_id AND i.status IN {FINAL_ITEMS}) AS final
FROM enrichment_jobs j
WHERE j.state IN {OPEN_JOBS} AND j.kind IN {NIGHTLY_JOBS} AND j.total > 0
ORDER BY j.created_at
"""

# A cancelled symbol was not to be enriched any more. The last deadline of jobs from before due
# times were recorded is that after they were opened.
_SESSIONS = f"""
WITH runs AS (
    SELECT job_id, schedule, slot_date, created_at,
        coalesce(slot_at, created_at) AT TIME ZONE 'UTC' AS due
    FROM enrichment_jobs WHERE kind IN {NIGHTLY_JOBS}
    ORDER BY slot_date DESC, created_at DESC LIMIT :limit
), sessions AS (
    SELECT *, (due::date + CAST(:deadline AS time) + CASE
        WHEN due::time > CAST(:deadline AS time) THEN interval '1 day' ELSE interval '0' END)
        AT TIME ZONE 'UTC' AS deadline
    FROM runs
)
SELECT s.schedule, s.slot_date, s.deadline, items.series, items.series_complete
FROM sessions s, LATERAL (
    SELECT coalesce(sum(cardinality(timeframes)), 0)::integer AS series,
        coalesce(sum(cardinality(timeframes)) FILTER (WHERE completed_at <= s.deadline
            AND status = '{ItemStatus.COMPLETED}'), 0)::integer AS series_complete
    FROM enrichment_job_items WHERE job_id = s.job_id AND status <> '{ItemStatus.CANCELLED}'
) items
WHERE items.series > 0 AND (s.deadline <= now() OR items.series = items.series_complete)
ORDER BY s.slot_date DESC, s.created_at DESC
"""
