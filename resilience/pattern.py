"""Base classes of the four patterns: execution, decorators, events and status.

>>> from resilience import RetryPolicy
>>> @RetryPolicy("vendor")
... def double(x: int) -> int:
...     return 2 * x
>>> double(4)
8
"""

from __future__ import annotations

import inspect
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from enum import Enum
from functools import wraps
from types import CoroutineType
from typing import Any, ClassVar, NoReturn, ParamSpec, TypeVar, cast

from resilience.clock import Clock, WallClock, on_fork
from resilience.errors import WrongCallStyle
from resilience.events import CallRejected, Event, Listener, Listeners

P = ParamSpec("P")
T = TypeVar("T")

ErrorFilter = type[Exception] | tuple[type[Exception], ...] | Callable[[Exception], bool]


@dataclass(frozen=True, slots=True)
class Status:
    """A pattern's state at one moment; times are UTC datetimes, durations seconds."""

    kind: ClassVar[str]
    name: str

    def as_dict(self) -> dict[str, Any]:
        """The fields as JSON values, times in ISO 8601 with Z, and `kind`."""
        values = {field.name: _to_json(getattr(self, field.name)) for field in fields(self)}
        return {**values, "kind": self.kind}


class Executor(ABC):
    """Runs functions; also a decorator, which keeps the function's signature."""

    @abstractmethod
    def execute(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `fn(*args, **kwargs)` in the caller's thread."""

    @abstractmethod
    async def execute_async(
        self, fn: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Await `fn(*args, **kwargs)`."""

    def __call__(self, fn: Callable[P, T]) -> Callable[P, T]:
        """Decorate a function or a coroutine function."""
        if inspect.iscoroutinefunction(fn):

            @wraps(fn)
            async def call_async(*args: P.args, **kwargs: P.kwargs) -> Any:
                return await self.execute_async(fn, *args, **kwargs)

            return cast(Callable[P, T], call_async)

        @wraps(fn)
        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            return self.execute(fn, *args, **kwargs)

        return call


class Pattern(Executor):
    """A named executor with status and events. Its lock is never held while user code runs."""

    kind: ClassVar[str]

    def __init__(self, name: str, clock: Clock, wall_clock: WallClock) -> None:
        if not isinstance(name, str) or not name:
            raise ValueError(f"name must be a non-empty string, got {name!r}")
        self.name = name
        self._clock, self._wall_clock = clock, wall_clock
        self._lock = threading.Lock()
        self._listeners = Listeners()
        self._events: deque[Event] = deque()
        on_fork(self)

    @abstractmethod
    def status(self) -> Status:
        """The current state."""

    @abstractmethod
    def reset(self) -> None:
        """Reset all state, but not the configuration."""

    def on(self, listener: Listener) -> Callable[[], None]:
        """Call `listener(event)` for every event; returns the function that removes it."""
        return self._listeners.add(listener)

    def _after_fork(self) -> None:
        self._lock = threading.Lock()

    def _deliver_events(self) -> None:
        while self._events:
            try:
                event = self._events.popleft()
            except IndexError:  # another thread has taken it
                return
            self._listeners.notify(event)

    def _notify_rejection(self, retry_after: float | None) -> None:
        self._listeners.notify(CallRejected(self.name, self._wall_clock(), self.kind, retry_after))


def reject_coroutine(fn: Callable[..., object], result: Any) -> NoReturn:
    """Close the coroutine that `fn` returned and raise WrongCallStyle."""
    result.close()
    raise WrongCallStyle(f"{fn!r} returned a coroutine: use execute_async")


async def await_result(fn: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Await the result of `fn`. Raises WrongCallStyle if it is not awaitable."""
    result = fn(*args, **kwargs)
    if type(result) is not CoroutineType and not inspect.isawaitable(result):
        raise WrongCallStyle(f"{fn!r} returned no awaitable: use execute")
    return await result


def safe_repr(error: Exception | None) -> str | None:
    """repr of the error; may run user code, so it is not called under a lock."""
    return None if error is None else repr(error)


def matcher(errors: ErrorFilter) -> Callable[[Exception], bool]:
    """A predicate for the exception classes, or the given predicate."""
    if isinstance(errors, type | tuple):
        return lambda error: isinstance(error, errors)
    return errors


def _to_json(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    return value.value if isinstance(value, Enum) else value
