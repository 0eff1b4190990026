"""The queries of screens and endpoints, one method each; other modules here hold further ones.

Times are timezone-aware UTC, durations seconds unless a name says otherwise, rates percent, scores
0–1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, time, timedelta
from functools import partial
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, text

from enrichment.domain.schedules import Schedule, nightly
from enrichment.domain.statuses import FINAL_ITEM_STATUSES, ItemStatus
from enrichment.warehouse.closures import Closures
from enrichment.warehouse.database import Database, Reader, database_now, fetch_all, from_row
from enrichment.warehouse.queue.workers import IS_ALIVE, running_scheduler
from enrichment.warehouse.read_models import metrics_24h
from enrichment.warehouse.read_models.alerts import AlertReports
from enrichment.warehouse.read_models.audit_log import AuditLog
from enrichment.warehouse.read_models.bars import BarDownloads, PriceCharts
from enrichment.warehouse.read_models.changes import CHANGES, Changes
from enrichment.warehouse.read_models.corporate_actions import CorporateActions
from enrichment.warehouse.read_models.damage import DamageReports
from enrichment.warehouse.read_models.deadline import read_forecasts, read_service_level
from enrichment.warehouse.read_models.dto import (
    FailedItem,
    HistoricJob,
    HistoryPage,
    JobDetails,
    JobStatus,
    ListTotals,
    Metrics,
    Overview,
    PatternStatus,
    Pause,
    Progress,
    QueuedItem,
    SchedulerStatus,
    ServiceLevel,
    SlotStatus,
    TrackedSeries,
    Transition,
    WaitReason,
    WorkerStatus,
)
from enrichment.warehouse.read_models.eta import VendorEtas
from enrichment.warehouse.read_models.findings import Findings
from enrichment.warehouse.read_models.jobs import JobReports, last_job
from enrichment.warehouse.read_models.metrics import MetricsReader
from enrichment.warehouse.read_models.night import (
    NightState,
    PausedLimiter,
    paused_limiters,
    pauses_in_force,
    read_night,
)
from enrichment.warehouse.read_models.overview import OverviewQueries
from enrichment.warehouse.read_models.quality_all import QualityOverview
from enrichment.warehouse.read_models.quality_by_day import QualityHistory
from enrichment.warehouse.read_models.quality_symbol import QualityReports
from enrichment.warehouse.read_models.schedules import (
    judged_run,
    read_schedules,
    seconds_late,
    slot_time,
    tracked_markets,
)
from enrichment.warehouse.read_models.symbols import SERIES_OF_T, STATE, SymbolQueries
from enrichment.warehouse.read_models.vendors import VendorHistory
from enrichment.warehouse.read_models.waiting import market_days, wait_reasons, waits_of
from enrichment.warehouse.resilience_state import STALE_SECONDS
from enrichment.warehouse.state_lists import FINISHED_JOBS, NIGHTLY_JOBS, OPEN_JOBS, QUEUED_ITEMS

QUEUE_SHOWN = 100


class ReadModels(Reader):
    """The queries, on a database that may be read-only.

    Args:
        db: Where to read.
        schedules: When which symbols are enriched by themselves.
        enabled: Whether the schedules run.
        providers: Asset class → its providers, in the order in which they are asked.
        quotas: Vendor → requests a minute; those that have none may be missing.
        deadline: Time of day, UTC, by which runs should be done; None for none.
    """

    def __init__(
        self,
        db: Database,
        schedules: Sequence[Schedule] = (nightly(),),
        *,
        enabled: bool = True,
        providers: Mapping[str, Sequence[str]] | None = None,
        quotas: Mapping[str, int | None] | None = None,
        deadline: time | None = None,
    ) -> None:
        super().__init__(db)
        self._providers = providers or {}
        self._etas = VendorEtas(self._providers, quotas or {})
        self._deadline = deadline
        self._forecasts = partial(read_forecasts, etas=self._etas, deadline=deadline)
        self._read_night = partial(
            read_night,
            providers=self._providers,
            schedules=schedules,
            enabled=enabled,
            forecasts=self._forecasts,
        )
        self.quality_by_day = QualityHistory(db)
        self.jobs = JobReports(db, self._providers)
        self.symbols = SymbolQueries(db)
        self.audit_log = AuditLog(db)
        self.corporate_actions = CorporateActions(db)
        self.closures = Closures(db)
        self.bars = BarDownloads(db)
        self.alerts = AlertReports(db)
        self.monitoring = MetricsReader(db, self._read_night)
        self.damage = DamageReports(db)
        self.quality_all = QualityOverview(db)
        self.findings = Findings(db)
        self.reports = QualityReports(db)
        self.prices = PriceCharts(db)
        self.overview_page = OverviewQueries(db, schedules)
        self.vendors = VendorHistory(db)
        self._schedules, self._enabled = schedules, enabled

    def changes(self) -> Changes:
        """A cheap look at the tables' counters."""
        with self._db.begin() as conn:
            return from_row(Changes, conn.execute(text(CHANGES)).one())

    def overview(self) -> Overview:
        with self._db.begin() as conn:
            scheduler = self._scheduler(conn)
            return Overview(
                timestamp=database_now(conn),
                scheduler=scheduler,
                last_job=last_job(conn, judged_run(conn, scheduler.schedules)),
                metrics=metrics_24h.read(conn),
                job_queue=fetch_all(conn, QueuedItem, _QUEUE, {"limit": QUEUE_SHOWN}),
                queued=conn.execute(text(_QUEUED)).scalar_one(),
                forecasts=self._forecasts(conn),
            )

    def service_level(self) -> ServiceLevel:
        """How often runs have kept their deadline."""
        with self._db.begin() as conn:
            return read_service_level(conn, self._deadline)

    def night(self) -> NightState:
        """The inputs of the health assessment, in one snapshot."""
        with self._db.begin() as conn:
            return self._read_night(conn)

    def scheduler_status(self) -> SchedulerStatus:
        with self._db.begin() as conn:
            return self._scheduler(conn)

    def metrics(self) -> Metrics:
        with self._db.begin() as conn:
            return metrics_24h.read(conn)

    def job_status(self, symbol: str) -> JobStatus | None:
        """None for a symbol that is not tracked."""
        return self._one(JobStatus, _JOB_STATUS, symbol=symbol)

    def wait_of(self, symbol: str) -> WaitReason | None:
        """Why the newest item of a symbol has not started; None if it has, or for no reason."""
        with self._db.begin() as conn:
            job_id = conn.execute(text(_NEWEST_JOB), {"symbol": symbol}).scalar()
            if job_id is None:
                return None
            return waits_of(conn, job_id, [symbol], self._providers).get(symbol)

    def history(
        self,
        limit: int,
        before: tuple[datetime, UUID] | None = None,
        *,
        kinds: Sequence[str] = (),
        with_failures: bool = False,
        schedule: str | None = None,
    ) -> HistoryPage:
        """Up to `limit` jobs, newest first.

        Args:
            limit: Maximum number of jobs.
            before: `next` of the previous page; None for the first one.
            kinds: Only these kinds; empty for all.
            with_failures: Only jobs with failed symbols.
            schedule: Only the runs of this schedule.
        """
        at, job_id = before or (None, None)
        values = {
            "limit": limit + 1,
            "at": at,
            "job_id": job_id,
            "kinds": list(kinds),
            "with_failures": with_failures,
            "schedule": schedule,
        }
        with self._db.begin() as conn:
            now = database_now(conn)
            rows = conn.execute(text(_HISTORY), values).all()
            total = conn.execute(text(_HISTORY_TOTAL), values).scalar_one()
        page, more = rows[:limit], len(rows) > limit
        return HistoryPage(
            timestamp=now,
            total=total,
            jobs=[from_row(HistoricJob, row) for row in page],
            details=[from_row(JobDetails, row) for row in page],
            next=(page[-1].created_at, page[-1].job_id) if more else None,
        )

    def progress(self, job_id: UUID) -> Progress | None:
        """None for an unknown job."""
        with self._db.begin() as conn:
            return _progress(conn, job_id, self._etas)

    def progress_of_open_jobs(self) -> list[Progress]:
        """The queued and running jobs, oldest first."""
        with self._db.begin() as conn:
            ids = conn.execute(text(_OPEN_JOBS)).scalars().all()
            return [progress for job_id in ids if (progress := _progress(conn, job_id, self._etas))]

    def failed_items(self, job_id: UUID) -> list[FailedItem]:
        return self._all(FailedItem, _FAILED, job_id=job_id)

    def series(self) -> list[TrackedSeries]:
        """Every timeframe of every tracked symbol, by name."""
        return self._all(TrackedSeries, _SERIES)

    def workers(self) -> list[WorkerStatus]:
        """Workers of the last day, newest first."""
        return self._all(WorkerStatus, _WORKERS)

    def silent_since(self) -> datetime | None:
        """The newest heartbeat if no worker is alive; None if one is, or there was none ever."""
        with self._db.begin() as conn:
            heartbeat: datetime | None = conn.execute(text(_SILENT)).scalar()
            return heartbeat

    def pauses(self) -> list[Pause]:
        """Pauses in force."""
        with self._db.begin() as conn:
            return pauses_in_force(conn)

    def paused_limiters(self) -> list[PausedLimiter]:
        """Vendors' rate limiters that grant nothing for more than a minute."""
        with self._db.begin() as conn:
            return paused_limiters(conn)

    def resilience(self) -> list[PatternStatus]:
        """Every pattern that a worker has published within the last day, by name and kind."""
        return self._all(PatternStatus, _RESILIENCE, stale=STALE_SECONDS)

    def transitions(self, limit: int = 100) -> list[Transition]:
        """The breakers' newest changes of state, newest first."""
        return self._all(Transition, _TRANSITIONS, limit=limit)

    def slots(self, limit: int = 30) -> list[SlotStatus]:
        """The newest slots of all schedules with a job, newest first."""
        with self._db.begin() as conn:
            rows = conn.execute(text(_SLOTS), {"limit": limit}).all()
        return [self._slot_status(row) for row in rows]

    def _slot_status(self, job: Any) -> SlotStatus:
        planned = slot_time(self._schedules, job.schedule, job.slot_date, job.slot_at)
        late = seconds_late(planned, job.created_at)
        return from_row(SlotStatus, job, slot=planned, late_seconds=late)

    def list_totals(self) -> ListTotals:
        with self._db.begin() as conn:
            return fetch_all(conn, ListTotals, _LIST_TOTALS)[0]

    def feature_values(self, job_id: UUID) -> int:
        """How many feature values a job has computed for new or changed bars."""
        with self._db.begin() as conn:
            return int(conn.execute(text(_FEATURE_VALUES), {"job_id": job_id}).scalar_one())

    def _scheduler(self, conn: Connection) -> SchedulerStatus:
        now = database_now(conn)
        tracked = tracked_markets(conn, self._schedules)
        schedules = read_schedules(conn, self._schedules, tracked, enabled=self._enabled)
        running, following = running_scheduler(conn)
        planned = [s.next_run_time for s in schedules if s.next_run_time is not None]
        if not running:
            following = min(planned, default=None)
        elif following is not None and following <= now:  # it will tick at any moment
            several = len(schedules) > 1
            following = min(planned, default=None) if several else following + timedelta(days=1)
        last: datetime | None = conn.execute(text(_LAST_ENRICHMENT)).scalar()
        return SchedulerStatus(running, last, following, schedules)


