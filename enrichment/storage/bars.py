"""The bars with their features: what is stored of a series, and the one transaction that adds to
it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import numpy as np
from sqlalchemy import Connection, text

from enrichment.domain import (
    Bars,
    Enriched,
    Stored,
    Task,
    Timeframe,
    Timestamps,
    Written,
    to_datetime,
    to_datetime64,
)
from enrichment.storage import jobs, logs
from enrichment.storage.copying import constant, copy, record_batch
from enrichment.storage.database import Database

PRICES = ("open", "high", "low", "close", "volume", "vwap", "trades", "taker_buy_volume")


class Warehouse:
    """Reads what a run needs of a series and writes what it made of it."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def stored(self, symbol: str, timeframe: Timeframe, tail: int | None) -> Stored:
        """The last `tail` bars of the series (None: all) and what describes the rest."""
        key = {"symbol": symbol, "timeframe": timeframe}
        with self._db.begin() as conn:
            status = conn.execute(text(_STATUS), key).one_or_none()
            if status is None:
                return Stored(Bars.empty())
            rows = conn.execute(text(_TAIL), {**key, "tail": tail}).all()
            gaps = conn.execute(text(_OPEN_GAPS), key).scalars().all()
            flagged = conn.execute(text(_ERROR_FLAGS), key).scalars().all()
        return Stored(
            _bars(rows[::-1]),
            bars=status.bars,
            gaps=_timestamps(gaps),
            flagged=_timestamps(flagged),
            first_ts=status.first_ts,
            history_from=status.history_from,
        )

    def commit(self, task: Task, series: Sequence[Enriched]) -> Written:
        """Write everything a task produced, and its completion, in one transaction.

        Raises LeaseLost, and writes nothing, if the item no longer belongs to the task's worker.
        """
        total = Written()
        with self._db.begin() as conn:
            jobs.assert_owned(conn, task)
            for enriched in series:
                written = write_rows(conn, task, enriched)
                _write_findings(conn, task, enriched)
                logs.write_success(conn, task, enriched)
                _write_quality(conn, task.symbol, enriched, written)
                total += written
            jobs.complete(conn, task, total)
        return total


def write_rows(conn: Connection, task: Task, enriched: Enriched) -> Written:
    """Insert the new bars and update the changed ones, old values going to `data_corrections`.

    `enriched.bars` holds only rows from the first new or changed one on. Where all of them lie
    behind what is stored, they are copied straight into the table; otherwise they are staged in a
    temporary table and merged.
    """
    if len(enriched.bars) == 0:
        return Written()
    columns = {
        "symbol": constant(task.symbol, len(enriched.bars)),
        "timeframe": constant(enriched.timeframe, len(enriched.bars)),
        **enriched.bars.columns(),
        **enriched.features,
    }
    batch = record_batch(columns)
    if _appends(conn, task.symbol, enriched):
        copy(conn, "bars", batch)
        return Written(inserted=len(enriched.bars))
    return _merge(conn, task, enriched, batch)


def _appends(conn: Connection, symbol: str, enriched: Enriched) -> bool:
    newest = conn.execute(
        text("SELECT max(ts) FROM bars WHERE symbol = :symbol AND timeframe = :timeframe"),
        {"symbol": symbol, "timeframe": enriched.timeframe},
    ).scalar()
    return newest is None or bool(enriched.bars.ts[0] > to_datetime64(newest))


def _merge(conn: Connection, task: Task, enriched: Enriched, batch: Any) -> Written:
    names = batch.schema.names
    values = {
        "symbol": task.symbol,
        "timeframe": enriched.timeframe,
        "first": to_datetime(enriched.bars.ts[0]),
        "last": to_datetime(enriched.bars.ts[-1]),
        "source": enriched.fetched.source,
        "job_id": task.job_id,
    }
    conn.execute(text("CREATE TEMP TABLE staged_bars (LIKE bars) ON COMMIT DROP"))
    copy(conn, "staged_bars", batch)
    conn.execute(text("ANALYZE staged_bars (ts)"))
    conn.execute(text(_CORRECTIONS), values)
    assignments = ", ".join(f'"{name}" = s."{name}"' for name in names[3:])
    updated = conn.execute(
        text(f"UPDATE bars b SET {assignments} FROM staged_bars s WHERE {_SAME_BAR}"), values
    ).rowcount
    listed = ", ".join(f'"{name}"' for name in names)
    inserted = conn.execute(
        text(
            f"INSERT INTO bars ({listed}) SELECT {listed} FROM staged_bars s"
            f" WHERE NOT EXISTS (SELECT 1 FROM bars b WHERE {_SAME_BAR})"
        ),
        values,
    ).rowcount
    conn.execute(text("DROP TABLE staged_bars"))
    return Written(inserted, updated)


