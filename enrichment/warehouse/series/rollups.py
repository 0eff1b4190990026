"""Recomputes what is derived from the logs: their hourly rollups, and outages that explain gaps."""

from __future__ import annotations

from sqlalchemy import Connection, text

from enrichment.domain.model import LATENCY_BUCKETS_MS
from enrichment.domain.statuses import GapCause
from enrichment.warehouse.database import sql

ROLLUP_LOCK = 7_303_015  # of pg_advisory_xact_lock


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


def explain_gaps_by_outages(conn: Connection) -> int:
    """Set a gap's cause to vendor outage where many symbols miss the same bar.

    That is at least 3 symbols, and half of those of the asset class and timeframe. Returns the
    number of gaps changed.
    """
    return conn.execute(sql(_OUTAGES)).rowcount


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

_OUTAGES = f"""
WITH open AS (
    SELECT g.symbol, g.timeframe, g.ts, s.asset_class
    FROM bar_gaps g JOIN tracked_symbols s USING (symbol)
    WHERE g.resolved_at IS NULL AND g.found_at > now() - interval '2 days'
), series AS (
    SELECT asset_class, timeframe, count(*) AS n
    FROM tracked_symbols CROSS JOIN unnest(timeframes) AS timeframe WHERE active GROUP BY 1, 2
), outages AS (
    SELECT o.asset_class, o.timeframe, o.ts FROM open o JOIN series USING (asset_class, timeframe)
    GROUP BY o.asset_class, o.timeframe, o.ts, series.n
    HAVING count(*) >= 3 AND 2 * count(*) >= series.n
)
UPDATE bar_gaps g SET cause = '{GapCause.VENDOR_OUTAGE}'
FROM open o JOIN outages USING (asset_class, timeframe, ts)
WHERE (g.symbol, g.timeframe, g.ts) = (o.symbol, o.timeframe, o.ts)
    AND g.cause = '{GapCause.UNEXPLAINED}'
"""
