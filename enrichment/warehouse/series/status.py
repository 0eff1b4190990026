"""How a series stands: its row in `enrichment_status` and its quality of the day."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, text

from enrichment.domain.bars import to_datetime
from enrichment.domain.model import Quality, RowCounts, Task
from enrichment.domain.series import FlagCount, QualityInputs, SeriesUpdate
from enrichment.warehouse.database import sql
from enrichment.warehouse.json_records import recordset


def write(
    conn: Connection,
    series: Sequence[tuple[Task, SeriesUpdate]],
    written: Sequence[RowCounts],
    feature_set: str,
) -> None:
    """Each series' quality of the day and its standing after this run.

    Gaps and anomalies of a day are those first seen on it, so that days add up.
    """
    rows = recordset(
        {**_row(task.symbol, enriched), "inserted": new.inserted, "feature_set": feature_set}
        for (task, enriched), new in zip(series, written, strict=True)
    )
    conn.execute(sql(_DAILY_QUALITY), {"rows": rows})
    conn.execute(sql(_UPDATE_STATUS), {"rows": rows})


def _row(symbol: str, enriched: SeriesUpdate) -> dict[str, Any]:
    bars = enriched.bars
    valid = sum(len(d.validation.bars) for d in enriched.fetches)
    checked = valid + sum(len(d.validation.quarantined) for d in enriched.fetches)
    return {
        "symbol": symbol,
        "timeframe": enriched.timeframe,
        "date": enriched.as_of.date(),
        "total": checked,
        "valid": valid,
        "rate": 100.0 * valid / checked if checked else 100.0,
        **_scores(enriched.quality),
        "evidence": to_json(enriched.quality_inputs),
        "history_from": enriched.history_from,
        "source": enriched.fetched.source,
        "adjusted": enriched.fetched.adjusted,
        "first": to_datetime(bars.ts[0]) if len(bars) else None,
        "last": to_datetime(bars.ts[-1]) if len(bars) else None,
    }


def reassess(
    conn: Connection, symbol: str, timeframe: str, quality: Quality, on: QualityInputs
) -> None:
    """Let a series' score follow changed evidence, now and in its newest day's row."""
    values = {
        "symbol": symbol,
        "timeframe": timeframe,
        **_scores(quality),
        "evidence": json.dumps(to_json(on)),
    }
    conn.execute(sql(_REASSESS), values)
    conn.execute(sql(_REASSESS_DAY), values)


def read_quality_inputs(conn: Connection, symbol: str, timeframe: str) -> QualityInputs | None:
    """What a series' score rests on, locked for this transaction; None if it has none."""
    stored = conn.execute(
        text(
            "SELECT evidence FROM enrichment_status WHERE symbol = :symbol"
            " AND timeframe = :timeframe FOR UPDATE"
        ),
        {"symbol": symbol, "timeframe": timeframe},
    ).scalar()
    return None if stored is None else from_json(stored)


def to_json(found: QualityInputs) -> dict[str, Any]:
    """As the column `evidence` holds it; the keys are those that earlier versions wrote."""
    return {
        "expected": found.expected,
        "missing": found.missing,
        "untraded": found.no_trades,
        "checked": found.checked,
        "feature_cells": found.feature_cells,
        "feature_nulls": found.feature_nulls,
        "sessions_behind": found.sessions_behind,
        "missing_at": _texts(found.missing_at),
        "objections": {
            check: {"bars": o.bars, "at": _texts(o.at)} for check, o in found.flag_counts.items()
        },
    }


def from_json(stored: dict[str, Any]) -> QualityInputs:
    return QualityInputs(
        expected=stored["expected"],
        missing=stored["missing"],
        no_trades=stored["untraded"],
        checked=stored["checked"],
        feature_cells=stored["feature_cells"],
        feature_nulls=stored["feature_nulls"],
        sessions_behind=stored["sessions_behind"],
        missing_at=tuple(map(datetime.fromisoformat, stored["missing_at"])),
        flag_counts={
            check: FlagCount(count["bars"], tuple(map(datetime.fromisoformat, count["at"])))
            for check, count in stored["objections"].items()
        },
    )


def _texts(moments: Iterable[datetime]) -> list[str]:
    return [moment.isoformat() for moment in moments]


def _scores(quality: Quality) -> dict[str, Any]:
    return {
        "score": quality.score,
        "completeness": quality.completeness,
        "validation": quality.validation,
        "features": quality.features,
        "freshness": quality.freshness,
        "status": quality.status,
        "reasons": list(quality.reasons),
    }


_ROWS = """jsonb_to_recordset(CAST(:rows AS jsonb)) AS r (symbol text, timeframe text, date date,
    total integer, valid integer, rate float8, score float8, completeness float8, validation float8,
    features float8, freshness float8, status text, reasons text[], evidence jsonb,
    history_from timestamptz, source text, adjusted boolean, first timestamptz, last timestamptz,
    inserted bigint, feature_set text)"""

_DAILY_QUALITY = f"""
INSERT INTO data_quality_metrics AS m (symbol, timeframe, date, total_records, validated_records,
    validation_rate, gaps_detected, anomalies_detected, avg_quality_score, data_completeness,
    validation, features, freshness, status, reasons)
SELECT symbol, timeframe, date, total, valid, rate,
    (SELECT count(*) FROM bar_gaps g WHERE (g.symbol, g.timeframe) = (r.symbol, r.timeframe)
        AND g.found_at >= date_trunc('day', now())),
    (SELECT count(*) FROM bar_flags f WHERE (f.symbol, f.timeframe) = (r.symbol, r.timeframe)
        AND f.severity <> 'info' AND f.found_at >= date_trunc('day', now())),
    score, completeness, validation, features, freshness, status, reasons
FROM {_ROWS}
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
    history_from, source, adjusted, quality_score, reasons, evidence, feature_set, last_success_at)
SELECT symbol, timeframe, status, inserted, first, last, history_from,
    source, adjusted, score, reasons, evidence, feature_set, now()
FROM {_ROWS}
ON CONFLICT (symbol, timeframe) DO UPDATE SET
    status = EXCLUDED.status, bars = e.bars + EXCLUDED.bars,
    first_ts = least(e.first_ts, EXCLUDED.first_ts),
    last_ts = greatest(e.last_ts, EXCLUDED.last_ts),
    history_from = least(e.history_from, EXCLUDED.history_from), source = EXCLUDED.source,
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
UPDATE data_quality_metrics SET avg_quality_score = :score, data_completeness = :completeness,
    validation = :validation, features = :features, freshness = :freshness, status = :status,
    reasons = :reasons, updated_at = now()
WHERE symbol = :symbol AND timeframe = :timeframe AND date = (
    SELECT max(date) FROM data_quality_metrics WHERE symbol = :symbol AND timeframe = :timeframe)
"""
