"""The scheduler: the `schedule` library in one thread, calling an idempotent tick.

The database decides whether jobs are due and creates it once, however many schedulers tick, so a
missed, repeated or late tick does no harm. Callbacks never raise: an exception would leave
`run_pending()` before the other callbacks have run.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pytz
import schedule

from enrichment.domain.errors import EnrichmentError
from enrichment.domain.schedules import Schedule, nightly
from enrichment.engine.ports import NightlySlots, SchedulerCommands, SchedulerReader
from resilience.supervised_thread import supervised_thread

_log = logging.getLogger(__name__)
TICK_SECONDS = 30
MAINTENANCE_SECONDS = 60


@dataclass(frozen=True, slots=True)
class ScheduleSettings:
    """When jobs start by themselves and how they run."""

    schedules: Sequence[Schedule] = (nightly(),)
    max_concurrent_symbols: int = 5
    max_retries: int = 3
    enable_daily_enrichment: bool = True


@dataclass(slots=True)
class _Repeated:
    """What is called again and again."""

    callback: Callable[[], None]
    seconds: float
    due: float = float("-inf")
    """By the monotonic clock."""


class EnrichmentScheduler:
    """Opens the nightly jobs and maintains the logs; also the Python API of the engine.

    Args:
        settings: When jobs start.
        slots: Creates the jobs of due slots; maintains the logs.
        commands: What the Python API changes.
        reader: What the Python API reads.
        ticked: Called after every successful tick.
        actor: Name under which the Python API's commands are audited.
        tick_seconds: Interval of the tick.
        maintenance_seconds: Interval of the logs' maintenance.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        settings: ScheduleSettings,
        slots: NightlySlots,
        commands: SchedulerCommands,
        reader: SchedulerReader,
        *,
        ticked: Callable[[], None] = lambda: None,
        actor: str = "python",
        tick_seconds: int = TICK_SECONDS,
        maintenance_seconds: int = MAINTENANCE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = settings
        self._slots, self._commands, self._reader = slots, commands, reader
        self._ticked = ticked
        self._actor = actor
        self._stop = threading.Event()
        self._schedule = schedule.Scheduler()
        for planned in settings.schedules:
            with suppress(pytz.UnknownTimeZoneError):  # a newer zone has the tick alone
                at = self._schedule.every().day.at(f"{planned.time:%H:%M}", planned.zone.key)
                at.do(self._guarded, self.tick)
        self._clock = clock
        self._repeated = [
            _Repeated(self.tick, tick_seconds),
            _Repeated(slots.maintain, maintenance_seconds),
        ]

    def run(self) -> None:
        """Tick at once, then on schedule until `stop()`."""
        while not self._stop.is_set():
            self.run_due()
            self._stop.wait(1.0)

    def run_due(self) -> None:
        """Call what is due.

        Intervals are those of the monotonic clock: the local time, by which `schedule` measures,
        goes back by an hour in autumn.
        """
        for repeated in self._repeated:
            if self._clock() >= repeated.due:
                repeated.due = self._clock() + repeated.seconds
                self._guarded(repeated.callback)
        self._schedule.run_pending()

    def start(self) -> threading.Thread:
        """Run in a daemon thread."""
        thread = supervised_thread("scheduler", self.run, self._stop)
        thread.start()
        return thread

    def stop(self) -> None:
        """End `run` within a second."""
        self._stop.set()

    def tick(self) -> None:
        """Open the jobs of due slots that are not open already."""
        for name, job_id in self._slots.open_due_jobs().items():
            _log.info("job %s of schedule %s created", job_id, name)
        self._ticked()

    def _guarded(self, callback: Callable[[], None]) -> None:
        try:
            callback()
        except EnrichmentError as exc:
            _log.error("scheduled call failed: %s", exc)
        except Exception:  # leaving run_pending() would keep the other callbacks from running
            _log.exception("scheduled call failed")

    def get_scheduler_status(self) -> Any:
        """Whether the scheduler runs or is paused, and when it last ran and runs next."""
        return self._reader.scheduler_status()

    def get_enrichment_metrics(self) -> Any:
        """Fetch, compute and quality metrics of the last 24 hours."""
        return self._reader.metrics()

    def get_job_status(self, symbol: str) -> Any:
        """The symbol's newest job item, or None for an untracked symbol."""
        return self._reader.job_status(symbol)

    def trigger_enrichment_now(
        self, symbols: Sequence[str] | None = None, asset_class: str | None = None
    ) -> Any:
        """Create a manual job for these symbols, for an asset class, or for all symbols."""
        return self._commands.trigger(symbols=symbols, asset_class=asset_class, actor=self._actor)

    def pause(self) -> Any:
        """Claim no items until `resume()`, also after restarts."""
        return self._commands.pause(actor=self._actor)

    def resume(self) -> Any:
        """Claim items again."""
        return self._commands.resume(actor=self._actor)
