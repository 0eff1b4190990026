"""The metrics that alert rules can use, by name: of the overview, the metrics and the health.

Rates are percent, scores 0–1, times seconds, booleans 1 or 0; None if the value is unknown.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from enrichment.domain.statuses import HealthStatus, ItemStatus
from enrichment.services.health import Health
from enrichment.warehouse.queue.workers import ALIVE_SECONDS
from enrichment.warehouse.read_models.dto import (
    ComputeMetrics,
    FetchMetrics,
    Overview,
    QualityMetrics,
)
from enrichment.warehouse.read_models.metrics import MetricsSample
from enrichment.warehouse.read_models.schedules import NightRun
from resilience import CircuitBreakerStatus, State

Number = float | None


@dataclass(frozen=True, slots=True)
class AlertInputs:
    """The installation at one moment."""

    overview: Overview
    health: Health
    """Assessed without alerts."""
    sample: MetricsSample


def _run(read: Callable[[NightRun], Number]) -> Callable[[AlertInputs], Number]:
    """A metric of the runs that the health is based on: that of the schedule with the highest."""

    def metric(inputs: AlertInputs) -> Number:
        values = (read(run) for run in inputs.sample.night.runs)
        return max((value for value in values if value is not None), default=None)

    return metric


def _fetch(read: Callable[[FetchMetrics], Number]) -> Callable[[AlertInputs], Number]:
    return lambda inputs: read(inputs.overview.metrics.fetch_pipeline)


def _compute(read: Callable[[ComputeMetrics], Number]) -> Callable[[AlertInputs], Number]:
    return lambda inputs: read(inputs.overview.metrics.compute_pipeline)


def _quality(read: Callable[[QualityMetrics], Number]) -> Callable[[AlertInputs], Number]:
    return lambda inputs: read(inputs.overview.metrics.data_quality)


def _seconds_since_last_job(inputs: AlertInputs) -> Number:
    last = inputs.overview.scheduler.last_enrichment_time
    return None if last is None else (inputs.overview.timestamp - last).total_seconds()


def _workers_alive(inputs: AlertInputs) -> Number:
    return sum(worker.heartbeat_age <= ALIVE_SECONDS for worker in inputs.sample.workers)


def _open_breakers(inputs: AlertInputs) -> Number:
    """Breakers that are open in at least one worker."""
    return len(
        {
            pattern.name
            for pattern in inputs.sample.patterns
            if pattern.kind == CircuitBreakerStatus.kind and pattern.state == State.OPEN
        }
    )


def _waiting(inputs: AlertInputs) -> Number:
    return sum(inputs.sample.queue.get(s, 0) for s in (ItemStatus.PENDING, ItemStatus.RETRY))


def _minutes_late(inputs: AlertInputs) -> Number:
    """Of the open run that will miss its deadline by most, at the least; 0 if none will."""
    forecasts = inputs.sample.night.forecasts
    known = [f.minutes_late for f in forecasts if f.minutes_late is not None]
    if forecasts and not known:
        return None
    return max([0.0, *known])


METRICS: Final[dict[str, Callable[[AlertInputs], Number]]] = {
    "scheduler.running": lambda inputs: float(inputs.overview.scheduler.running),
    "scheduler.seconds_since_last_enrichment": _seconds_since_last_job,
    "scheduler.overdue_schedules": lambda inputs: len(inputs.sample.night.overdue),
    "scheduler.uncovered_symbols": lambda inputs: sum(
        left_out.symbols for left_out in inputs.sample.night.uncovered
    ),
    "last_job.duration_seconds": _run(lambda run: run.duration_seconds),
    "last_job.successful": _run(lambda run: run.successful + run.enriched_since),
    "last_job.failed": _run(lambda run: run.still_failing),
    "last_job.retried": _run(lambda run: run.retried),
    "last_job.failure_rate": _run(lambda run: run.failure_rate),
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
    "data_quality.fallback_share": _quality(lambda m: m.fallback_share),
    "job_queue.waiting": _waiting,
    "job_queue.at_work": lambda inputs: inputs.sample.queue.get(ItemStatus.IN_PROGRESS, 0),
    "job_queue.oldest_age_seconds": lambda inputs: inputs.sample.queue_oldest_age or 0.0,
    "deadline.minutes_late": _minutes_late,
    "health.level": lambda inputs: list(HealthStatus).index(inputs.health.status),
    "health.issues": lambda inputs: len(inputs.health.issues),
    "workers.alive": _workers_alive,
    "breakers.open": _open_breakers,
}
