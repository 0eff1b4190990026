"""Steps of a run: reported as they begin, timed, and named in the error if they fail.

>>> with step("fetch", Timeframe.D1, print) as timer:
...     timer.milliseconds  # set at the end of the step
fetch 1d
0.0
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import datetime

from enrichment.domain.errors import StepFailed
from enrichment.domain.model import AssetClass, Task, Timeframe

OnStep = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class SeriesRun:
    """One run of one series."""

    task: Task
    timeframe: Timeframe
    now: datetime
    report: OnStep  # called with the name of each step as it begins

    @property
    def symbol(self) -> str:
        return self.task.symbol

    @property
    def asset_class(self) -> AssetClass:
        return self.task.asset_class

    def step(self, name: str) -> AbstractContextManager[Timer]:
        return step(name, self.timeframe, self.report)


class Timer:
    """Duration of a step."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self.milliseconds = 0.0  # until the step has ended

    def stop(self) -> None:
        self.milliseconds = (time.perf_counter() - self._began) * 1000.0


@contextmanager
def step(name: str, timeframe: Timeframe | None, report: OnStep) -> Iterator[Timer]:
    """Report and time a step. Raises StepFailed from any exception in it."""
    report(f"{name} {timeframe}" if timeframe else name)
    timer = Timer()
    try:
        yield timer
    except Exception as exc:
        timer.stop()
        raise StepFailed(name, timeframe, timer.milliseconds) from exc
    timer.stop()
