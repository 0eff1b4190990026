"""Writes what a batch of runs found, beside the bars: flags, gaps, logs, quality and status.

A batch is a sequence of (task, update), one for each series. Its results become rows with the
columns that the `JsonRows` of their table names, moments timezone-aware UTC, and one statement a
table writes them.

An open gap is fetched again by the next run, and then after 1, 2, 4 … days up to a month, until its
bar arrives or another vendor reports no trades; then it is fetched once more, a month later. No bar
is ever interpolated.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from enrichment.domain.bars import to_datetime
from enrichment.domain.model import Quality, RowCounts, Severity, Task, Window
from enrichment.domain.series import (
    FetchResult,
    FlagCount,
    HistoryReach,
    QualityInputs,
    SeriesUpdate,
)
from enrichment.domain.statuses import GapCause, HistoryLimit
from enrichment.warehouse.database import JsonRows, sql
from enrichment.warehouse.series.snapshots import splits_key

Batch = Sequence[tuple[Task, SeriesUpdate]]
Row = dict[str, Any]

WINDOWS = JsonRows(
    "windows", "symbol text, timeframe text, window_start timestamptz, window_end timestamptz"
)
FLAGS = JsonRows(
    "flags",
    "symbol text, timeframe text, ts timestamptz, check_name text, severity text, detail text",
)
GAPS = JsonRows("gaps", "symbol text, timeframe text, ts timestamptz, cause text, error text")
QUARANTINED = JsonRows(
    "quarantined",
    "symbol text, timeframe text, ts timestamptz, check_name text, detail text, source text,"
    " bar jsonb",
)
FETCHES = JsonRows(
    "fetches",
    "job_id uuid, symbol text, timeframe text, source text, success boolean, requests integer,"
    " bars integer, duration_ms float8, window_start timestamptz, window_end timestamptz,"
    " adjusted boolean, quota_remaining integer, error text",
)
COMPUTATIONS = JsonRows(
    "computations",
    "job_id uuid, symbol text, timeframe text, success boolean, bars integer, features integer,"
    " duration_ms float8, quality_score float8",
)
STATUSES = JsonRows(
    "statuses",
    "symbol text, timeframe text, date date, total_records integer, validated_records integer,"
    " validation_rate float8, score float8, completeness float8, validation float8,"
    " features float8, freshness float8, status text, reasons text[], evidence jsonb,"
    " history_from timestamptz, source text, adjusted boolean, first_ts timestamptz,"
    " last_ts timestamptz, inserted bigint, feature_set text, wanted_from timestamptz,"
    " history_limit text, history_checked boolean, fallback boolean,"
    " adjusted_until timestamptz, splits_applied text, doubted timestamptz[],"
    " compared_at timestamptz, session text",
)


def write(conn: Connection, batch: Batch, counts: Sequence[RowCounts], feature_set: str) -> None:
    """Write all results of the batch, in the transaction of its bars.

    The flags and gaps of the windows that were validated are replaced, quarantined bars are added.
    A gap or anomaly counts on the day on which it was found first, so that days add up.

    Args:
        conn: The connection, inside the transaction.
        batch: The runs.
        counts: The rows that were written of each series.
        feature_set: Of this version.
    """
    rows = {
        WINDOWS: _windows(batch),
        FLAGS: _flags(batch),
        GAPS: _gaps(batch),
        QUARANTINED: _quarantined(batch),
        FETCHES: _fetches(batch),
        COMPUTATIONS: _computations(batch),
        STATUSES: _statuses(batch, counts, feature_set),
    }
    values = {name: value for kind in rows for name, value in kind.bind(rows[kind]).items()}
    for kind, statement in _STATEMENTS:
        if rows[kind]:
            conn.execute(sql(statement), values)


def reopen_gaps(conn: Connection, task: Task, update: SeriesUpdate) -> None:
    """Reopen the gaps of the served window that were closed for want of trades."""
    (window,) = [_window(result.served_window) for result in update.fetches]
    conn.execute(sql(_REOPEN_GAPS), {**_series(task, update), **window})


def write_failure(
    conn: Connection,
    task: Task,
    timeframe: str | None,
    *,
    fetching: bool,
    duration_ms: float,
    error_class: str,
    error: str,
) -> None:
    """One row in the log of the step that failed."""
    conn.execute(
        sql(_FETCH_FAILED if fetching else _COMPUTE_FAILED),
        {
            "job_id": task.job_id,
            "symbol": task.symbol,
            "timeframe": timeframe,
            "ms": duration_ms,
            "error_class": error_class,
            "error": error,
        },
    )


def _windows(batch: Batch) -> list[Row]:
    """The windows whose flags and gaps are replaced: what was served."""
    return [
        {**_series(task, update), **_window(result.served_window)}
        for task, update in batch
        for result in update.fetches
        if result.replaces_findings
    ]


def _flags(batch: Batch) -> list[Row]:
    """A row per bar and check; where several fetches raised the same flag, that of the last."""
    by_key: dict[tuple[object, ...], Row] = {}
    for task, update in batch:
        for flag in update.flags:
            by_key[task.symbol, update.timeframe, flag.ts, flag.check] = {
                **_series(task, update),
                "ts": flag.ts,
                "check_name": flag.check,
                "severity": flag.severity,
                "detail": flag.detail,
            }
    return list(by_key.values())


def _gaps(batch: Batch) -> list[Row]:
    return [
        {**_series(task, update), "ts": gap.ts, "cause": gap.cause, "error": gap.error}
        for task, update in batch
        for gap in update.gaps
    ]


def _quarantined(batch: Batch) -> list[Row]:
    return [
        {
            **_series(task, update),
            "ts": unfit.ts,
            "check_name": unfit.check,
            "detail": unfit.detail,
            "source": result.source,
            "bar": dict(unfit.bar),
        }
        for task, update in batch
        for result in update.fetches
        for unfit in result.validation.quarantined
    ]


def _fetches(batch: Batch) -> list[Row]:
    """The fetch log, failed fetches included."""
    return [
        {"job_id": task.job_id, **_series(task, update), **_fetch(result)}
        for task, update in batch
        for result in update.fetches
    ]


def _computations(batch: Batch) -> list[Row]:
    """The compute log: one row per series."""
    return [
        {
            "job_id": task.job_id,
            **_series(task, update),
            "success": True,
            "bars": len(update.bars.ts),
            "features": len(update.features),
            "duration_ms": update.compute_ms,
            "quality_score": update.quality.score,
        }
        for task, update in batch
    ]


def _statuses(batch: Batch, counts: Sequence[RowCounts], feature_set: str) -> list[Row]:
    """The state of each series after this run, with the bars that were inserted."""
    return [
        {**_status(task, update), "inserted": count.inserted, "feature_set": feature_set}
        for (task, update), count in zip(batch, counts, strict=True)
    ]


def _status(task: Task, update: SeriesUpdate) -> Row:
    fetched, as_of, ts = update.fetched, update.as_of, update.bars.ts
    return {
        **_series(task, update),
        **_validated(update),
        **quality_columns(update.quality),
        "date": as_of.date(),
        "evidence": inputs_to_json(update.quality_inputs),
        **_history(update),
        "source": fetched.source,
        "fallback": fetched.fallback,
        "adjusted": update.adjusted_until is not None,
        "adjusted_until": update.adjusted_until,
        "splits_applied": splits_key(update.splits, update.last_ts, update.adjusted_until),
        "doubted": _texts(map(to_datetime, update.doubted)),
        "compared_at": update.compared_at,
        "session": update.session,
        "first_ts": to_datetime(ts[0]) if len(ts) else None,
        "last_ts": to_datetime(ts[-1]) if len(ts) else None,
    }


def _history(update: SeriesUpdate) -> Row:
    reach = update.quality_inputs.history or HistoryReach(update.history_from, update.history_from)
    return {
        "history_from": update.history_from,
        "wanted_from": reach.wanted_from,
        "history_limit": reach.limit,
        "history_checked": reach.checked,
    }


def quality_columns(quality: Quality) -> Row:
    """The score, its components, the status and the reasons."""
    return {**asdict(quality), "reasons": list(quality.reasons)}


def inputs_to_json(inputs: QualityInputs) -> Row:
    """The value of the column `evidence`; some of its keys keep their names of earlier versions."""
    return {
        "expected": inputs.expected,
        "missing": inputs.missing,
        "untraded": inputs.no_trades,
        "checked": inputs.checked,
        "feature_cells": inputs.feature_cells,
        "feature_nulls": inputs.feature_nulls,
        "sessions_behind": inputs.sessions_behind,
        "missing_at": _texts(inputs.missing_at),
        "objections": {
            check: {"bars": count.bars, "at": _texts(count.at)}
            for check, count in inputs.flag_counts.items()
        },
        "history": inputs.history
        and {
            "wanted_from": inputs.history.wanted_from.isoformat(),
            "served_from": inputs.history.served_from.isoformat(),
            "limit": inputs.history.limit,
            "fallback": inputs.history.fallback,
            "missing_share": inputs.history.missing_share,
        },
        "substitution": inputs.substitution,
        "lifeless_sessions": inputs.lifeless_sessions,
    }


def inputs_from_json(stored: Row) -> QualityInputs:
    """The inverse of `inputs_to_json`."""
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
        history=_history_from_json(stored.get("history")),
        substitution=stored.get("substitution"),
        lifeless_sessions=stored.get("lifeless_sessions", 0),
    )


def _history_from_json(stored: Row | None) -> HistoryReach | None:
    if stored is None:
        return None
    return HistoryReach(
        datetime.fromisoformat(stored["wanted_from"]),
        datetime.fromisoformat(stored["served_from"]),
        HistoryLimit(stored["limit"]) if stored["limit"] else None,
        fallback=stored.get("fallback"),
        missing_share=stored.get("missing_share", 0.0),
    )


def _series(task: Task, update: SeriesUpdate) -> Row:
    return {"symbol": task.symbol, "timeframe": update.timeframe}


def _window(window: Window) -> Row:
    return {"window_start": window.start, "window_end": window.end}


def _fetch(result: FetchResult) -> Row:
    fetched = result.fetched
    return {
        **_window(result.window),
        "source": fetched.source if fetched else None,
        "success": result.failure is None,
        "requests": fetched.requests if fetched else None,
        "bars": len(fetched.bars.ts) if fetched else 0,
        "duration_ms": result.milliseconds,
        "adjusted": fetched.adjusted if fetched else None,
        "quota_remaining": fetched.quota_remaining if fetched else None,
        "error": result.failure,
    }


def _validated(update: SeriesUpdate) -> Row:
    """How many of the fetched bars validation accepted; the rate in percent."""
    valid = sum(len(result.validation.bars.ts) for result in update.fetches)
    total = valid + sum(len(result.validation.quarantined) for result in update.fetches)
    return {
        "total_records": total,
        "validated_records": valid,
        "validation_rate": 100.0 * valid / total if total else 100.0,
    }


def _texts(moments: Iterable[datetime]) -> list[str]:
    return [moment.isoformat() for moment in moments]


_CLEAR_FLAGS = f"""
DELETE FROM bar_flags f USING {WINDOWS.table}
WHERE (f.symbol, f.timeframe) = (windows.symbol, windows.timeframe)
    AND f.ts >= window_start AND f.ts < window_end
    AND (f.symbol, f.timeframe, f.ts, f.check_name) NOT IN (
        SELECT symbol, timeframe, ts, check_name FROM {FLAGS.table})