def _progress(conn: Connection, job_id: UUID, etas: VendorEtas) -> Progress | None:
    job = conn.execute(text(_JOB), {"job_id": job_id}).one_or_none()
    if job is None:
        return None
    key = {"job_id": job_id}
    counts: dict[str, int] = {row.status: row.n for row in conn.execute(text(_ITEM_COUNTS), key)}
    sums = conn.execute(text(_ITEM_SUMS), key).one()
    final = sum(counts.get(status, 0) for status in FINAL_ITEM_STATUSES)
    rate = final / job.seconds if job.seconds and final else None
    return Progress(
        job_id=job_id,
        state=job.state,
        total=job.total,
        counts=counts,
        at_work={r.symbol: r.step or "claimed" for r in conn.execute(text(_AT_WORK), key)},
        inserted=sums.inserted,
        updated=sums.updated,
        duration_seconds=job.seconds,
        symbols_per_second=rate,
        eta_seconds=etas.seconds_left(conn, job_id, job.total, final, job.seconds),
        vendors=etas.of(conn, job_id) if final < job.total else [],
        waiting=wait_reasons(conn, job_id, etas.providers) if final < job.total else [],
        market_days=market_days(conn, job_id),
    )


_FEATURE_VALUES = """
SELECT coalesce(sum(bars * features), 0) FROM enrichment_compute_log
WHERE job_id = :job_id AND success
"""

