"""Fetches by vendor and hour: their latency and their success."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from enrichment.domain.model import LATENCY_BUCKETS_MS
from enrichment.warehouse.database import Reader
from enrichment.warehouse.series.rollups import ANSWERS_BY_HOUR, FETCHES_BY_HOUR


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
    """Reads the last hours, the running one included: by hour, or by UTC day for more than three
    days.
    """

    def fetches(self, hours: int) -> list[Fetches]:
        """By source, oldest first; failed fetches have the source 'none'."""
        return self._all(Fetches, _FETCHES, bounds=list(LATENCY_BUCKETS_MS), **_span(hours))

    def answers(self, hours: int) -> list[Answers]:
        """By asset class and source, oldest first."""
        return self._all(Answers, _ANSWERS, **_span(hours))


def _span(hours: int) -> dict[str, object]:
    return {"hours": hours, "step": "hour" if hours <= 72 else "day"}


# The rollup of an hour is complete once a later hour has one; later hours are read from the log.
_OPEN = """
WITH open AS MATERIALIZED (
    SELECT greatest(coalesce(max(hour), '-infinity'),
        date_trunc('hour', now()) - make_interval(hours => :hours - 1)) AS since
    FROM enrichment_fetch_hourly)
"""
_CLOSED = "hour > now() - make_interval(hours => :hours) AND hour < (SELECT since FROM open)"
_SINCE = "(SELECT since FROM open)"

_FETCHES = f"""{_OPEN}, hours AS (
    SELECT hour, source, total, successful, latency_buckets FROM enrichment_fetch_hourly
    WHERE {_CLOSED}
    UNION ALL
    SELECT hour, source, total, successful, latency_buckets
    FROM ({FETCHES_BY_HOUR.format(since=_SINCE)}) logged
)
SELECT start, source, total, successful, buckets FROM (
    SELECT date_trunc(:step, hour) AS start, source, sum(total)::bigint AS total,
        sum(successful)::bigint AS successful
    FROM hours GROUP BY 1, 2) sums
JOIN (
    SELECT start, source, array_agg(n ORDER BY position) AS buckets FROM (
        SELECT date_trunc(:step, hour) AS start, source, b.position, sum(b.n)::bigint AS n
        FROM hours
        CROSS JOIN LATERAL unnest(latency_buckets) WITH ORDINALITY AS b (n, position)
        GROUP BY 1, 2, 3) counts
    GROUP BY 1, 2) latencies USING (start, source)
ORDER BY source, start
"""

_ANSWERS = f"""{_OPEN}
SELECT date_trunc(:step, hour) AS start, asset_class, source, sum(answered)::bigint AS answered
FROM (
    SELECT hour, asset_class, source, answered FROM enrichment_fetch_answers WHERE {_CLOSED}
    UNION ALL
    {ANSWERS_BY_HOUR.format(since=_SINCE)}
) hours
GROUP BY 1, 2, 3 ORDER BY 2, 3, 1
"""