"""

_ADD_FLAGS = f"""
INSERT INTO bar_flags ({FLAGS.columns}) SELECT {FLAGS.columns} FROM {FLAGS.table}
ON CONFLICT (symbol, timeframe, ts, check_name)
DO UPDATE SET severity = EXCLUDED.severity, detail = EXCLUDED.detail
"""

_QUARANTINE = f"""
INSERT INTO bar_quarantine ({QUARANTINED.columns})
SELECT {QUARANTINED.columns} FROM {QUARANTINED.table}
ON CONFLICT (symbol, timeframe, ts, check_name, md5(bar::text)) DO NOTHING
"""

_RESOLVE_GAPS = f"""
UPDATE bar_gaps g SET resolved_at = now(), resolution = 'filled' FROM {WINDOWS.table}
WHERE (g.symbol, g.timeframe) = (windows.symbol, windows.timeframe)
    AND (g.resolved_at IS NULL OR g.resolution = '{GapCause.NO_TRADES}' AND EXISTS (
        SELECT 1 FROM bars b WHERE (b.symbol, b.timeframe, b.ts) = (g.symbol, g.timeframe, g.ts)))
    AND g.ts >= window_start AND g.ts < window_end
    AND (g.symbol, g.timeframe, g.ts) NOT IN (SELECT symbol, timeframe, ts FROM {GAPS.table})
