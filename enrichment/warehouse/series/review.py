"""An analyst's confirmation of a flagged bar, and the score of its series without the flag."""

from __future__ import annotations

import json

from sqlalchemy import Connection, text

from enrichment.domain.model import Quality
from enrichment.domain.series import QualityInputs
from enrichment.domain.statuses import GapCause
from enrichment.warehouse.database import sql
from enrichment.warehouse.series import upsert
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


def unconfirm(
    conn: Connection,
    *,
    symbol: str,
    timeframe: str,
    ts: object,
    check: str,
    severity: str,
    reason: str,
) -> bool:
    """Flag a bar again that was confirmed; False if it was not."""
    values = {"symbol": symbol, "timeframe": timeframe, "ts": ts, "check": check}
    if conn.execute(sql(_UNCONFIRM), values).rowcount == 0:
        return False
    detail = f"was confirmed as real, which was taken back: {reason}"
    conn.execute(sql(_FLAG_AGAIN), {**values, "severity": severity, "detail": detail})
    return True


def reject(
    conn: Connection,
    *,
    symbol: str,
    timeframe: str,
    ts: object,
    by: str,
    reason: str,
    expected: bool,
) -> bool:
    """Take a bar out of its series for good; False if it is not stored.

    It becomes a version and one correction, and a gap where the calendar expects a bar. The next
    run computes all features again.
    """
    values = {"symbol": symbol, "timeframe": timeframe, "ts": ts}
    source = conn.execute(sql(_SOURCE_OF_BAR), values).scalar()
    if source is None:
        return False
    values |= {"by": by, "reason": reason, "source": source, "job_id": None}
    for statement in (_REJECTION, *upsert.REJECT, *([_GAP] if expected else [])):
        conn.execute(sql(statement), values)
    return True


def unreject(conn: Connection, *, symbol: str, timeframe: str, ts: object) -> bool:
    """Let the next run fetch a rejected bar again; False if it was not rejected."""
    values = {"symbol": symbol, "timeframe": timeframe, "ts": ts}
    if conn.execute(sql(_UNREJECT), values).rowcount == 0:
        return False
    conn.execute(sql(_GAP_DUE), values)
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

_UNCONFIRM = """
DELETE FROM bar_confirmations WHERE symbol = :symbol AND timeframe = :timeframe AND ts = :ts
    AND check_name = :check
"""

_FLAG_AGAIN = """
INSERT INTO bar_flags (symbol, timeframe, ts, check_name, severity, detail)
VALUES (:symbol, :timeframe, :ts, :check, :severity, :detail)
ON CONFLICT (symbol, timeframe, ts, check_name) DO NOTHING
"""

_SOURCE_OF_BAR = """
SELECT coalesce(s.source, 'unknown') FROM bars b JOIN enrichment_status s USING (symbol, timeframe)
WHERE b.symbol = :symbol AND b.timeframe = :timeframe AND b.ts = :ts
FOR UPDATE OF s
"""

_REJECTION = """
INSERT INTO bar_rejections (symbol, timeframe, ts, rejected_by, reason)
VALUES (:symbol, :timeframe, :ts, :by, :reason)
ON CONFLICT (symbol, timeframe, ts)
DO UPDATE SET rejected_by = EXCLUDED.rejected_by, reason = EXCLUDED.reason, at = now()
"""

_UNREJECT = """
DELETE FROM bar_rejections WHERE symbol = :symbol AND timeframe = :timeframe AND ts = :ts
"""

_GAP = f"""
INSERT INTO bar_gaps (symbol, timeframe, ts, cause, error)
VALUES (:symbol, :timeframe, :ts, '{GapCause.QUARANTINED}', 'rejected by an analyst')
ON CONFLICT (symbol, timeframe, ts) DO UPDATE SET
    cause = EXCLUDED.cause, error = EXCLUDED.error, resolved_at = NULL, resolution = NULL
"""

_GAP_DUE = """
INSERT INTO bar_gaps (symbol, timeframe, ts) VALUES (:symbol, :timeframe, :ts)
ON CONFLICT (symbol, timeframe, ts)
DO UPDATE SET resolved_at = NULL, resolution = NULL, next_try_at = now()
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
