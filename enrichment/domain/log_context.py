"""Which symbol and job a thread works for, on every line that it logs.

>>> with logged_for("AAPL", "3f2a"):
...     log_context()
{'symbol': 'AAPL', 'job': '3f2a'}
>>> log_context()
{}
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

_context: ContextVar[Mapping[str, str]] = ContextVar("log_context", default={})  # noqa: B039 — read


def log_context() -> Mapping[str, str]:
    """What this thread works for: `symbol` and `job`; empty if for none."""
    return _context.get()


@contextmanager
def logged_for(symbol: str, job: object) -> Iterator[None]:
    """Mark what this thread logs in the block."""
    token = _context.set({"symbol": symbol, "job": str(job)})
    try:
        yield
    finally:
        _context.reset(token)
