"""A rate limit that several processes share through a store.

>>> Reservation(granted=True, wait=0.5)
Reservation(granted=True, wait=0.5)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from resilience.clock import SECOND, Clock
from resilience.events import SharedState

_RETRY_NS = 5 * SECOND  # between two attempts to use a store that is unavailable


@dataclass(frozen=True, slots=True)
class Reservation:
    """The store's answer to a request for permits."""

    granted: bool
    wait: float
    """Seconds until the permits may be used, or, if not granted, would be free."""


class SharedLimiter(Protocol):
    """Rate limits of several processes, kept in a store."""

    def reserve(
        self,
        name: str,
        n: int,
        rate: int,
        interval: float,
        burst: int,
        strict: bool,
        timeout: float | None,
    ) -> Reservation:
        """Reserve permits in one atomic step.

        Args:
            name: Name of the limit.
            n: Number of permits.
            rate: Permits per interval.
            interval: Seconds.
            burst: Permits granted at once after idling.
            strict: Never grant more than `rate` in any interval.
            timeout: Seconds; reserve nothing if the wait would be longer. None: no limit.

        Raises:
            Exception: The store is unavailable.
        """
        ...


class SharedLimit:
    """Reserves from the store; while it is unavailable, only the local limit applies.

    Args:
        store: Store of the shared limits.
        limit: Rate, interval, burst and strict of this limit.
        clock: Monotonic nanoseconds.
        on_change: Called with the new state when it changes.
    """

    def __init__(
        self,
        store: SharedLimiter,
        limit: tuple[int, float, int, bool],
        clock: Clock,
        on_change: Callable[[SharedState], object],
    ) -> None:
        self._store, self._limit, self._clock, self._on_change = store, limit, clock, on_change
        self._retry_at: int | None = None
        self.state = SharedState.OK

    def reserve(self, name: str, n: int, timeout: float | None) -> Reservation:
        """Reserve n permits with a wait of at most `timeout` seconds; granted without a store."""
        if self._retry_at is not None and self._clock() < self._retry_at:
            return Reservation(True, 0.0)
        try:
            reservation = self._store.reserve(name, n, *self._limit, timeout)
        except Exception:
            self._retry_at = self._clock() + _RETRY_NS
            self._set_state(SharedState.DEGRADED)
            return Reservation(True, 0.0)
        self._retry_at = None
        self._set_state(SharedState.OK)
        return reservation

    def _set_state(self, state: SharedState) -> None:
        before, self.state = self.state, state
        if before != state:
            self._on_change(state)
