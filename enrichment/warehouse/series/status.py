"""The state of a series in `enrichment_status`, and its quality of the day."""

from __future__ import annotations

import json
from collections.abc import Sequence

from sqlalchemy import Connection, text

from enrichment.domain.model import Quality, RowCounts, Severity
from enrichment.domain.series import QualityInputs
from enrichment.warehouse.database import sql
from enrichment.warehouse.series import update_rows
from enrichment.warehouse.series.update_rows import STATUSES, Batch


def write(conn: Connection, batch: Batch, counts: Sequence[RowCounts], feature_set: str) -> None:
    """Write each series' quality of the day and its state after this run.

    A gap or anomaly counts on the day on which it was found first, so that days add up.
    """
    values = STATUSES.bind(update_rows.statuses(batch, counts, feature_set))
    conn.execute(sql(_DAILY_QUALITY), values)
    conn.execute(sql(_UPDATE_STATUS), values)


def reassess(
    conn: Connection, symbol: str, timeframe: str, quality: Quality, inputs: QualityInputs
) -> None:
    """Replace a series' score and what it is computed from, now and in its newest day's row."""
    values = {
        "symbol": symbol,
        "timeframe": timeframe,
        **update_rows.quality_columns(quality),
        "evidence": json.dumps(update_rows.inputs_to_json(inputs)),
    }
    conn.execute(sql(_REASSESS), values)
    conn.execute(sql(_REASSESS_DAY), values)


def read_quality_inputs(conn: Connection, symbol: str, timeframe: str) -> QualityInputs | None:
    """What a series' score is computed from, locked for this transaction; None without a score."""
    stored = conn.execute(
        text(
            "SELECT evidence FROM enrichment_status WHERE symbol = :symbol"
            " AND timeframe = :timeframe FOR UPDATE"
        ),
        {"symbol": symbol, "timeframe": timeframe},
    ).scalar()
    return None if stored is None else update_rows.inputs_from_json(stored)


_DAILY_QUALITY = f"""
INSERT INTO data_quality_metrics AS m (symbol, timeframe, date, total_records, validated_records,
    validation_rate, gaps_detected, anomalies_detected, avg_quality_score, data_completeness,
    validation, features, freshness, status, reasons)
SELECT symbol, timeframe, date, total_records, validated_records, validation_rate,
    (SELECT count(*) FROM bar_gaps g
        WHERE (g.symbol, g.timeframe) = (statuses.symbol, statuses.timeframe)
        AND g.found_at >= date_trunc('day', now())),
    (SELECT count(*) FROM bar_flags f
        WHERE (f.symbol, f.timeframe) = (statuses.symbol, statuses.timeframe)
        AND f.severity <> '{Severity.INFO}' AND f.found_at >= date_trunc('day', now())),
    score, completeness, validation, features, freshness, status, reasons
FROM {STATUSES.table}
ON CONFLICT (symbol, timeframe, date) DO UPDATE SET
    total_records = EXCLUDED.total_records, validated_records = EXCLUDED.validated_records,
    validation_rate = EXCLUDED.validation_rate, gaps_detected = EXCLUDED.gaps_detected,
    anomalies_detected = EXCLUDED.anomalies_detected,
    avg_quality_score = EXCLUDED.avg_quality_score,
    data_completeness = EXCLUDED.data_completeness, validation = EXCLUDED.validation,
    features = EXCLUDED.features, freshness = EXCLUDED.freshness, status = EXCLUDED.status,
    reasons = EXCLUDED.reasons, updated_at = now()
WHERE (m.total_records, m.validated_records, m.gaps_detected, m.anomalies_detected,
       m.avg_quality_score, m.reasons) IS DISTINCT FROM
      (EXCLUDED.total_records, EXCLUDED.validated_records, EXCLUDED.gaps_detected,
       EXCLUDED.anomalies_detected, EXCLUDED.avg_quality_score, EXCLUDED.reasons)
"""

_UPDATE_STATUS = f"""
INSERT INTO enrichment_status AS e (symbol, timeframe, status, bars, first_ts, last_ts,
    history_from, wanted_from, history_limit, history_checked_at, source, fallback, adjusted,
    quality_score, reasons, evidence, feature_set, last_success_at)
SELECT symbol, timeframe, status, inserted, first_ts, last_ts,
    history_from, wanted_from, history_limit, CASE WHEN history_checked THEN now() END, source,
    fallback, adjusted, score, reasons, evidence, feature_set, now()
FROM {STATUSES.table}
ON CONFLICT (symbol, timeframe) DO UPDATE SET
    status = EXCLUDED.status, bars = e.bars + EXCLUDED.bars,
    first_ts = least(e.first_ts, EXCLUDED.first_ts),
    last_ts = greatest(e.last_ts, EXCLUDED.last_ts),
    history_from = least(e.history_from, EXCLUDED.history_from),
    wanted_from = least(e.wanted_from, EXCLUDED.wanted_from),
    history_limit = EXCLUDED.history_limit,
    history_checked_at = coalesce(EXCLUDED.history_checked_at, e.history_checked_at),
    source = EXCLUDED.source, fallback = EXCLUDED.fallback,
    adjusted = EXCLUDED.adjusted, quality_score = EXCLUDED.quality_score,
    reasons = EXCLUDED.reasons, evidence = EXCLUDED.evidence, feature_set = EXCLUDED.feature_set,
    last_success_at = EXCLUDED.last_success_at, last_error = NULL, last_error_at = NULL
"""

_REASSESS = """
UPDATE enrichment_status SET status = :status, quality_score = :score, reasons = :reasons,
    evidence = CAST(:evidence AS jsonb)
WHERE symbol = :symbol AND timeframe = :timeframe
"""

_REASSESS_DAY = """
UPDATE data_quality_metrics SET avg_quality_score = :score,
    data_completeness = :completeness, validation = :validation, features = :features,
    freshness = :freshness, status = :status, reasons = :reasons, updated_at = now()
WHERE symbol = :symbol AND timeframe = :timeframe AND date = (
    SELECT max(date) FROM data_quality_metrics WHERE symbol = :symbol AND timeframe = :timeframe)
"""
