"""A symbol's quality day by day, over all its timeframes. Rates in percent, scores 0–1."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from enrichment.warehouse.database import Reader, database_now, fetch_all
from enrichment.warehouse.read_models.symbols import is_known

FETCHES_SHOWN = 20


@dataclass(frozen=True, slots=True)
class QualitySummary:
    """The whole period; rates and scores are None if nothing was enriched in it."""

    days: int  # of the period on which the symbol was enriched: those that the averages cover
    avg_validation_rate: float | None
    avg_quality_score: float | None
    total_gaps_detected: int
    total_anomalies: int


@dataclass(frozen=True, slots=True)
class DailyQuality:
    """The runs of one UTC day."""

    date: dt.date
    total_records: int
    validated_records: int
    validation_rate: float
    gaps_detected: int  # found first on this day
    anomalies_detected: int  # found first on this day
    avg_quality_score: float
    data_completeness: float


@dataclass(frozen=True, slots=True)
class FetchLogEntry:
    """A request to a vendor."""

    at: datetime
    timeframe: str | None
    source: str | None
    success: bool
    bars: int | None
    requests: int | None
    duration_ms: float | None
    window_start: datetime | None
    window_end: datetime | None
    adjusted: bool | None
    error: str | None


@dataclass(frozen=True, slots=True)
class SymbolQuality:
    timestamp: datetime
    symbol: str
    period_days: int
    summary: QualitySummary
    daily_metrics: Sequence[DailyQuality]
    recent_fetch_logs: Sequence[FetchLogEntry]


class QualityHistory(Reader):
    """Reads the quality of a symbol on the last days."""

    def of(self, symbol: str, days: int) -> SymbolQuality | None:
        """The last `days` UTC days, today among them, newest first; None for an unknown symbol."""
        values = {"symbol": symbol, "days": days, "limit": FETCHES_SHOWN}
        with self._db.begin() as conn:
            if not is_known(conn, symbol):
                return None
            daily = fetch_all(conn, DailyQuality, _DAILY, values)
            fetches = fetch_all(conn, FetchLogEntry, _FETCHES, values)
            now = database_now(conn)
        return SymbolQuality(now, symbol, days, _summary(daily), daily, fetches)


def _summary(daily: Sequence[DailyQuality]) -> QualitySummary:
    records = sum(day.total_records for day in daily)
    valid = sum(day.validated_records for day in daily)
    return QualitySummary(
        days=len(daily),
        avg_validation_rate=100.0 * valid / records if records else None,
        avg_quality_score=sum(d.avg_quality_score for d in daily) / len(daily) if daily else None,
        total_gaps_detected=sum(day.gaps_detected for day in daily),
        total_anomalies=sum(day.anomalies_detected for day in daily),
    )


_DAILY = """
SELECT date, sum(total_records) AS total_records, sum(validated_records) AS validated_records,
    coalesce(CAST(100 AS float8) * sum(validated_records) / nullif(sum(total_records), 0), 100.0)
        AS validation_rate,
    sum(gaps_detected) AS gaps_detected, sum(anomalies_detected) AS anomalies_detected,
    avg(avg_quality_score) AS avg_quality_score, avg(data_completeness) AS data_completeness
FROM data_quality_metrics
WHERE symbol = :symbol AND date > (now() - make_interval(days => :days))::date
GROUP BY date ORDER BY date DESC
"""

_FETCHES = """
SELECT at, timeframe, source, success, bars, requests, duration_ms, window_start, window_end,
    adjusted, error
FROM enrichment_fetch_log
WHERE symbol = :symbol AND at > now() - make_interval(days => :days)
ORDER BY at DESC LIMIT :limit
"""
