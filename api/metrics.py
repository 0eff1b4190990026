"""`/metrics`: the metrics of the whole installation in Prometheus' text format.

Every scrape reads the database, so that any API process shows all workers. Names follow
https://prometheus.io/docs/practices/naming/.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any

from flask import Blueprint, Response
from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from api.endpoint import Endpoint
from api.response_cache import ResponseCache
from enrichment import __version__
from enrichment.domain.model import LATENCY_BUCKETS_MS
from enrichment.domain.statuses import (
    QUEUED_ITEM_STATUSES,
    AlertStatus,
    HealthStatus,
    PauseScope,
    SeriesStatus,
)
from enrichment.services import health
from enrichment.warehouse.read_models.metrics import MetricsReader, MetricsSample, PatternSample
from enrichment.warehouse.read_models.night import NightState
from enrichment.warehouse.read_models.schedules import NightRun
from resilience import BulkheadStatus, CircuitBreakerStatus, Mode, RateLimiterStatus, State, Status

Samples = Iterable[tuple[Sequence[str], float | None]]
"""Label values and value; a value of None is left out."""


def blueprint(monitoring: MetricsReader, cache: ResponseCache) -> Blueprint:
    """Build the blueprint."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_InstallationCollector(cache.cached(monitoring.sample)))
    bp = Blueprint("metrics", __name__)

    @bp.get("/metrics")
    @Endpoint("service", content={"text/plain": {"schema": {"type": "string"}}})
    def metrics() -> Response:
        """Metrics of the whole installation in Prometheus' text format."""
        return Response(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)

    return bp


class _InstallationCollector(Collector):
    def __init__(self, sample: Callable[[], MetricsSample]) -> None:
        self._sample = sample

    def describe(self) -> Iterable[Metric]:
        return ()  # otherwise the registry would call `collect` on registration

    def collect(self) -> Iterator[Metric]:
        started = time.perf_counter()
        sample = self._sample()
        for collect in (_general, _jobs, _calls, _series, _workers, _patterns, _alerts):
            yield from collect(sample)
        yield _gauge(
            "scrape_duration_seconds",
            "Duration of this scrape.",
            time.perf_counter() - started,
        )


def _gauge(name: str, text: str, value: float | None) -> Metric:
    """A gauge without labels; no sample if the value is unknown."""
    return _gauges(name, text, (), [((), value)])


def _gauges(name: str, text: str, labels: Sequence[str], samples: Samples) -> Metric:
    return _with_samples(GaugeMetricFamily(f"enrichment_{name}", text, labels=labels), samples)


def _counters(name: str, text: str, labels: Sequence[str], samples: Samples) -> Metric:
    return _with_samples(CounterMetricFamily(f"enrichment_{name}", text, labels=labels), samples)


def _with_samples(family: Any, samples: Samples) -> Metric:
    for label_values, value in samples:
        if value is not None:
            family.add_metric(label_values, float(value))
    metric: Metric = family
    return metric


def _general(sample: MetricsSample) -> Iterator[Metric]:
    yield _gauges("build_info", "Version of this program.", ["version"], [([__version__], 1)])
    yield _gauge(
        "scheduler_running",
        "Whether a live worker's scheduler has ticked within 90 s.",
        sample.night.scheduler_running,
    )
    yield _gauge(
        "health_status",
        "Health of the installation: 0 healthy, 1 warning, 2 critical.",
        list(HealthStatus).index(health.assess(sample.night).status),
    )
    yield _gauges(
        "deadline_minutes_late",
        "Minutes after its deadline at which an open run can end at the soonest.",
        ["schedule"],
        [([f.schedule or ""], f.minutes_late) for f in sample.night.forecasts],
    )
    yield _gauge(
        "symbols_in_error", "Active symbols with a series in error.", sample.night.error_symbols
    )
    yield _gauges(
        "pauses",
        "Pauses in force.",
        ["scope"],
        [([scope], sample.pauses.get(scope, 0)) for scope in PauseScope],
    )
    yield _gauges(
        "tracked_symbols",
        "Active symbols.",
        ["asset_class"],
        [([name], n) for name, n in sorted(sample.tracked.items())],
    )


