"""The overview's metrics, with their targets and their trend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np

from enrichment.dashboard.data.overview import OverviewData
from enrichment.dashboard.formatting import age, percent, seconds, time_until
from enrichment.dashboard.times import format_time
from enrichment.domain.plurals import counted, rounded_down
from enrichment.services import health
from enrichment.warehouse.read_models.dto import HistoricJob, SchedulerStatus, WorkerStatus
from enrichment.warehouse.read_models.night import NightState
from enrichment.warehouse.read_models.schedules import NightRun


@dataclass(frozen=True)
class Metric:
    label: str
    value: str
    note: str
    trend: Sequence[float] = ()  # a value per night or day, oldest first


def current_metrics(data: OverviewData) -> list[Metric]:
    overview = data.overview
    now, job = overview.timestamp, overview.last_job
    last_run = age(job.completed_at, now) if job and job.completed_at else "never"
    alive = [worker for worker in data.workers if worker.alive]
    return [
        Metric(
            "Last run",
            last_run,
            f"{_name(data.night.run)}target: within "
            f"{health.LAST_JOB_MAX_AGE / timedelta(hours=1):.0f} h",
        ),
        Metric("Next run in", *_next_run(overview.scheduler, now)),
        Metric("Queue", f"{overview.queued:,}", "symbols waiting or running"),
        Metric("Workers alive", str(len(alive)), _busy_threads(alive)),
    ]


def trend_metrics(data: OverviewData) -> list[Metric]:
    """The metrics whose trend is of interest."""
    night, days = data.night, data.quality_days
    ended = [job for job in reversed(data.nightly_jobs.jobs) if job.completed_at is not None]
    durations = [job.duration_seconds for job in ended if job.duration_seconds is not None]
    p95 = float(np.quantile(durations, 0.95)) if durations else None
    target = health.DURATION_TARGET_SECONDS / 60
    up_to_date = 100 * night.current / night.series if night.series else None
    return [
        Metric(
            "Symbols successful",
            percent(health.success_rate(data.night.run)),
            f"{_judged(night.run)}; target: above {health.SUCCESS_TARGET:.0f} %",
            [_success_rate(job) for job in ended if job.successful + job.failed],
        ),
        Metric(
            "Duration, p95",
            seconds(p95),
            f"of the last {counted(len(durations), 'night')}; target: below {target:.0f} min",
            durations,
        ),
        Metric(
            "Mean quality",
            "–" if night.mean_score is None else rounded_down(night.mean_score, 3),
            f"{_scored(night)}; target: above {health.QUALITY_TARGET:.2f}",
            [day.score for day in days],
        ),
        Metric(
            "Up to date",
            percent(up_to_date),
            f"{night.current:,} of {counted(night.series, 'series', 'series')} "
            f"{'has' if night.series == 1 else 'have'} the newest session",
            [100 * day.freshness for day in days],
        ),
    ]


def _name(run: NightRun | None) -> str:
    return "" if run is None else f"{run.name}; "


def _judged(run: NightRun | None) -> str:
    if run is None:
        return "no run of all symbols has finished"
    return (
        f"{run.judged_symbols - run.still_failing:,} of {counted(run.judged_symbols, 'symbol')} "
        f"of the last {run.name}"
    )


def _scored(night: NightState) -> str:
    """Which series the mean covers."""
    unscored = night.series - night.scored
    series = counted(night.series, "series", "series")
    return f"of {night.scored:,} of {series}, without {unscored:,}" if unscored > 0 else series


def _success_rate(job: HistoricJob) -> float:
    return 100.0 * job.successful / (job.successful + job.failed)


def _next_run(scheduler: SchedulerStatus, now: datetime) -> tuple[str, str]:
    if not scheduler.running:
        return "–", "the scheduler is not running"
    next_run = scheduler.next_enrichment_time
    if next_run is None:
        return "–", "disabled: ENABLE_DAILY_ENRICHMENT"
    if len(scheduler.schedules) == 1:
        return time_until(next_run, now), format_time(next_run)
    planned = sorted((s.next_run_time, s.name) for s in scheduler.schedules if s.next_run_time)
    times = "; ".join(f"{name}: {format_time(at)}" for at, name in planned)
    return time_until(next_run, now), times


def _busy_threads(alive: Sequence[WorkerStatus]) -> str:
    return (
        f"{sum(w.busy for w in alive)} of {counted(sum(w.threads for w in alive), 'thread')} busy"
    )
