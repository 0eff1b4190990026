"""`/metrics`: one sample of the installation in Prometheus' text format.

Every scrape reads the database, so it shows all workers, and any API process answers alike. Names
follow https://prometheus.io/docs/practices/naming/: base units, `_total` for what only grows.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
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

from api.endpoint import endpoint
from api.response_cache import ResponseCache
from enrichment import __version__
from enrichment.domain.model import LATENCY_BUCKETS_MS
from enrichment.domain.statuses import PauseScope
from enrichment.warehouse.read_models.metrics import MetricsReader, MetricsSample, PatternSample

BREAKER_STATES = ("closed", "half_open", "open")
QUEUE_STATUSES = ("pending", "retry", "in_progress")
SERIES_STATUSES = ("healthy", "warning", "stale", "error", "not_enriched")


def blueprint(monitoring: MetricsReader, recent: ResponseCache) -> Blueprint:
    """`/metrics` over this database."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_InstallationCollector(recent.cached(monitoring.sample)))
    bp = Blueprint("metrics", __name__)

    @bp.get("/metrics")
    @endpoint("service", content={"text/plain": {"schema": {"type": "string"}}})
    def metrics() -> Response:
        """Figures of the whole installation in Prometheus' text format."""
        return Response(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)

    return bp


class _InstallationCollector(Collector):
    def __init__(self, sample: Callable[[], MetricsSample]) -> None:
        self._sample = sample

    def describe(self) -> Iterable[Metric]:
        return ()  # else the registry would take a sample when it is built

    def collect(self) -> Iterator[Metric]:
        began = time.perf_counter()
        sample = self._sample()
        for part in (_general, _jobs, _calls, _series, _workers, _patterns, _alerts):
            yield from part(sample)
        yield _gauge(
            "scrape_duration_seconds",
            "Time that this scrape's queries and figures took.",
            time.perf_counter() - began,
        )


Labelled = Iterable[tuple[Sequence[str], float | None]]


def _gauge(name: str, text: str, value: float | None) -> Metric:
    """One figure; no sample where it is unknown."""
    return _gauges(name, text, (), [((), value)])


def _gauges(name: str, text: str, labels: Sequence[str], values: Labelled) -> Metric:
    return _filled(GaugeMetricFamily(f"enrichment_{name}", text, labels=labels), values)


def _counters(name: str, text: str, labels: Sequence[str], values: Labelled) -> Metric:
    return _filled(CounterMetricFamily(f"enrichment_{name}", text, labels=labels), values)


def _filled(family: Any, values: Labelled) -> Metric:
    for labels, value in values:
        if value is not None:
            family.add_metric(labels, float(value))
    metric: Metric = family
    return metric


def _general(sample: MetricsSample) -> Iterator[Metric]:
    yield _gauges("build_info", "Version of this program.", ["version"], [([__version__], 1)])
    yield _gauge(
        "scheduler_running",
        "Whether a live worker's clock has ticked within 90 s.",
        sample.scheduler_running,
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
        "Jobs that ended; a resumed job ends again.",
        ["kind", "state"],
        [([job.kind, job.state], job.count) for job in sample.jobs],
    )
    yield _counters(
        "job_seconds",
        "Time that ended jobs took.",
        ["kind", "state"],
        [([job.kind, job.state], job.duration_seconds) for job in sample.jobs],
    )
    job = sample.last_job
    started = job.started_at.timestamp() if job and job.started_at else None
    completed = job.completed_at.timestamp() if job and job.completed_at else None
    yield _gauge("last_job_start_timestamp_seconds", "Start of the last finished job.", started)
    yield _gauge("last_job_end_timestamp_seconds", "End of the last finished job.", completed)
    yield _gauge(
        "last_job_duration_seconds",
        "Time that the last finished job took.",
        job.duration_seconds if job else None,
    )
    outcomes = {} if job is None else {"successful": job.successful, "failed": job.failed}
    yield _gauges(
        "last_job_symbols",
        "Symbols of the last finished job.",
        ["outcome"],
        [([outcome], n) for outcome, n in outcomes.items()],
    )
    yield _gauge(
        "last_job_retried_symbols",
        "Symbols of the last finished job that were tried more than once.",
        job.retried if job else None,
    )
    yield _gauges(
        "queue_items",
        "Symbols waiting, waiting for a retry, or at work.",
        ["status"],
        [([status], sample.queue.get(status, 0)) for status in QUEUE_STATUSES],
    )
    yield _gauge(
        "queue_oldest_age_seconds",
        "How long the oldest waiting symbol has waited; 0 if none waits.",
        sample.queue_oldest_age or 0.0,
    )