"""

_REOPEN_GAPS = f"""
UPDATE bar_gaps SET cause = '{GapCause.UNEXPLAINED}', resolved_at = NULL, resolution = NULL,
    next_try_at = now()
WHERE symbol = :symbol AND timeframe = :timeframe AND ts >= :window_start AND ts < :window_end
    AND resolution = '{GapCause.NO_TRADES}'
"""

_ADD_GAPS = f"""
INSERT INTO bar_gaps AS g ({GAPS.columns}, resolved_at, resolution, next_try_at)
SELECT {GAPS.columns}, CASE WHEN cause = '{GapCause.NO_TRADES}' THEN now() END,
    CASE WHEN cause = '{GapCause.NO_TRADES}' THEN '{GapCause.NO_TRADES}' END,
    now() + CASE WHEN cause = '{GapCause.NO_TRADES}' THEN interval '30 days' ELSE interval '0' END
FROM {GAPS.table}
ON CONFLICT (symbol, timeframe, ts) DO UPDATE SET
    attempts = g.attempts + 1, tried_at = now(), error = EXCLUDED.error,
    cause = CASE WHEN EXCLUDED.cause = '{GapCause.UNEXPLAINED}'
        AND g.cause NOT IN ('{GapCause.FAILED_REQUEST}', '{GapCause.NO_TRADES}')
        THEN g.cause ELSE EXCLUDED.cause END,
    resolved_at = EXCLUDED.resolved_at, resolution = EXCLUDED.resolution,
    next_try_at = CASE
        WHEN EXCLUDED.resolution = g.resolution THEN 'infinity'
        WHEN EXCLUDED.resolution IS NOT NULL THEN EXCLUDED.next_try_at
        ELSE now() + least(interval '30 days', power(2, least(g.attempts, 10) - 1)
            * interval '1 day') END
