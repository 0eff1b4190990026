"""The one judgement of the night and of what is enriched: healthy, warning or critical, and why.

API, dashboard, `/metrics` and the alert rules all use it. It rests on the last scheduled or
catch-up run and on the present state of all series, providers and workers; a run that somebody
triggers for a few symbols changes it only through the state of these symbols.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

from enrichment.domain.statuses import HealthStatus, JobState, SeriesStatus
from enrichment.pipeline.quality import HEALTHY_ABOVE
from enrichment.warehouse.read_models.night import BreakerState, NightRun, NightState

LAST_JOB_MAX_AGE = timedelta(hours=24)
SUCCESS_TARGET = 95.0  # percent of the symbols of a run
VALIDATION_TARGET = 95.0  # percent of the bars
QUALITY_TARGET = HEALTHY_ABOVE  # of the mean score; each series is judged by the same
DURATION_TARGET_SECONDS = 1800
_BREAKER_SUFFIX = "_api"  # a provider's patterns are named after it


@dataclass(frozen=True, slots=True)
class Health:
    """A status and its reasons, one sentence each, the gravest first."""

    status: HealthStatus
    issues: tuple[str, ...]


def assess(state: NightState, *, with_alerts: bool = True) -> Health:
    """Judge the installation.

    Critical: nothing is enriched, or for an asset class nothing can be. Warning: something is, but
    not as well as it should be.

    Args:
        state: One reading of the installation.
        with_alerts: Whether firing alerts are a reason. The alert rules themselves are evaluated
            without, so that an alert on the health does not keep itself firing.
    """
    critical = [*_scheduler_issues(state), *_provider_outages(state)]
    warnings = [
        *_pause_issues(state),
        *_worker_issues(state),
        *_breaker_issues(state),
        *_run_issues(state),
        *_series_issues(state),
        *_quality_issues(state),
        *(_alert_issues(state) if with_alerts else ()),
    ]
    status = (
        HealthStatus.CRITICAL
        if critical
        else HealthStatus.WARNING
        if warnings
        else HealthStatus.HEALTHY
    )
    return Health(status, (*critical, *warnings))


def success_rate(run: NightRun | None) -> float | None:
    """Percent of a run's symbols that it enriched, or that have been enriched since."""
    rate = None if run is None else run.failure_rate
    return None if rate is None else 100.0 * (1.0 - rate)


def _scheduler_issues(state: NightState) -> Iterator[str]:
    if not state.scheduler_running:
        yield (
            "The scheduler is not running: no worker's clock has ticked for 90 s. "
            "Start one with 'enrichment worker'."
        )


def _provider_outages(state: NightState) -> Iterator[str]:
    """Asset classes of which no provider can be asked."""
    unavailable = {
        breaker.name.removesuffix(_BREAKER_SUFFIX): _breaker_state(breaker)
        for breaker in state.breakers
        if breaker.stops_all
    }
    unavailable |= {pause.key: "paused" for pause in state.pauses if pause.scope == "provider"}
    for asset_class in state.asset_classes:
        order = state.providers.get(asset_class, ())
        if order and all(name in unavailable for name in order):
            why = ", ".join(f"{name} ({unavailable[name]})" for name in order)
            yield f"No provider can be asked for {asset_class}: {why}."


def _pause_issues(state: NightState) -> Iterator[str]:
    for pause in state.pauses:
        what = "Everything" if pause.scope == "global" else f"{pause.scope} {pause.key}"
        until = f", until {pause.until:%Y-%m-%d %H:%M} UTC" if pause.until else ""
        reason = f": {pause.reason}" if pause.reason else ""
        since = f"{pause.at:%Y-%m-%d %H:%M} UTC"
        yield f"{what} is paused by {pause.paused_by} since {since}{until}{reason}."


def _worker_issues(state: NightState) -> Iterator[str]:
    for worker in state.waiting_workers:
        yield f"Worker {worker.worker_id} takes no symbols: {worker.note}."


