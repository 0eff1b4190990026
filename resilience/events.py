"""Events of the patterns, as frozen values, and the listeners that receive them.

`name` is that of the pattern, `at` a timezone-aware UTC datetime; durations are seconds.

>>> from resilience import CircuitBreaker
>>> events = []
>>> breaker = CircuitBreaker("polygon_api")
>>> unsubscribe = breaker.on(events.append)
>>> breaker.force_open()
>>> print(events[0].old, "→", events[0].new)
closed → open
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Literal

_log = logging.getLogger("resilience")

StopReason = Literal["attempts", "deadline", "budget"]


class SharedState(StrEnum):
    """Whether the shared store of a rate limiter is in use or only the local limit."""

    OK = "ok"
    DEGRADED = "degraded"


@dataclass(frozen=True, slots=True)
class Event:
    """Base class of all events."""

    name: str
    at: datetime


@dataclass(frozen=True, slots=True)
class StateChanged(Event):
    """A circuit breaker changed its state."""

    old: str
    new: str
    generation: int
    """Grows with each change of the breaker."""
    reason: str


@dataclass(frozen=True, slots=True)
class CallRejected(Event):
    """A circuit breaker, rate limiter or bulkhead rejected a call."""

    kind: str
    retry_after: float | None


@dataclass(frozen=True, slots=True)
class LimiterPaused(Event):
    """A rate limiter grants no permits until `until`."""

    seconds: float
    until: datetime


@dataclass(frozen=True, slots=True)
class LimiterResumed(Event):
    """The pause of a rate limiter was ended before its time."""


@dataclass(frozen=True, slots=True)
class SharedLimitChanged(Event):
    """The shared store of a rate limiter became unavailable or available again."""

    shared: SharedState


@dataclass(frozen=True, slots=True)
class RetryScheduled(Event):
    """Attempt number `attempt` (from 1) failed; the next one starts after `delay`."""

    attempt: int
    delay: float
    error: Exception | None


@dataclass(frozen=True, slots=True)
class RetriesStopped(Event):
    """A call is not retried after `attempt` attempts; the caller gets its last error or result."""

    attempt: int
    reason: StopReason
    error: Exception | None


@dataclass(frozen=True, slots=True)
class SlotOverrun(Event):
    """A call left its bulkhead `seconds` after its timeout."""

    seconds: float


Listener = Callable[[Event], object]


class Listeners:
    """The listeners of one object. A listener that raises is logged once and affects no call."""

    def __init__(self) -> None:
        self._all: dict[object, Listener] = {}
        self._failed: set[object] = set()

    def add(self, listener: Listener) -> Callable[[], None]:
        """Add a listener; returns the function that removes it."""
        key = object()
        self._all[key] = listener
        return lambda: self._remove(key)

    def notify(self, event: Event) -> None:
        """Call every listener, in the order they were added."""
        for key, listener in tuple(self._all.items()):
            try:
                listener(event)
            except Exception:
                if key not in self._failed:
                    self._failed.add(key)
                    _log.exception("listener %r failed (logged only once)", listener)

    def _remove(self, key: object) -> None:
        self._all.pop(key, None)
        self._failed.discard(key)
