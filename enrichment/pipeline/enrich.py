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
from enrichment.domain.model import (
    AssetClass,
    FetchedBars,
    Task,
    Timeframe,
    ValidationResult,
    Window,
)
from enrichment.domain.series import FetchResult, Rebase, SeriesSnapshot, SeriesUpdate, StoredTail
from enrichment.domain.statuses import GapCause
from enrichment.pipeline import fetch_plan, reconcile
from enrichment.pipeline.features import LOOKBACK
from enrichment.pipeline.merge import merge
from enrichment.pipeline.steps import OnStep, SeriesRun, step
from enrichment.pipeline.validation import ValidationRequest, validate

Outcome = TypeVar("Outcome", covariant=True)


class BarSource(Protocol):
    """Where bars come from: one provider, or several in order."""

    def fetch(
        self, symbol: str, asset_class: AssetClass, timeframe: Timeframe, window: Window
    ) -> FetchedBars: ...

    def fetch_from_other(
        self,
        symbol: str,
        asset_class: AssetClass,
        timeframe: Timeframe,
        window: Window,
        *,
        excluding: str,
    ) -> FetchedBars | None:
        """The same from another source than `but`; None where no other can be asked now."""


class SeriesStore(Protocol[Outcome]):
    """Where bars go to. Outcome: what it answers to a commit, `Written` or a promise of it."""

    def read_snapshots(
        self, tasks: Sequence[Task], now: datetime
    ) -> Mapping[Task, Mapping[Timeframe, SeriesSnapshot]]:
        """What is known of every series of the tasks, where it can be read together."""

    def snapshot(self, symbol: str, timeframe: Timeframe) -> SeriesSnapshot: ...

    def read_tail(
        self, symbol: str, timeframe: Timeframe, since: datetime | None, lookback: int
    ) -> StoredTail:
        """All bars from `since` on (None: all there are), after `lookback` bars before it."""

    def store_chunk(self, task: Task, enriched: SeriesUpdate, left: datetime) -> None:
        """Write one piece of a backfill; what is left to do ends at `left`."""

    def commit(self, task: Task, series: Sequence[SeriesUpdate]) -> Outcome:
        """Write everything that is left of a task, and its completion."""


