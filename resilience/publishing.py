"""Publishes status to other processes and receives operators' commands from them.

A daemon thread, started with the first pattern, publishes changed statuses once a second, all of
them every five seconds (so that readers can detect a dead process), and transitions of circuit
breakers at once. The store is behind protocols; its failures are logged and affect no call.

>>> OperatorCommand("polygon_api", BreakerAction.RESET).action.value
'reset'
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from resilience.clock import SECOND, Clock, WallClock, on_fork
from resilience.events import StateChanged
from resilience.pattern import Status

_log = logging.getLogger("resilience")

_POLL_SECONDS = 1.0
_HEARTBEAT_NS = 5 * SECOND  # a third of the age at which readers consider a row stale
_MAX_TRANSITIONS = 1000  # kept while the store is unavailable


class BreakerAction(StrEnum):
    """force_open: reject every call; disable: allow every call; reset: back to automatic."""

    FORCE_OPEN = "force_open"
    DISABLE = "disable"
    RESET = "reset"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A status to publish."""

    sequence: int
    """Grows; a stored row with a higher one must not be overwritten."""
    at: datetime
    status: Status


@dataclass(frozen=True, slots=True)
class OperatorCommand:
    """An operator's action on the circuit breaker or the rate limiter `name`."""

    name: str
    action: BreakerAction
    """Of a rate limiter only RESET, which ends its pause."""
    kind: str = "circuit_breaker"


class StatusPublisher(Protocol):
    """A store that makes status and transitions visible to other processes."""

    def publish(self, snapshots: Sequence[Snapshot], transitions: Sequence[StateChanged]) -> None:
        """Write one batch. If it raises, the batch is published again."""


class CommandSource(Protocol):
    """A store of operators' commands."""

    def pending(self) -> Sequence[OperatorCommand]:
        """Commands since the previous call, oldest first; may raise."""
        ...


class StatusFeed:
    """The daemon thread that publishes statuses and applies commands.

    Args:
        statuses: Returns the status of every pattern.
        publisher: Where they are published; None publishes nothing.
        commands: Where commands come from; None receives none.
        apply: Executes a command.
        clock, wall_clock: See `resilience.clock`.
    """

    def __init__(
        self,
        statuses: Callable[[], Sequence[Status]],
        publisher: StatusPublisher | None,
        commands: CommandSource | None,
        apply: Callable[[OperatorCommand], object],
        *,
        clock: Clock,
        wall_clock: WallClock,
    ) -> None:
        self._statuses, self._publisher = statuses, publisher
        self._commands, self._apply = commands, apply
        self._clock, self._wall_clock = clock, wall_clock
        self._sequence = 0
        self._published: dict[tuple[str, str], Status] = {}
        self._heartbeat_at: int | None = None
        self._transitions: deque[StateChanged] = deque(maxlen=_MAX_TRANSITIONS)
        self._failing = self._closed = False
        self._thread: threading.Thread | None = None
        self._after_fork()
        on_fork(self)

    def start(self) -> None:
        """Start the thread, unless it runs or there is neither publisher nor command source."""
        if self._thread is not None or (self._publisher is None and self._commands is None):
            return
        with self._lock:
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(
                    target=self._run, name="resilience-status", daemon=True
                )
                self._thread.start()

    def transition(self, event: StateChanged) -> None:
        """Publish a transition as soon as possible."""
        self._transitions.append(event)
        self._wake.set()
        self.start()

    def run_once(self) -> None:
        """Apply commands and publish; only the first of consecutive failures is logged."""
        try:
            if self._commands is not None:
                for command in self._commands.pending():
                    self._apply(command)
            if self._publisher is not None:
                self._publish(self._publisher)
            self._failing = False
        except Exception as exc:
            if not self._failing:
                self._failing = True
                _log.warning("can't publish the resilience status: %s", exc)

    def close(self, timeout: float = 2.0) -> None:
        """Publish once more and stop; waits at most `timeout` seconds. Idempotent."""
        with self._lock:
            self._closed = True
            thread, self._thread = self._thread, None
        self._wake.set()
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)

    def _after_fork(self) -> None:
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._thread = None  # threads do not survive a fork

    def _run(self) -> None:
        closed = False
        while not closed:
            self._wake.wait(_POLL_SECONDS)
            self._wake.clear()
            closed = self._closed  # read first, so that the last run publishes everything
            self.run_once()

    def _publish(self, publisher: StatusPublisher) -> None:
        now = self._clock()
        statuses = {(status.kind, status.name): status for status in self._statuses()}
        heartbeat = self._heartbeat_at is None or now - self._heartbeat_at >= _HEARTBEAT_NS
        changed = [s for key, s in statuses.items() if heartbeat or self._published.get(key) != s]
        transitions = tuple(self._transitions)
        if changed or transitions:
            publisher.publish(tuple(map(self._snapshot, changed)), transitions)
        for event in transitions:
            with suppress(ValueError):  # dropped meanwhile, as the deque was full
                self._transitions.remove(event)
        self._published = statuses
        if heartbeat:
            self._heartbeat_at = now

    def _snapshot(self, status: Status) -> Snapshot:
        at = self._wall_clock()
        # From the wall clock, so that a restarted process continues above its stored rows.
        self._sequence = max(self._sequence + 1, int(at.timestamp() * 1_000_000))
        return Snapshot(self._sequence, at, status)
