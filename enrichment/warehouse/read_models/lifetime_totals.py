"""Lifetime totals: the sums of all hourly rollups that no longer change.

A scrape reads few rows for totals since the installation, and they outlive the rollups.
"""

from __future__ import annotations

from sqlalchemy import Connection, text

from enrichment.warehouse.series.rollups import ROLLUP_LOCK


def advance(conn: Connection) -> None:
    """Add the rollups that no longer change, unless another worker is rolling up or adding."""
    if conn.execute(text("SELECT pg_try_advisory_xact_lock(:key)"), {"key": ROLLUP_LOCK}).scalar():
        conn.execute(text(_ADD_FETCHES))
        conn.execute(text(_ADD_COMPUTATIONS))


# Rollups are recomputed for up to three hours.
_ADD_FETCHES = """
WITH due AS (
    SELECT h.* FROM enrichment_fetch_hourly h LEFT JOIN enrichment_fetch_settled s USING (source)
    WHERE h.hour < date_trunc('hour', now()) - interval '3 hours'
        AND h.hour >= coalesce(s.before, '-infinity')
), buckets AS (
    SELECT source, array_agg(n ORDER BY position) AS counts FROM (
        SELECT due.source, b.position, sum(b.n)::bigint AS n
        FROM due CROSS JOIN LATERAL unnest(latency_buckets) WITH ORDINALITY AS b (n, position)
        GROUP BY 1, 2) sums
    GROUP BY source
)
INSERT INTO enrichment_fetch_settled AS s
    (source, before, total, successful, duration_ms, latency_buckets)
SELECT source, date_trunc('hour', now()) - interval '3 hours', sum(total), sum(successful),
    sum(duration_ms), counts
FROM due JOIN buckets USING (source) GROUP BY source, counts
ON CONFLICT (source) DO UPDATE SET before = EXCLUDED.before, total = s.total + EXCLUDED.total,
    successful = s.successful + EXCLUDED.successful,
    duration_ms = s.duration_ms + EXCLUDED.duration_ms,
    latency_buckets = ARRAY(
        SELECT a + b
        FROM unnest(s.latency_buckets, EXCLUDED.latency_buckets) WITH ORDINALITY AS u (a, b, n)
        ORDER BY n)
"""

_ADD_COMPUTATIONS = """
INSERT INTO enrichment_compute_settled AS s (before, total, successful, duration_ms)
SELECT date_trunc('hour', now()) - interval '3 hours', sum(total), sum(successful), sum(duration_ms)
FROM enrichment_compute_hourly
WHERE hour < date_trunc('hour', now()) - interval '3 hours'
    AND hour >= coalesce((SELECT before FROM enrichment_compute_settled), '-infinity')
HAVING count(*) > 0
ON CONFLICT (single) DO UPDATE SET before = EXCLUDED.before, total = s.total + EXCLUDED.total,
    successful = s.successful + EXCLUDED.successful,
    duration_ms = s.duration_ms + EXCLUDED.duration_ms
"""
