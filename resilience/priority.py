"""The priority with which a call reserves permits of rate limiters.

>>> with with_priority(Priority.HIGH):
...     current_priority()
<Priority.HIGH: 'high'>
>>> current_priority()
<Priority.NORMAL: 'normal'>
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from enum import Enum


class Priority(Enum):
    """Which of two waiting calls is served first."""

    HIGH = "high"  # after granted permits and earlier calls of high priority only
    NORMAL = "normal"  # in the order of reservation


_priority: ContextVar[Priority] = ContextVar("priority", default=Priority.NORMAL)


@contextmanager
def with_priority(priority: Priority) -> Iterator[None]:
    """In the block, permits are reserved with this priority."""
    token = _priority.set(priority)
    try:
        yield
    finally:
        _priority.reset(token)


def current_priority() -> Priority:
    """The priority of the innermost `with_priority`; NORMAL outside of one."""
    return _priority.get()
