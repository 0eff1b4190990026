"""The quality of one symbol: scores with their deductions, gaps, flags and corrections.

Its bars too, also as of an earlier date. Times are timezone-aware UTC, scores in [0, 1].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, text

from enrichment.domain.bars import Bars
from enrichment.domain.model import Timeframe
from enrichment.domain.statuses import SeriesStatus
from enrichment.pipeline.quality import Deduction, deductions
from enrichment.warehouse.database import Reader, fetch_all
from enrichment.warehouse.read_models.bars import RANGE
from enrichment.warehouse.series.results import inputs_from_json
from enrichment.warehouse.series.snapshots import PRICES, REQUIRED, bars_of, fetch

NEWEST = 20  # quarantined bars and corrections that a report lists


@dataclass(frozen=True, slots=True)
class OpenGap:
    """A missing bar."""

    timestamp: datetime
    cause: str
    attempts: int  # how often it was fetched
    next_try_at: datetime  # runs from then on fetch it again
    error: str | None  # of the last attempt


@dataclass(frozen=True, slots=True)
class FlaggedBar:
    """A finding of a validation check."""

    timestamp: datetime
    check: str
    severity: str
    detail: str


@dataclass(frozen=True, slots=True)
class QuarantineEntry:
    """A rejected bar, as the vendor sent it."""

    timestamp: datetime
    check: str
    detail: str
    source: str
    bar: Mapping[str, Any]
    quarantined_at: datetime


@dataclass(frozen=True, slots=True)
class Correction:
    """A stored value that a vendor restated."""

    timestamp: datetime
    field: str
    old_value: float | None
    new_value: float | None
    reason: str
    source: str
    corrected_at: datetime


@dataclass(frozen=True, slots=True)
class Confirmation:
    """A flagged bar that was confirmed as real."""

    timestamp: datetime
    check: str
    confirmed_by: str
    reason: str
    at: datetime


@dataclass(frozen=True, slots=True)
class ServedRange:
    """The range of starts that a vendor was asked for, as far as the fetch log goes back."""

    source: str
    start: datetime
    end: datetime
    bars: int
    served_at: datetime


@dataclass(frozen=True, slots=True)
class SeriesReport:
    """One timeframe of a symbol."""

    timeframe: str
    status: str
    score: float | None  # None before the first successful run
    components: Mapping[str, float] | None  # None before the first successful run
    deductions: Sequence[Deduction]
    bars: int
    first_bar: datetime | None
    last_bar: datetime | None
    source: str | None
    adjusted: bool | None
    last_error: str | None
    wanted_from: datetime | None  # earliest start that was asked for
    served_from: datetime | None  # earliest start that was served
    history_limit: str | None  # why they differ; None: older bars are asked for again
    fallback: bool  # whether a preferred vendor could not be asked in the last run
    served_by: Sequence[ServedRange] = field(default_factory=list)  # newest first
    gaps: Sequence[OpenGap] = field(default_factory=list)
    flags: Sequence[FlaggedBar] = field(default_factory=list)
    quarantined: Sequence[QuarantineEntry] = field(default_factory=list)
    corrections: Sequence[Correction] = field(default_factory=list)
    quarantined_total: int = 0  # of which the newest are listed
    corrections_total: int = 0  # of which the newest are listed
    confirmations: Sequence[Confirmation] = field(default_factory=list)


class QualityReports(Reader):
    """Reads the details of a symbol's quality."""

    def of(self, symbol: str) -> list[SeriesReport] | None:
        """A report for every tracked or stored timeframe; None for an unknown symbol."""
        with self._db.begin() as conn:
            rows = conn.execute(text(_SERIES), {"symbol": symbol}).all()
            return [_series(conn, symbol, row) for row in rows] or None

    def bars(
        self,
        symbol: str,
        timeframe: Timeframe,
        start: datetime | None = None,
        end: datetime | None = None,
        *,
        known_on: datetime | None = None,
    ) -> Bars:
        """Stored bars with start ≤ ts < end, ascending; as of `known_on`, None for now."""
        values = {
            "symbol": symbol,
            "timeframe": timeframe.value,
            "start": start,
            "end": end,
            "known_on": known_on,
        }
        with self._db.begin() as conn:
            query = _BARS if known_on is None else _BARS_KNOWN_ON
            ts, columns = fetch(conn, query, values, PRICES, not_null=REQUIRED)
        return bars_of(ts, columns)


