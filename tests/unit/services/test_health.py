"""Health: what the overview's figures mean."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from enrichment.services.health import assess, success_rate
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


def test_all_is_well() -> None:
    assert assess(GOOD, []).status == "healthy"
    assert assess(GOOD, []).issues == ()


def breaker(worker: str, state: str, *, stale: bool = False, name: str = "yahoo") -> PatternStatus:
    return PatternStatus(worker, "circuit_breaker", name, state, {}, NOW, 1.0, stale)


def test_an_open_breaker_of_a_worker_that_reports_is_an_issue() -> None:
    found = assess(
        GOOD,
        [],
        [
            breaker("w1", "open"),
            breaker("w2", "forced_open"),
            breaker("w3", "open", stale=True),
            breaker("w1", "closed", name="polygon"),
            breaker("w1", "half_open", name="binance"),
        ],
    )
    assert found.status == "warning"
    (issue,) = found.issues
    assert issue.startswith("The breaker yahoo is open in 2 workers")


def worker(state: str, *, alive: bool = True) -> WorkerStatus:
    return WorkerStatus("w1", "here", 1, 5, 0, state, NOW, NOW, alive, "tcp://s does not answer")


def test_a_living_worker_that_waits_is_an_issue() -> None:
    workers = [worker("waiting"), worker("running"), worker("waiting", alive=False)]
    found = assess(GOOD, [], workers=workers)
    assert found.status == "warning"
    assert found.issues == ("Worker w1 takes no symbols: tcp://s does not answer.",)


@pytest.mark.parametrize(
    ("overview", "says"),
    [
        (replace(GOOD, last_job=None), "No job has finished yet"),
        (replace(GOOD, last_job=replace(JOB, completed_at=NOW - timedelta(hours=25))), "25 hours"),
        (replace(GOOD, last_job=replace(JOB, successful=94, failed=6)), "6 of 100 symbols failed"),
        (replace(GOOD, last_job=replace(JOB, duration_seconds=2400.0)), "took 40 minutes"),
        (quality(100.0, 0.89), "mean quality score is 0.89"),
        (quality(94.9, 0.99), "94.9 % of the bars"),
    ],
)
def test_what_misses_a_target_is_a_warning_that_says_so(overview: Overview, says: str) -> None:
    judged = assess(overview, [])
    assert judged.status == "warning"
    assert len(judged.issues) == 1
    assert says in judged.issues[0]


def test_at_the_targets_all_is_well() -> None:
    job = replace(JOB, successful=95, failed=5, duration_seconds=1800.0)
    assert assess(replace(quality(95.0, 0.90), last_job=job), []).status == "healthy"


def test_a_pause_names_who_and_why() -> None:
    judged = assess(GOOD, [Pause("global", "", "ann", "vendor migration", NOW, None)])
    assert judged.status == "warning"
    assert "paused by ann" in judged.issues[0]
    assert "vendor migration" in judged.issues[0]


def test_a_scheduler_that_stands_still_is_critical_and_said_first() -> None:
    stopped = replace(GOOD, scheduler=SchedulerStatus(False, None, None), last_job=None)
    judged = assess(stopped, [])
    assert judged.status == "critical"
    assert "enrichment worker" in judged.issues[0]


def test_success_rate() -> None:
    assert success_rate(GOOD) == 100.0
    assert success_rate(replace(GOOD, last_job=None)) is None
    assert success_rate(replace(GOOD, last_job=replace(JOB, successful=0))) is None
