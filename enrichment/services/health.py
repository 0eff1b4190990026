"""The health of the installation: healthy, warning or critical, and the issues.

API, dashboard, `/metrics` and the alert rules all use it. It is based on the last scheduled or
catch-up run of each schedule and on the current state of all series, providers and workers; a
manual run of a few symbols affects it only through the state of these symbols.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import ceil

from enrichment.domain.durations import duration_text
from enrichment.domain.plurals import counted, rounded_down
from enrichment.domain.schedules import DEFAULT_NAME
from enrichment.domain.statuses import HealthStatus, JobState, PauseScope, SeriesStatus
from enrichment.pipeline.quality import HEALTHY_ABOVE
from enrichment.warehouse.read_models.dto import Pause, RunForecast
from enrichment.warehouse.read_models.night import BreakerState, NightState, PausedLimiter
from enrichment.warehouse.read_models.schedules import NightRun, UncoveredSymbols
from resilience import State

LAST_JOB_MAX_AGE = timedelta(hours=24)
SUCCESS_TARGET = 95.0  # percent of the symbols of a run
VALIDATION_TARGET = 95.0  # percent of the bars
QUALITY_TARGET = HEALTHY_ABOVE  # of the mean score, and of each series
DURATION_TARGET_SECONDS = 1800
TimeText = Callable[[datetime], str]
_BREAKER_SUFFIX = "_api"  # a provider's patterns are named after it


@dataclass(frozen=True, slots=True)
class Health:
    status: HealthStatus
    issues: tuple[str, ...]
    """One sentence each, most severe first."""


def utc_text(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M} UTC"


def assess(
    state: NightState,
    *,
    with_alerts: bool = True,
    time_text: TimeText = utc_text,
) -> Health:
    """The health in this state.

    Critical: nothing is enriched, or nothing of an asset class can be. Warning: a target is missed.

    Args:
        with_alerts: Whether firing alerts are issues. The alert rules themselves are evaluated
            without, so that an alert on the health does not keep itself firing.
        time_text: A time in the reader's time zone.
    """
    critical = [*_scheduler_issues(state), *_provider_outages(state, time_text)]
    warnings = [
        *pause_issues(state.pauses, time_text),
        *_worker_issues(state),
        *_breaker_issues(state, time_text),
        *limiter_issues(state.limiters, time_text),
        *_schedule_issues(state, time_text),
        *_deadline_issues(state, time_text),
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


def without_issues(state: NightState) -> str:
    """What there is to say where nothing is an issue."""
    unhealthy = state.series - state.statuses.get(SeriesStatus.HEALTHY, 0)
    if not unhealthy:
        return "nothing needs attention."
    are = "is" if unhealthy == 1 else "are"
    return (
        f"no target is missed; {unhealthy:,} of {counted(state.series, 'series', 'series')} {are} "
        "not healthy."
    )


def success_rate(run: NightRun | None) -> float | None:
    """Percent of a run's symbols that were enriched, by the run or since; None without symbols."""
    rate = None if run is None else run.failure_rate
    return None if rate is None else 100.0 * (1.0 - rate)


def _scheduler_issues(state: NightState) -> Iterator[str]:
    if not state.scheduler_running:
        yield (
            "The scheduler is not running: no live worker has ticked within 90 s. "
            "Start one with 'enrichment worker'."
        )


def _provider_outages(state: NightState, time_text: TimeText) -> Iterator[str]:
    """Asset classes without an available provider."""
    failing: dict[str, list[BreakerState]] = {}
    for breaker in state.breakers:
        if breaker.is_failing:
            failing.setdefault(breaker.name, []).append(breaker)
    unavailable = {
        name.removesuffix(_BREAKER_SUFFIX): _breaker_state(breakers[0], time_text)
        for name, breakers in failing.items()
        if sum(breaker.workers for breaker in breakers) == breakers[0].reporting
    }
    unavailable |= {
        pause.key: "paused" for pause in state.pauses if pause.scope == PauseScope.PROVIDER
    }
    for asset_class in state.asset_classes:
        order = state.providers.get(asset_class, ())
        if order and all(name in unavailable for name in order):
            details = ", ".join(f"{name} ({unavailable[name]})" for name in order)
            yield f"No provider is available for {asset_class}: {details}."


