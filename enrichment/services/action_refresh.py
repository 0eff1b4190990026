"""Keeps the ledger of corporate actions up to date: of the whole market, and of new symbols.

One worker at a time asks every source: shortly before each job of stocks for what is new, in one or
two requests, and as soon as a symbol is tracked for its past. Series whose stored features do not
know a split that became known late are enriched again at once.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice

from enrichment.domain.clock import utc_now
from enrichment.domain.errors import EnrichmentError, ProviderError, Snooze
from enrichment.domain.model import AssetClass, JobKind
from enrichment.domain.schedules import Schedule, nightly
from enrichment.domain.statuses import ItemPriority
from enrichment.vendors.base import ActionSource
from enrichment.warehouse import corporate_actions as ledger
from enrichment.warehouse.database import Connection, Database
from enrichment.warehouse.queue import job_control
from resilience.supervised_thread import supervised_thread

_log = logging.getLogger(__name__)
POLL_SECONDS = 60.0
STARTUP_SECONDS = 10.0  # until what starts beside the worker is ready
ACTOR = "corporate-actions"
_BEFORE_SLOT = timedelta(minutes=15)
_OVERLAP = timedelta(days=30)  # past actions that are asked for again each night
_BY_NAME = 1_000  # more symbols than these are asked for as the whole market, or in turn
_MARKET_REACH = timedelta(days=400)  # of one request for the whole market
_MAX_WITHDRAWN = 0.1  # of what a source listed; more is a fault of its answer


@dataclass(frozen=True, slots=True)
class Refresh:
    """What a refresh of one source did."""

    source: str
    reported: int = 0
    changed: int = 0
    withdrawn: int = 0
    enriched_again: tuple[str, ...] = ()
    error: str | None = None


class ActionRefresh:
    """Asks the sources when that is due.

    Args:
        db: The database.
        sources: None of them is asked twice at the same time, however many workers there are.
        schedules: When jobs start.
        history_days: How far back the actions of a new symbol are asked for.
        now: The wall clock.
    """

    def __init__(
        self,
        db: Database,
        sources: Sequence[ActionSource],
        schedules: Sequence[Schedule] = (nightly(),),
        *,
        history_days: int,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._db, self._sources, self._now = db, sources, now
        stocks = [schedule for schedule in schedules if _has_actions(schedule)]
        self._schedules = stocks or schedules
        self._history = timedelta(days=history_days)
        self._stop = threading.Event()
        self._starting = True

    def run(self) -> None:
        """Look every minute whether a refresh is due, until `stop()`."""
        while not self._stop.wait(STARTUP_SECONDS if self._starting else POLL_SECONDS):
            self._starting = False
            for source in self._sources:
                try:
                    self.refresh_if_due(source)
                except EnrichmentError as exc:
                    _log.error("corporate actions of %s: %s", source.source, exc)
                except Exception:  # the thread lives as long as the worker
                    _log.exception("corporate actions of %s", source.source)

    def start(self) -> None:
        """Run in a daemon thread, if there is a source."""
        if self._sources:
            supervised_thread("corporate-actions", self.run, self._stop).start()

    def stop(self) -> None:
        """End `run` after the request at hand."""
        self._stop.set()

    def refresh_all(self) -> list[Refresh]:
        """Ask every source now, whether or not that is due."""
        return [self.refresh(source) for source in self._sources]

    def refresh_if_due(self, source: ActionSource) -> Refresh | None:
        """Ask a source if that is due and no other worker does; None if not."""
        now = self._now()
        with self._db.begin() as conn:
            claim = ledger.claim_refresh(conn, source.source, self._due_since(now), now)
        return None if claim is None else self.refresh(source, market=claim)

    def refresh(self, source: ActionSource, *, market: bool = True) -> Refresh:
        """Ask a source for the past of new symbols and, with `market`, for what is new."""
        try:
            new = self._refresh_market(source) if market else Refresh(source.source)
            past = self._refresh_symbols(source)
        except (ProviderError, Snooze) as exc:
            with self._db.begin() as conn:
                ledger.note_failure(conn, source.source, str(exc), self._now())
            _log.warning("corporate actions of %s: %s", source.source, exc)
            return Refresh(source.source, error=str(exc))
        result = Refresh(
            source.source,
            new.reported + past.reported,
            new.changed + past.changed,
            new.withdrawn,
            (*new.enriched_again, *past.enriched_again),
        )
        _log.info(
            "corporate actions of %s: %d reported, %d changed, %d withdrawn",
            *(result.source, result.reported, result.changed, result.withdrawn),
        )
        return result

    def _due_since(self, now: datetime) -> datetime:
        """The latest moment at which a refresh was due: shortly before a job of stocks."""
        soon = now + _BEFORE_SLOT
        return max(schedule.last_slot(soon).at for schedule in self._schedules) - _BEFORE_SLOT

    def _refresh_market(self, source: ActionSource) -> Refresh:
        now = self._now()
        with self._db.begin() as conn:
            last = ledger.last_refresh(conn, source.source)
        since = ((last or now) - _OVERLAP).date()
        reported = source.fetch_actions(since)
        with self._db.begin() as conn:
            gone = ledger.listed_by(conn, source.source, since) - set(map(ledger.key_of, reported))
            if len(gone) > max(3, _MAX_WITHDRAWN * len(reported)):
                _log.warning(
                    "%s no longer lists %d actions: not believed", source.source, len(gone)
                )
                gone = set()
            changed = ledger.record(conn, reported)
            withdrawn = ledger.withdraw(conn, gone, source.source, now)
            again = enrich_again(conn, changed | withdrawn)
            ledger.note_refresh(conn, source.source, "", since, now)
        return Refresh(source.source, len(reported), len(changed), len(withdrawn), again)

    def _refresh_symbols(self, source: ActionSource) -> Refresh:
        """The past of the symbols of which the source was not asked far enough back."""
        now = self._now()
        with self._db.begin() as conn:
            wanted = ledger.symbols_without_past(conn, source.source, (now - self._history).date())
        if not wanted:
            return Refresh(source.source)
        since = min(wanted.values())
        if len(wanted) > _BY_NAME and since < (now - _MARKET_REACH).date():
            wanted = dict(islice(wanted.items(), _BY_NAME))
        reported = source.fetch_actions(since, None if len(wanted) > _BY_NAME else list(wanted))
        with self._db.begin() as conn:
            changed = ledger.record(conn, reported)
            again = enrich_again(conn, changed)
            for symbol, first in wanted.items():
                ledger.note_refresh(conn, source.source, symbol, first, now)
        return Refresh(source.source, len(reported), len(changed), 0, again)


def _has_actions(schedule: Schedule) -> bool:
    """Whether it covers securities that are split and pay dividends."""
    return {AssetClass.STOCK, AssetClass.ETF} & set(schedule.asset_classes) != set()


def enrich_again(conn: Connection, changed: Collection[ledger.Key]) -> tuple[str, ...]:
    """Open a job for the symbols whose stored features do not fit the splits any more.

    Flags on a price step that a split now explains are removed.
    """
    symbols = ledger.outdated_symbols(conn, changed)
    if symbols:
        job_control.open_job(
            conn,
            JobKind.MANUAL,
            action="trigger",
            actor=ACTOR,
            reason="a split became known after its bars",
            params={"symbols": symbols},
            symbols=symbols,
            priority=ItemPriority.ACTIONS,
        )
    return tuple(symbols)
