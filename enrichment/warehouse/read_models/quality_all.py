"""The quality of all active series: by day, by component, the lowest scores, and the gaps.

Scores and components are in [0, 1].
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from enrichment.warehouse.database import Reader, sql
from enrichment.warehouse.read_models.dto import cause_of


@dataclass(frozen=True, slots=True)
class DayOfQuality:
    """Means over the series that were enriched on a UTC day."""

    date: dt.date
    series: int
    score: float
    lowest: float  # the lowest score of them
    completeness: float
    validation: float
    features: float
    freshness: float


@dataclass(frozen=True, slots=True)
class SeriesQuality:
    """A series' newest score with its components."""

    symbol: str
    timeframe: str
    date: dt.date
    score: float
    completeness: float
    validation: float
    features: float
    freshness: float
    status: str  # now
    reasons: list[str]
    last_error: str | None

    @property
    def cause(self) -> str:
        """Why the score is not higher, or of what the series is in error; see `cause_of`."""
        return cause_of(self.status, self.reasons, self.last_error)


@dataclass(frozen=True, slots=True)
class GapsOfMonth:
    """Open gaps of a series in one month."""

    symbol: str
    timeframe: str
    month: dt.date
    missing: int


@dataclass(frozen=True, slots=True)
class ScoreOfDay:
    """The lowest score of a symbol's timeframes on a day."""

    symbol: str
    date: dt.date
    score: float


class QualityOverview(Reader):
    """Reads the quality of all series."""

    def days(self, days: int = 90) -> list[DayOfQuality]:
        """Those of the last `days` days on which a series was enriched, oldest first."""
        return self._all(DayOfQuality, _DAYS, days=days)

    def worst(self, limit: int = 20) -> list[SeriesQuality]:
        """The series with the lowest scores, each the newest of the last week, lowest first."""
        return self._all(SeriesQuality, _WORST, limit=limit)

    def scores(self) -> list[float]:
        """The newest score of each series of the last week, ascending."""
        with self._db.begin() as conn:
            return list(conn.execute(sql(_SCORES)).scalars())

    def series_with_gaps(self) -> int:
        with self._db.begin() as conn:
            return int(conn.execute(sql(_SERIES_WITH_GAPS)).scalar_one())

    def gaps(self, series: int = 20) -> list[GapsOfMonth]:
        """The open gaps by month, of the `series` with most of them."""
        return self._all(GapsOfMonth, _GAPS, series=series)

    def scored_symbols(self, days: int = 30) -> int:
        """How many symbols have a score of the last `days` days."""
        with self._db.begin() as conn:
            return int(conn.execute(sql(_SCORED_SYMBOLS), {"days": days}).scalar_one())

    def symbol_days(self, symbols: int = 40, days: int = 30) -> list[ScoreOfDay]:
        """Daily scores of the `symbols` with the lowest mean over the last `days`."""
        return self._all(ScoreOfDay, _SYMBOL_DAYS, symbols=symbols, days=days)


def newest_quality(columns: str, days: int) -> str:
    """A query for the columns of each active series' newest row `m` of the last `days` days."""
    return f"""
    SELECT DISTINCT ON (m.symbol, m.timeframe) {columns}
    FROM data_quality_metrics m JOIN tracked_symbols t ON t.symbol = m.symbol AND t.active
    WHERE m.date > (now() AT TIME ZONE 'UTC')::date - {days}
    ORDER BY m.symbol, m.timeframe, m.date DESC"""


_DAYS = """
SELECT m.date, count(*) AS series, avg(m.avg_quality_score) AS score,
    min(m.avg_quality_score) AS lowest, avg(m.data_completeness) AS completeness,
    avg(m.validation) AS validation, avg(m.features) AS features, avg(m.freshness) AS freshness
FROM data_quality_metrics m JOIN tracked_symbols t ON t.symbol = m.symbol AND t.active
WHERE m.date > (now() AT TIME ZONE 'UTC')::date - CAST(:days AS integer)
GROUP BY m.date ORDER BY m.date
"""

_WORST = f"""
SELECT symbol, timeframe, date, avg_quality_score AS score, data_completeness AS completeness,
    validation, features, freshness, coalesce(e.status, newest.status) AS status,
    newest.reasons, e.last_error
FROM ({newest_quality("m.*", days=7)}) newest
LEFT JOIN enrichment_status e USING (symbol, timeframe)
ORDER BY avg_quality_score, symbol, timeframe LIMIT :limit
"""

_SCORES = f"""
SELECT avg_quality_score FROM ({newest_quality("m.avg_quality_score", days=7)}) newest ORDER BY 1
"""

_SERIES_WITH_GAPS = """
SELECT count(DISTINCT (g.symbol, g.timeframe))
FROM bar_gaps g JOIN tracked_symbols t ON t.symbol = g.symbol AND t.active
WHERE g.resolved_at IS NULL
"""

_GAPS = """
WITH open AS (
    SELECT g.symbol, g.timeframe, date_trunc('month', g.ts AT TIME ZONE 'UTC')::date AS month,
        count(*) AS missing
    FROM bar_gaps g JOIN tracked_symbols t ON t.symbol = g.symbol AND t.active
    WHERE g.resolved_at IS NULL GROUP BY 1, 2, 3
), largest AS (
    SELECT symbol, timeframe FROM open GROUP BY symbol, timeframe
    ORDER BY sum(missing) DESC, symbol, timeframe LIMIT :series
)
SELECT symbol, timeframe, month, missing FROM open JOIN largest USING (symbol, timeframe)
ORDER BY symbol, timeframe, month
"""

_SCORED_SYMBOLS = """
SELECT count(DISTINCT m.symbol)
FROM data_quality_metrics m JOIN tracked_symbols t ON t.symbol = m.symbol AND t.active
WHERE m.date > (now() AT TIME ZONE 'UTC')::date - CAST(:days AS integer)
"""

_SYMBOL_DAYS = """
WITH recent AS (
    SELECT m.symbol, m.date, min(m.avg_quality_score) AS score
    FROM data_quality_metrics m JOIN tracked_symbols t ON t.symbol = m.symbol AND t.active
    WHERE m.date > (now() AT TIME ZONE 'UTC')::date - CAST(:days AS integer) GROUP BY 1, 2
), lowest AS (
    SELECT symbol FROM recent GROUP BY symbol ORDER BY avg(score), symbol LIMIT :symbols
)
SELECT symbol, date, score FROM recent JOIN lowest USING (symbol) ORDER BY symbol, date
"""