_LIST_TOTALS = f"""
SELECT (SELECT count(*) FROM enrichment_jobs WHERE kind IN {NIGHTLY_JOBS}) AS slots,
    (SELECT count(*) FROM resilience_transitions) AS transitions,
    (SELECT count(*) FROM alert_events) AS alert_events,
    (SELECT count(*) FROM operator_actions) AS actions
"""

_LAST_ENRICHMENT = f"""
SELECT max(completed_at) FROM enrichment_jobs WHERE state IN {FINISHED_JOBS}
"""

_QUEUE = f"""
SELECT symbol, status, retry_count FROM enrichment_job_items
WHERE status IN {QUEUED_ITEMS}
ORDER BY status <> '{ItemStatus.IN_PROGRESS}', priority, created_at, symbol LIMIT :limit
"""

_QUEUED = f"SELECT count(*) FROM enrichment_job_items WHERE status IN {QUEUED_ITEMS}"

_JOB_STATUS = f"""
SELECT t.symbol, coalesce(i.status, '{ItemStatus.PENDING}') AS status,
    coalesce(i.retry_count, 0) AS retry_count, i.last_error, i.started_at, i.completed_at,
    now() AS timestamp
FROM tracked_symbols t
LEFT JOIN LATERAL (
    SELECT * FROM enrichment_job_items i WHERE i.symbol = t.symbol
    ORDER BY i.created_at DESC LIMIT 1) i ON true
WHERE t.symbol = :symbol
"""

