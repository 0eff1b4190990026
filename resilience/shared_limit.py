"""A limit that several processes share through a store, and what to do without the store."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from resilience.clock import SECOND, Clock

SharedState = Literal["ok", "degraded"]

_RETRY_AFTER = 5 * SECOND  # between attempts to reach a store that failed


@dataclass(frozen=True, slots=True)
class Reservation:
    """A store's answer: granted after `wait` seconds, or not, as it would take `wait` seconds."""

    granted: bool
    wait: float


class SharedLimiter(Protocol):
    """One limit for many processes, kept in a store."""

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
        """Reserve n permits in one atomic step, or nothing if the wait would exceed `timeout`.

        Any exception means that the store is down.
        """
        ...


class SharedLimit:
    """Asks the store; while it is down, grants whatever the local limiter has agreed to."""

    def __init__(
        self,
        store: SharedLimiter,
        limit: tuple[int, float, int, bool],
        clock: Clock,
        on_change: Callable[[SharedState], object],
    ) -> None:
        self._store, self._limit, self._clock, self._on_change = store, limit, clock, on_change
        self._retry_at: int | None = None
        self.state: SharedState = "ok"

    def reserve(self, name: str, n: int, timeout: float | None) -> Reservation:
        """Reserve n permits for `name`, waiting at most `timeout` seconds."""
        if self._retry_at is not None and self._clock() < self._retry_at:
            return Reservation(True, 0.0)
        try:
            answer = self._store.reserve(name, n, *self._limit, timeout)
        except Exception:
            self._retry_at = self._clock() + _RETRY_AFTER
            self._move("degraded")
            return Reservation(True, 0.0)
        self._retry_at = None
        self._move("ok")
        return answer

    def _move(self, state: SharedState) -> None:
        before, self.state = self.state, state
        if before != state:
            self._on_change(state)