def _jobs(sample: MetricsSample) -> Iterator[Metric]:
    yield _counters(
        "jobs",
        "Finished jobs; a resumed job counts again when it finishes again.",
        ["kind", "state"],
        [([job.kind, job.state], job.count) for job in sample.jobs],
    )
    yield _counters(
        "job_seconds",
        "Duration of finished jobs.",
        ["kind", "state"],
        [([job.kind, job.state], job.duration_seconds) for job in sample.jobs],
    )
    yield from _last_runs(sample.night)
    yield _gauges(
        "queue_items",
        "Symbols in the queue: pending, waiting for a retry, or in progress.",
        ["status"],
        [([status], sample.queue.get(status, 0)) for status in QUEUED_ITEM_STATUSES],
    )
    yield _gauge(
        "queue_oldest_age_seconds",
        "Waiting time of the oldest pending symbol; 0 if there is none.",
        sample.queue_oldest_age or 0.0,
    )


def _last_runs(night: NightState) -> Iterator[Metric]:
    """Those of each schedule; of a run of all symbols by hand the schedule is ''."""
    runs = [([run.schedule or ""], run) for run in night.runs]

    def of_each(name: str, text: str, read: Callable[[NightRun], float | None]) -> Metric:
        return _gauges(name, text, ["schedule"], [(label, read(run)) for label, run in runs])

    yield of_each(
        "last_job_start_timestamp_seconds",
        "Start of the last scheduled run.",
        lambda run: _timestamp(run.started_at),
    )
    yield of_each(
        "last_job_end_timestamp_seconds",
        "End of the last scheduled run.",
        lambda run: _timestamp(run.completed_at),
    )
    yield of_each(
        "last_job_duration_seconds",
        "Time at work of the last scheduled run, without the time before it was resumed.",
        lambda run: run.duration_seconds,
    )
    yield _gauges(
        "last_job_symbols",
        "Symbols of the last scheduled run; what a later run has enriched counts as successful.",
        ["schedule", "outcome"],
        [
            ([*label, outcome], n)
            for label, run in runs
            for outcome, n in (
                ("successful", run.successful + run.enriched_since),
                ("failed", run.still_failing),
            )
        ],
    )
    yield of_each(
        "last_job_retried_symbols",
        "Symbols of the last scheduled run that were retried.",
        lambda run: run.retried,
    )
    yield _gauges(
        "schedule_overdue",
        "Whether a run of the schedule that was planned is missing.",
        ["schedule"],
        [([schedule.name], schedule.overdue) for schedule in night.schedules],
    )
    yield _gauges(
        "schedule_next_run_timestamp_seconds",
        "When the schedule runs next.",
        ["schedule"],
        [([s.name], _timestamp(s.next_run_time)) for s in night.schedules],
    )


def _timestamp(at: datetime | None) -> float | None:
    return None if at is None else at.timestamp()


def _calls(sample: MetricsSample) -> Iterator[Metric]:
    fetches, computed = sample.fetches, sample.computations
    yield _counters(
        "fetches",
        "Fetches of a series; provider 'none' if every provider failed.",
        ["provider", "outcome"],
        [
            ([f.name, outcome], n)
            for f in fetches
            for outcome, n in (("success", f.successful), ("failure", f.total - f.successful))
        ],
    )
    durations = HistogramMetricFamily(
        "enrichment_fetch_duration_seconds", "Duration of a fetch.", labels=["provider"]
    )
    bounds = [*(str(ms / 1000) for ms in LATENCY_BUCKETS_MS), "+Inf"]
    for f in fetches:
        cumulative = [float(sum(f.buckets[: i + 1])) for i in range(len(bounds))]
        durations.add_metric(
            [f.name], list(zip(bounds, cumulative, strict=True)), f.duration_seconds
        )
    yield durations
    yield _counters(
        "computations",
        "Computations of a series' features.",
        ["outcome"],
        [
            (["success"], computed.successful),
            (["failure"], computed.total - computed.successful),
        ],
    )
    yield SummaryMetricFamily(
        "enrichment_compute_duration_seconds",
        "Duration of a computation.",
        count_value=computed.total,
        sum_value=computed.duration_seconds,
    )
    yield _gauge(
        "provider_quota_remaining",
        "Remaining requests as reported by the vendor within the last five minutes.",
        sample.quota_remaining,
    )