def _calls(sample: MetricsSample) -> Iterator[Metric]:
    fetches, computed = sample.fetches, sample.computations
    yield _counters(
        "fetches",
        "Fetches of a series; provider 'none' where none of them answered.",
        ["provider", "outcome"],
        [
            ([f.name, outcome], n)
            for f in fetches
            for outcome, n in (("success", f.successful), ("failure", f.total - f.successful))
        ],
    )
    durations = HistogramMetricFamily(
        "enrichment_fetch_duration_seconds", "Time that a fetch took.", labels=["provider"]
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
        "Time that a computation took.",
        count_value=computed.total,
        sum_value=computed.duration_seconds,
    )
    yield _gauge(
        "provider_quota_remaining",
        "Requests left by the vendor's own word, within the last five minutes.",
        sample.quota_remaining,
    )


def _series(sample: MetricsSample) -> Iterator[Metric]:
    labels = ["asset_class", "timeframe"]
    groups = [([group.asset_class, group.timeframe], group) for group in sample.series]
    yield _gauges(
        "series",
        "Active series by status.",
        [*labels, "status"],
        [
            ([*k, status], g.statuses.get(status, 0))
            for k, g in groups
            for status in SERIES_STATUSES
        ],
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
        "When the series that has waited longest was last enriched.",
        labels,
        [(key, g.oldest_success.timestamp() if g.oldest_success else None) for key, g in groups],
    )
    yield _gauges(
        "newest_success_timestamp_seconds",
        "When any series was last enriched.",
        labels,
        [(key, g.newest_success.timestamp() if g.newest_success else None) for key, g in groups],
    )


def _workers(sample: MetricsSample) -> Iterator[Metric]:
    workers = [([worker.worker_id], worker) for worker in sample.workers]
    yield _gauges(
        "worker_heartbeat_age_seconds",
        "Time since a worker's heartbeat; gone ten minutes after it, or when the worker stops.",
        ["worker"],
        [(key, worker.heartbeat_age) for key, worker in workers],
    )
    yield _gauges(
        "worker_threads",
        "Symbols that a worker can have at work.",
        ["worker"],
        [(key, worker.threads) for key, worker in workers],
    )
    yield _gauges(
        "worker_busy_threads",
        "Symbols that a worker has at work.",
        ["worker"],
        [(key, worker.busy) for key, worker in workers],
    )


def _patterns(sample: MetricsSample) -> Iterator[Metric]:
    breakers = _of_kind(sample, "circuit_breaker")
    labels = ["name", "worker"]
    yield _gauges(
        "circuit_breaker_state",
        "1 for the state that a breaker is in, 0 for the others.",
        [*labels, "state"],
        [
            ([p.name, p.worker_id, state], float(p.state == state))
            for p in breakers
            for state in BREAKER_STATES
        ],
    )
    yield _gauges(
        "circuit_breaker_failure_ratio",
        "Share of failures in a breaker's window, 0 to 1.",
        labels,
        [([p.name, p.worker_id], p.status["failure_rate"]) for p in breakers],
    )
    yield _gauges(
        "rate_limiter_tokens",
        "Permits that are free now.",
        labels,
        [([p.name, p.worker_id], p.status["tokens"]) for p in _of_kind(sample, "rate_limiter")],
    )
    yield _gauges(
        "bulkhead_available_slots",
        "Calls that a bulkhead would let in now.",
        labels,
        [
            ([p.name, p.worker_id], p.status["available_slots"])
            for p in _of_kind(sample, "bulkhead")
        ],
    )


def _of_kind(sample: MetricsSample, kind: str) -> list[PatternSample]:
    return [pattern for pattern in sample.patterns if pattern.kind == kind]


def _alerts(sample: MetricsSample) -> Iterator[Metric]:
    yield _gauges(
        "alert_firing",
        "1 while a rule of this program fires.",
        ["rule", "severity"],
        [([alert.rule, alert.severity], alert.state == "firing") for alert in sample.alerts],
    )
    yield _gauges(
        "alert_deliveries_pending",
        "Alert notifications that a channel has not taken yet.",
        ["channel"],
        [([waiting.channel], waiting.count) for waiting in sample.undelivered],
    )
    yield _gauges(
        "alert_deliveries_oldest_age_seconds",
        "Age of the oldest of them.",
        ["channel"],
        [([waiting.channel], waiting.oldest_age) for waiting in sample.undelivered],
    )