class EnrichmentPipeline(Generic[Outcome]):
    """Enriches tasks, any number of them at once.

    history_days: how far back the first run of a series reaches, in days.
    piece: bars of a backfill that are fetched and stored at a time.
    now: the wall clock, timezone-aware UTC.
    side_by_side: for how many timeframes of a symbol at once.
    """

    def __init__(
        self,
        source: BarSource,
        warehouse: SeriesStore[Outcome],
        *,
        history_days: int,
        now: Callable[[], datetime],
        bars_per_chunk: int = fetch_plan.BARS_PER_CHUNK,
        parallel_timeframes: int = 1,
    ) -> None:
        self._source = source
        self._warehouse = warehouse
        self._history = timedelta(days=history_days)
        self._now = now
        self._piece = bars_per_chunk
        self._side_by_side = parallel_timeframes

    def prepare_batch(self, tasks: Sequence[Task]) -> list[Callable[[Task, OnStep], Outcome]]:
        """`enrich` for each of the tasks, with what is stored of their series read together."""
        known = self._warehouse.read_snapshots(
            [t for t in tasks if t.backfill is None], self._now()
        )
        return [partial(self.enrich, known=known.get(task)) for task in tasks]

    def enrich(
        self,
        task: Task,
        report: OnStep = lambda step: None,
        known: Mapping[Timeframe, SeriesSnapshot] | None = None,
    ) -> Outcome:
        """Bring every timeframe of the task up to date; answers with the rows written.

        A backfill is stored piece by piece, so that it goes on where it was interrupted; everything
        else in one transaction. report: told the name of each step as it begins. known: what was
        read of its series since the task was claimed; None: it is read now. Raises StepFailed from
        the cause; what is not yet stored is not written then.
        """
        now = self._now()
        series = [SeriesRun(task, timeframe, now, report) for timeframe in task.timeframes]
        if task.backfill is not None:
            for one in series:
                self._backfill(one, task.backfill)
            enriched = []
        else:
            if known is None:
                with step("read", None, report):
                    known = self._warehouse.read_snapshots([task], now)[task]
            enriched = self._updated(series, known)
        with step("store", None, report):
            return self._warehouse.commit(task, enriched)

    def _updated(
        self, series: Sequence[SeriesRun], known: Mapping[Timeframe, SeriesSnapshot]
    ) -> list[SeriesUpdate]:
        """Each series up to date, one after another or some side by side."""
        each = [known[one.timeframe] for one in series]
        if self._side_by_side == 1 or len(series) == 1:
            return list(map(self._update, series, each))
        with ThreadPoolExecutor(self._side_by_side, thread_name_prefix="timeframe") as threads:
            return list(threads.map(self._update, series, each))

    def _update(self, series: SeriesRun, known: SeriesSnapshot) -> SeriesUpdate:
        """The newest bars, and what is missing and due."""
        main = fetch_plan.incremental_window(known, series.now, self._history)
        holes = fetch_plan.gap_windows(series.timeframe, known.gaps_due, main.start)
        return self._refresh(series, known, main, holes)

    def _backfill(self, series: SeriesRun, wanted: Window) -> None:
        """The wanted stretch of history, newest piece first, each stored as it arrives."""
        known = self._snapshot(series)
        window = fetch_plan.extend_to_stored(wanted, known, series.now)
        left = series.task.remaining_until(series.timeframe) or window.end
        rest = Window(window.start, left)
        for piece in fetch_plan.backfill_chunks(rest, series.timeframe, self._piece):
            enriched = self._refresh(series, known, piece, [])
            with series.step("store"):
                self._warehouse.store_chunk(series.task, enriched, piece.start)
            known = self._snapshot(series)
        if known.bars == 0:
            with series.step("fetch"):
                raise UnknownSymbol(_no_bars_message("no vendor", series))

    def _refresh(
        self, series: SeriesRun, known: SeriesSnapshot, main: Window, holes: Sequence[Window]
    ) -> SeriesUpdate:
        """Fetch the windows, compare the seam, and join the answers to what is stored."""
        answer = self._fetch(series, main)
        _require_bars(series, known, answer)
        if not holes and (same := _unchanged(series, known, answer)) is not None:
            return _merged(series, known, known.tail or StoredTail(), [same])
        since = min(window.start for window in (main, *holes))
        tail = self._read_tail(series, since if known.features_current else None, known)
        downloads = [_validated(series, answer, tail)]
        rebase = None
        if _history_changed(known, tail, downloads[0]):
            whole = Window(min(known.history_from or main.start, main.start), series.now)
            tail = self._read_tail(series, None, known)
            downloads = [self._fetch_and_validate(series, whole, StoredTail())]
            rebase = reconcile.detect_rebase(tail.bars, downloads[0].validation.bars)
        else:
            for hole in holes:
                downloads += self._refetch_gap(series, hole, tail, known)
        return _merged(series, known, tail, downloads, rebase)

    def _snapshot(self, series: SeriesRun) -> SeriesSnapshot:
        with series.step("read"):
            return self._warehouse.snapshot(series.task.symbol, series.timeframe)

    def _read_tail(
        self, series: SeriesRun, since: datetime | None, known: SeriesSnapshot
    ) -> StoredTail:
        if (
            known.tail is not None
            and not known.tail.without_lookback
            and since == known.overlap_from
        ):
            return known.tail
        with series.step("read"):
            return self._warehouse.read_tail(series.task.symbol, series.timeframe, since, LOOKBACK)

    def _fetch_and_validate(
        self, series: SeriesRun, window: Window, tail: StoredTail
    ) -> FetchResult:
        return _validated(series, self._fetch(series, window), tail)

    def _fetch(self, series: SeriesRun, window: Window) -> FetchResult:
        task = series.task
        with series.step("fetch") as fetching:
            fetched = self._source.fetch(task.symbol, task.asset_class, series.timeframe, window)
        return FetchResult(window, fetched, fetching.milliseconds)

    def _refetch_gap(
        self, series: SeriesRun, hole: Window, tail: StoredTail, known: SeriesSnapshot
    ) -> list[FetchResult]:
        """Ask once more for missing bars, then another vendor for what this one does not have.

        A failure is noted with the gaps and does not fail the item.
        """
        try:
            again = self._fetch_and_validate(series, hole, tail)
        except StepFailed as exc:
            if not isinstance(exc.__cause__, ProviderError | Snooze):
                raise
            why = str(exc.__cause__)
            return [
                FetchResult(hole, None, exc.duration_ms, failure=why, cause=GapCause.FAILED_REQUEST)
            ]
        due = known.gaps_due[(known.gaps_due >= _ts(hole.start)) & (known.gaps_due < _ts(hole.end))]
        if np.isin(due, again.validation.bars.ts).all():
            return [again]
        return self._ask_other_vendor(series, tail, again)

    def _ask_other_vendor(
        self, series: SeriesRun, tail: StoredTail, first: FetchResult
    ) -> list[FetchResult]:
        """The answer, and what another vendor adds to it; where both miss a bar, nobody traded."""
        task, window = series.task, first.window
        with series.step("fetch") as fetching:
            other = self._source.fetch_from_other(
                task.symbol, task.asset_class, series.timeframe, window, excluding=first.source
            )
        if other is None:
            return [first]
        second = _validated(series, FetchResult(window, other, fetching.milliseconds), tail)
        added = second.validation.bars.take(
            second.validation.bars.missing_from(first.validation.bars)
        )
        told = tuple(reconcile.other_source_flags(added, other))
        return [
            replace(first, cause=GapCause.NO_TRADES),
            replace(
                second,
                cause=GapCause.NO_TRADES,
                validation=replace(second.validation, bars=added, flags=told),
            ),
        ]