_NEWEST_JOB = """
SELECT job_id FROM enrichment_job_items WHERE symbol = :symbol ORDER BY created_at DESC LIMIT 1
"""

_MATCHING = """(CAST(:kinds AS text[]) = '{}' OR j.kind = ANY(CAST(:kinds AS text[])))
    AND (CAST(:schedule AS text) IS NULL OR j.schedule = :schedule)
    AND (NOT :with_failures OR coalesce(j.failed, i.failed) > 0)"""

_HISTORY_TOTAL = f"""
SELECT count(*) FROM enrichment_jobs j
LEFT JOIN LATERAL (
    SELECT count(*) AS failed FROM enrichment_job_items
    WHERE job_id = j.job_id AND j.completed_at IS NULL AND :with_failures
        AND status = '{ItemStatus.FAILED}') i ON true
WHERE {_MATCHING}
"""

_HISTORY = f"""
SELECT j.job_id, j.started_at, j.completed_at,
    job_seconds(j) AS duration_seconds,
    coalesce(j.successful, i.successful)::int AS successful,
    coalesce(j.failed, i.failed)::int AS failed, coalesce(j.retried, i.retried)::int AS retried,
    coalesce(j.inserted, i.inserted)::bigint AS total_records_inserted,
    coalesce(j.updated, i.updated)::bigint AS total_records_updated,
    j.kind, j.schedule, j.state, j.total, j.created_at, j.requested_by
FROM enrichment_jobs j
LEFT JOIN LATERAL (
    SELECT count(*) FILTER (WHERE status = '{ItemStatus.COMPLETED}') AS successful,
        count(*) FILTER (WHERE status = '{ItemStatus.FAILED}') AS failed,
        count(*) FILTER (WHERE retry_count > 0) AS retried,
        coalesce(sum(inserted), 0) AS inserted, coalesce(sum(updated), 0) AS updated
    FROM enrichment_job_items WHERE job_id = j.job_id AND j.completed_at IS NULL) i ON true
WHERE (CAST(:at AS timestamptz) IS NULL
        OR (j.created_at, j.job_id) < (CAST(:at AS timestamptz), CAST(:job_id AS uuid)))
    AND {_MATCHING}
ORDER BY j.created_at DESC, j.job_id DESC LIMIT :limit
"""