def _series(conn: Connection, symbol: str, row: Any) -> SeriesReport:
    key = {"symbol": symbol, "timeframe": row.timeframe, "newest": NEWEST}
    names = ("completeness", "validation", "features", "freshness")
    components = {name: getattr(row, name) for name in names}
    inputs = None if row.evidence is None else inputs_from_json(row.evidence)
    return SeriesReport(
        timeframe=row.timeframe,
        status=row.status,
        score=row.quality_score,
        components=None if None in components.values() else components,
        deductions=[] if inputs is None else deductions(inputs),
        bars=row.bars,
        first_bar=row.first_ts,
        last_bar=row.last_ts,
        source=row.source,
        adjusted=row.adjusted,
        last_error=row.last_error,
        wanted_from=row.wanted_from,
        served_from=row.history_from,
        history_limit=row.history_limit,
        fallback=bool(row.fallback),
        served_by=fetch_all(conn, ServedRange, _SERVED, key),
        gaps=fetch_all(conn, OpenGap, _GAPS, key),
        flags=fetch_all(conn, FlaggedBar, _FLAGS, key),
        quarantined=fetch_all(conn, QuarantineEntry, _QUARANTINE, key),
        corrections=fetch_all(conn, Correction, _CORRECTIONS, key),
        quarantined_total=row.quarantined_total,
        corrections_total=row.corrections_total,
        confirmations=fetch_all(conn, Confirmation, _CONFIRMED, key),
    )


_TIMEFRAMES = ", ".join(f"'{timeframe}'" for timeframe in Timeframe)

_SERIES = f"""
SELECT series.timeframe, coalesce(s.status, '{SeriesStatus.NOT_ENRICHED}') AS status,
    s.quality_score, s.evidence, coalesce(s.bars, 0) AS bars, s.first_ts, s.last_ts,
    s.source, s.adjusted, s.last_error, s.wanted_from, s.history_from, s.history_limit,
    s.fallback,
    (SELECT count(*) FROM bar_quarantine q
        WHERE q.symbol = :symbol AND q.timeframe = series.timeframe) AS quarantined_total,
    (SELECT count(*) FROM data_corrections c
        WHERE c.symbol = :symbol AND c.timeframe = series.timeframe) AS corrections_total,
    m.data_completeness AS completeness, m.validation, m.features, m.freshness
FROM (
    SELECT timeframe FROM enrichment_status WHERE symbol = :symbol
    UNION SELECT unnest(timeframes) FROM tracked_symbols WHERE symbol = :symbol
) series
LEFT JOIN enrichment_status s ON s.symbol = :symbol AND s.timeframe = series.timeframe
LEFT JOIN LATERAL (
    SELECT * FROM data_quality_metrics m
    WHERE m.symbol = :symbol AND m.timeframe = series.timeframe ORDER BY date DESC LIMIT 1
) m ON true
ORDER BY array_position(ARRAY[{_TIMEFRAMES}], series.timeframe)
"""

_OF_SERIES = "WHERE symbol = :symbol AND timeframe = :timeframe"

_GAPS = f"""
SELECT ts AS timestamp, cause, attempts, next_try_at, error FROM bar_gaps
{_OF_SERIES} AND resolved_at IS NULL ORDER BY ts
"""

_SERVED = f"""
SELECT source, min(window_start) AS start, max(window_end) AS "end", sum(bars)::bigint AS bars,
    max(at) AS served_at
FROM enrichment_fetch_log {_OF_SERIES} AND success AND bars > 0 GROUP BY source
ORDER BY served_at DESC
"""

_FLAGS = f"""
SELECT ts AS timestamp, check_name AS check, severity, detail FROM bar_flags
{_OF_SERIES} ORDER BY ts, check_name
"""

_QUARANTINE = f"""
SELECT ts AS timestamp, check_name AS check, detail, source, bar, quarantined_at FROM bar_quarantine
{_OF_SERIES} ORDER BY quarantined_at DESC, ts DESC LIMIT :newest
"""

_CORRECTIONS = f"""
SELECT ts AS timestamp, field, old_value, new_value, reason, source, corrected_at
FROM data_corrections
{_OF_SERIES} ORDER BY corrected_at DESC, ts DESC, field LIMIT :newest
"""

_CONFIRMED = f"""
SELECT ts AS timestamp, check_name AS check, confirmed_by, reason, at FROM bar_confirmations
{_OF_SERIES} ORDER BY ts
"""

_COLUMNS = ", ".join(PRICES)

_BARS = f"SELECT ts, {_COLUMNS} FROM bars {RANGE}"

_BARS_KNOWN_ON = f"""
{_BARS} AND known_from <= :known_on
UNION ALL
SELECT ts, {_COLUMNS} FROM bar_versions {RANGE}
    AND known_from <= :known_on AND known_until > :known_on
"""
