"""The straight line of one symbol: fetch → validate → features → quality → one transaction."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import Generic, Protocol, TypeVar

import numpy as np

from enrichment.domain.bars import to_datetime64 as _ts
from enrichment.domain.errors import ProviderError, Snooze, StepFailed, UnknownSymbol
from enrichment.domain.model import AssetClass, Checked, Fetched, Task, Timeframe, Window
from enrichment.domain.series import Download, Enriched, Known, Rebase, Tail
from enrichment.pipeline import fetch_plan, reconcile
from enrichment.pipeline.features import LOOKBACK
from enrichment.pipeline.merge import join
from enrichment.pipeline.steps import Report, Series, step
from enrichment.pipeline.validation import Request, validate

Outcome = TypeVar("Outcome", covariant=True)


class Source(Protocol):
    """Where bars come from: one provider, or several in order."""

    def fetch(
        self, symbol: str, asset_class: AssetClass, timeframe: Timeframe, window: Window
    ) -> Fetched: ...

    def fetch_elsewhere(
        self,
        symbol: str,
        asset_class: AssetClass,
        timeframe: Timeframe,
        window: Window,
        *,
        but: str,
    ) -> Fetched | None:
        """The same from another source than `but`; None where no other can be asked now."""


class Warehouse(Protocol[Outcome]):
    """Where bars go to. Outcome: what it answers to a commit, `Written` or a promise of it."""

    def read(
        self, tasks: Sequence[Task], now: datetime
    ) -> Mapping[Task, Mapping[Timeframe, Known]]:
        """What is known of every series of the tasks, where it can be read together."""

    def describe(self, symbol: str, timeframe: Timeframe) -> Known: ...

    def tail(
        self, symbol: str, timeframe: Timeframe, since: datetime | None, lookback: int
    ) -> Tail:
        """All bars from `since` on (None: all there are), after `lookback` bars before it."""

    def keep(self, task: Task, enriched: Enriched, left: datetime) -> None:
        """Write one piece of a backfill; what is left to do ends at `left`."""

    def commit(self, task: Task, series: Sequence[Enriched]) -> Outcome:
        """Write everything that is left of a task, and its completion."""


class Pipeline(Generic[Outcome]):
    """Enriches tasks, any number of them at once.

    history_days: how far back the first run of a series reaches, in days.
    piece: bars of a backfill that are fetched and stored at a time.
    now: the wall clock, timezone-aware UTC.
    side_by_side: for how many timeframes of a symbol at once.
    """

    def __init__(
        self,
        source: Source,
        warehouse: Warehouse[Outcome],
        *,
        history_days: int,
        now: Callable[[], datetime],
        piece: int = fetch_plan.BARS_PER_PIECE,
        side_by_side: int = 1,
    ) -> None:
        self._source = source
        self._warehouse = warehouse
        self._history = timedelta(days=history_days)
        self._now = now
        self._piece = piece
        self._side_by_side = side_by_side

    def ready(self, tasks: Sequence[Task]) -> list[Callable[[Task, Report], Outcome]]:
        """`enrich` for each of the tasks, with what is stored of their series read together."""
        known = self._warehouse.read([t for t in tasks if t.backfill is None], self._now())
        return [partial(self.enrich, known=known.get(task)) for task in tasks]

    def enrich(
        self,
        task: Task,
        report: Report = lambda step: None,
        known: Mapping[Timeframe, Known] | None = None,
    ) -> Outcome:
        """Bring every timeframe of the task up to date; answers with the rows written.

        A backfill is stored piece by piece, so that it goes on where it was interrupted; everything
        else in one transaction. report: told the name of each step as it begins. known: what was
        read of its series since the task was claimed; None: it is read now. Raises StepFailed from
        the cause; what is not yet stored is not written then.
        """
        now = self._now()
        series = [Series(task, timeframe, now, report) for timeframe in task.timeframes]
        if task.backfill is not None:
            for one in series:
                self._backfill(one, task.backfill)
            enriched = []
        else:
            if known is None:
                with step("read", None, report):
                    known = self._warehouse.read([task], now)[task]
            enriched = self._updated(series, known)
        with step("store", None, report):
            return self._warehouse.commit(task, enriched)

    def _updated(
        self, series: Sequence[Series], known: Mapping[Timeframe, Known]
    ) -> list[Enriched]:
        """Each series up to date, one after another or some side by side."""
        each = [known[one.timeframe] for one in series]
        if self._side_by_side == 1 or len(series) == 1:
            return list(map(self._update, series, each))
        with ThreadPoolExecutor(self._side_by_side, thread_name_prefix="timeframe") as threads:
            return list(threads.map(self._update, series, each))

    def _update(self, series: Series, known: Known) -> Enriched:
        """The newest bars, and what is missing and due."""
        main = fetch_plan.main_window(known, series.now, self._history)
        holes = fetch_plan.heals(series.timeframe, known.due, main.start)
        return self._bring(series, known, main, holes)

    def _backfill(self, series: Series, wanted: Window) -> None:
        """The wanted stretch of history, newest piece first, each stored as it arrives."""
        known = self._describe(series)
        window = fetch_plan.joined(wanted, known, series.now)
        left = series.task.left_of(series.timeframe) or window.end
        rest = Window(window.start, left)
        for piece in fetch_plan.pieces(rest, series.timeframe, self._piece):
            enriched = self._bring(series, known, piece, [])
            with series.step("store"):
                self._warehouse.keep(series.task, enriched, piece.start)
            known = self._describe(series)
        if known.bars == 0:
            with series.step("fetch"):
                raise UnknownSymbol(_never_seen("no vendor", series))

    def _bring(
        self, series: Series, known: Known, main: Window, holes: Sequence[Window]
    ) -> Enriched:
        """Fetch the windows, compare the seam, and join the answers to what is stored."""
        answer = self._ask(series, main)
        _refuse_nothing(series, known, answer)
        if not holes and (same := _same(series, known, answer)) is not None:
            return _joined(series, known, known.tail or Tail(), [same])
        since = min(window.start for window in (main, *holes))
        tail = self._tail(series, since if known.complete else None, known)
        downloads = [_checked(series, answer, tail)]
        rebase = None
        if _is_deep(known, tail, downloads[0]):
            whole = Window(min(known.history_from or main.start, main.start), series.now)
            tail = self._tail(series, None, known)
            downloads = [self._fetch(series, whole, Tail())]
            rebase = reconcile.rebase(tail.bars, downloads[0].checked.bars)
        else:
            for hole in holes:
                downloads += self._heal(series, hole, tail, known)
        return _joined(series, known, tail, downloads, rebase)

    def _describe(self, series: Series) -> Known:
        with series.step("read"):
            return self._warehouse.describe(series.task.symbol, series.timeframe)

    def _tail(self, series: Series, since: datetime | None, known: Known) -> Tail:
        if known.tail is not None and not known.tail.bare and since == known.overlap_from:
            return known.tail
        with series.step("read"):
            return self._warehouse.tail(series.task.symbol, series.timeframe, since, LOOKBACK)

    def _fetch(self, series: Series, window: Window, tail: Tail) -> Download:
        return _checked(series, self._ask(series, window), tail)

    def _ask(self, series: Series, window: Window) -> Download:
        task = series.task
        with series.step("fetch") as fetching:
            fetched = self._source.fetch(task.symbol, task.asset_class, series.timeframe, window)
        return Download(window, fetched, fetching.milliseconds)

    def _heal(self, series: Series, hole: Window, tail: Tail, known: Known) -> list[Download]:
        """Ask once more for missing bars, then another vendor for what this one does not have.

        A failure is noted with the gaps and does not fail the item.
        """
        try:
            again = self._fetch(series, hole, tail)
        except StepFailed as exc:
            if not isinstance(exc.__cause__, ProviderError | Snooze):
                raise
            why = str(exc.__cause__)
            return [Download(hole, None, exc.duration_ms, failure=why, cause="failed_request")]
        due = known.due[(known.due >= _ts(hole.start)) & (known.due < _ts(hole.end))]
        if np.isin(due, again.checked.bars.ts).all():
            return [again]
        return self._second_opinion(series, tail, again)

    def _second_opinion(self, series: Series, tail: Tail, first: Download) -> list[Download]:
        """The answer, and what another vendor adds to it; where both miss a bar, nobody traded."""
        task, window = series.task, first.window
        with series.step("fetch") as fetching:
            other = self._source.fetch_elsewhere(
                task.symbol, task.asset_class, series.timeframe, window, but=first.source
            )
        if other is None:
            return [first]
        second = _checked(series, Download(window, other, fetching.milliseconds), tail)
        added = second.checked.bars.take(second.checked.bars.not_in(first.checked.bars))
        told = tuple(reconcile.from_elsewhere(added, other))
        return [
            replace(first, cause="no_trades"),
            replace(
                second, cause="no_trades", checked=replace(second.checked, bars=added, flags=told)
            ),
        ]


def _same(series: Series, known: Known, answer: Download) -> Download | None:
    """The answer, if it only says what is stored."""
    if known.tail is None or answer.fetched is None:
        return None
    with series.step("validate"):
        request = Request(series.task.asset_class, series.timeframe, answer.window, series.now)
        stored = reconcile.unchanged(known, known.tail, answer.fetched, request)
    return None if stored is None else replace(answer, checked=Checked(stored), same=True)


def _checked(series: Series, answer: Download, tail: Tail) -> Download:
    if answer.fetched is None:
        raise ValueError("there is no answer to be checked")
    with series.step("validate"):
        checked = validate(
            answer.fetched.bars,
            asset_class=series.task.asset_class,
            timeframe=series.timeframe,
            window=answer.window,
            now=series.now,
            context=tail.bars,
        )
    return replace(answer, checked=checked)


def _joined(
    series: Series,
    known: Known,
    tail: Tail,
    downloads: Sequence[Download],
    rebase: Rebase | None = None,
) -> Enriched:
    with series.step("compute"):
        kind = series.task.asset_class
        return join(kind, series.timeframe, known, tail, downloads, rebase, series.now)


def _is_deep(known: Known, tail: Tail, main: Download) -> bool:
    """Whether the overlap shows a change of the history behind it."""
    if known.source not in (None, main.source):
        return reconcile.rebase(tail.bars, main.checked.bars) is not None
    return reconcile.reaches_back(known, tail.bars, main.checked.bars)


def _refuse_nothing(series: Series, known: Known, main: Download) -> None:
    """UnknownSymbol where a vendor has no bar at all; a piece of a backfill may be empty."""
    if main.fetched is None or len(main.fetched.bars) > 0 or series.task.backfill is not None:
        return
    symbol, timeframe = series.task.symbol, series.timeframe
    with series.step("fetch"):
        if known.bars == 0:
            raise UnknownSymbol(_never_seen(main.source, series))
        raise UnknownSymbol(
            f"{main.source} returned nothing for {symbol} {timeframe}, of which "
            f"{known.bars:,} bars are stored: it may be delisted or renamed; what is stored stays"
        )


def _never_seen(source: str, series: Series) -> str:
    return (
        f"{source} has no {series.timeframe} bars of {series.task.symbol}: check the ticker and "
        "its asset class, or remove it with 'enrichment symbols remove'"
    )
