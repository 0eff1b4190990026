"""The logs of fetches and computations, and their hourly rollups."""

from __future__ import annotations

from sqlalchemy import Connection, text

from enrichment.domain.model import LATENCY_BUCKETS_MS, Task
from enrichment.warehouse.database import sql
from enrichment.warehouse.series import update_rows
from enrichment.warehouse.series.update_rows import COMPUTATIONS, FETCHES, Batch

ROLLUP_LOCK = 7_303_015  # of pg_advisory_xact_lock


def write_success(conn: Connection, batch: Batch) -> None:
    """A row for every fetch and one for each computation, in the transaction of their bars."""
    conn.execute(sql(_FETCHED), FETCHES.bind(update_rows.fetches(batch)))
    conn.execute(sql(_COMPUTED), COMPUTATIONS.bind(update_rows.computations(batch)))


def write_failure(
    conn: Connection,
    task: Task,
    timeframe: str | None,
    *,
    fetching: bool,
    duration_ms: float,
    error_class: str,
    error: str,
) -> None:
    """One row in the log of the step that failed."""
    conn.execute(
        sql(_FETCH_FAILED if fetching else _COMPUTE_FAILED),
        {
            "job_id": task.job_id,
            "symbol": task.symbol,
            "timeframe": timeframe,
            "ms": duration_ms,
            "error_class": error_class,
            "error": error,
        },
    )


def roll_up(conn: Connection) -> None:
    """Recompute the rollups of the newest hours, unless another worker is doing so.

    They start two hours before the current one, or at the newest rollup if that is older, which
    covers what was logged just before all workers stopped.
    """
    if conn.execute(text("SELECT pg_try_advisory_xact_lock(:key)"), {"key": ROLLUP_LOCK}).scalar():
        since = conn.execute(sql(_ROLL_UP_FROM)).one()
        bounds = list(LATENCY_BUCKETS_MS)
        conn.execute(sql(_ROLL_UP_FETCHES), {"bounds": bounds, "since": since.fetches})
        conn.execute(sql(_ROLL_UP_ANSWERS), {"since": since.fetches})
        conn.execute(sql(_ROLL_UP_COMPUTATIONS), {"since": since.computations})


_FETCHED = f"""
INSERT INTO enrichment_fetch_log ({FETCHES.columns}) SELECT {FETCHES.columns} FROM {FETCHES.table}
"""

_COMPUTED = f"""
INSERT INTO enrichment_compute_log ({COMPUTATIONS.columns})
SELECT {COMPUTATIONS.columns} FROM {COMPUTATIONS.table}
"""

_FETCH_FAILED = """
INSERT INTO enrichment_fetch_log
    (job_id, symbol, timeframe, success, duration_ms, error_class, error)
VALUES (:job_id, :symbol, :timeframe, false, :ms, :error_class, :error)
"""

_COMPUTE_FAILED = _FETCH_FAILED.replace("enrichment_fetch_log", "enrichment_compute_log")

_ROLL_UP_FROM = """
SELECT
    least(date_trunc('hour', now()) - interval '2 hours', coalesce(
        (SELECT max(hour) FROM enrichment_fetch_hourly),
        (SELECT date_trunc('hour', min(at)) FROM enrichment_fetch_log))) AS fetches,
    least(date_trunc('hour', now()) - interval '2 hours', coalesce(
        (SELECT max(hour) FROM enrichment_compute_hourly),
        (SELECT date_trunc('hour', min(at)) FROM enrichment_compute_log))) AS computations
"""

FETCHES_BY_HOUR = """
SELECT hour, source, sum(n) AS total, sum(ok) AS successful, sum(ms) AS duration_ms,
    sum(ok_ms) AS successful_ms, array_agg(n ORDER BY bucket) AS latency_buckets
FROM (
    SELECT h.hour, h.source, b.bucket, count(l.bucket) AS n,
           count(*) FILTER (WHERE l.success) AS ok, coalesce(sum(l.duration_ms), 0) AS ms,
           coalesce(sum(l.duration_ms) FILTER (WHERE l.success), 0) AS ok_ms
    FROM (SELECT DISTINCT date_trunc('hour', at) AS hour, coalesce(source, 'none') AS source
          FROM enrichment_fetch_log WHERE at >= {since}) h
    CROSS JOIN generate_series(0, cardinality(CAST(:bounds AS float8[]))) AS b (bucket)
    LEFT JOIN (
        SELECT date_trunc('hour', at) AS hour, coalesce(source, 'none') AS source, success,
               coalesce(duration_ms, 0) AS duration_ms,
               width_bucket(coalesce(duration_ms, 0), CAST(:bounds AS float8[])) AS bucket
        FROM enrichment_fetch_log WHERE at >= {since}
    ) l ON (l.hour, l.source, l.bucket) = (h.hour, h.source, b.bucket)
    GROUP BY h.hour, h.source, b.bucket
) buckets
GROUP BY hour, source
"""
"""The log's hours from `since` on, as their rollups are; `:bounds` are LATENCY_BUCKETS_MS."""

ANSWERS_BY_HOUR = """
SELECT date_trunc('hour', l.at) AS hour, t.asset_class, l.source, count(*) AS answered
FROM enrichment_fetch_log l JOIN tracked_symbols t USING (symbol)
WHERE l.at >= {since} AND l.success AND l.source IS NOT NULL GROUP BY 1, 2, 3
"""
"""The log's hours from `since` on, as their rollups are."""

_ROLL_UP_FETCHES = f"""
INSERT INTO enrichment_fetch_hourly
    (hour, source, total, successful, duration_ms, successful_ms, latency_buckets)
{FETCHES_BY_HOUR.format(since=":since")}
ON CONFLICT (hour, source) DO UPDATE SET total = EXCLUDED.total, successful = EXCLUDED.successful,
    duration_ms = EXCLUDED.duration_ms, successful_ms = EXCLUDED.successful_ms,
    latency_buckets = EXCLUDED.latency_buckets
"""

_ROLL_UP_ANSWERS = f"""
INSERT INTO enrichment_fetch_answers (hour, asset_class, source, answered)
{ANSWERS_BY_HOUR.format(since=":since")}
ON CONFLICT (hour, asset_class, source) DO UPDATE SET answered = EXCLUDED.answered
"""

_ROLL_UP_COMPUTATIONS = """
INSERT INTO enrichment_compute_hourly (hour, total, successful, duration_ms, successful_ms)
SELECT date_trunc('hour', at), count(*), count(*) FILTER (WHERE success),
       coalesce(sum(duration_ms), 0), coalesce(sum(duration_ms) FILTER (WHERE success), 0)
FROM enrichment_compute_log WHERE at >= :since
GROUP BY 1
ON CONFLICT (hour) DO UPDATE SET total = EXCLUDED.total, successful = EXCLUDED.successful,
    duration_ms = EXCLUDED.duration_ms, successful_ms = EXCLUDED.successful_ms
"""
