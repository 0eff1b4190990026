"""The steps of a series at work: named as they begin, timed, and blamed for what fails in them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import datetime

from enrichment.domain.errors import StepFailed
from enrichment.domain.model import Task, Timeframe

OnStep = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class SeriesRun:
    """One timeframe of a task at work, as of one moment."""

    task: Task
    timeframe: Timeframe
    now: datetime
    report: OnStep

    def step(self, name: str) -> AbstractContextManager[Timer]:
        return step(name, self.timeframe, self.report)


class Timer:
    """How long a step has taken, once it has ended."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self.milliseconds = 0.0

    def stop(self) -> None:
        self.milliseconds = (time.perf_counter() - self._began) * 1000.0


@contextmanager
def step(name: str, timeframe: Timeframe | None, report: OnStep) -> Iterator[Timer]:
    """Reports and times a step; whatever fails in it surfaces as StepFailed, caused by the
    failure.
    """
    report(f"{name} {timeframe}" if timeframe else name)
    timer = Timer()
    try:
        yield timer
    except Exception as exc:
        timer.stop()
        raise StepFailed(name, timeframe, timer.milliseconds) from exc
    timer.stop()
