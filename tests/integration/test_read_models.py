"""Every figure that a read model shows, on rows in which no two columns hold the same value."""

from __future__ import annotations

from dataclasses import asdict
from datetime import date, datetime, timedelta

import pytest
from sqlalchemy import text

from enrichment.domain.model import (
    Failure,
    Flag,
    QuarantinedBar,
    RowCounts,
    Severity,
    Task,
    ValidationResult,
)
from enrichment.domain.schedules import nightly
from enrichment.domain.series import Gap
from enrichment.domain.symbol_csv import parse_tracked
from enrichment.services.commands import Commands
from enrichment.warehouse.database import Database
from enrichment.warehouse.queue import jobs
from enrichment.warehouse.queue.jobs import JobQueue
from enrichment.warehouse.queue.nightly_slot import NightlySlotStore
from enrichment.warehouse.queue.workers import WorkerRegistry
from enrichment.warehouse.read_models.facade import ReadModels
from enrichment.warehouse.read_models.jobs import JobReports, SymbolsOfDay
from enrichment.warehouse.read_models.quality_all import QualityOverview
from enrichment.warehouse.read_models.quality_by_day import QualityHistory
from enrichment.warehouse.read_models.quality_symbol import QualityReports
from enrichment.warehouse.series.warehouse import Warehouse
from tests.helpers.series_updates import START, WINDOW, bars, claim, series_update

COMPONENTS = {"completeness": 0.96, "validation": 0.95, "features": 0.94, "freshness": 0.93}


@pytest.fixture
def night(db: Database) -> ReadModels:
    """A nightly job of four symbols: A completed at the second attempt, B and C at the first; D
    failed at the second.
    """
    commands, queue = Commands(db), JobQueue(db)
    commands.track([parse_tracked(name, "stock", "1d") for name in "ABCD"], actor="test")
    with db.begin() as conn:
        conn.execute(text("UPDATE tracked_symbols SET created_at = now() - interval '7 days'"))
        now: datetime = conn.execute(text("SELECT now()")).scalar_one()
    slot = now - timedelta(minutes=2)
    schedules = [nightly(slot.hour, slot.minute)]
    (job_id,) = NightlySlotStore(db, schedules).open_due_jobs().values()
    for task in queue.claim("w", 9):
        if task.symbol in "AD":
            queue.fail(task, Failure("ProviderUnavailable", "answered 500", "fetch"), 0.0)
        else:
            complete(db, task)
    for task in queue.claim("w", 9):
        if task.symbol == "D":
            queue.fail(task, Failure("MalformedResponse", "answered in prose", "fetch"), None)
        else:
            complete(db, task)
    assert queue.close_finished_jobs() == [job_id]
    return ReadModels(db, schedules)


def complete(db: Database, task: Task) -> None:
    with db.begin() as conn:
        jobs.complete(conn, {task: RowCounts(inserted=7, updated=2)})


@pytest.fixture
def stored(db: Database) -> Database:
    """One series after one run, of today."""
    flag = Flag(START, "ohlc", Severity.ERROR, "high 1 below low 2")
    unfit = QuarantinedBar(START + timedelta(days=1), "negative", "close -1", {"close": -1.0})
    update = series_update(
        bars(9),
        validation=ValidationResult(bars(9), (flag,), (unfit,)),
        flags=[flag],
        gaps=[Gap(START + timedelta(days=n)) for n in (40, 41)],
    )
    Warehouse(db).commit(claim(db), [update])
    with db.begin() as conn:
        conn.execute(text("UPDATE data_quality_metrics SET date = now()::date"))
    return db


def test_a_slot_shows_its_jobs_figures(night: ReadModels) -> None:
    (slot,) = night.slots()
    assert (slot.kind, slot.state) == ("scheduled", "partial")
    assert (slot.successful, slot.failed) == (3, 1)
    assert slot.duration_seconds is not None
    assert 0 <= slot.duration_seconds < 60 <= slot.late_seconds < 300


def test_the_history_and_the_last_job_show_a_jobs_figures(night: ReadModels) -> None:
    page = night.history(10)
    (job,), (details,) = page.jobs, page.details
    assert (job.successful, job.failed, job.retried) == (3, 1, 2)
    assert (job.total_records_inserted, job.total_records_updated) == (21, 6)
    assert (details.kind, details.state, details.total) == ("scheduled", "partial", 4)
    assert details.requested_by == "scheduler"
    last = night.overview().last_job
    assert last is not None
    assert (last.successful, last.failed, last.retried) == (3, 1, 2)
    assert (last.started_at, last.completed_at) == (job.started_at, job.completed_at)
    assert last.started_at is not None
    assert last.completed_at is not None
    assert details.created_at < last.started_at < last.completed_at


def test_a_jobs_items_and_errors(night: ReadModels, db: Database) -> None:
    job_id = night.history(1).jobs[0].job_id
    first, *_, failed = JobReports(db, {}).items(job_id, 9)
    assert (first.symbol, first.status, first.retry_count) == ("A", "completed", 1)
    assert (first.inserted, first.updated) == (7, 2)
    assert (failed.symbol, failed.status, failed.step) == ("D", "failed", "fetch")
    assert (failed.error_class, failed.last_error) == ("MalformedResponse", "answered in prose")
    (group,) = JobReports(db, {}).error_groups(job_id)
    assert asdict(group) == {
        "error_class": "MalformedResponse",
        "count": 1,
        "still_failing": 1,
        "example": "answered in prose",
        "symbols": ["D"],
    }


