"""Health: what one reading of the installation means."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from enrichment.domain.statuses import JobState
from enrichment.services.health import assess, success_rate, without_issues
from enrichment.warehouse.read_models.dto import Pause
from enrichment.warehouse.read_models.night import (
    BreakerState,
    NightState,
    WaitingWorker,
)
from enrichment.warehouse.read_models.schedules import NightRun, ScheduleStatus, UncoveredSymbols

NOW = datetime(2026, 3, 2, 6, 0, tzinfo=UTC)
RUN = NightRun(
    job_id=UUID(int=1),
    kind="scheduled",
    schedule="nightly",
    slot_date=date(2026, 3, 2),
    state=JobState.COMPLETED,
    started_at=NOW - timedelta(hours=4, minutes=1),
    completed_at=NOW - timedelta(hours=4),
    duration_seconds=60.0,
    successful=100,
    failed=0,
    cancelled=0,
    retried=2,
    enriched_since=0,
    still_failing=0,
)
NIGHTLY = ScheduleStatus(
    name="nightly",
    asset_classes=("stock", "etf", "crypto"),
    exchanges=(),
    time="01:30",
    zone="UTC",
    days=("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"),
    symbols=100,
    is_running=False,
    overdue=False,
    last_slot_time=NOW - timedelta(hours=4, minutes=30),
    next_run_time=NOW + timedelta(hours=19, minutes=30),
    run=RUN,
)
GOOD = NightState(
    timestamp=NOW,
    scheduler_running=True,
    schedules=(NIGHTLY,),
    run=RUN,
    last_enrichment_time=RUN.completed_at,
    asset_classes=("stock",),
    providers={"stock": ("polygon", "yahoo")},
    statuses={"healthy": 100},
    current=100,
    error_symbols=0,
    causes=(),
    scored=100,
    mean_score=0.99,
    validation_rate=100.0,
    pauses=(),
    breakers=(),
    waiting_workers=(),
    alerts=(),
)
PAUSE = Pause("global", "", "ada", "maintenance", NOW - timedelta(hours=1), None)


def breaker(name: str, state: str = "open", mode: str = "auto", workers: int = 2) -> BreakerState:
    return BreakerState(name, state, mode, workers, 2, None, None, None)


def after(**changes: object) -> NightState:
    return of_schedule(run=replace(RUN, **changes))  # type: ignore[arg-type]


def of_schedule(**changes: Any) -> NightState:
    schedule = replace(NIGHTLY, **changes)
    return replace(GOOD, schedules=(schedule,), run=schedule.run)


def test_no_issues_is_healthy() -> None:
    assert assess(GOOD).status == "healthy"
    assert assess(GOOD).issues == ()


@pytest.mark.parametrize(
    ("state", "status", "expected"),
    [
        (replace(GOOD, scheduler_running=False), "critical", "scheduler is not running"),
        (replace(GOOD, pauses=(PAUSE,)), "warning", "paused by ada"),
        (
            replace(GOOD, waiting_workers=(WaitingWorker("w1", "tcp://s does not answer"),)),
            "warning",
            "tcp://s does not answer",
        ),
        (replace(GOOD, breakers=(breaker("yahoo_api"),)), "warning", "open in 2 workers"),
        (replace(GOOD, breakers=(breaker("yahoo_api", "half_open"),)), "warning", "is half open"),
        (
            replace(
                GOOD,
                breakers=(
                    breaker("polygon_api", workers=1),
                    breaker("polygon_api", "half_open", workers=1),
                    breaker("yahoo_api", "closed", "forced_open"),
                ),
            ),
            "critical",
            "No provider is available for stock",
        ),
        (
            replace(GOOD, breakers=(breaker("polygon_api"), breaker("yahoo_api", "open"))),
            "critical",
            "No provider is available for stock",
        ),
        (
            replace(of_schedule(run=None), last_enrichment_time=None),
            "warning",
            "No run has finished yet",
        ),
        (
            of_schedule(run=None, overdue=True),
            "warning",
            "The night planned for 2026-03-02 01:30 UTC has not started.",
        ),
        (
            of_schedule(name="us", run=replace(RUN, schedule="us", still_failing=6)),
            "warning",
            "6 of 106 symbols of the last run of schedule us (2026-03-02) failed",
        ),
        (
            replace(GOOD, uncovered=(UncoveredSymbols("stock", "XLON", 3),)),
            "warning",
            "No schedule covers 3 symbols (stock of XLON)",
        ),
        (after(successful=95, still_failing=6), "warning", "6 of 101 symbols"),
        (after(state=JobState.CANCELLED, cancelled=7), "warning", "7 symbols"),
        (after(duration_seconds=1801.0), "warning", "took 30.1 minutes"),
        (
            of_schedule(overdue=True, run=replace(RUN, completed_at=NOW - timedelta(hours=25))),
            "warning",
            "more than 25 hours ago",
        ),
        (
            of_schedule(next_run_time=None, run=replace(RUN, completed_at=NOW - timedelta(days=2))),
            "warning",
            "more than 48 hours ago",  # although no run is planned
        ),
        (replace(GOOD, error_symbols=3), "warning", "3 symbols have a series in error"),
        (replace(GOOD, statuses={"healthy": 90, "stale": 10}), "warning", "10 of 100 series"),
        (replace(GOOD, mean_score=0.89), "warning", "mean quality score is 0.890"),
        (replace(GOOD, mean_score=0.8999), "warning", "mean quality score is 0.899"),
        (replace(GOOD, validation_rate=94.96), "warning", "94.9 % of the bars"),
        (after(successful=9496, still_failing=504), "warning", "(94.9 % succeeded"),
    ],
)
def test_each_issue_has_a_status_and_a_message(
    state: NightState, status: str, expected: str
) -> None:
    health = assess(state)
    assert health.status == status
    assert any(expected in issue for issue in health.issues)


def test_series_that_are_not_healthy_are_said_without_being_an_issue() -> None:
    state = replace(GOOD, statuses={"healthy": 97, "warning": 2, "unknown": 1})
    assert assess(state).issues == ()
    assert without_issues(state) == "no target is missed; 3 of 100 series are not healthy."
    assert without_issues(replace(GOOD, statuses={"healthy": 9})) == "nothing needs attention."


@pytest.mark.parametrize(
    "state",
    [
        after(successful=95, still_failing=5),  # exactly the target
        after(duration_seconds=1800.0),
        replace(GOOD, mean_score=0.90, validation_rate=95.0),
        replace(GOOD, mean_score=None, validation_rate=None),
        after(failed=50, successful=50, enriched_since=50),
    ],
)
def test_values_equal_to_the_targets_are_no_issue(state: NightState) -> None:
    assert assess(state).issues == ()


def test_a_provider_that_one_worker_can_reach_is_available() -> None:
    some = (breaker("polygon_api"), breaker("yahoo_api", workers=1))
    assert assess(replace(GOOD, breakers=some)).status == "warning"


def test_critical_issues_come_first() -> None:
    state = replace(GOOD, scheduler_running=False, pauses=(PAUSE,))
    assert [("scheduler" in issue) for issue in assess(state).issues] == [True, False]


def test_the_success_rate_counts_what_was_enriched_since() -> None:
    assert success_rate(None) is None
    assert success_rate(replace(RUN, successful=0)) is None
    half = replace(RUN, successful=50, failed=50, enriched_since=25, still_failing=25)
    assert success_rate(half) == 75.0