def _series(sample: MetricsSample) -> Iterator[Metric]:
    labels = ["asset_class", "timeframe"]
    groups = [([group.asset_class, group.timeframe], group) for group in sample.series]
    yield _gauges(
        "series",
        "Active series by status.",
        [*labels, "status"],
        [([*k, status], g.statuses.get(status, 0)) for k, g in groups for status in SeriesStatus],
    )
    yield _gauges(
        "scored_series",
        "Active series with a quality score of today or yesterday.",
        labels,
        [(key, g.scored) for key, g in groups],
    )
    yield _gauges(
        "quality_score_ratio",
        "Mean quality score, 0 to 1.",
        labels,
        [(key, g.quality) for key, g in groups],
    )
    yield _gauges(
        "data_completeness_ratio",
        "Mean share of the expected bars that are stored, 0 to 1.",
        labels,
        [(key, g.completeness) for key, g in groups],
    )
    yield _gauges(
        "validation_ratio",
        "Mean share of the bars that pass validation, 0 to 1.",
        labels,
        [(key, g.validation) for key, g in groups],
    )
    yield _gauges(
        "oldest_success_timestamp_seconds",
        "Oldest time of last success among the series.",
        labels,
        [(key, g.oldest_success.timestamp() if g.oldest_success else None) for key, g in groups],
    )
    yield _gauges(
        "newest_success_timestamp_seconds",
        "Newest time of last success among the series.",
        labels,
        [(key, g.newest_success.timestamp() if g.newest_success else None) for key, g in groups],
    )


def _workers(sample: MetricsSample) -> Iterator[Metric]:
    workers = [([worker.worker_id], worker) for worker in sample.workers]
    yield _gauges(
        "worker_heartbeat_age_seconds",
        "Time since a worker's heartbeat; absent after ten minutes and once it has stopped.",
        ["worker"],
        [(key, worker.heartbeat_age) for key, worker in workers],
    )
    yield _gauges(
        "worker_threads",
        "Symbols that a worker can enrich at once.",
        ["worker"],
        [(key, worker.threads) for key, worker in workers],
    )
    yield _gauges(
        "worker_busy_threads",
        "Symbols that a worker is enriching.",
        ["worker"],
        [(key, worker.busy) for key, worker in workers],
    )


def _patterns(sample: MetricsSample) -> Iterator[Metric]:
    breakers = _of_kind(sample, CircuitBreakerStatus)
    labels = ["name", "worker"]
    yield _gauges(
        "circuit_breaker_state",
        "1 for the current state of a breaker, 0 for the others.",
        [*labels, "state"],
        [
            ([p.name, p.worker_id, state], float(p.state == state))
            for p in breakers
            for state in State
        ],
    )
    yield _gauges(
        "circuit_breaker_mode",
        "1 for the mode of a breaker (auto, or set by an operator), 0 for the others.",
        [*labels, "mode"],
        [
            ([p.name, p.worker_id, mode], float(p.status["mode"] == mode))
            for p in breakers
            for mode in Mode
        ],
    )
    yield _gauges(
        "circuit_breaker_failure_ratio",
        "Failure rate in a breaker's window, 0 to 1.",
        labels,
        [([p.name, p.worker_id], p.status["failure_rate"]) for p in breakers],
    )
    yield _gauges(
        "rate_limiter_tokens",
        "Available tokens.",
        labels,
        [([p.name, p.worker_id], p.status["tokens"]) for p in _of_kind(sample, RateLimiterStatus)],
    )
    yield _gauges(
        "bulkhead_available_slots",
        "Free slots of a bulkhead.",
        labels,
        [
            ([p.name, p.worker_id], p.status["available_slots"])
            for p in _of_kind(sample, BulkheadStatus)
        ],
    )


def _of_kind(sample: MetricsSample, status: type[Status]) -> list[PatternSample]:
    return [pattern for pattern in sample.patterns if pattern.kind == status.kind]


def _alerts(sample: MetricsSample) -> Iterator[Metric]:
    yield _gauges(
        "alert_firing",
        "1 while an alert rule is firing.",
        ["rule", "severity"],
        [
            ([alert.rule, alert.severity], alert.state == AlertStatus.FIRING)
            for alert in sample.alerts
        ],
    )
    yield _gauges(
        "alert_deliveries_pending",
        "Alert notifications that are not delivered yet.",
        ["channel"],
        [([group.channel], group.count) for group in sample.undelivered],
    )
    yield _gauges(
        "alert_deliveries_oldest_age_seconds",
        "Age of the oldest undelivered notification.",
        ["channel"],
        [([group.channel], group.oldest_age) for group in sample.undelivered],
    )
