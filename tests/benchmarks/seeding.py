"""Thirteen months of an installation, written straight into its tables, to measure readers on."""

from __future__ import annotations

from sqlalchemy import text

from enrichment.warehouse.database import Database
from enrichment.warehouse.read_models import lifetime_totals
from enrichment.warehouse.series import rollups

DAYS = 395


def seed(db: Database, rows: int, symbols: int) -> None:
    """`rows` fetches and computations over 13 months, with jobs, quality and rollups to match."""
    values = {"rows": rows, "symbols": symbols, "days": DAYS}
    with db.begin() as conn:
        for table in ("enrichment_fetch_log", "enrichment_compute_log"):
            for month in range(14, 0, -1):
                conn.execute(text(_PARTITION.format(table=table, month=month)))
    for statement in (_SYMBOLS, _JOBS, _ITEMS, _QUALITY, _STATUS, _FETCHES, _COMPUTATIONS):
        with db.begin() as conn:
            conn.execute(text(statement), values)
    with db.begin() as conn:
        rollups.roll_up(conn)
    with db.begin() as conn:
        lifetime_totals.advance(conn)
    with db.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
        conn.execute(text("VACUUM ANALYZE"))


_PARTITION = """
DO $$ DECLARE lower timestamptz := date_trunc('month', now()) - interval '{month} months'; BEGIN
    EXECUTE format('CREATE TABLE IF NOT EXISTS {table}_%s PARTITION OF {table}'
        ' FOR VALUES FROM (%L) TO (%L)', to_char(lower, 'YYYY_MM'), lower,
        lower + interval '1 month');
END $$
"""

_SYMBOLS = """
INSERT INTO tracked_symbols (symbol, asset_class, timeframes)
SELECT 'SIM' || n, 'stock', '{1d}' FROM generate_series(1, :symbols) n
"""

_JOBS = """
INSERT INTO enrichment_jobs (kind, schedule, slot_date, state, requested_by, created_at,
    started_at, completed_at, total, successful, failed, cancelled, retried, inserted, updated)
SELECT 'scheduled', 'nightly', (now() - n * interval '1 day')::date, 'completed', 'scheduler',
    now() - n * interval '1 day', now() - n * interval '1 day',
    now() - n * interval '1 day' + interval '9 minutes', :symbols, :symbols, 0, 0, 3, :symbols, 0
FROM generate_series(1, :days) n
"""

_ITEMS = """
INSERT INTO enrichment_job_items (job_id, symbol, asset_class, timeframes, status, created_at,
    started_at, completed_at, inserted)
SELECT j.job_id, t.symbol, t.asset_class, t.timeframes, 'completed', j.created_at, j.started_at,
    j.completed_at, 1
FROM enrichment_jobs j CROSS JOIN tracked_symbols t WHERE j.created_at > now() - interval '90 days'
"""

_QUALITY = """
INSERT INTO data_quality_metrics (symbol, timeframe, date, total_records, validated_records,
    validation_rate, gaps_detected, anomalies_detected, avg_quality_score, data_completeness,
    validation, features, freshness, status, reasons)
SELECT t.symbol, '1d', (now() - n * interval '1 day')::date, 1, 1, 100, 0, 0, 0.97, 1, 1, 1, 1,
    'healthy', '{}'
FROM tracked_symbols t CROSS JOIN generate_series(0, :days) n
"""

_STATUS = """
INSERT INTO enrichment_status (symbol, timeframe, status, bars, quality_score, last_success_at)
SELECT symbol, '1d', 'healthy', 365, 0.97, now() FROM tracked_symbols
"""

_FETCHES = """
INSERT INTO enrichment_fetch_log (at, symbol, timeframe, source, success, requests, bars,
    duration_ms, quota_remaining)
SELECT now() - n * (:days * 86400.0 / :rows) * interval '1 second', 'SIM' || 1 + n % :symbols,
    '1d', 'polygon', n % 50 > 0, 1, 1, 20 + n % 400, 5
FROM generate_series(:rows, 1, -1) n
"""

_COMPUTATIONS = """
INSERT INTO enrichment_compute_log (at, symbol, timeframe, success, bars, features, duration_ms)
SELECT now() - n * (:days * 86400.0 / :rows) * interval '1 second', 'SIM' || 1 + n % :symbols,
    '1d', true, 1, 26, 1 + n % 4
FROM generate_series(:rows, 1, -1) n
"""
