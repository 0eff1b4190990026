"""The newest log lines about each item in flight, to be stored with it if it fails."""

from __future__ import annotations

import logging
from collections import deque

from enrichment.domain.escape import for_terminal
from enrichment.domain.log_context import dated, log_context
from enrichment.domain.model import MAX_LOG_LINES, Task
from enrichment.domain.redact import redact

MAX_LINE_CHARS = 500


class ItemLogs(logging.Handler):
    """Collects what threads log while they work for an item, without secrets."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: dict[tuple[str, str], deque[str]] = {}

    def begin(self, task: Task) -> None:
        self._lines[_key(task)] = deque(maxlen=MAX_LOG_LINES)

    def emit(self, record: logging.LogRecord) -> None:
        context = log_context()
        lines = self._lines.get((context.get("job", ""), context.get("symbol", "")))
        if lines is not None:
            text = for_terminal(redact(dated(record)))
            lines.extend(line[:MAX_LINE_CHARS] for line in text.splitlines())

    def of(self, task: Task) -> tuple[str, ...]:
        """The item's lines, the oldest first."""
        return tuple(self._lines.get(_key(task), ()))

    def discard(self, task: Task) -> None:
        self._lines.pop(_key(task), None)


def _key(task: Task) -> tuple[str, str]:
    return str(task.job_id), task.symbol
