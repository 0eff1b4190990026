"""Fetches by vendor from the hourly rollups: their latency and their success."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from enrichment.warehouse.rows import Reader


@dataclass(frozen=True, slots=True)
class Fetches:
    """Fetches from a source that started within an hour or day."""

    start: datetime  # of the hour or day
    source: str
    total: int
    successful: int
    buckets: Sequence[int]  # fetches by LATENCY_BUCKETS_MS, the last one unbounded


@dataclass(frozen=True, slots=True)
class Answers:
    """Successful fetches of an asset class from a source within an hour or day."""

    start: datetime  # of the hour or day
    asset_class: str
    source: str
    answered: int


class VendorHistory(Reader):
    """Reads the rollups of the last hours: by hour, or by UTC day for more than three days."""

    def fetches(self, hours: int) -> list[Fetches]:
        """By source, oldest first; failed fetches have the source 'none'."""
        return self._all(Fetches, _FETCHES, **_span(hours))

    def answers(self, hours: int) -> list[Answers]:
        """By asset class and source, oldest first."""
        return self._all(Answers, _ANSWERS, **_span(hours))


def _span(hours: int) -> dict[str, object]:
    return {"hours": hours, "step": "hour" if hours <= 72 else "day"}


_RECENT = "WHERE hour > now() - make_interval(hours => :hours)"

_FETCHES = f"""
SELECT start, source, total, successful, buckets FROM (
    SELECT date_trunc(:step, hour) AS start, source, sum(total)::bigint AS total,
        sum(successful)::bigint AS successful
    FROM enrichment_fetch_hourly {_RECENT} GROUP BY 1, 2) sums
JOIN (
    SELECT start, source, array_agg(n ORDER BY position) AS buckets FROM (
        SELECT date_trunc(:step, hour) AS start, source, b.position, sum(b.n)::bigint AS n
        FROM enrichment_fetch_hourly
        CROSS JOIN LATERAL unnest(latency_buckets) WITH ORDINALITY AS b (n, position)
        {_RECENT} GROUP BY 1, 2, 3) counts
    GROUP BY 1, 2) latencies USING (start, source)
ORDER BY source, start
"""

_ANSWERS = f"""
SELECT date_trunc(:step, hour) AS start, asset_class, source, sum(answered)::bigint AS answered
FROM enrichment_fetch_answers {_RECENT} GROUP BY 1, 2, 3 ORDER BY 2, 3, 1
"""
