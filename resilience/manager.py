"""The registry of a process's patterns, with common clocks, listeners and status publishing.

>>> manager = ResilienceManager()
>>> breaker = manager.register_circuit_breaker("polygon_api")
>>> breaker is manager.register_circuit_breaker("polygon_api")
True
"""

from __future__ import annotations

import inspect
import random
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar, cast

from resilience.bulkhead import Bulkhead
from resilience.circuit_breaker import CircuitBreaker
from resilience.clock import AsyncSleep, Clock, Rng, Sleep, Sleeper, WallClock, on_fork, utc_now
from resilience.events import Event, Listener, Listeners, StateChanged
from resilience.pattern import Pattern, Status
from resilience.pipeline import PauseOn, Pipeline
from resilience.publishing import CommandSource, OperatorCommand, StatusFeed, StatusPublisher
from resilience.rate_limiter import RateLimiter
from resilience.retry import RetryPolicy

AnyPattern = TypeVar("AnyPattern", bound=Pattern)


class ResilienceManager:
    """Creates patterns and holds them by kind and name.

    Registering a name again returns the existing pattern if the configuration is equal (callables
    by identity); a different one is a ValueError. `options` are the keyword-only arguments of the
    pattern's class.

    Args:
        clock, wall_clock, sleep, async_sleep, rng: See `resilience.clock`.
        publisher, commands: See `resilience.publishing`.
    """

    def __init__(
        self,
        *,
        clock: Clock = time.monotonic_ns,
        wall_clock: WallClock = utc_now,
        sleep: Sleep | None = None,
        async_sleep: AsyncSleep | None = None,
        rng: Rng = random.random,
        publisher: StatusPublisher | None = None,
        commands: CommandSource | None = None,
    ) -> None:
        self._injectables: dict[str, Any] = {"clock": clock, "wall_clock": wall_clock, "rng": rng}
        self._injectables["sleeper"] = self._sleeper = Sleeper(sleep, async_sleep)
        self._patterns: dict[tuple[type[Pattern], str], tuple[Pattern, dict[str, Any]]] = {}
        self._lock = threading.Lock()
        self._listeners = Listeners()
        self._feed = StatusFeed(
            self.all_status, publisher, commands, self.apply, clock=clock, wall_clock=wall_clock
        )
        on_fork(self)

    def register_circuit_breaker(
        self,
        name: str = "polygon_api",
        failure_threshold: float = 0.5,
        recovery_timeout: float = 60,
        **options: Any,
    ) -> CircuitBreaker:
        """The circuit breaker `name`; see CircuitBreaker."""
        return self._register(CircuitBreaker, name, failure_threshold, recovery_timeout, **options)

    def register_rate_limiter(
        self,
        name: str = "api_client",
        rate: int = 100,
        interval: float = 60,
        burst: int = 150,
        **options: Any,
    ) -> RateLimiter:
        """The rate limiter `name`; see RateLimiter."""
        return self._register(RateLimiter, name, rate, interval, burst, **options)

    def register_retry_policy(
        self,
        name: str = "enrichment_retry",
        max_retries: int = 3,
        initial_delay: float = 1.0,
        max_delay: float = 60.0,
        backoff_multiplier: float = 2.0,
        **options: Any,
    ) -> RetryPolicy:
        """The retry policy `name`; see RetryPolicy."""
        delays = initial_delay, max_delay, backoff_multiplier
        return self._register(RetryPolicy, name, max_retries, *delays, **options)

    def register_bulkhead(
        self,
        name: str = "enrichment_processor",
        max_concurrent: int = 10,
        timeout: float = 300,
        **options: Any,
    ) -> Bulkhead:
        """The bulkhead `name`; see Bulkhead."""
        return self._register(Bulkhead, name, max_concurrent, timeout, **options)

    def pipeline(
        self,
        *,
        breaker: CircuitBreaker | None = None,
        limiter: RateLimiter | None = None,
        retry: RetryPolicy | None = None,
        bulkhead: Bulkhead | None = None,
        pause_on: PauseOn | None = None,
    ) -> Pipeline:
        """The given patterns, composed; see Pipeline."""
        self._feed.start()
        return Pipeline(
            breaker=breaker, limiter=limiter, retry=retry, bulkhead=bulkhead, pause_on=pause_on
        )

    def all_status(self) -> tuple[Status, ...]:
        """The status of every pattern, in order of registration."""
        return tuple(pattern.status() for pattern in self._all())

    def reset_all(self) -> None:
        """Reset all patterns, including circuit breakers that are forced open."""
        for pattern in self._all():
            pattern.reset()

    def on(self, listener: Listener) -> Callable[[], None]:
        """Call `listener(event)` for all events; returns the function that removes it."""
        return self._listeners.add(listener)

    def apply(self, command: OperatorCommand) -> bool:
        """Execute an operator's command. Returns False if there is no such pattern."""
        limits = command.kind == RateLimiter.kind
        entry = self._patterns.get((RateLimiter if limits else CircuitBreaker, command.name))
        if entry is None:
            return False
        getattr(entry[0], "resume" if limits else command.action)()
        return True

    def close(self) -> None:
        """Interrupt sleeping retries and waits for permits; publish once more. Idempotent."""
        self._sleeper.close()
        self._feed.close()

    def _after_fork(self) -> None:
        self._lock = threading.Lock()

    def _register(
        self, pattern_class: type[AnyPattern], name: str, *values: Any, **options: Any
    ) -> AnyPattern:
        signature = inspect.signature(pattern_class)
        bound = signature.bind(name, *values, **options)
        bound.apply_defaults()
        config = {key: bound.arguments[key] for key in bound.arguments if key not in _INJECTABLES}
        with self._lock:
            entry = self._patterns.get((pattern_class, name))
            if entry is None:
                defaults = {k: v for k, v in self._injectables.items() if k in signature.parameters}
                given = {key: value for key, value in options.items() if key in _INJECTABLES}
                pattern = pattern_class(**config, **(defaults | given))
                pattern.on(self._on_event)
                self._patterns[pattern_class, name] = pattern, config
            elif entry[1] != config:
                raise ValueError(
                    f"{pattern_class.kind} {name!r} is {entry[1]}, in conflict with {config}"
                )
            else:
                pattern = cast(AnyPattern, entry[0])
        self._feed.start()
        return pattern

    def _all(self) -> list[Pattern]:
        return [pattern for pattern, _ in tuple(self._patterns.values())]

    def _on_event(self, event: Event) -> None:
        self._listeners.notify(event)
        if isinstance(event, StateChanged):
            self._feed.transition(event)


_INJECTABLES = frozenset({"clock", "wall_clock", "sleep", "async_sleep", "rng", "sleeper", "event"})


def init_resilience_manager(**injectables: Any) -> ResilienceManager:
    """A new ResilienceManager; takes its keyword arguments."""
    return ResilienceManager(**injectables)