def _write_findings(conn: Connection, task: Task, enriched: Enriched) -> None:
    """Replace the window's flags, keep quarantined bars, and bring the ledger of gaps up to
    date.
    """
    key = {"symbol": task.symbol, "timeframe": enriched.timeframe}
    window = {"start": enriched.window.start, "end": enriched.window.end}
    conn.execute(text(_CLEAR_FLAGS), {**key, **window})
    if enriched.checked.flags:
        conn.execute(
            text(_ADD_FLAG),
            [
                {**key, "ts": f.ts, "check": f.check, "severity": f.severity, "detail": f.detail}
                for f in enriched.checked.flags
            ],
        )
    if enriched.checked.quarantined:
        conn.execute(
            text(_QUARANTINE),
            [
                {
                    **key,
                    "ts": q.ts,
                    "check": q.check,
                    "detail": q.detail,
                    "source": enriched.fetched.source,
                    "bar": json.dumps(dict(q.bar)),
                }
                for q in enriched.checked.quarantined
            ],
        )
    conn.execute(text(_RESOLVE_GAPS), {**key, **window, "gaps": list(enriched.gaps)})
    if enriched.gaps:
        conn.execute(text(_ADD_GAPS), {**key, "gaps": list(enriched.gaps)})


def _write_quality(conn: Connection, symbol: str, enriched: Enriched, written: Written) -> None:
    quality, flags = enriched.quality, enriched.checked.flags
    checked = len(enriched.checked.bars) + len(enriched.checked.quarantined)
    values = {
        "symbol": symbol,
        "timeframe": enriched.timeframe,
        "date": enriched.window.end.date(),
        "total": checked,
        "valid": len(enriched.checked.bars),
        "rate": 100.0 * len(enriched.checked.bars) / checked if checked else 100.0,
        "gaps": len(enriched.gaps),
        "anomalies": sum(1 for flag in flags if flag.severity != "info"),
        "score": quality.score,
        "completeness": quality.completeness,
        "validation": quality.validation,
        "features": quality.features,
        "freshness": quality.freshness,
        "status": quality.status,
        "reasons": list(quality.reasons),
        "inserted": written.inserted,
        "history_from": enriched.history_from,
        "source": enriched.fetched.source,
        "adjusted": enriched.fetched.adjusted,
        "first": to_datetime(enriched.bars.ts[0]) if len(enriched.bars) else None,
        "last": to_datetime(enriched.bars.ts[-1]) if len(enriched.bars) else None,
    }
    conn.execute(text(_DAILY_QUALITY), values)
    conn.execute(text(_UPDATE_STATUS), values)


def _bars(rows: Sequence[Any]) -> Bars:
    if not rows:
        return Bars.empty()
    ts, *columns = zip(*rows, strict=True)
    return Bars(
        _timestamps(ts),
        *(np.array(column, dtype=np.float64) for column in columns),
    )


def _timestamps(moments: Sequence[datetime]) -> Timestamps:
    return np.array([to_datetime64(moment) for moment in moments], dtype="datetime64[us]")


# The constants bound the search to the series' newest stretch of the primary key, whatever the
# planner believes of a temporary table without statistics.
_SAME_BAR = (
    "b.symbol = :symbol AND b.timeframe = :timeframe AND b.ts BETWEEN :first AND :last"
    " AND b.ts = s.ts"
)

_STATUS = """
SELECT bars, first_ts, history_from FROM enrichment_status
WHERE symbol = :symbol AND timeframe = :timeframe AND last_success_at IS NOT NULL
"""

