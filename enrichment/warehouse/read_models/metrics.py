"""The sample that a monitoring system scrapes: one for all workers.

No figure is per symbol, so the size of a sample does not grow with their number. Counters never
decrease: the end of a job is recorded in a row that outlives it, and hourly rollups are added to
lifetime totals before they are deleted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, text

from enrichment.domain.statuses import WorkerState
from enrichment.warehouse.database import Database, Reader, fetch_all
from enrichment.warehouse.queue.pauses import IN_FORCE
from enrichment.warehouse.read_models import metrics_24h
from enrichment.warehouse.read_models.night import NightState
from enrichment.warehouse.read_models.symbols import SERIES_OF_T, STATUS
from enrichment.warehouse.resilience_state import STALE_SECONDS
from enrichment.warehouse.state_lists import QUEUED_ITEMS, WAITING_ITEMS

STATEMENT_TIMEOUT_MS = 2000


@dataclass(frozen=True, slots=True)
class JobTotals:
    """Finished jobs of a kind and state since the installation."""

    kind: str
    state: str
    count: int
    duration_seconds: float


@dataclass(frozen=True, slots=True)
class CallTotals:
    """Fetches from a provider, or computations, since the installation."""

    name: str
    total: int
    successful: int
    duration_seconds: float
    buckets: Sequence[int] = ()  # fetches by LATENCY_BUCKETS_MS, the last one unbounded


@dataclass(frozen=True, slots=True)
class SeriesGroup:
    """The active series of an asset class and timeframe."""

    asset_class: str
    timeframe: str
    statuses: dict[str, int]  # series by status
    scored: int  # series with a score of today or yesterday
    quality: float | None  # mean of the scored series, in [0, 1]
    completeness: float | None  # mean of the scored series, in [0, 1]
    validation: float | None  # their mean share of valid bars, in [0, 1]
    oldest_success: datetime | None
    newest_success: datetime | None


@dataclass(frozen=True, slots=True)
class WorkerSample:
    """A worker with a heartbeat within ten minutes that has not stopped."""

    worker_id: str
    state: str
    threads: int
    busy: int
    heartbeat_age: float  # seconds


@dataclass(frozen=True, slots=True)
class PatternSample:
    """A resilience pattern of a worker that has published it within the last 15 s."""

    worker_id: str
    kind: str
    name: str
    state: str | None
    status: dict[str, Any]


@dataclass(frozen=True, slots=True)
class AlertSample:
    """The state of an alert rule."""

    rule: str
    severity: str
    state: str


@dataclass(frozen=True, slots=True)
class Undelivered:
    """Notifications in the outbox of a channel."""

    channel: str
    count: int
    oldest_age: float  # seconds


@dataclass(frozen=True, slots=True)
class MetricsSample:
    """All figures, in one snapshot."""

    now: datetime
    night: NightState
    jobs: Sequence[JobTotals]
    queue: dict[str, int]
    queue_oldest_age: float | None
    fetches: Sequence[CallTotals]
    computations: CallTotals
    quota_remaining: int | None
    tracked: dict[str, int]
    series: Sequence[SeriesGroup]
    workers: Sequence[WorkerSample]
    patterns: Sequence[PatternSample]
    pauses: dict[str, int]
    alerts: Sequence[AlertSample]
    undelivered: Sequence[Undelivered]


class MetricsReader(Reader):
    """Reads samples. Raises DatabaseUnavailable if a statement runs for longer than 2 s."""

    def __init__(self, db: Database, read_night: Callable[[Connection], NightState]) -> None:
        super().__init__(db)
        self._read_night = read_night

    def sample(self) -> MetricsSample:
        with self._db.begin() as conn:
            conn.execute(
                text(
                    "SELECT set_config('statement_timeout', :ms, true),"
                    " set_config('work_mem', '32MB', true)"  # hash joins at 100,000 series
                ),
                {"ms": str(STATEMENT_TIMEOUT_MS)},
            )
            overall: Any = conn.execute(text(_OVERALL)).one()
            return MetricsSample(
                now=overall.now,
                night=self._read_night(conn),
                jobs=fetch_all(conn, JobTotals, _JOBS),
                queue=_counts(conn, _QUEUE),
                queue_oldest_age=overall.queue_oldest_age,
                fetches=fetch_all(conn, CallTotals, _FETCHES),
                computations=fetch_all(conn, CallTotals, _COMPUTATIONS)[0],
                quota_remaining=metrics_24h.quota(conn),
                tracked=_counts(conn, _TRACKED),
                series=fetch_all(conn, SeriesGroup, _SERIES),
                workers=fetch_all(conn, WorkerSample, _WORKERS),
                patterns=fetch_all(conn, PatternSample, _PATTERNS, {"stale": STALE_SECONDS}),
                pauses=_counts(conn, _PAUSES),
                alerts=fetch_all(conn, AlertSample, _ALERTS),
                undelivered=fetch_all(conn, Undelivered, _UNDELIVERED),
            )


def _counts(conn: Connection, statement: str) -> dict[str, int]:
    return {row.name: row.n for row in conn.execute(text(statement))}


_OVERALL = f"""
SELECT now() AS now,
    (SELECT extract(epoch FROM now() - min(created_at))::float8 FROM enrichment_job_items
        WHERE status IN {WAITING_ITEMS}) AS queue_oldest_age
