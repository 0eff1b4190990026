"""An alert's state machine: examples, and properties over all sequences of values."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from enrichment.domain.statuses import AlertSeverity
from enrichment.services.alerts.evaluation import StateStep, next_state
from enrichment.services.alerts.rules import Rule
from enrichment.warehouse.alerts import AlertState

START = datetime(2025, 1, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
Values = list[float | None]


def rule(wait: int = 0, hold: int = 0) -> Rule:
    """Fires above 0.5, after `wait` minutes; resolved after `hold` minutes."""
    return Rule(
        "R", "last_job.failed", ">", 0.5, AlertSeverity.WARNING, wait * MINUTE, hold * MINUTE
    )


def history(evaluated: Rule, values: Values) -> list[StateStep]:
    """The steps of one evaluation a minute."""
    state: AlertState | None = None
    steps = []
    numbers = itertools.count(1)
    for minute, value in enumerate(values):
        now = START + minute * MINUTE
        step = next_state(evaluated, state, value, now, lambda: UUID(int=next(numbers)))
        state = step.state
        steps.append(step)
    return steps


def changes(evaluated: Rule, values: Values) -> list[tuple[int, str]]:
    return [(n, s.change) for n, s in enumerate(history(evaluated, values)) if s.change]


def test_without_a_wait_it_fires_and_resolves_at_once() -> None:
    assert changes(rule(), [0, 1, 1, 0, 0, 1]) == [(1, "firing"), (3, "resolved"), (5, "firing")]


def test_it_is_pending_for_its_duration_and_starts_over_after_a_gap() -> None:
    evaluated = rule(wait=2)
    assert changes(evaluated, [1, 1, 0, 1, 1, 1, 1]) == [(5, "firing")]
    assert [s.state.state for s in history(evaluated, [1, 1, 1])] == [
        "pending",
        "pending",
        "firing",
    ]


def test_flapping_within_the_hold_is_one_alert() -> None:
    assert changes(rule(hold=3), [1, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0]) == [
        (0, "firing"),
        (9, "resolved"),
    ]


def test_an_unknown_value_neither_fires_nor_resolves() -> None:
    assert changes(rule(), [None, None]) == []
    assert changes(rule(), [1, None, None, 0]) == [(0, "firing"), (3, "resolved")]
    assert changes(rule(wait=2), [1, None, 1, 1]) == []


@given(
    st.lists(st.sampled_from([0.0, 1.0, None]), max_size=60),
    st.integers(0, 5),
    st.integers(0, 5),
)
def test_firing_and_resolved_alternate_and_respect_the_durations(
    values: Values, wait: int, hold: int
) -> None:
    evaluated = rule(wait, hold)
    events = changes(evaluated, values)
    kinds = [kind for _, kind in events]
    assert kinds == [("firing", "resolved")[n % 2] for n in range(len(events))]
    for at, kind in events:
        span = values[at - (wait if kind == "firing" else hold) : at + 1]
        if kind == "firing":
            assert span == [1.0] * (wait + 1)
        else:
            assert 1.0 not in span
            assert values[at] == 0.0
    steps = history(evaluated, values)
    episodes = [s.state.episode for s in steps if s.change == "firing"]
    assert len(set(episodes)) == len(episodes)
    for before, after in itertools.pairwise(steps):
        if after.change == "resolved":
            assert after.state.episode == before.state.episode
