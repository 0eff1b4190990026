"""The overview's figures beside their targets, each with how it came to be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np

from enrichment.dashboard.components import ago, decimal, moment, percent, seconds
from enrichment.dashboard.data.overview import OverviewData
from enrichment.services import health
from enrichment.warehouse.read_models.dto import HistoricJob, WorkerStatus


@dataclass(frozen=True)
class Card:
    """A figure, its target, and how it came to be: one value per job or day, oldest first."""

    label: str
    value: str
    note: str
    trend: Sequence[float] = ()


def now_cards(data: OverviewData) -> list[Card]:
    """How things stand at this moment."""
    overview = data.overview
    at, job = overview.timestamp, overview.last_job
    last = ago(job.completed_at, at) if job and job.completed_at else "never"
    alive = [worker for worker in data.workers if worker.alive]
    return [
        Card("Last run", last, "target: within 24 h"),
        Card("Next run in", *_next_run(overview.scheduler.next_enrichment_time, at)),
        Card("Queue", f"{len(overview.job_queue):,}", "symbols waiting or at work"),
        Card("Workers alive", str(len(alive)), _busy(alive)),
    ]


def trend_cards(data: OverviewData) -> list[Card]:
    """What should reach a target, and how it came to be."""
    night, days = data.night, data.quality_days
    done = [job for job in reversed(data.history.jobs) if job.completed_at is not None]
    rates = [_rate(job) for job in done if job.successful + job.failed]
    took = [job.duration_seconds for job in done if job.duration_seconds is not None]
    p95 = float(np.quantile(took, 0.95)) if took else None
    share = 100 * night.current / night.series if night.series else None
    return [
        Card(
            "Symbols successful",
            percent(health.success_rate(data.night.run)),
            "last scheduled run; target: above 95 %",
            rates,
        ),
        Card("Duration, p95", seconds(p95), f"of {len(took)} jobs; target: below 30 min", took),
        Card(
            "Mean quality",
            decimal(night.mean_score, 3),
            f"of {night.scored:,} of {night.series:,} series; target: above 0.90",
            [day.score for day in days],
        ),
        Card(
            "Up to date",
            percent(share),
            f"{night.current:,} of {night.series:,} series, up to the newest session",
            [100 * day.freshness for day in days],
        ),
    ]


def _rate(job: HistoricJob) -> float:
    return 100.0 * job.successful / (job.successful + job.failed)


def _next_run(following: datetime | None, now: datetime) -> tuple[str, str]:
    if following is None:
        return "–", "disabled: ENABLE_DAILY_ENRICHMENT"
    return until(following, now), moment(following)


def _busy(alive: Sequence[WorkerStatus]) -> str:
    return f"{sum(w.busy for w in alive)} of {sum(w.threads for w in alive)} threads busy"


def until(then: datetime, now: datetime) -> str:
    minutes = max(0, int((then - now) / timedelta(minutes=1)))
    return f"{minutes // 60} h {minutes % 60:02} min"
