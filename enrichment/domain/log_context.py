"""Which symbol and job a thread works for, on every line that it logs.

>>> with logged_for("AAPL", "3f2a"):
...     log_context()
{'symbol': 'AAPL', 'job': '3f2a'}
>>> log_context()
{}
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime

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


def time_of(record: logging.LogRecord) -> str:
    """When it was logged, in UTC."""
    return f"{datetime.fromtimestamp(record.created, UTC):%Y-%m-%dT%H:%M:%SZ}"


def dated(record: logging.LogRecord, suffix: str = "") -> str:
    """Time, level and message; an error with its traceback on the lines below."""
    line = f"{time_of(record)} {record.levelname:<7} {record.getMessage()}{suffix}"
    return f"{line}\n{record.exc_text}" if record.exc_text else line