def pause_issues(pauses: Sequence[Pause], time_text: TimeText = utc_text) -> Iterator[str]:
    """What is paused, by whom, since when, until when and why."""
    for pause in pauses:
        what = "Everything" if pause.scope == PauseScope.GLOBAL else f"{pause.scope} {pause.key}"
        until = f", until {time_text(pause.until)}" if pause.until else ""
        reason = f": {pause.reason}" if pause.reason else ""
        since = time_text(pause.at)
        alerts = "; no alerts are sent meanwhile" if pause.scope == PauseScope.GLOBAL else ""
        yield f"{what} is paused by {pause.paused_by} since {since}{until}{reason}{alerts}."


def _worker_issues(state: NightState) -> Iterator[str]:
    for worker in state.waiting_workers:
        yield f"Worker {worker.worker_id} is waiting and starts no symbols: {worker.note}."


def _breaker_issues(state: NightState, time_text: TimeText) -> Iterator[str]:
    for breaker in state.breakers:
        if breaker.is_failing or breaker.mode != "auto":
            yield breaker_issue(breaker, time_text)


def limiter_issues(
    limiters: Sequence[PausedLimiter], time_text: TimeText = utc_text
) -> Iterator[str]:
    """Which vendors have asked for a pause, and until when."""
    for limiter in limiters:
        vendor = limiter.name.removesuffix(_BREAKER_SUFFIX)
        yield (
            f"Requests to {vendor} are paused until {time_text(limiter.until)}, as it asked for: "
            f"'enrichment limiter {limiter.name} reset' ends that."
        )


def breaker_issue(breaker: BreakerState, time_text: TimeText = utc_text) -> str:
    """What a breaker that is open, or that somebody has set by hand, means; with who, when, why."""
    workers = counted(breaker.workers, "worker")
    if breaker.mode == "auto":
        effect = (
            "its provider fails, requests are rejected until a trial request succeeds"
            if breaker.state == State.OPEN
            else "its provider failed, the next request is a trial, and others are rejected until "
            "it succeeds"
        )
        state = breaker.state.replace("_", " ")
        return f"The breaker {breaker.name} is {state} in {workers}: {effect}."
    effect = "rejected" if breaker.is_failing else "not protected"
    return (
        f"The breaker {breaker.name} is {_breaker_state(breaker, time_text)} in {workers}: "
        f"requests to its provider are {effect} until it is reset."
    )


def _breaker_state(breaker: BreakerState, time_text: TimeText) -> str:
    """The state, or an operator's override with its actor, time and reason."""
    if breaker.mode == "auto":
        return f"breaker {breaker.state.replace('_', ' ')}"
    by = f" by {breaker.set_by}" if breaker.set_by else ""
    since = f" since {time_text(breaker.since)}" if breaker.since else ""
    reason = f" ({breaker.reason})" if breaker.reason else ""
    return f"{breaker.mode.replace('_', ' ')}{by}{since}{reason}"


def _schedule_issues(state: NightState, time_text: TimeText) -> Iterator[str]:
    """Runs that are missing, and symbols that have none."""
    for schedule in state.overdue:
        if schedule.run is None and schedule.last_slot_time is not None:
            what = "night" if schedule.name == DEFAULT_NAME else f"run of schedule {schedule.name}"
            yield f"The {what} planned for {time_text(schedule.last_slot_time)} has not started."
        elif schedule.run is not None and schedule.run.completed_at is not None:
            yield _too_old(schedule.run, state.timestamp - schedule.run.completed_at)
    for left_out in state.uncovered:
        yield uncovered_issue(left_out)


def uncovered_issue(left_out: UncoveredSymbols) -> str:
    """Which symbols no schedule covers, and what to do."""
    market = " of ".join(filter(None, (left_out.asset_class, left_out.exchange)))
    return (
        f"No schedule covers {counted(left_out.symbols, 'symbol')} ({market}), only commands do: "
        "add the asset class or exchange to a schedule in SCHEDULES."
    )


