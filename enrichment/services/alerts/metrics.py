"""The figures that rules speak of: those of the overview, the metrics and the health, by name.

Rates are percent, scores 0–1, times seconds, truths 1 or 0; None where nothing is known.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from enrichment.services.health import Health
from enrichment.warehouse.queue.workers import ALIVE_SECONDS
from enrichment.warehouse.read_models.dto import ComputeMetrics, FetchMetrics, LastJob, Overview
from enrichment.warehouse.read_models.dto import QualityMetrics as Quality
from enrichment.warehouse.read_models.metrics import MetricsSample

Number = float | None
_HEALTH = ("healthy", "warning", "critical")


@dataclass(frozen=True, slots=True)
class AlertInputs:
    """The installation at one moment, as the screens show it."""

    overview: Overview
    health: Health
    sample: MetricsSample


def _job(read: Callable[[LastJob], Number]) -> Callable[[AlertInputs], Number]:
    def figure(now: AlertInputs) -> Number:
        job = now.overview.last_job
        return None if job is None else read(job)

    return figure


def _fetch(read: Callable[[FetchMetrics], Number]) -> Callable[[AlertInputs], Number]:
    return lambda now: read(now.overview.metrics.fetch_pipeline)


def _compute(read: Callable[[ComputeMetrics], Number]) -> Callable[[AlertInputs], Number]:
    return lambda now: read(now.overview.metrics.compute_pipeline)


def _quality(read: Callable[[Quality], Number]) -> Callable[[AlertInputs], Number]:
    return lambda now: read(now.overview.metrics.data_quality)


def _failure_rate(job: LastJob) -> Number:
    """Failed symbols over all that ended, as a fraction."""
    total = job.successful + job.failed
    return job.failed / total if total else None


def _since_last(now: AlertInputs) -> Number:
    last = now.overview.scheduler.last_enrichment_time
    return None if last is None else (now.overview.timestamp - last).total_seconds()


def _workers_alive(now: AlertInputs) -> Number:
    return sum(worker.heartbeat_age <= ALIVE_SECONDS for worker in now.sample.workers)


def _open_breakers(now: AlertInputs) -> Number:
    """Breakers that are open in at least one worker."""
    patterns = now.sample.patterns
    return len({p.name for p in patterns if p.kind == "circuit_breaker" and p.state == "open"})


FIGURES: Final[dict[str, Callable[[AlertInputs], Number]]] = {
    "scheduler.running": lambda now: float(now.overview.scheduler.running),
    "scheduler.seconds_since_last_enrichment": _since_last,
    "last_job.duration_seconds": _job(lambda job: job.duration_seconds),
    "last_job.successful": _job(lambda job: job.successful),
    "last_job.failed": _job(lambda job: job.failed),
    "last_job.retried": _job(lambda job: job.retried),
    "last_job.failure_rate": _job(_failure_rate),
    "fetch_pipeline.total_fetches": _fetch(lambda m: m.total_fetches),
    "fetch_pipeline.successful": _fetch(lambda m: m.successful),
    "fetch_pipeline.success_rate": _fetch(lambda m: m.success_rate),
    "fetch_pipeline.avg_response_time_ms": _fetch(lambda m: m.avg_response_time_ms),
    "fetch_pipeline.api_quota_remaining": _fetch(lambda m: m.api_quota_remaining),
    "compute_pipeline.total_computations": _compute(lambda m: m.total_computations),
    "compute_pipeline.successful": _compute(lambda m: m.successful),
    "compute_pipeline.success_rate": _compute(lambda m: m.success_rate),
    "compute_pipeline.avg_computation_time_ms": _compute(lambda m: m.avg_computation_time_ms),
    "data_quality.symbols_tracked": _quality(lambda m: m.symbols_tracked),
    "data_quality.avg_validation_rate": _quality(lambda m: m.avg_validation_rate),
    "data_quality.avg_quality_score": _quality(lambda m: m.avg_quality_score),
    "job_queue.waiting": lambda now: (
        now.sample.queue.get("pending", 0) + now.sample.queue.get("retry", 0)
    ),
    "job_queue.at_work": lambda now: now.sample.queue.get("in_progress", 0),
    "job_queue.oldest_age_seconds": lambda now: now.sample.queue_oldest_age or 0.0,
    "health.level": lambda now: _HEALTH.index(now.health.status),
    "health.issues": lambda now: len(now.health.issues),
    "workers.alive": _workers_alive,
    "breakers.open": _open_breakers,
}
