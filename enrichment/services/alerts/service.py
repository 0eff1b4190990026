"""Evaluates the alert rules and delivers the notifications, in threads of a worker or of the API.

Workers evaluate every minute, one of them at a time. The API evaluates if no worker has done so for
two minutes, so that SchedulerNotRunning fires after the last worker has died.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Protocol

from enrichment.domain.errors import EnrichmentError, Snooze
from enrichment.domain.statuses import AlertChange, AlertSeverity, AlertStatus
from enrichment.services.alerts.evaluation import next_state
from enrichment.services.alerts.metrics import METRICS, AlertInputs
from enrichment.services.alerts.rules import Rule
from enrichment.warehouse.alerts import AlertState, AlertStore, Delivery, Evaluation
from resilience.supervised_thread import supervised_thread

_log = logging.getLogger(__name__)
WORKER_SECONDS = 60.0
WATCHER_SECONDS = 120.0
POLL_SECONDS = 5.0
STARTUP_DELAY_SECONDS = 10.0  # so that a worker has ticked before its first evaluation
LEASE_SECONDS = 120.0
FIRST_DELAY_SECONDS = 5.0
MAX_DELAY_SECONDS = 900.0


class Sender(Protocol):
    """A notification channel."""

    def send(self, delivery: Delivery) -> None:
        """Send one notification; raises EnrichmentError unless it was accepted."""


class AlertService:
    """Evaluates the rules and delivers notifications, alone among all processes.

    Args:
        store: The alerts in the database.
        read_inputs: Reads what the rules' metrics are taken from.
        channels: By name. Without any, alerts are only recorded.
        evaluator: Name of this process, shown with the evaluation.
        interval: Seconds since the last evaluation, by any process, after which this one evaluates.
        poll_seconds: Between two looks whether an evaluation or a notification is due.
    """

    def __init__(
        self,
        store: AlertStore,
        read_inputs: Callable[[], AlertInputs],
        rules: Sequence[Rule],
        channels: Mapping[str, Sender],
        *,
        evaluator: str,
        interval: float,
        poll_seconds: float = POLL_SECONDS,
    ) -> None:
        self._store, self._read_inputs = store, read_inputs
        self._rules, self._channels = rules, channels
        self._evaluator, self._interval = evaluator, interval
        self._poll_seconds = poll_seconds
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._last_errors: dict[str, str] = {}

    def start(self, delay: float = 0.0) -> None:
        """Deliver, and after `delay` seconds also evaluate, in daemon threads until `stop()`.

        Each channel has a thread of its own, so that one that hangs delays neither the evaluation
        nor the other channels.
        """
        first = time.monotonic() + delay
        self._start("alerts", self._run, first)
        for channel in self._channels:
            self._start(f"alerts-{channel}", self._run_channel, channel)

    def _start(self, name: str, target: Callable[..., None], argument: object) -> None:
        thread = supervised_thread(name, partial(target, argument), self._stop)
        thread.start()
        self._threads.append(thread)

    def stop(self) -> None:
        self._stop.set()
        end = time.monotonic() + POLL_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))

    def evaluate(self) -> bool:
        """Evaluate every rule if it is due; False if it is not, or another process evaluates."""
        with self._store.evaluation(self._evaluator, self._interval) as evaluation:
            if evaluation is None:
                return False
            inputs = self._read_inputs()
            for rule in self._rules:
                self._evaluate_rule(evaluation, rule, METRICS[rule.metric](inputs))
            for state in evaluation.orphaned([rule.name for rule in self._rules]):
                self._resolve_removed(evaluation, state)
        return True

    def deliver(self, channel: str | None = None) -> int:
        """Send the notifications that are due, of one channel or of all.

        Returns:
            How many were delivered.
        """
        delivered, channels = 0, list(self._channels) if channel is None else [channel]
        while channels and not self._stop.is_set():
            delivery = self._store.claim_delivery(channels, LEASE_SECONDS)
            if delivery is None:
                break
            delivered += self._send(delivery)
        return delivered

    def _evaluate_rule(self, evaluation: Evaluation, rule: Rule, value: float | None) -> None:
        previous = evaluation.states.get(rule.name)
        step = next_state(rule, previous, value, evaluation.now, uuid.uuid4)
        state = step.state
        if step.change is not None:
            _log.warning("alert %s %s: %s", rule.name, step.change, rule.condition)
            evaluation.record(
                state,
                step.change,
                severity=rule.severity,
                condition=rule.condition,
                value=value,
                detail=_detail(rule, step.change, value),
            )
        if state.state == AlertStatus.FIRING and not state.notified:
            state = self._notify(evaluation, state)
        elif step.change == AlertChange.RESOLVED and previous is not None and previous.notified:
            # Whoever was notified of the alert is notified of its end, even during a silence.
            evaluation.enqueue(state, AlertChange.RESOLVED, list(self._channels))
        evaluation.save(state, severity=rule.severity, condition=rule.condition, value=value)

    def _notify(self, evaluation: Evaluation, state: AlertState) -> AlertState:
        """Queue a firing alert's notifications; a silenced one waits for the silence to end."""
        if not self._channels or evaluation.silenced(state.rule):
            return state
        evaluation.enqueue(state, AlertChange.FIRING, list(self._channels))
        return replace(state, notified=True)

    def _resolve_removed(self, evaluation: Evaluation, state: AlertState) -> None:
        """Resolve an alert whose rule was removed."""
        if state.state == AlertStatus.FIRING:
            detail = "the rule was removed"
            evaluation.record(
                state,
                AlertChange.RESOLVED,
                severity=AlertSeverity.INFO,
                condition=detail,
                value=None,
                detail=detail,
            )
            if state.notified:
                evaluation.enqueue(state, AlertChange.RESOLVED, list(self._channels))
        evaluation.save(
            AlertState(state.rule, AlertStatus.OK, evaluation.now),
            severity=AlertSeverity.INFO,
            condition="",
            value=None,
        )

    def _send(self, delivery: Delivery) -> bool:
        try:
            self._channels[delivery.channel].send(delivery)
        except EnrichmentError as exc:
            backoff = FIRST_DELAY_SECONDS * 2.0 ** min(delivery.attempts - 1, 10)
            retry_after = exc.seconds if isinstance(exc, Snooze) else 0.0
            seconds = max(min(backoff, MAX_DELAY_SECONDS), retry_after)
            _log.warning(
                "alert %s not delivered to %s, next attempt in %.0f s: %s",
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
                self._log_errors("evaluate", self.evaluate)
            self._stop.wait(self._poll_seconds)

    def _run_channel(self, channel: str) -> None:
        while not self._stop.is_set():
            self._log_errors(f"deliver to {channel}", lambda: self.deliver(channel))
            self._stop.wait(self._poll_seconds)

    def _log_errors(self, what: str, action: Callable[[], object]) -> None:
        try:
            action()
            self._last_errors.pop(what, None)
        except EnrichmentError as exc:
            if self._last_errors.get(what) != str(exc):  # not the same error at every poll
                _log.error("alerts: %s failed: %s", what, exc)
            self._last_errors[what] = str(exc)
        except Exception:  # the thread must survive any error
            _log.exception("alerts: %s failed", what)


def _detail(rule: Rule, change: AlertChange, value: float | None) -> str:
    text = "unknown" if value is None else f"{value:g}"
    verb = "holds" if change is AlertChange.FIRING else "no longer holds"
    return f"{rule.metric} is {text}; {rule.condition} {verb}"
