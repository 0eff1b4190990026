"""Metrics of the last 24 hours: fetches, computations, quality.

Past hours are read from their rollups, so that the cost does not grow with the logs; the hours at
both ends, and one without a rollup yet, are counted from the logs.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, text

from enrichment.warehouse.database import fetch_all
from enrichment.warehouse.read_models.dto import (
    ComputeMetrics,
    FetchMetrics,
    Metrics,
    QualityMetrics,
)
from enrichment.warehouse.read_models.quality_all import newest_quality


def read(conn: Connection) -> Metrics:
    """The metrics of the 24 hours up to now."""
    edges = conn.execute(text(_EDGES)).one()._mapping
    fetch: Any = conn.execute(text(_FETCHES), dict(edges)).one()
    compute: Any = conn.execute(text(_COMPUTATIONS), dict(edges)).one()
    (quality,) = fetch_all(conn, QualityMetrics, _QUALITY)
    return Metrics(
        FetchMetrics(
            total_fetches=fetch.total,
            successful=fetch.successful,
            success_rate=_percent(fetch.successful, fetch.total),
            avg_response_time_ms=fetch.avg_ms,
            api_quota_remaining=quota(conn),
        ),
        ComputeMetrics(
            total_computations=compute.total,
            successful=compute.successful,
            success_rate=_percent(compute.successful, compute.total),
            avg_computation_time_ms=compute.avg_ms,
        ),
        quality,
    )


def quota(conn: Connection) -> int | None:
    """Remaining requests, as a vendor last reported; None without a report for five minutes."""
    remaining: int | None = conn.execute(text(_QUOTA)).scalar()
    return remaining


def _percent(part: int, whole: int) -> float | None:
    return round(100.0 * part / whole, 2) if whole else None


# The rollup of an hour is complete once a later hour has one.
_EDGES = """
SELECT since, full_from, greatest(full_from, (SELECT max(hour) FROM enrichment_fetch_hourly))
        AS fetches_from,
    greatest(full_from, (SELECT max(hour) FROM enrichment_compute_hourly)) AS computations_from
FROM (SELECT now() - interval '24 hours' AS since,
    date_trunc('hour', now() - interval '23 hours') AS full_from) edges
"""

_SUMS = """
SELECT coalesce(sum(total), 0)::bigint AS total, coalesce(sum(successful), 0)::bigint AS successful,
    round((sum(ms) / nullif(sum(successful), 0))::numeric, 2)::float8 AS avg_ms
FROM (
    SELECT sum(total) AS total, sum(successful) AS successful, sum(successful_ms) AS ms
    FROM {rollup} WHERE hour >= :full_from AND hour < :{counted_from}
    UNION ALL
    SELECT count(*), count(*) FILTER (WHERE success), sum(duration_ms) FILTER (WHERE success)
    FROM {log} WHERE at >= :since AND at < :full_from
    UNION ALL
    SELECT count(*), count(*) FILTER (WHERE success), sum(duration_ms) FILTER (WHERE success)
    FROM {log} WHERE at >= :{counted_from}
) parts
"""

_FETCHES = _SUMS.format(
    rollup="enrichment_fetch_hourly", log="enrichment_fetch_log", counted_from="fetches_from"
)

_COMPUTATIONS = _SUMS.format(
    rollup="enrichment_compute_hourly",
    log="enrichment_compute_log",
    counted_from="computations_from",
)

_QUOTA = """
SELECT quota_remaining FROM enrichment_fetch_log
WHERE at > now() - interval '5 minutes' AND quota_remaining IS NOT NULL
ORDER BY at DESC LIMIT 1
"""

_QUALITY = f"""
SELECT (SELECT count(*) FROM tracked_symbols WHERE active) AS symbols_tracked,
    (SELECT coalesce(sum(cardinality(timeframes)), 0) FROM tracked_symbols WHERE active) AS series,
    count(*) AS series_scored,
    round(avg(validation_rate)::numeric, 2)::float8 AS avg_validation_rate,
    round(avg(avg_quality_score)::numeric, 4)::float8 AS avg_quality_score,
    (SELECT round(avg(s.fallback::integer), 4)::float8
        FROM enrichment_status s JOIN tracked_symbols t USING (symbol)
        WHERE t.active AND s.last_success_at IS NOT NULL) AS fallback_share
FROM ({newest_quality("m.validation_rate, m.avg_quality_score", days=2)}) newest
"""