_JOB = """
SELECT state, total, job_seconds(j) AS seconds FROM enrichment_jobs j WHERE job_id = :job_id
"""

_OPEN_JOBS = f"""
SELECT job_id FROM enrichment_jobs WHERE state IN {OPEN_JOBS} ORDER BY created_at
"""

_ITEM_COUNTS = """
SELECT status, count(*) AS n FROM enrichment_job_items WHERE job_id = :job_id GROUP BY status
"""

_ITEM_SUMS = """
SELECT coalesce(sum(inserted), 0)::bigint AS inserted, coalesce(sum(updated), 0)::bigint AS updated
FROM enrichment_job_items WHERE job_id = :job_id
"""

_AT_WORK = f"""
SELECT symbol, step FROM enrichment_job_items
WHERE job_id = :job_id AND status = '{ItemStatus.IN_PROGRESS}' ORDER BY symbol
"""

_FAILED = f"""
SELECT symbol, coalesce(error_class, '') AS error_class, coalesce(last_error, '') AS last_error
FROM enrichment_job_items
WHERE job_id = :job_id AND status = '{ItemStatus.FAILED}' ORDER BY symbol
"""

_SERIES = f"""
SELECT t.symbol, t.asset_class, tf.timeframe, t.active, {STATE}
FROM tracked_symbols t {SERIES_OF_T}
ORDER BY t.symbol, tf.position
"""

_WORKERS = f"""
SELECT worker_id, host, pid, threads, busy, state, started_at, heartbeat_at,
    {IS_ALIVE} AS alive, note
FROM workers WHERE heartbeat_at > now() - interval '1 day' ORDER BY heartbeat_at DESC
"""

_SILENT = f"""
SELECT max(heartbeat_at) FROM workers
HAVING NOT bool_or({IS_ALIVE})
"""

_RESILIENCE = """
SELECT s.worker_id, s.kind, s.name, s.state, s.status, s.updated_at,
    extract(epoch FROM now() - s.updated_at)::float8 AS age_seconds,
    s.updated_at < now() - make_interval(secs => :stale) AS stale,
    o.actor AS set_by, o.reason, o.at AS since
FROM resilience_state s LEFT JOIN LATERAL (
    SELECT actor, reason, at FROM resilience_overrides
    WHERE name = s.name AND s.status ->> 'mode' <> 'auto' ORDER BY id DESC LIMIT 1) o ON true
WHERE s.updated_at > now() - interval '1 day'
ORDER BY s.name, s.kind, s.updated_at DESC, s.worker_id
"""

_TRANSITIONS = """
SELECT at, worker_id, name, from_state, to_state, reason FROM resilience_transitions
ORDER BY id DESC LIMIT :limit
"""

_SLOTS = f"""
SELECT job_id, schedule, slot_date, slot_at, kind, state, created_at,
    CASE WHEN completed_at IS NOT NULL THEN job_seconds(j) END AS duration_seconds,
    successful, failed
FROM enrichment_jobs j WHERE kind IN {NIGHTLY_JOBS}
ORDER BY slot_date DESC, created_at DESC LIMIT :limit
"""
