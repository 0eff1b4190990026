"""Evaluates the rules and delivers what changed, in a thread of a worker or of the API.

Workers evaluate every minute, one of them at a time. The API's process watches over them: it
evaluates where no worker has for two minutes, which is how SchedulerNotRunning comes to fire when
the last worker is dead.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from enrichment.domain.errors import EnrichmentError, Snooze
from enrichment.services.alerts.evaluation import Change, next_state
from enrichment.services.alerts.metrics import FIGURES, AlertInputs
from enrichment.services.alerts.rules import Rule
from enrichment.warehouse.alert_rows import AlertState, Delivery
from enrichment.warehouse.alerts import AlertStore, Evaluation

_log = logging.getLogger(__name__)
WORKER_SECONDS = 60.0
WATCHER_SECONDS = 120.0
POLL_SECONDS = 5.0
STARTUP_DELAY_SECONDS = (
    10.0  # a worker's clock ticks at once; its first evaluation comes after that
)
LEASE_SECONDS = 120.0
FIRST_DELAY_SECONDS = 5.0
MAX_DELAY_SECONDS = 900.0


class Sender(Protocol):
    """A channel; raises EnrichmentError unless the other side has taken the delivery."""

    def send(self, delivery: Delivery) -> None: ...


class AlertService:
    """interval: seconds since anybody's last evaluation after which this one evaluates."""

    def __init__(
        self,
        store: AlertStore,
        read_inputs: Callable[[], AlertInputs],
        rules: Sequence[Rule],
        channels: Mapping[str, Sender],
        *,
        evaluator: str,
        interval: float,
    ) -> None:
        self._store, self._readings = store, read_inputs
        self._rules, self._channels = rules, channels
        self._evaluator, self._interval = evaluator, interval
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._troubles: dict[Callable[[], object], str] = {}

    def start(self, after: float = 0.0) -> None:
        """Deliver, and `after` seconds from now also evaluate, in a daemon thread until `stop()`.

        after: what everything started together needs to be up, or its start would be an alert.
        """
        first = time.monotonic() + after
        self._thread = threading.Thread(target=self._run, args=(first,), name="alerts", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(POLL_SECONDS)

    def evaluate(self) -> bool:
        """Judge every rule, if it is time and nobody else does; whether it was."""
        with self._store.evaluation(self._evaluator, self._interval) as evaluation:
            if evaluation is None:
                return False
            readings = self._readings()
            for rule in self._rules:
                self._judge(evaluation, rule, FIGURES[rule.figure](readings))
            for state in evaluation.forgotten([rule.name for rule in self._rules]):
                self._forget(evaluation, state)
        return True

    def deliver(self) -> int:
        """Send what is due; how many were taken."""
        taken = 0
        while self._channels and not self._stop.is_set():
            delivery = self._store.claim_delivery(list(self._channels), LEASE_SECONDS)
            if delivery is None:
                break
            taken += self._send(delivery)
        return taken

    def _judge(self, evaluation: Evaluation, rule: Rule, value: float | None) -> None:
        done = next_state(rule, evaluation.states.get(rule.name), value, evaluation.now, uuid.uuid4)
        before = evaluation.states.get(rule.name)
        state = done.state
        if done.change is not None:
            _log.warning("alert %s %s: %s", rule.name, done.change, rule.condition)
            evaluation.record(
                state,
                done.change,
                severity=rule.severity,
                condition=rule.condition,
                value=value,
                detail=_detail(rule, done.change, value),
            )
        if state.state == "firing" and not state.notified:
            state = self._notify(evaluation, state)
        elif done.change == "resolved" and before is not None and before.notified:
            # What people were told of, they are told the end of, silenced or not.
            evaluation.enqueue(state, "resolved", list(self._channels))
        evaluation.save(state, severity=rule.severity, condition=rule.condition, value=value)

    def _notify(self, evaluation: Evaluation, state: AlertState) -> AlertState:
        """Hand a firing alert to the channels, unless it is silenced; the silence's end does."""
        if not self._channels or evaluation.silenced(state.rule):
            return state
        evaluation.enqueue(state, "firing", list(self._channels))
        return replace(state, notified=True)

    def _forget(self, evaluation: Evaluation, state: AlertState) -> None:
        """Resolve an alert whose rule is gone."""
        if state.state == "firing":
            gone = "the rule is no longer there"
            evaluation.record(
                state, "resolved", severity="info", condition=gone, value=None, detail=gone
            )
            if state.notified:
                evaluation.enqueue(state, "resolved", list(self._channels))
        evaluation.save(
            AlertState(state.rule, "ok", evaluation.now),
            severity="info",
            condition="",
            value=None,
        )

    def _send(self, delivery: Delivery) -> bool:
        try:
            self._channels[delivery.channel].send(delivery)
        except EnrichmentError as exc:
            wait = FIRST_DELAY_SECONDS * 2.0 ** min(delivery.attempts - 1, 10)
            asked = exc.seconds if isinstance(exc, Snooze) else 0.0
            seconds = max(min(wait, MAX_DELAY_SECONDS), asked)
            _log.warning(
                "alert %s not taken by %s, again in %.0f s: %s",
                delivery.rule,
                delivery.channel,
                seconds,
                exc,
            )
            self._store.postpone(delivery, seconds, str(exc)[:500])
            return False
        self._store.delivered(delivery)
        return True

    def _run(self, first: float) -> None:
        while not self._stop.is_set():
            if time.monotonic() >= first:
                self._guarded(self.evaluate)
            self._guarded(self.deliver)
            self._stop.wait(POLL_SECONDS)

    def _guarded(self, part: Callable[[], object]) -> None:
        try:
            part()
            self._troubles.pop(part, None)
        except EnrichmentError as exc:
            if self._troubles.get(part) != str(exc):  # said once, not at every look
                _log.error("alerts not judged or delivered for now: %s", exc)
            self._troubles[part] = str(exc)
        except Exception:  # the thread must outlive whatever one look meets
            _log.exception("alerts not judged or delivered")


def _detail(rule: Rule, change: Change, value: float | None) -> str:
    shown = "unknown" if value is None else f"{value:g}"
    verb = "holds" if change == "firing" else "no longer holds"
    return f"{rule.figure} is {shown}; {rule.condition} {verb}"