"""

_FETCHED = f"""
INSERT INTO enrichment_fetch_log ({FETCHES.columns}) SELECT {FETCHES.columns} FROM {FETCHES.table}
"""

_COMPUTED = f"""
INSERT INTO enrichment_compute_log ({COMPUTATIONS.columns})
SELECT {COMPUTATIONS.columns} FROM {COMPUTATIONS.table}
"""

_FETCH_FAILED = """
INSERT INTO enrichment_fetch_log
    (job_id, symbol, timeframe, success, duration_ms, error_class, error)
VALUES (:job_id, :symbol, :timeframe, false, :ms, :error_class, :error)
"""

_COMPUTE_FAILED = _FETCH_FAILED.replace("enrichment_fetch_log", "enrichment_compute_log")

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
    adjusted_until, splits_applied, quality_score, reasons, evidence, feature_set, doubted,
    compared_at, session, last_success_at)
SELECT symbol, timeframe, status, inserted, first_ts, last_ts,
    history_from, wanted_from, history_limit, CASE WHEN history_checked THEN now() END, source,
    fallback, adjusted, adjusted_until, splits_applied, score, reasons, evidence, feature_set,
    doubted, compared_at, session, now()
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
    adjusted = EXCLUDED.adjusted, adjusted_until = EXCLUDED.adjusted_until,
    splits_applied = EXCLUDED.splits_applied, quality_score = EXCLUDED.quality_score,
    reasons = EXCLUDED.reasons, evidence = EXCLUDED.evidence, feature_set = EXCLUDED.feature_set,
    doubted = EXCLUDED.doubted, compared_at = coalesce(EXCLUDED.compared_at, e.compared_at),
    session = EXCLUDED.session,
    last_success_at = EXCLUDED.last_success_at, last_error = NULL, last_error_at = NULL
"""

_STATEMENTS = (
    (WINDOWS, _CLEAR_FLAGS),
    (WINDOWS, _RESOLVE_GAPS),
    (FLAGS, _ADD_FLAGS),
    (GAPS, _ADD_GAPS),
    (QUARANTINED, _QUARANTINE),
    (FETCHES, _FETCHED),
    (COMPUTATIONS, _COMPUTED),
    (STATUSES, _DAILY_QUALITY),
    (STATUSES, _UPDATE_STATUS),
)
