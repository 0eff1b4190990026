"""The result of a batch of runs as rows of the tables that store it.

A batch is a sequence of (task, update), one for each series. Rows have the columns that the
`JsonRows` of their table names; moments are timezone-aware UTC.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from enrichment.domain.bars import to_datetime
from enrichment.domain.model import Quality, RowCounts, Task
from enrichment.domain.series import (
    FetchResult,
    FlagCount,
    HistoryReach,
    QualityInputs,
    SeriesUpdate,
)
from enrichment.domain.statuses import HistoryLimit
from enrichment.warehouse.rows import JsonRows

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
    " history_limit text, history_checked boolean, fallback boolean",
)


def windows(batch: Batch) -> list[Row]:
    """The windows whose flags and gaps are replaced."""
    return [
        {**_series(task, update), **_window(result)}
        for task, update in batch
        for result in update.fetches
        if result.replaces_findings
    ]


def flags(batch: Batch) -> list[Row]:
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


def gaps(batch: Batch) -> list[Row]:
    return [
        {**_series(task, update), "ts": gap.ts, "cause": gap.cause, "error": gap.error}
        for task, update in batch
        for gap in update.gaps
    ]


def quarantined(batch: Batch) -> list[Row]:
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


def fetches(batch: Batch) -> list[Row]:
    """The fetch log, failed fetches included."""
    return [
        {"job_id": task.job_id, **_series(task, update), **_fetch(result)}
        for task, update in batch
        for result in update.fetches
    ]


def computations(batch: Batch) -> list[Row]:
    """The compute log: one row per series."""
    return [
        {
            "job_id": task.job_id,
            **_series(task, update),
            "success": True,
            "bars": len(update.bars),
            "features": len(update.features),
            "duration_ms": update.compute_ms,
            "quality_score": update.quality.score,
        }
        for task, update in batch
    ]


def statuses(batch: Batch, counts: Sequence[RowCounts], feature_set: str) -> list[Row]:
    """The state of each series after this run, with the bars that were inserted."""
    return [
        {
            **_series(task, update),
            **_validated(update),
            **quality_columns(update.quality),
            "date": update.as_of.date(),
            "evidence": inputs_to_json(update.quality_inputs),
            **_history(update),
            "source": update.fetched.source,
            "fallback": update.fetched.fallback,
            "adjusted": update.fetched.adjusted,
            "first_ts": to_datetime(update.bars.ts[0]) if len(update.bars) else None,
            "last_ts": to_datetime(update.bars.ts[-1]) if len(update.bars) else None,
            "inserted": count.inserted,
            "feature_set": feature_set,
        }
        for (task, update), count in zip(batch, counts, strict=True)
    ]


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
        },
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
    )


def _history_from_json(stored: Row | None) -> HistoryReach | None:
    if stored is None:
        return None
    return HistoryReach(
        datetime.fromisoformat(stored["wanted_from"]),
        datetime.fromisoformat(stored["served_from"]),
        HistoryLimit(stored["limit"]) if stored["limit"] else None,
        fallback=stored.get("fallback"),
    )


def _series(task: Task, update: SeriesUpdate) -> Row:
    return {"symbol": task.symbol, "timeframe": update.timeframe}


def _window(result: FetchResult) -> Row:
    return {"window_start": result.window.start, "window_end": result.window.end}


def _fetch(result: FetchResult) -> Row:
    fetched = result.fetched
    return {
        **_window(result),
        "source": fetched.source if fetched else None,
        "success": result.failure is None,
        "requests": fetched.requests if fetched else None,
        "bars": len(fetched.bars) if fetched else 0,
        "duration_ms": result.milliseconds,
        "adjusted": fetched.adjusted if fetched else None,
        "quota_remaining": fetched.quota_remaining if fetched else None,
        "error": result.failure,
    }


def _validated(update: SeriesUpdate) -> Row:
    """How many of the fetched bars validation accepted; the rate in percent."""
    valid = sum(len(result.validation.bars) for result in update.fetches)
    total = valid + sum(len(result.validation.quarantined) for result in update.fetches)
    return {
        "total_records": total,
        "validated_records": valid,
        "validation_rate": 100.0 * valid / total if total else 100.0,
    }


def _texts(moments: Iterable[datetime]) -> list[str]:
    return [moment.isoformat() for moment in moments]