def _breaker_issues(state: NightState) -> Iterator[str]:
    for breaker in state.breakers:
        workers = f"{breaker.workers} worker{'s' * (breaker.workers != 1)}"
        if breaker.mode == "auto":
            if breaker.is_open:
                yield (
                    f"The breaker {breaker.name} is open in {workers}: its provider fails and is "
                    "not asked for now."
                )
            continue
        effect = "not asked" if breaker.is_open else "asked without protection"
        yield (
            f"The breaker {breaker.name} is {_breaker_state(breaker)} in {workers}: its provider "
            f"is {effect} until somebody resets it."
        )


def _breaker_state(breaker: BreakerState) -> str:
    """`open`, or the mode that was set by hand with who, when and why."""
    if breaker.mode == "auto":
        return f"breaker {breaker.state.replace('_', ' ')}"
    by = f" by {breaker.set_by}" if breaker.set_by else ""
    since = f" since {breaker.since:%Y-%m-%d %H:%M} UTC" if breaker.since else ""
    reason = f" ({breaker.reason})" if breaker.reason else ""
    return f"{breaker.mode.replace('_', ' ')}{by}{since}{reason}"


def _run_issues(state: NightState) -> Iterator[str]:
    run = state.run
    if run is None:
        if state.last_enrichment_time is None:
            yield "No run has finished yet."
        return
    age = state.timestamp - run.completed_at if run.completed_at else None
    if age and age > LAST_JOB_MAX_AGE and not state.is_running:
        hours, target = (time / timedelta(hours=1) for time in (age, LAST_JOB_MAX_AGE))
        yield (
            f"The last {_run_name(run)} finished {hours:.0f} hours ago; "
            f"the target is within {target:.0f}."
        )
    if run.state == JobState.CANCELLED:
        yield f"The last {_run_name(run)} was cancelled; {run.cancelled:,} symbols were left out."
    rate = success_rate(run)
    if rate is not None and rate < SUCCESS_TARGET:
        yield (
            f"{run.still_failing:,} of {run.judged_symbols:,} symbols of the last "
            f"{_run_name(run)} failed and have not been enriched since ({rate:.1f} % succeeded; "
            f"the target is {SUCCESS_TARGET:.0f} %)."
        )
    if run.duration_seconds and run.duration_seconds > DURATION_TARGET_SECONDS:
        yield (
            f"The last {_run_name(run)} took {run.duration_seconds / 60:.0f} minutes; "
            f"the target is {DURATION_TARGET_SECONDS / 60:.0f}."
        )


def _run_name(run: NightRun) -> str:
    return f"night, of {run.slot_date}," if run.slot_date else "run of all symbols"


def _series_issues(state: NightState) -> Iterator[str]:
    if state.error_symbols:
        causes = ", ".join(
            f"{cause.symbols:,} {cause.error_class} (such as {cause.example_symbol})"
            for cause in state.causes
        )
        yield f"{state.error_symbols:,} symbols have a series in error: {causes or 'unknown'}."
    stale = state.statuses.get(SeriesStatus.STALE, 0)
    if stale:
        yield f"{stale:,} of {state.series:,} series are stale."


def _quality_issues(state: NightState) -> Iterator[str]:
    left_out = state.series - state.scored
    note = f" ({left_out:,} of {state.series:,} series have no score and are left out)"
    note = note if left_out > 0 else ""
    if state.mean_score is not None and state.mean_score < QUALITY_TARGET:
        yield (
            f"The mean quality score is {state.mean_score:.2f}{note}; "
            f"the target is {QUALITY_TARGET:.2f}."
        )
    if state.validation_rate is not None and state.validation_rate < VALIDATION_TARGET:
        yield (
            f"{state.validation_rate:.1f} % of the bars pass validation{note}; "
            f"the target is {VALIDATION_TARGET:.0f} %."
        )


def _alert_issues(state: NightState) -> Iterator[str]:
    if state.alerts:
        rules = ", ".join(alert.rule for alert in state.alerts)
        yield f"Firing alerts: {rules}."