def _too_old(run: NightRun, age: timedelta) -> str:
    hours, target = (time // timedelta(hours=1) for time in (age, LAST_JOB_MAX_AGE))
    finished = f"The last {run.name} finished more than {hours} hours ago"
    if run.schedule in (None, DEFAULT_NAME):
        return f"{finished}; the target is within {target}."
    return f"{finished}: the one after it is missing."


def _deadline_issues(state: NightState, time_text: TimeText) -> Iterator[str]:
    for forecast in state.forecasts:
        if forecast.minutes_late is not None and forecast.minutes_late > 0:
            yield f"{forecast_text(forecast, time_text)}."


def forecast_text(forecast: RunForecast, time_text: TimeText = utc_text) -> str:
    """When an open run is expected to end, beside its deadline."""
    run = f"run of schedule {forecast.schedule}" if forecast.schedule else "run"
    run = "night" if forecast.schedule == DEFAULT_NAME else run
    deadline = f"deadline, {time_text(forecast.deadline)}"
    if forecast.expected_end is None or forecast.minutes_late is None:
        return f"The end of the {run} can't be told; its {deadline}"
    late = (forecast.expected_end - forecast.deadline).total_seconds()
    apart = duration_text(max(60, round(abs(late) / 60) * 60)).removesuffix(" 00 s")
    side = "after" if late > 0 else "before"
    text = f"The {run} is expected to end at {time_text(forecast.expected_end)}, {apart} {side}"
    if late > 0 >= forecast.minutes_late:
        return f"{text} its {deadline}, which it keeps if its vendors recover"
    return f"{text} its {deadline}"


def _run_issues(state: NightState) -> Iterator[str]:
    if not state.runs and state.last_enrichment_time is None:
        yield "No run has finished yet."
    if (run := state.run) is not None and run.completed_at is not None:
        age = state.timestamp - run.completed_at
        unplanned = run.schedule is None or not any(s.next_run_time for s in state.schedules)
        if unplanned and age > LAST_JOB_MAX_AGE and not any(s.is_running for s in state.schedules):
            yield _too_old(run, age)
    for run in state.runs:
        yield from _issues_of(run)


def _issues_of(run: NightRun) -> Iterator[str]:
    if run.state == JobState.CANCELLED:
        skipped = f"{counted(run.cancelled, 'symbol')} {'was' if run.cancelled == 1 else 'were'}"
        yield f"The last {run.name} was cancelled; {skipped} skipped."
    rate = success_rate(run)
    if rate is not None and rate < SUCCESS_TARGET:
        yield (
            f"{run.still_failing:,} of {counted(run.judged_symbols, 'symbol')} of the last "
            f"{run.name} failed and {'has' if run.still_failing == 1 else 'have'} not been "
            f"enriched since ({rounded_down(rate, 1)} % succeeded; "
            f"the target is {SUCCESS_TARGET:.0f} %)."
        )
    if run.duration_seconds and run.duration_seconds > DURATION_TARGET_SECONDS:
        yield (
            f"The last {run.name} took {ceil(run.duration_seconds / 6) / 10:.1f} minutes; "
            f"the target is {DURATION_TARGET_SECONDS / 60:.0f}."
        )


def _series_issues(state: NightState) -> Iterator[str]:
    if state.error_symbols:
        causes = [
            f"{cause.symbols:,} {cause.error_class} (such as {cause.example_symbol})"
            for cause in state.causes
        ]
        others = state.error_symbols - sum(cause.symbols for cause in state.causes)
        causes += [f"{others:,} with other errors"] if others > 0 else []
        symbols = counted(state.error_symbols, "symbol")
        verb = "has" if state.error_symbols == 1 else "have"
        yield f"{symbols} {verb} a series in error: {', '.join(causes)}."
    stale = state.statuses.get(SeriesStatus.STALE, 0)
    if stale:
        yield f"{stale:,} of {state.series:,} series {'is' if stale == 1 else 'are'} stale."


def _quality_issues(state: NightState) -> Iterator[str]:
    unscored = state.series - state.scored
    have, are = ("has", "is") if unscored == 1 else ("have", "are")
    note = f" ({unscored:,} of {state.series:,} series {have} no score and {are} not counted)"
    note = note if unscored > 0 else ""
    if state.mean_score is not None and state.mean_score < QUALITY_TARGET:
        yield (
            f"The mean quality score is {rounded_down(state.mean_score, 3)}{note}; "
            f"the target is {QUALITY_TARGET:.2f}."
        )
    if state.validation_rate is not None and state.validation_rate < VALIDATION_TARGET:
        yield (
            f"{rounded_down(state.validation_rate, 1)} % of the bars pass validation{note}; "
            f"the target is {VALIDATION_TARGET:.0f} %."
        )


def _alert_issues(state: NightState) -> Iterator[str]:
    if state.alerts:
        rules = ", ".join(alert.rule for alert in state.alerts)
        yield f"Firing alerts: {rules}."
