"""The alarm clock: the `schedule` library in one thread, whose callbacks only run an idempotent
tick.

The database decides what is due and lets one job come of it, however many schedulers tick; so a
missed, doubled or late alarm does no harm. Callbacks never raise: an exception would starve the
other ones.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import UUID

import schedule

from enrichment.domain.errors import EnrichmentError

_log = logging.getLogger(__name__)
TICK_SECONDS = 30
MAINTENANCE_SECONDS = 60


class NightlySlots(Protocol):
    """The tick's effect; `storage.slots.Slots` is the real one."""

    def open_due_job(self) -> UUID | None: ...

    def maintain(self) -> None: ...


class Commands(Protocol):
    """The commands that the scheduler's Python interface offers."""

    def trigger(
        self, *, symbols: Sequence[str] | None, asset_class: str | None, actor: str
    ) -> Any: ...

    def pause(self, *, actor: str) -> Any: ...

    def resume(self, *, actor: str) -> Any: ...


class Reader(Protocol):
    """The read models that the scheduler's Python interface offers."""

    def scheduler_status(self) -> Any: ...

    def metrics(self) -> Any: ...

    def job_status(self, symbol: str) -> Any: ...


@dataclass(frozen=True, slots=True)
class ScheduleSettings:
    """When the nightly run takes place (UTC) and how it behaves."""

    enrichment_hour: int = 1
    enrichment_minute: int = 30
    max_concurrent_symbols: int = 5
    max_retries: int = 3
    enable_daily_enrichment: bool = True


class EnrichmentScheduler:
    """The nightly run's clock, and the Python interface to the engine.

    ticked: called after every successful tick, so that others can see the clock run.
    tick_seconds, maintenance_seconds: how often the tick and the upkeep of the logs run.
    """

    def __init__(
        self,
        settings: ScheduleSettings,
        slots: NightlySlots,
        commands: Commands,
        reader: Reader,
        *,
        ticked: Callable[[], None] = lambda: None,
        actor: str = "python",
        tick_seconds: int = TICK_SECONDS,
        maintenance_seconds: int = MAINTENANCE_SECONDS,
    ) -> None:
        self.settings = settings
        self._slots, self._commands, self._reader = slots, commands, reader
        self._ticked = ticked
        self._actor = actor
        self._stop = threading.Event()
        self._clock = schedule.Scheduler()
        at = f"{settings.enrichment_hour:02}:{settings.enrichment_minute:02}"
        self._clock.every().day.at(at, "UTC").do(self._guarded, self.tick)
        self._clock.every(tick_seconds).seconds.do(self._guarded, self.tick)
        self._clock.every(maintenance_seconds).seconds.do(self._guarded, slots.maintain)

    def run(self) -> None:
        """Tick now and then on the clock until `stop()`."""
        self._guarded(self.tick)
        self._guarded(self._slots.maintain)
        while not self._stop.wait(1.0):
            self._clock.run_pending()

    def start(self) -> threading.Thread:
        """Run in a daemon thread."""
        thread = threading.Thread(target=self.run, name="scheduler", daemon=True)
        thread.start()
        return thread

    def stop(self) -> None:
        self._stop.set()

    def tick(self) -> None:
        """Open the due slot's job, if there is one and nobody has."""
        job_id = self._slots.open_due_job()
        if job_id is not None:
            _log.info("nightly job %s opened", job_id)
        self._ticked()

    def _guarded(self, callback: Callable[[], None]) -> None:
        try:
            callback()
        except EnrichmentError as exc:
            _log.error("tick skipped: %s", exc)
        except Exception:  # an exception that leaves run_pending() would starve the other callbacks
            _log.exception("tick failed")

    def get_scheduler_status(self) -> Any:
        """Whether the scheduler runs, is paused, and its last and next runs."""
        return self._reader.scheduler_status()

    def get_enrichment_metrics(self) -> Any:
        """Fetch, compute and quality figures of the last 24 hours."""
        return self._reader.metrics()

    def get_job_status(self, symbol: str) -> Any:
        """The symbol's newest item, or None for an untracked symbol."""
        return self._reader.job_status(symbol)

    def trigger_enrichment_now(
        self, symbols: Sequence[str] | None = None, asset_class: str | None = None
    ) -> Any:
        """Open a manual job for these symbols, an asset class, or all."""
        return self._commands.trigger(symbols=symbols, asset_class=asset_class, actor=self._actor)

    def pause(self) -> Any:
        """Keep everything from being claimed until `resume()`; survives restarts."""
        return self._commands.pause(actor=self._actor)

    def resume(self) -> Any:
        """Lift the pause."""
        return self._commands.resume(actor=self._actor)
