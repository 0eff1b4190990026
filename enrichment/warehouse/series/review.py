"""An analyst's confirmation of a flagged bar, and the score of its series without the flag."""

from __future__ import annotations

import json

from sqlalchemy import Connection, text

from enrichment.domain.model import Quality
from enrichment.domain.series import QualityInputs
from enrichment.warehouse.database import sql
from enrichment.warehouse.series.results import inputs_from_json, inputs_to_json, quality_columns


def confirm(
    conn: Connection, *, symbol: str, timeframe: str, ts: object, check: str, by: str, reason: str
) -> bool:
    """Confirm a flagged bar as real, so that it is not flagged again; False without such a flag."""
    values = {"symbol": symbol, "timeframe": timeframe, "ts": ts, "check": check}
    if conn.execute(sql(_DROP_FLAG), values).rowcount == 0:
        return False
    conn.execute(sql(_CONFIRM), {**values, "by": by, "reason": reason})
    return True


def reassess(
    conn: Connection, symbol: str, timeframe: str, quality: Quality, inputs: QualityInputs
) -> None:
    """Replace a series' score and what it is computed from, now and in its newest day's row."""
    values = {
        "symbol": symbol,
        "timeframe": timeframe,
        **quality_columns(quality),
        "evidence": json.dumps(inputs_to_json(inputs)),
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
    return None if stored is None else inputs_from_json(stored)


_DROP_FLAG = """
DELETE FROM bar_flags WHERE symbol = :symbol AND timeframe = :timeframe AND ts = :ts
    AND check_name = :check
"""

_CONFIRM = """
INSERT INTO bar_confirmations (symbol, timeframe, ts, check_name, confirmed_by, reason)
VALUES (:symbol, :timeframe, :ts, :check, :by, :reason)
ON CONFLICT (symbol, timeframe, ts, check_name)
DO UPDATE SET confirmed_by = EXCLUDED.confirmed_by, reason = EXCLUDED.reason, at = now()
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
