"""The state machine of an alert: ok → pending → firing → ok.

A metric without a value changes no firing alert, and resets a pending one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from uuid import UUID

from enrichment.domain.statuses import AlertChange, AlertStatus
from enrichment.services.alerts.rules import Rule
from enrichment.warehouse.alerts import AlertState


@dataclass(frozen=True, slots=True)
class StateStep:
    """The state after an evaluation, and the change to record and notify of, if any."""

    state: AlertState
    change: AlertChange | None = None


def next_state(
    rule: Rule,
    previous: AlertState | None,
    value: float | None,
    now: datetime,
    new_episode: Callable[[], UUID],
) -> StateStep:
    """One evaluation of a rule.

    Args:
        previous: The state after the last evaluation; None before the first one.
        value: The metric's value; None if it is unknown.
        new_episode: Makes an episode's id. An episode lasts from firing to resolved, during which
            the condition may come and go.
    """
    holds = rule.holds(value)
    status = AlertStatus.OK if previous is None else previous.state
    if previous is not None and status == AlertStatus.FIRING:
        return _while_firing(rule, previous, holds, now)
    if not holds:
        unchanged = previous if status == AlertStatus.OK else None
        return StateStep(unchanged or AlertState(rule.name, AlertStatus.OK, now))
    since = previous.since if previous is not None and status == AlertStatus.PENDING else now
    if now - since < rule.duration:
        return StateStep(AlertState(rule.name, AlertStatus.PENDING, since))
    firing = AlertState(rule.name, AlertStatus.FIRING, now, new_episode())
    return StateStep(firing, AlertChange.FIRING)


def _while_firing(rule: Rule, alert: AlertState, holds: bool | None, now: datetime) -> StateStep:
    if holds is None:
        return StateStep(alert)
    if holds:
        return StateStep(replace(alert, clear_since=None))
    clear_since = alert.clear_since or now
    if now - clear_since < rule.keep_firing_for:
        return StateStep(replace(alert, clear_since=clear_since))
    resolved = AlertState(rule.name, AlertStatus.OK, now, alert.episode)
    return StateStep(resolved, AlertChange.RESOLVED)
