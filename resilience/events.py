"""What happened, as frozen values. `at` is an aware UTC datetime; durations are seconds."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

_log = logging.getLogger("resilience")


@dataclass(frozen=True, slots=True)
class Event:
    """Base of all events: which object, and when."""

    name: str
    at: datetime


@dataclass(frozen=True, slots=True)
class StateChanged(Event):
    """A breaker changed its state. `generation` grows with each change and orders them."""

    old: str
    new: str
    generation: int
    reason: str


@dataclass(frozen=True, slots=True)
class CallRejected(Event):
    """A breaker, limiter or bulkhead turned a call away."""

    kind: str
    retry_after: float | None


@dataclass(frozen=True, slots=True)
class LimiterPaused(Event):
    """A limiter grants nothing until `until`."""

    seconds: float
    until: datetime


@dataclass(frozen=True, slots=True)
class SharedLimitChanged(Event):
    """The shared store of a limiter answers again ('ok'), or no longer does ('degraded')."""

    shared: Literal["ok", "degraded"]


@dataclass(frozen=True, slots=True)
class RetryScheduled(Event):
    """Call number `attempt` (from 1) was unsuccessful; the next one comes after `delay`."""

    attempt: int
    delay: float
    error: Exception | None


@dataclass(frozen=True, slots=True)
class RetriesStopped(Event):
    """No further call after `attempt` calls; the caller gets the last error or result."""

    attempt: int
    reason: Literal["attempts", "deadline", "budget"]
    error: Exception | None


@dataclass(frozen=True, slots=True)
class SlotOverrun(Event):
    """A call left its bulkhead `seconds` after its budget had run out."""

    seconds: float


Listener = Callable[[Event], object]


class Listeners:
    """Subscribers; one that raises is logged once and never breaks a call."""

    def __init__(self) -> None:
        self._all: dict[object, Listener] = {}
        self._broken: set[object] = set()

    def add(self, listener: Listener) -> Callable[[], None]:
        """Subscribe; the returned callable unsubscribes."""
        key = object()
        self._all[key] = listener
        return lambda: self._remove(key)

    def notify(self, event: Event) -> None:
        """Call every subscriber, in order of subscription."""
        for key, listener in tuple(self._all.items()):
            try:
                listener(event)
            except Exception:
                if key not in self._broken:
                    self._broken.add(key)
                    _log.exception("listener %r failed; logged once, still called", listener)

    def _remove(self, key: object) -> None:
        self._all.pop(key, None)
        self._broken.discard(key)
