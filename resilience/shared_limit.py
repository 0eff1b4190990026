"""A rate limit that several processes share through a store.

>>> Reservation(granted=True, wait=0.5)
Reservation(granted=True, wait=0.5, ticket=None)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from resilience.clock import SECOND, Clock
from resilience.events import SharedState
from resilience.priority import Priority

_RETRY_NS = 5 * SECOND  # between two attempts to use a store that is unavailable


@dataclass(frozen=True, slots=True)
class Reservation:
    """The store's answer to a request for permits."""

    granted: bool
    wait: float
    """Seconds until the permits may be used, or, if not granted, would be free."""
    ticket: int | None = None
    """To confirm once `wait` is over; None if nothing can delay the permits."""


@dataclass(frozen=True, slots=True)
class Limit:
    """The parameters of a rate limit; see RateLimiter."""

    rate: int
    interval: float
    burst: int
    normal_burst: int
    strict: bool


class SharedLimiter(Protocol):
    """Rate limits of several processes, kept in a store.

    Both methods are one atomic step and raise any Exception while the store is unavailable.
    """

    def reserve(
        self, name: str, limit: Limit, n: int, priority: Priority, timeout: float | None
    ) -> Reservation:
        """Reserve permits: of normal priority after all others, of high priority before those.

        Args:
            name: Name of the limit.
            limit: Its parameters.
            n: Number of permits.
            priority: With which they are reserved.
            timeout: Seconds; reserve nothing if the wait would be longer. None: no limit.
        """
        ...

    def confirm(self, name: str, ticket: int) -> Reservation:
        """Take the permits of a ticket; the wait is above 0 if they were delayed meanwhile.

        Not granted: they were delayed beyond the timeout, and nothing is reserved any more.
        """
        ...


class SharedLimit:
    """Reserves from the store, unless it is unavailable.

    Args:
        store: Store of the shared limits.
        name: Name of this limit.
        limit: Its parameters.
        clock: Monotonic nanoseconds.
        on_change: Called with the new state when it changes.
    """

    def __init__(
        self,
        store: SharedLimiter,
        name: str,
        limit: Limit,
        clock: Clock,
        on_change: Callable[[SharedState], object],
    ) -> None:
        self._store, self._name, self._limit = store, name, limit
        self._clock, self._on_change = clock, on_change
        self._retry_at: int | None = None
        self.state = SharedState.OK

    def reserve(self, n: int, priority: Priority, timeout: float | None) -> Reservation | None:
        """Reserve n permits with a wait of at most `timeout` seconds; None without the store."""
        if self._retry_at is not None and self._clock() < self._retry_at:
            return None
        return self._ask(lambda: self._store.reserve(self._name, self._limit, n, priority, timeout))

    def confirm(self, ticket: int) -> Reservation | None:
        """Take the permits of a ticket whose wait is over; None without the store."""
        return self._ask(lambda: self._store.confirm(self._name, ticket))

    def _ask(self, question: Callable[[], Reservation]) -> Reservation | None:
        try:
            answer = question()
        except Exception:
            self._retry_at = self._clock() + _RETRY_NS
            self._set_state(SharedState.DEGRADED)
            return None
        self._retry_at = None
        self._set_state(SharedState.OK)
        return answer

    def _set_state(self, state: SharedState) -> None:
        before, self.state = self.state, state
        if before != state:
            self._on_change(state)
