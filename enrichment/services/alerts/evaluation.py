"""What becomes of an alert at an evaluation: ok → pending → firing → ok. Pure.

An unknown figure proves nothing: what fires goes on firing, what is pending starts anew.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal
from uuid import UUID

from enrichment.services.alerts.rules import Rule
from enrichment.warehouse.alert_rows import AlertState

Change = Literal["firing", "resolved"]


@dataclass(frozen=True, slots=True)
class StateStep:
    """The state after an evaluation, and the change that others should hear of."""

    state: AlertState
    change: Change | None = None


def next_state(
    rule: Rule,
    before: AlertState | None,
    value: float | None,
    now: datetime,
    new_episode: Callable[[], UUID],
) -> StateStep:
    """One evaluation of a rule. An episode lasts from firing to resolved, however it flaps."""
    holds = rule.holds(value)
    if before is not None and before.state == "firing":
        return _while_firing(rule, before, holds, now)
    if not holds:
        kept = before if before is not None and before.state == "ok" else None
        return StateStep(kept or AlertState(rule.name, "ok", now))
    since = before.since if before is not None and before.state == "pending" else now
    if now - since < rule.duration:
        return StateStep(AlertState(rule.name, "pending", since))
    return StateStep(AlertState(rule.name, "firing", now, new_episode()), "firing")


def _while_firing(rule: Rule, before: AlertState, holds: bool | None, now: datetime) -> StateStep:
    if holds is None:
        return StateStep(before)
    if holds:
        return StateStep(replace(before, clear_since=None))
    clear_since = before.clear_since or now
    if now - clear_since < rule.keep_firing_for:
        return StateStep(replace(before, clear_since=clear_since))
    return StateStep(AlertState(rule.name, "ok", now, before.episode), "resolved")