_TAIL = f"""
SELECT ts, {", ".join(PRICES)} FROM bars
WHERE symbol = :symbol AND timeframe = :timeframe ORDER BY ts DESC LIMIT :tail
"""

_OPEN_GAPS = """
SELECT ts FROM bar_gaps
WHERE symbol = :symbol AND timeframe = :timeframe AND resolved_at IS NULL ORDER BY ts
"""

_ERROR_FLAGS = """
SELECT DISTINCT ts FROM bar_flags
WHERE symbol = :symbol AND timeframe = :timeframe AND severity = 'error' ORDER BY ts
"""

_CORRECTIONS = f"""
INSERT INTO data_corrections
    (symbol, timeframe, ts, field, old_value, new_value, reason, source, job_id)
SELECT b.symbol, b.timeframe, b.ts, c.field, c.old_value, c.new_value, 'source_updated',
    :source, :job_id
FROM staged_bars s JOIN bars b ON {_SAME_BAR}
CROSS JOIN LATERAL (VALUES {", ".join(f"('{p}', b.{p}, s.{p})" for p in PRICES)})
    AS c (field, old_value, new_value)
WHERE c.old_value IS DISTINCT FROM c.new_value
ORDER BY b.ts, c.field
"""

_CLEAR_FLAGS = """
DELETE FROM bar_flags WHERE symbol = :symbol AND timeframe = :timeframe
    AND ts >= :start AND ts < :end
"""

_ADD_FLAG = """
INSERT INTO bar_flags (symbol, timeframe, ts, check_name, severity, detail)
VALUES (:symbol, :timeframe, :ts, :check, :severity, :detail)
ON CONFLICT (symbol, timeframe, ts, check_name)
DO UPDATE SET severity = EXCLUDED.severity, detail = EXCLUDED.detail, found_at = now()
"""

_QUARANTINE = """
INSERT INTO bar_quarantine (symbol, timeframe, ts, check_name, detail, source, bar)
VALUES (:symbol, :timeframe, :ts, :check, :detail, :source, CAST(:bar AS jsonb))
ON CONFLICT (symbol, timeframe, ts, check_name, md5(bar::text)) DO NOTHING
"""

_RESOLVE_GAPS = """
UPDATE bar_gaps SET resolved_at = now()
WHERE symbol = :symbol AND timeframe = :timeframe AND resolved_at IS NULL
    AND ts >= :start AND ts < :end AND NOT ts = ANY(CAST(:gaps AS timestamptz[]))
"""

_ADD_GAPS = """
INSERT INTO bar_gaps (symbol, timeframe, ts)
SELECT :symbol, :timeframe, unnest(CAST(:gaps AS timestamptz[]))
ON CONFLICT (symbol, timeframe, ts)
DO UPDATE SET attempts = bar_gaps.attempts + 1, resolved_at = NULL
"""

_DAILY_QUALITY = """
INSERT INTO data_quality_metrics AS m (symbol, timeframe, date, total_records, validated_records,
    validation_rate, gaps_detected, anomalies_detected, avg_quality_score, data_completeness,
    validation, features, freshness, status, reasons)
VALUES (:symbol, :timeframe, :date, :total, :valid, :rate, :gaps, :anomalies, :score, :completeness,
    :validation, :features, :freshness, :status, :reasons)
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

_UPDATE_STATUS = """
INSERT INTO enrichment_status AS e (symbol, timeframe, status, bars, first_ts, last_ts,
    history_from, source, adjusted, quality_score, reasons, last_success_at)
VALUES (:symbol, :timeframe, :status, :inserted, :first, :last, :history_from,
    :source, :adjusted, :score, :reasons, now())
ON CONFLICT (symbol, timeframe) DO UPDATE SET
    status = EXCLUDED.status, bars = e.bars + EXCLUDED.bars,
    first_ts = least(e.first_ts, EXCLUDED.first_ts),
    last_ts = greatest(e.last_ts, EXCLUDED.last_ts),
    history_from = least(e.history_from, EXCLUDED.history_from), source = EXCLUDED.source,
    adjusted = EXCLUDED.adjusted, quality_score = EXCLUDED.quality_score,
    reasons = EXCLUDED.reasons, last_success_at = EXCLUDED.last_success_at,
    last_error = NULL, last_error_at = NULL
"""