"""

_JOBS = """
SELECT kind, state, count(*) AS count, sum(duration_seconds) AS duration_seconds
FROM enrichment_job_endings
GROUP BY kind, state ORDER BY kind, state
"""

_QUEUE = f"""
SELECT status AS name, count(*) AS n FROM enrichment_job_items
WHERE status IN {QUEUED_ITEMS} GROUP BY status
"""

_FETCHES = """
WITH parts AS (
    SELECT source, total, successful, duration_ms, latency_buckets FROM enrichment_fetch_settled
    UNION ALL
    SELECT h.source, h.total, h.successful, h.duration_ms, h.latency_buckets::bigint[]
    FROM enrichment_fetch_hourly h LEFT JOIN enrichment_fetch_settled s USING (source)
    WHERE h.hour >= coalesce(s.before, '-infinity')
), buckets AS (
    SELECT source, array_agg(n ORDER BY position) AS buckets FROM (
        SELECT source, b.position, sum(b.n)::bigint AS n
        FROM parts CROSS JOIN LATERAL unnest(latency_buckets) WITH ORDINALITY AS b (n, position)
        GROUP BY 1, 2) sums
    GROUP BY source
)
SELECT source AS name, sum(total)::bigint AS total, sum(successful)::bigint AS successful,
    sum(duration_ms) / 1000 AS duration_seconds, buckets
FROM parts JOIN buckets USING (source) GROUP BY source, buckets ORDER BY source
"""

_COMPUTATIONS = """
SELECT 'compute' AS name, coalesce(sum(total), 0)::bigint AS total,
    coalesce(sum(successful), 0)::bigint AS successful,
    coalesce(sum(duration_ms), 0) / 1000 AS duration_seconds
FROM (
    SELECT total, successful, duration_ms FROM enrichment_compute_settled
    UNION ALL
    SELECT total, successful, duration_ms FROM enrichment_compute_hourly
    WHERE hour >= coalesce((SELECT before FROM enrichment_compute_settled), '-infinity')
) parts
"""

_TRACKED = """
SELECT asset_class AS name, count(*) AS n FROM tracked_symbols WHERE active GROUP BY asset_class
"""

# The same rows as the overview's quality: each active series' newest day of the last two.
_SERIES = f"""
WITH stored AS (
    SELECT t.asset_class, tf.timeframe, {STATUS} AS status, count(*) AS n,
        min(e.last_success_at) AS oldest, max(e.last_success_at) AS newest
    FROM tracked_symbols t {SERIES_OF_T} WHERE t.active GROUP BY 1, 2, 3
), scores AS (
    SELECT t.asset_class, m.timeframe, count(*) AS scored, avg(m.avg_quality_score) AS quality,
        avg(m.data_completeness) AS completeness, avg(m.validation_rate) / 100 AS validation
    FROM data_quality_metrics m JOIN tracked_symbols t ON t.symbol = m.symbol AND t.active
    LEFT JOIN data_quality_metrics newer ON newer.symbol = m.symbol
        AND newer.timeframe = m.timeframe AND newer.date = m.date + 1
        AND newer.date = (now() AT TIME ZONE 'UTC')::date
    WHERE m.date BETWEEN (now() AT TIME ZONE 'UTC')::date - 1 AND (now() AT TIME ZONE 'UTC')::date
        AND newer.symbol IS NULL
    GROUP BY 1, 2
)
SELECT asset_class, timeframe, jsonb_object_agg(status, n) AS statuses,
    coalesce(scored, 0) AS scored, quality, completeness, validation,
    min(oldest) AS oldest_success, max(newest) AS newest_success
FROM stored LEFT JOIN scores USING (asset_class, timeframe)
GROUP BY asset_class, timeframe, scored, quality, completeness, validation
ORDER BY asset_class, timeframe
"""

_WORKERS = f"""
SELECT worker_id, state, threads, busy,
    extract(epoch FROM now() - heartbeat_at)::float8 AS heartbeat_age
FROM workers WHERE state <> '{WorkerState.STOPPED}' AND heartbeat_at > now() - interval '10 minutes'
ORDER BY worker_id
"""

_PATTERNS = """
SELECT worker_id, kind, name, state, status FROM resilience_state
WHERE updated_at > now() - make_interval(secs => :stale) ORDER BY worker_id, kind, name
"""

_PAUSES = f"""
SELECT scope AS name, count(*) AS n FROM pauses WHERE {IN_FORCE} GROUP BY scope
"""

_ALERTS = "SELECT rule, severity, state FROM alert_states ORDER BY rule"

_UNDELIVERED = """
SELECT d.channel, count(*) AS count, extract(epoch FROM now() - min(e.at))::float8 AS oldest_age
FROM alert_deliveries d JOIN alert_events e ON e.id = d.event
WHERE d.delivered_at IS NULL GROUP BY d.channel ORDER BY d.channel
"""
