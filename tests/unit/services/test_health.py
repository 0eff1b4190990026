"""The health of the installation: its status and its issues."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from enrichment.domain.statuses import HealthStatus
from enrichment.services.health import Health, assess, success_rate
from enrichment.warehouse.read_models.dto import (
    ComputeMetrics,
    FetchMetrics,
    LastJob,
    Metrics,
    Overview,
    PatternStatus,
    Pause,
    QualityMetrics,
    SchedulerStatus,
    WorkerStatus,
)

NOW = datetime(2026, 3, 2, 6, 0, tzinfo=UTC)
JOB = LastJob(NOW - timedelta(hours=4), NOW - timedelta(hours=4), 60.0, 100, 0, 2)
GOOD = Overview(
    timestamp=NOW,
    scheduler=SchedulerStatus(True, JOB.completed_at, NOW + timedelta(hours=19)),
    last_job=JOB,
    metrics=Metrics(
        FetchMetrics(100, 100, 100.0, 20.0, None),
        ComputeMetrics(100, 100, 100.0, 3.0),
        QualityMetrics(100, 100.0, 0.99),
    ),
    job_queue=[],
)


def quality(rate: float, score: float) -> Overview:
    return replace(GOOD, metrics=replace(GOOD.metrics, data_quality=QualityMetrics(9, rate, score)))


def test_no_issues_is_healthy() -> None:
    assert assess(GOOD, []) == Health(HealthStatus.HEALTHY, ())


def breaker(worker: str, state: str, *, stale: bool = False, name: str = "yahoo") -> PatternStatus:
    return PatternStatus(worker, "circuit_breaker", name, state, {}, NOW, 1.0, stale)


def test_an_open_breaker_is_one_issue_unless_its_worker_is_stale() -> None:
    health = assess(
        GOOD,
        [],
        [
            breaker("w1", "open"),
            breaker("w2", "open"),
            breaker("w3", "open", stale=True),
            breaker("w1", "closed", name="polygon"),
            breaker("w1", "half_open", name="binance"),
        ],
    )
    assert health.status == "warning"
    (issue,) = health.issues
    assert "yahoo is open in 2 workers" in issue


def worker(state: str, *, alive: bool = True) -> WorkerStatus:
    return WorkerStatus("w1", "here", 1, 5, 0, state, NOW, NOW, alive, "tcp://s does not answer")


def test_a_live_waiting_worker_is_an_issue() -> None:
    workers = [worker("waiting"), worker("running"), worker("waiting", alive=False)]
    health = assess(GOOD, [], workers=workers)
    assert health.status == "warning"
    (issue,) = health.issues
    assert "w1" in issue
    assert "tcp://s does not answer" in issue


@pytest.mark.parametrize(
    ("overview", "expected"),
    [
        (replace(GOOD, last_job=None), "No job"),
        (replace(GOOD, last_job=replace(JOB, completed_at=NOW - timedelta(hours=25))), "25 hours"),
        (replace(GOOD, last_job=replace(JOB, successful=94, failed=6)), "6 of 100"),
        (replace(GOOD, last_job=replace(JOB, duration_seconds=2400.0)), "40 minutes"),
        (quality(100.0, 0.89), "0.89"),
        (quality(94.9, 0.99), "94.9 %"),
    ],
)
def test_a_missed_target_is_a_warning_with_its_value(overview: Overview, expected: str) -> None:
    health = assess(overview, [])
    assert health.status == "warning"
    (issue,) = health.issues
    assert expected in issue


def test_values_equal_to_the_targets_are_healthy() -> None:
    job = replace(JOB, successful=95, failed=5, duration_seconds=1800.0)
    assert assess(replace(quality(95.0, 0.90), last_job=job), []).status == "healthy"


def test_a_pause_is_an_issue_with_its_actor_and_reason() -> None:
    health = assess(GOOD, [Pause("global", "", "ann", "vendor migration", NOW, None)])
    assert health.status == "warning"
    (issue,) = health.issues
    assert "ann" in issue
    assert "vendor migration" in issue


def test_a_stopped_scheduler_is_critical_and_the_first_issue() -> None:
    stopped = replace(GOOD, scheduler=SchedulerStatus(False, None, None), last_job=None)
    health = assess(stopped, [])
    assert health.status == "critical"
    assert "enrichment worker" in health.issues[0]


def test_success_rate() -> None:
    assert success_rate(GOOD) == 100.0
    assert success_rate(replace(GOOD, last_job=None)) is None
    assert success_rate(replace(GOOD, last_job=replace(JOB, successful=0))) is None
