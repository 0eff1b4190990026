"""Showing status to other processes, and taking operators' commands from them.

A daemon thread, begun with the first thing to show, publishes changed statuses once a second,
all of them every five seconds (so that readers can tell quiet from dead), and breaker
transitions at once. What the store does is behind Protocols; its failures stay here.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol

from resilience.clock import SECOND, Clock, WallClock, fork_safe
from resilience.events import StateChanged
from resilience.pattern import Status

_log = logging.getLogger("resilience")

_INTERVAL = 1.0  # seconds between rounds
_HEARTBEAT = 5 * SECOND  # a third of the age at which readers call a row stale
_BACKLOG = 1000  # transitions kept while the store is down


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A status to publish. A row with a higher `sequence` must not be overwritten."""

    sequence: int
    at: datetime
    status: Status


@dataclass(frozen=True, slots=True)
class OperatorCommand:
    """What an operator asks of the breaker `name`."""

    name: str
    action: Literal["force_open", "disable", "reset"]


class StatusPublisher(Protocol):
    """Shows status and transitions to other processes."""

    def publish(self, snapshots: Sequence[Snapshot], transitions: Sequence[StateChanged]) -> None:
        """Write one batch. If it raises, the batch's content comes again."""


class CommandSource(Protocol):
    """Where operators leave their commands."""

    def pending(self) -> Sequence[OperatorCommand]:
        """Commands that this process has not been given yet, oldest first; may raise."""
        ...


class StatusFeed:
    """Publishes what `statuses()` returns and applies commands, from a lazy daemon thread."""

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
        self._shown: dict[tuple[str, str], Status] = {}
        self._shown_all: int | None = None
        self._transitions: deque[StateChanged] = deque(maxlen=_BACKLOG)
        self._failing = self._closed = False
        self._thread: threading.Thread | None = None
        self._after_fork()
        fork_safe(self)

    def start(self) -> None:
        """Begin the daemon, unless it runs or there is nothing to serve."""
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

    def round(self) -> None:
        """Publish and take commands once; failures are logged, once an outage."""
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
                _log.warning("resilience status can't be published: %s", exc)

    def close(self, timeout: float = 2.0) -> None:
        """End the daemon after a last round; gives up after `timeout` seconds. Idempotent."""
        with self._lock:
            self._closed = True
            thread, self._thread = self._thread, None
        self._wake.set()
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)

    def _after_fork(self) -> None:
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._thread = None  # threads don't survive a fork

    def _run(self) -> None:
        closed = False
        while not closed:
            self._wake.wait(_INTERVAL)
            self._wake.clear()
            closed = self._closed  # read before the round, so that the last one sees everything
            self.round()

    def _publish(self, publisher: StatusPublisher) -> None:
        now = self._clock()
        statuses = {(status.kind, status.name): status for status in self._statuses()}
        everything = self._shown_all is None or now - self._shown_all >= _HEARTBEAT
        dirty = [s for key, s in statuses.items() if everything or self._shown.get(key) != s]
        transitions = tuple(self._transitions)
        if dirty or transitions:
            publisher.publish(tuple(map(self._snapshot, dirty)), transitions)
        for event in transitions:
            with suppress(ValueError):  # pushed out by newer ones meanwhile
                self._transitions.remove(event)
        self._shown = statuses
        if everything:
            self._shown_all = now

    def _snapshot(self, status: Status) -> Snapshot:
        at = self._wall_clock()
        # From the wall clock, so that a restarted process does not fall behind its own rows.
        self._sequence = max(self._sequence + 1, int(at.timestamp() * 1_000_000))
        return Snapshot(self._sequence, at, status)
