"""The health of the installation: the overview's metrics against their targets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from enrichment.domain.statuses import HealthStatus, PauseScope, WorkerState
from enrichment.warehouse.read_models.dto import Overview, PatternStatus, Pause, WorkerStatus
from resilience import CircuitBreakerStatus, State

LAST_JOB_MAX_AGE = timedelta(hours=24)
SUCCESS_TARGET = 95.0
VALIDATION_TARGET = 95.0
QUALITY_TARGET = 0.90
DURATION_TARGET_SECONDS = 1800.0


@dataclass(frozen=True, slots=True)
class Health:
    status: HealthStatus
    issues: tuple[str, ...]
    """One sentence each, most severe first."""


def assess(
    overview: Overview,
    pauses: Sequence[Pause],
    patterns: Sequence[PatternStatus] = (),
    workers: Sequence[WorkerStatus] = (),
) -> Health:
    """Critical if the scheduler is not running, a warning if any target is missed.

    Args:
        pauses: The pauses in force.
        patterns: The resilience patterns of every worker; open breakers are issues.
        workers: Those that are alive but waiting are issues.
    """
    critical = []
    if not overview.scheduler.running:
        critical.append(
            "The scheduler is not running: no worker has ticked for 90 s. "
            "Start one with 'enrichment worker'."
        )
    warnings = [_pause_issue(pause) for pause in pauses]
    warnings += [
        f"Worker {worker.worker_id} is waiting and starts no symbols: {worker.note}."
        for worker in workers
        if worker.alive and worker.state == WorkerState.WAITING
    ]
    warnings += _breaker_issues(patterns)
    warnings += _job_issues(overview)
    warnings += _quality_issues(overview)
    if critical:
        return Health(HealthStatus.CRITICAL, (*critical, *warnings))
    return Health(HealthStatus.WARNING if warnings else HealthStatus.HEALTHY, tuple(warnings))


def success_rate(overview: Overview) -> float | None:
    """The last job's succeeded symbols in percent; None if it had none."""
    job = overview.last_job
    if job is None or job.successful + job.failed == 0:
        return None
    return 100.0 * job.successful / (job.successful + job.failed)


def _pause_issue(pause: Pause) -> str:
    what = "Everything" if pause.scope == PauseScope.GLOBAL else f"{pause.scope} {pause.key}"
    reason = f": {pause.reason}" if pause.reason else ""
    return f"{what} is paused by {pause.paused_by} since {pause.at:%Y-%m-%d %H:%M} UTC{reason}."


def _breaker_issues(patterns: Sequence[PatternStatus]) -> list[str]:
    """Open breakers of workers that still publish their state."""
    workers = Counter(
        pattern.name
        for pattern in patterns
        if pattern.kind == CircuitBreakerStatus.kind
        and pattern.state == State.OPEN
        and not pattern.stale
    )
    return [
        f"The breaker {name} is open in {count} worker{'s' * (count != 1)}: "
        "its requests are rejected for now."
        for name, count in sorted(workers.items())
    ]


def _job_issues(overview: Overview) -> list[str]:
    job, issues = overview.last_job, []
    if job is None:
        return ["No job has finished yet."]
    if job.completed_at and overview.timestamp - job.completed_at > LAST_JOB_MAX_AGE:
        hours = (overview.timestamp - job.completed_at) / timedelta(hours=1)
        issues.append(f"The last job finished {hours:.0f} hours ago; the target is within 24.")
    rate = success_rate(overview)
    if rate is not None and rate < SUCCESS_TARGET:
        issues.append(
            f"{job.failed} of {job.successful + job.failed} symbols failed in the last job "
            f"({rate:.1f} % succeeded; the target is {SUCCESS_TARGET:.0f} %)."
        )
    if job.duration_seconds and job.duration_seconds > DURATION_TARGET_SECONDS:
        issues.append(
            f"The last job took {job.duration_seconds / 60:.0f} minutes; the target is 30."
        )
    return issues


def _quality_issues(overview: Overview) -> list[str]:
    quality, issues = overview.metrics.data_quality, []
    if quality.avg_quality_score is not None and quality.avg_quality_score < QUALITY_TARGET:
        issues.append(
            f"The mean quality score is {quality.avg_quality_score:.2f}; "
            f"the target is {QUALITY_TARGET:.2f}."
        )
    if quality.avg_validation_rate is not None and quality.avg_validation_rate < VALIDATION_TARGET:
        issues.append(
            f"{quality.avg_validation_rate:.1f} % of the bars pass validation; "
            f"the target is {VALIDATION_TARGET:.0f} %."
        )
    return issues
