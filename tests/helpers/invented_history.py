"""Ninety invented nights for a demo, so that screenshots show a dashboard after a quarter.

Most nights succeed; three have an outage, one is late, and the quality of one symbol declines.
"""

from __future__ import annotations

from sqlalchemy import text

from enrichment.warehouse.database import Database

NIGHTS = 90


def write_history(db: Database) -> None:
    """Insert the nights until now: jobs, items, quality, rollups, breakers, alerts, audit."""
    for statement in (_JOBS, _ITEMS, _QUALITY, _FETCHES, _ANSWERS, _BREAKERS, _ALERTS, _AUDIT):
        with db.begin() as conn:
            conn.execute(text(statement), {"nights": NIGHTS})


# A pseudo-random number from 0 to 99, the same for the same text.
_DICE = "(abs(hashtext(({})::text)) % 100)"

_JOBS = f"""
WITH nights AS (
    SELECT n, date_trunc('day', now()) - n * interval '1 day' + interval '90 minutes'
            + CASE WHEN n = 12 THEN interval '3 hours 12 minutes' ELSE interval '2 seconds' END
            AS began,
        CASE WHEN n IN (33, 34, 35) THEN 6 WHEN n % 11 = 0 THEN 1 + n % 2 ELSE 0 END AS failed,
        41 + {_DICE.format("'took' || n")} * 0.23 + CASE WHEN n IN (33, 34, 35) THEN 160 ELSE 0 END
            AS seconds,
        (SELECT count(*) FROM tracked_symbols) AS symbols
    FROM generate_series((now()::time < '02:00')::int, :nights) n)
INSERT INTO enrichment_jobs (kind, schedule, slot_date, state, requested_by, created_at,
    started_at, completed_at, total, successful, failed, cancelled, retried, inserted, updated)
SELECT CASE WHEN n = 12 THEN 'catchup' ELSE 'scheduled' END, 'nightly', began::date,
    CASE WHEN failed > 0 THEN 'partial' ELSE 'completed' END, 'scheduler', began, began,
    began + seconds * interval '1 second', symbols, symbols - failed, failed, 0, n % 3,
    180 + n % 40, n % 7
FROM nights
"""

_ITEMS = """
INSERT INTO enrichment_job_items (job_id, symbol, asset_class, timeframes, status, worker_id,
    created_at, started_at, completed_at, inserted, error_class, last_error)
SELECT job_id, symbol, asset_class, timeframes,
    CASE WHEN place <= failed THEN 'failed' ELSE 'completed' END, 'night:1:a1b2c3', created_at,
    created_at + ceil(place / 5.0 - 1) * took, created_at + ceil(place / 5.0) * took, 18,
    CASE WHEN place <= failed THEN 'ProviderUnavailable' END,
    CASE WHEN place <= failed THEN '/v2/aggs answered 503: try later' END
FROM (SELECT j.*, t.symbol, t.asset_class, t.timeframes,
        row_number() OVER (PARTITION BY job_id ORDER BY hashtext(t.symbol || slot_date)) AS place,
        (j.completed_at - j.started_at) / ceil(j.total / 5.0) AS took
    FROM enrichment_jobs j CROSS JOIN tracked_symbols t WHERE j.requested_by = 'scheduler') places
"""

_QUALITY = f"""
WITH days AS (
    SELECT t.symbol, tf.timeframe, (now() AT TIME ZONE 'UTC')::date - n AS date,
        1 - {_DICE.format("'c' || t.symbol || n / 9")} * 0.0004
            - CASE WHEN t.symbol = 'SIM5' AND n < 26 THEN 0.0065 * (26 - n) ELSE 0 END
            AS completeness,
        1 - {_DICE.format("'v' || t.symbol || n / 5")} * 0.0004 AS validation,
        1 - {_DICE.format("'f' || t.symbol")} * 0.0002 AS features,
        CASE WHEN n IN (33, 34, 35) THEN 0.4 ELSE 1 END AS freshness
    FROM tracked_symbols t CROSS JOIN LATERAL unnest(t.timeframes) AS tf (timeframe)
    CROSS JOIN generate_series(1, :nights) n
), scores AS (
    SELECT *, 0.4 * completeness + 0.3 * validation + 0.2 * features + 0.1 * freshness AS score
    FROM days)
INSERT INTO data_quality_metrics (symbol, timeframe, date, total_records, validated_records,
    validation_rate, gaps_detected, anomalies_detected, avg_quality_score, data_completeness,
    validation, features, freshness, status, reasons)
SELECT symbol, timeframe, date, 250, round(250 * validation), 100 * validation, 0, 0, score,
    completeness, validation, features, freshness,
    CASE WHEN score > 0.9 THEN 'healthy' ELSE 'warning' END, '{{}}'
FROM scores ON CONFLICT DO NOTHING
"""

