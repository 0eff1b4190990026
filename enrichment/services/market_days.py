"""Fetches days of the whole market for jobs whose symbols would cost more requests one by one.

In each worker one thread plans the jobs that have no plan yet, and one fetches the planned days,
each with one request, however many workers there are. The items that need them start when the last
one is there. What can't be had this way is asked for symbol by symbol.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Sequence
from datetime import date, datetime, timedelta
from functools import partial
from uuid import UUID

from enrichment.domain.clock import utc_now
from enrichment.domain.errors import (
    AccessDenied,
    Cancelled,
    DatabaseUnavailable,
    EnrichmentError,
    MalformedResponse,
    ProviderError,
    Snooze,
)
from enrichment.domain.market_days import MarketDay
from enrichment.domain.statuses import ItemPriority, MarketDayStatus, SnoozeCause
from enrichment.services.request_plan import RequestSettings, plan_requests
from enrichment.vendors.failover import FAILOVER_AFTER
from enrichment.vendors.market_days import MarketDaySource
from enrichment.warehouse.database import Connection, Database
from enrichment.warehouse.queue import jobs
from enrichment.warehouse.queue import market_days as queue
from enrichment.warehouse.queue.market_days import DueDay
from resilience import Priority, with_priority
from resilience.clock import interruptible
from resilience.supervised_thread import supervised_thread

_log = logging.getLogger(__name__)
POLL_SECONDS = 1.0
MAX_ATTEMPTS = 3
_FIRST_RETRY_SECONDS = 5.0
_MIN_SHARE = 0.5  # of the symbols; an answer with fewer is not believed
_FORBIDDEN = 403


class MarketDayFetcher:
    """Plans and fetches until `stop()`.

    Args:
        db: The database.
        source: What is asked for whole days.
        settings: That requests depend on.
        now: The wall clock.
        failover_after: A day that is kept waiting for so long is given up.
    """

    def __init__(
        self,
        db: Database,
        source: MarketDaySource,
        settings: RequestSettings,
        *,
        now: Callable[[], datetime] = utc_now,
        failover_after: timedelta = FAILOVER_AFTER,
    ) -> None:
        self._db, self._source, self._settings = db, source, settings
        self._now = now
        self._failover_after = failover_after.total_seconds()
        self._stop = threading.Event()
        self._job_waits, self._day_waits = threading.Event(), threading.Event()

    def start(self) -> None:
        """Plan and fetch in two daemon threads."""
        for name, waits, step in (
            ("market-day-plans", self._job_waits, self.plan_next),
            ("market-days", self._day_waits, self.fetch_next),
        ):
            supervised_thread(name, partial(self._run, waits, step), self._stop).start()

    def stop(self) -> None:
        """End the threads; a day that is being fetched is left to another worker."""
        self._stop.set()
        self.wake()

    def wake(self) -> None:
        """Look for jobs now instead of at the next poll."""
        self._job_waits.set()
        self._day_waits.set()

    def _run(self, waits: threading.Event, step: Callable[[], bool]) -> None:
        last_error = ""
        while not self._stop.is_set():
            waits.clear()
            try:
                while step() and not self._stop.is_set():
                    pass
                last_error = ""
            except Cancelled:
                return
            except EnrichmentError as exc:
                if str(exc) != last_error:  # logged once, not at every poll
                    _log.error("days of the market: %s", exc)
                last_error = str(exc)
            waits.wait(POLL_SECONDS)

    def plan_next(self) -> bool:
        """Plan a job that has no plan yet; False if there is none."""
        with self._db.begin() as conn:
            job_id = queue.job_to_plan(conn)
            if job_id is None:
                return False
            days, symbols = self._planned(conn, job_id)
            queue.save_plan(conn, job_id, self._source.source, days, symbols)
            jobs.notify(conn)
        if days:
            _log.info(
                "job %s: %d days of the whole market in place of %d symbols' own requests",
                *(job_id, len(days), len(symbols)),
            )
        self._day_waits.set()
        return True

    def _planned(self, conn: Connection, job_id: UUID) -> tuple[Sequence[date], Collection[str]]:
        """The days, and the symbols that need nothing else; none if the job can't be planned."""
        items = queue.waiting_items(conn, job_id)
        try:
            with conn.begin_nested():
                plan = plan_requests(conn, items, now=self._now(), settings=self._settings)
        except DatabaseUnavailable:
            raise
        except Exception:  # a job that is never planned would never start
            _log.exception("job %s is not planned: each symbol asks for itself", job_id)
            return (), ()
        return plan.market_days, plan.by_market_days

    def fetch_next(self) -> bool:
        """Fetch a due day, or note why not; False if none is due."""
        with self._db.begin() as conn:
            due = queue.claim(conn, self._source.source, self._source.name)
            if due is not None:
                interactive = due.priority <= ItemPriority.BACKFILL
                priority = Priority.HIGH if interactive else Priority.NORMAL
                with interruptible(self._require_running), with_priority(priority):
                    self._fetch(conn, due)
        with self._db.begin() as conn:
            released = queue.release_items(conn)
            if released:
                jobs.notify(conn)
            if due is None:
                queue.discard_content(conn)
        return due is not None

    def _require_running(self) -> None:
        if self._stop.is_set():
            raise Cancelled("the worker stops")

    def _fetch(self, conn: Connection, due: DueDay) -> None:
        try:
            day = self._required(self._source.fetch_day(due.day), conn, due)
        except Snooze as exc:
            self._postpone(
                conn, due, exc.seconds, str(exc), attempt=exc.cause is SnoozeCause.OUTAGE
            )
        except AccessDenied as exc:
            refused = exc.http_status == _FORBIDDEN
            status = MarketDayStatus.REFUSED if refused else MarketDayStatus.FAILED
            self._give_up(conn, due, status, str(exc))
        except ProviderError as exc:
            if exc.permanent:
                self._give_up(conn, due, MarketDayStatus.FAILED, str(exc))
            else:
                delay = _FIRST_RETRY_SECONDS * 2.0**due.attempts
                self._postpone(conn, due, delay, str(exc), attempt=True)
        except (DatabaseUnavailable, Cancelled):
            raise
        except Exception as exc:  # a day that never ends would keep its job from starting
            _log.exception("the market on %s", due.day)
            self._postpone(conn, due, _FIRST_RETRY_SECONDS, repr(exc), attempt=True)
        else:
            queue.store(conn, due, day)

    def _required(self, day: MarketDay, conn: Connection, due: DueDay) -> MarketDay:
        """The bars of the job's symbols. Raises MalformedResponse if most of them are missing."""
        if not day.symbols and due.newest:
            return day
        symbols = queue.symbols_of(conn, due.job_id)
        kept = day.of(symbols)
        if len(kept.symbols) < _MIN_SHARE * len(symbols):
            raise MalformedResponse(
                f"{self._source.name} sent {len(kept.symbols)} of {len(symbols)} symbols of "
                f"{due.day}"
            )
        return kept

    def _postpone(
        self, conn: Connection, due: DueDay, seconds: float, why: str, *, attempt: bool
    ) -> None:
        last = attempt and due.attempts + 1 >= MAX_ATTEMPTS
        if last or due.waited + seconds > self._failover_after:
            self._give_up(conn, due, MarketDayStatus.FAILED, why)
            return
        queue.postpone(conn, due, seconds, why, attempt=attempt)

    def _give_up(self, conn: Connection, due: DueDay, status: MarketDayStatus, why: str) -> None:
        _log.warning("the market on %s is asked for symbol by symbol: %s", due.day, why)
        queue.give_up(conn, due, status, why)