def test_a_symbol_of_several_jobs_of_a_day_counts_once_with_its_last_outcome(
    night: ReadModels, db: Database
) -> None:
    """After the night, in which D failed, a manual job enriches D while A fails."""
    job = Commands(db).trigger(symbols=["A", "D"], actor="test")
    queue = JobQueue(db)
    for task in queue.claim("w", 9):
        if task.symbol == "A":
            queue.fail(task, Failure("MalformedResponse", "answered in prose", "fetch"), None)
        else:
            complete(db, task)
    queue.close_finished_jobs()
    jobs = [entry.job_id for entry in night.history(9).jobs]
    assert len(jobs) == 2
    with db.begin() as conn:  # both on one day, whenever this runs
        conn.execute(text("UPDATE enrichment_jobs SET created_at = '2024-03-01T12:00Z'"))
        conn.execute(
            text("UPDATE enrichment_jobs SET created_at = '2024-03-01T13:00Z' WHERE job_id = :id"),
            {"id": job.job_id},
        )
    assert night.jobs.symbols_by_day(jobs) == [SymbolsOfDay(date(2024, 3, 1), 3, 1)]
    assert night.jobs.symbols_by_day([job.job_id]) == [SymbolsOfDay(date(2024, 3, 1), 1, 1)]


def test_a_worker_shows_its_threads_and_how_many_are_busy(db: Database) -> None:
    registry = WorkerRegistry(db, "w1")
    registry.register(host="vm7", pid=4321, version="1.0", threads=8)
    registry.beat(busy=3, state="waiting", note="for the vendor")
    reader = ReadModels(db)
    (worker,) = reader.workers()
    assert (worker.worker_id, worker.host, worker.pid) == ("w1", "vm7", 4321)
    assert (worker.threads, worker.busy) == (8, 3)
    assert (worker.state, worker.note, worker.alive) == ("waiting", "for the vendor", True)
    assert worker.started_at < worker.heartbeat_at
    (sample,) = reader.monitoring.sample().workers
    assert (sample.worker_id, sample.state) == ("w1", "waiting")
    assert (sample.threads, sample.busy) == (8, 3)


def test_a_series_report_shows_each_component_of_its_score(stored: Database) -> None:
    (report,) = QualityReports(stored).of("AAPL") or []
    assert (report.score, report.components) == (0.97, COMPONENTS)
    assert (report.status, report.bars) == ("healthy", 9)
    assert (report.first_bar, report.last_bar) == (START, START + timedelta(days=8))
    assert (report.source, report.adjusted) == ("sandbox", False)
    assert [gap.timestamp for gap in report.gaps] == [START + timedelta(days=n) for n in (40, 41)]
    assert (report.gaps[0].cause, report.gaps[0].attempts) == ("unexplained", 1)
    (flag,) = report.flags
    assert (flag.timestamp, flag.check, flag.severity) == (START, "ohlc", "error")
    assert flag.detail == "high 1 below low 2"
    (unfit,) = report.quarantined
    assert (unfit.timestamp, unfit.check) == (START + timedelta(days=1), "negative")
    assert (unfit.detail, unfit.source, unfit.bar) == ("close -1", "sandbox", {"close": -1.0})


def test_the_quality_of_all_series_shows_each_component(stored: Database) -> None:
    overview = QualityOverview(stored)
    (day,), (series,) = overview.days(), overview.worst()
    assert {name: getattr(day, name) for name in COMPONENTS} == COMPONENTS
    assert (day.series, day.score, day.lowest) == (1, 0.97, 0.97)
    assert {name: getattr(series, name) for name in COMPONENTS} == COMPONENTS
    assert (series.symbol, series.timeframe, series.score) == ("AAPL", "1d", 0.97)
    assert (series.status, series.reasons) == ("healthy", ["something small"])
    (group,) = ReadModels(stored).monitoring.sample().series
    assert (group.asset_class, group.timeframe, group.scored) == ("stock", "1d", 1)
    assert (group.quality, group.completeness, group.validation) == (0.97, 0.96, 0.9)


def test_a_day_of_a_symbol_counts_records_gaps_and_anomalies(stored: Database) -> None:
    quality = QualityHistory(stored).of("AAPL", 7)
    assert quality is not None
    (day,) = quality.daily_metrics
    assert (day.total_records, day.validated_records, day.validation_rate) == (10, 9, 90.0)
    assert (day.gaps_detected, day.anomalies_detected) == (2, 1)
    assert (day.avg_quality_score, day.data_completeness) == (0.97, 0.96)


def test_the_fetch_log_shows_bars_requests_and_the_window(stored: Database) -> None:
    quality = QualityHistory(stored).of("AAPL", 7)
    assert quality is not None
    (fetch,) = quality.recent_fetch_logs
    assert (fetch.timeframe, fetch.source, fetch.success) == ("1d", "sandbox", True)
    assert (fetch.bars, fetch.requests, fetch.duration_ms) == (9, 3, 12.0)
    assert (fetch.window_start, fetch.window_end) == (WINDOW.start, WINDOW.end)
    assert (fetch.adjusted, fetch.error) == (False, None)
    metrics = ReadModels(stored).metrics()
    assert metrics.fetch_pipeline.api_quota_remaining == 70
    assert metrics.fetch_pipeline.avg_response_time_ms == 12.0
    assert metrics.compute_pipeline.avg_computation_time_ms == 3.0
    assert metrics.data_quality.avg_validation_rate == 90.0
    assert metrics.data_quality.avg_quality_score == 0.97