def _unchanged(series: SeriesRun, known: SeriesSnapshot, answer: FetchResult) -> FetchResult | None:
    """The answer, if it only says what is stored."""
    if known.tail is None or answer.fetched is None:
        return None
    with series.step("validate"):
        request = ValidationRequest(
            series.task.asset_class, series.timeframe, answer.window, series.now
        )
        stored = reconcile.matches_stored(known, known.tail, answer.fetched, request)
    return (
        None
        if stored is None
        else replace(answer, validation=ValidationResult(stored), unchanged=True)
    )


def _validated(series: SeriesRun, answer: FetchResult, tail: StoredTail) -> FetchResult:
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
    return replace(answer, validation=checked)


def _merged(
    series: SeriesRun,
    known: SeriesSnapshot,
    tail: StoredTail,
    downloads: Sequence[FetchResult],
    rebase: Rebase | None = None,
) -> SeriesUpdate:
    with series.step("compute"):
        kind = series.task.asset_class
        return merge(kind, series.timeframe, known, tail, downloads, rebase, series.now)


def _history_changed(known: SeriesSnapshot, tail: StoredTail, main: FetchResult) -> bool:
    """Whether the overlap shows a change of the history behind it."""
    if known.source not in (None, main.source):
        return reconcile.detect_rebase(tail.bars, main.validation.bars) is not None
    return reconcile.changed_before_overlap(known, tail.bars, main.validation.bars)


def _require_bars(series: SeriesRun, known: SeriesSnapshot, main: FetchResult) -> None:
    """UnknownSymbol where a vendor has no bar at all; a piece of a backfill may be empty."""
    if main.fetched is None or len(main.fetched.bars) > 0 or series.task.backfill is not None:
        return
    symbol, timeframe = series.task.symbol, series.timeframe
    with series.step("fetch"):
        if known.bars == 0:
            raise UnknownSymbol(_no_bars_message(main.source, series))
        raise UnknownSymbol(
            f"{main.source} returned nothing for {symbol} {timeframe}, of which "
            f"{known.bars:,} bars are stored: it may be delisted or renamed; what is stored stays"
        )


def _no_bars_message(source: str, series: SeriesRun) -> str:
    return (
        f"{source} has no {series.timeframe} bars of {series.task.symbol}: check the ticker and "
        "its asset class, or remove it with 'enrichment symbols remove'"
    )