# Hourly fetches: each source has its own pace, and polygon was slow and then out 5 hours ago.
_FETCHES = f"""
INSERT INTO enrichment_fetch_hourly (hour, source, total, successful, duration_ms, successful_ms,
    latency_buckets)
SELECT hour, source, (SELECT sum(n) FROM unnest(counts) AS n), (SELECT sum(n) FROM unnest(counts)
    AS n), 90 * 24, 90 * 24, counts
FROM (
    SELECT date_trunc('hour', now()) - n * interval '1 hour' AS hour, source,
        ARRAY(SELECT greatest(0, round((8 + {_DICE.format("source || n")} * 0.05)
                * exp(-power(bucket - pace - CASE WHEN source = 'sandbox' AND n IN (5, 6)
                    THEN 4 ELSE {_DICE.format("n || source")} * 0.008 END, 2) / 1.6)))::int
            FROM generate_series(0, 10) bucket ORDER BY bucket) AS counts
    FROM (VALUES ('sandbox', 2.0), ('sandbox:binance', 1.0), ('sandbox:yahoo', 3.4))
        AS sources (source, pace)
    CROSS JOIN generate_series(1, 24 * 30) n) hours
WHERE source <> 'sandbox:yahoo' OR hour < now() - interval '4 hours'
    AND hour > now() - interval '8 hours' OR {_DICE.format("hour")} < 4
ON CONFLICT DO NOTHING
"""

_ANSWERS = """
INSERT INTO enrichment_fetch_answers (hour, asset_class, source, answered)
SELECT hour, CASE source WHEN 'sandbox:binance' THEN 'crypto' ELSE 'stock' END, source, successful
FROM enrichment_fetch_hourly WHERE source <> 'none' ON CONFLICT DO NOTHING
"""

_BREAKERS = """
INSERT INTO resilience_transitions (at, worker_id, kind, name, from_state, to_state, reason)
SELECT now() - minutes * interval '1 minute', worker_id, 'circuit_breaker', name, was, is_now, why
FROM (VALUES
    (1500, 'polygon_api', 'closed', 'open', '50 % of 20 calls failed'),
    (1499, 'polygon_api', 'open', 'half_open', 'recovery timeout'),
    (1498, 'polygon_api', 'half_open', 'closed', 'the probe succeeded'),
    (1310, 'binance_api', 'closed', 'closed', 'started'),
    (372, 'polygon_api', 'closed', 'open', '55 % of 20 calls failed'),
    (351, 'polygon_api', 'open', 'half_open', 'recovery timeout'),
    (347, 'polygon_api', 'half_open', 'open', 'the probe failed'),
    (318, 'polygon_api', 'open', 'half_open', 'recovery timeout'),
    (311, 'polygon_api', 'half_open', 'closed', 'the probe succeeded'),
    (1310, 'yahoo_api', 'closed', 'closed', 'started')
) AS changes (minutes, name, was, is_now, why)
CROSS JOIN (SELECT worker_id FROM workers ORDER BY heartbeat_at DESC LIMIT 1) worker
"""

_ALERTS = """
INSERT INTO alert_events (at, rule, episode, state, severity, condition, value, detail, silenced)
SELECT now() - hours * interval '1 hour', rule, md5(rule)::uuid, state, 'warning', condition, value,
    detail, false
FROM (VALUES
    (803.9, 'HighFailureRate', 'firing', 'last_job.failure_rate > 0.1', 0.6, '60 % failed'),
    (779.9, 'HighFailureRate', 'resolved', 'last_job.failure_rate > 0.1', 0.0, 'none failed'),
    (803.8, 'EnrichmentJobFailed', 'firing', 'last_job.failed > 5', 6, '6 symbols failed'),
    (731.7, 'EnrichmentJobFailed', 'resolved', 'last_job.failed > 5', 0, 'none failed')
) AS events (hours, rule, state, condition, value, detail)
"""

_AUDIT = """
INSERT INTO operator_actions (at, actor, action, target, reason)
SELECT now() - hours * interval '1 hour', actor, action, target, reason
FROM (VALUES
    (803.2, 'ada@example.com', 'pause', 'provider polygon', 'their status page says major outage'),
    (732.0, 'ada@example.com', 'resume', 'provider polygon', NULL),
    (270.4, 'grace@example.com', 'confirm', 'GOOG 1d', 'the fall after the earnings call was real'),
    (5.1, 'grace@example.com', 'breaker_reset', 'polygon_api', 'vendor says it is over'),
    (3.0, 'cli:ada', 'trigger', 'all active symbols', 'catching up on the morning')
) AS actions (hours, actor, action, target, reason)
"""
