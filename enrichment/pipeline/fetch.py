"""Executes the fetch plan of a series: fetches, reads what is stored, validates and compares.

>>> from datetime import UTC, datetime
>>> from uuid import UUID
>>> from enrichment.domain.bars import Bars
>>> from enrichment.domain.model import AssetClass, FetchedBars, Task, Timeframe
>>> class Vendor:
...     def fetch(self, symbol, asset_class, timeframe, window):
...         price = np.full(3, 9.0)
...         ts = np.array(["2024-01-05", "2024-01-07", "2024-01-06"], "datetime64[us]")
...         return FetchedBars(Bars.of(ts, price, price, price, price, price), "demo", False)
>>> task = Task(UUID(int=1), "X:BTCUSD", AssetClass.CRYPTO, (Timeframe.D1,), "worker", 1)
>>> window = Window(datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 1, 8, tzinfo=UTC))
>>> run = SeriesRun(task, Timeframe.D1, window.end, report=lambda step: None)
>>> plan = fetch_plan.plan_chunk(SeriesSnapshot(), window)
>>> fetcher = SeriesFetcher(Vendor(), store=None)
>>> fetched = fetcher.fetch_and_validate(run, SeriesSnapshot(), plan)
>>> [(flag.check, f"{flag.ts:%d %B}") for flag in fetched.fetches[0].validation.flags]
[('out_of_order', '06 January')]
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import cached_property

import numpy as np

from enrichment.domain.bars import (
    Bars,
    Timestamps,
    between,
    isin_sorted,
    no_timestamps,
    to_datetime,
    to_datetime64,
)
from enrichment.domain.calendars import Market, market_of, session_of
from enrichment.domain.corporate_actions import (
    NO_SPLITS,
    Split,
    Splits,
    reported_splits,
    scaled,
    union,
)
from enrichment.domain.errors import NoProvider, ProviderError, Snooze, StepFailed, UnknownSymbol
from enrichment.domain.model import (
    SeriesRepair,
    StockSession,
    Task,
    Timeframe,
    ValidationResult,
    Window,
    is_sandbox,
)
from enrichment.domain.series import NO_TAIL, FetchResult, Rebase, SeriesSnapshot, StoredTail
from enrichment.domain.statuses import GapCause, SnoozeCause
from enrichment.pipeline import fetch_plan, reconcile
from enrichment.pipeline.features import LOOKBACK
from enrichment.pipeline.fetch_plan import FetchPlan, Read, Situation
from enrichment.pipeline.ports import BarSource, SeriesStore
from enrichment.pipeline.validation import validate
from enrichment.pipeline.validation.bars import ValidationRequest
from enrichment.pipeline.validation.missing import missing_bars

OnStep = Callable[[str], None]


@dataclass(frozen=True)
class SeriesRun:
    """One run of one series."""

    task: Task
    timeframe: Timeframe
    now: datetime
    report: OnStep  # called with the name of each step as it begins

    @property
    def repair(self) -> SeriesRepair | None:
        return self.task.repair_of(self.timeframe) if self.task.repairs else None

    @property
    def restarts(self) -> bool:
        """Whether what is stored of the series is given up."""
        return self.repair is not None and self.repair.restart

    @property
    def puts_on_raw_basis(self) -> bool:
        """Whether the whole series is fetched again as it was traded."""
        return self.repair is not None and self.repair.as_traded

    @property
    def backfill(self) -> Window | None:
        """The part of the history that was asked for; None: the newest bars."""
        return self.task.backfill if self.repair is None else self.repair.window

    @cached_property
    def market(self) -> Market:
        """Whose calendar its bars follow, the same throughout the run."""
        return market_of(self.task.symbol, self.task.asset_class, self.timeframe)

    @property
    def session(self) -> StockSession:
        """The hours of its bars."""
        return session_of(self.market)

    def step(self, name: str, spent: float = 0.0) -> AbstractContextManager[Timer]:
        return step(name, self.timeframe, self.report, spent)


class Timer:
    """Duration of a step, of which `spent` milliseconds are over already."""

    def __init__(self, spent: float = 0.0) -> None:
        self._began = time.perf_counter() - spent / 1000.0
        self.milliseconds = 0.0  # until the step has ended

    def stop(self) -> None:
        self.milliseconds = (time.perf_counter() - self._began) * 1000.0


@contextmanager
def step(
    name: str, timeframe: Timeframe | None, report: OnStep, spent: float = 0.0
) -> Iterator[Timer]:
    """Report and time a step. Raises StepFailed from any exception in it.

    >>> with step("fetch", Timeframe.D1, print) as timer:
    ...     timer.milliseconds  # set at the end of the step
    fetch 1d
    0.0
    """
    report(f"{name} {timeframe}" if timeframe else name)
    timer = Timer(spent)
    try:
        yield timer
    except Exception as exc:
        timer.stop()
        raise StepFailed(name, timeframe, timer.milliseconds) from exc
    timer.stop()


_BARS_AROUND_GAP = 10
_CLOSED_AT_MOST = timedelta(days=4)  # a weekend with a holiday
_OUTAGE_SECONDS = 900.0


@dataclass(frozen=True, slots=True, eq=False)
class FetchedSeries:
    """What a run fetched of a series, and the stored bars that belong to it."""

    fetches: Sequence[FetchResult]  # validated, the main one first
    tail: StoredTail
    known_splits: Sequence[Split]  # of the ledger and of this answer
    splits: Splits  # the same as the bars of this timeframe meet them
    rebase: Rebase | None = None  # the change of basis that the main one shows
    replaces_history: bool = False  # whether the main one is the whole history
    restored_until: datetime | None = None  # `tail` was put back to what was traded before this
    withdrawn: Timestamps = field(default_factory=no_timestamps)  # stored bars to be removed
    doubted: Timestamps = field(default_factory=no_timestamps)  # to be removed if missing again
    session: StockSession = StockSession.REGULAR  # the hours of the stored bars after the run


class SeriesFetcher:
    """Fetches series from a source, compared with what a store has of them."""

    def __init__(self, source: BarSource, store: SeriesStore[object]) -> None:
        self._source = source
        self._store = store

    def fetch_and_validate(
        self, run: SeriesRun, snapshot: SeriesSnapshot, plan: FetchPlan
    ) -> FetchedSeries:
        """Execute the plan. Raises StepFailed from the error of the main fetch."""
        main = self._fetch(run, plan.window)
        _require_bars(run, snapshot, plan, main)
        main = _without_rejected(snapshot, main)
        snapshot = _with_reported_splits(run, snapshot, main)
        changes_hours = plan.situation is Situation.SESSION_CHANGED and not _is_fallback(main)
        if (
            snapshot.restores_raw
            and not changes_hours
            and main.fetched is not None
            and not main.fetched.adjusted
        ):
            return self._restored(run, snapshot, plan, main)
        if run.puts_on_raw_basis and main.fetched is not None and not main.fetched.adjusted:
            _require_replacement(run, snapshot, main)
            return self._replaced_history(run, snapshot, plan, main)
        main = _on_stored_basis(run, snapshot, main)
        if plan.situation is Situation.REPAIR or changes_hours:
            return self._replacement(run, snapshot, plan, main)
        main = _without_noise(snapshot.tail or NO_TAIL, main)
        unchanged = None if plan.gaps else _unchanged(run, snapshot, main)
        if unchanged is not None:
            plan = fetch_plan.plan_unchanged(plan)
            return _series(run, snapshot, [unchanged], self._read(run, snapshot, plan))
        tail = self._read(run, snapshot, plan)
        main = _validated(run, snapshot, main, tail)
        if reconcile.history_changed(snapshot, tail.bars, main):
            plan = fetch_plan.plan_refetch(plan, snapshot, run.now)
            return self._refetch_history(run, snapshot, plan)
        withdrawn, doubted = _withdrawn_bars(run, snapshot, tail.bars, main)
        rejected = tail.bars.ts[isin_sorted(tail.bars.ts, snapshot.rejected)]
        withdrawn = np.union1d(withdrawn, rejected) if len(rejected) else withdrawn
        if len(withdrawn):
            kept = tail.bars.take(~isin_sorted(tail.bars.ts, withdrawn))
            main = _validated(run, snapshot, main, replace(tail, bars=kept))
        gaps = [self._refetch_gap(run, gap, tail, snapshot) for gap in plan.gaps]
        fetches = [main, *(result for results in gaps for result in results)]
        series = _series(run, snapshot, fetches, tail)
        return replace(series, withdrawn=withdrawn, doubted=doubted)

    def _fetch(self, run: SeriesRun, window: Window) -> FetchResult:
        with run.step("fetch") as timer:
            task = run.task
            fetched = self._source.fetch(task.symbol, task.asset_class, run.timeframe, window)
        return FetchResult(window, fetched, timer.milliseconds)

    def _read(self, run: SeriesRun, snapshot: SeriesSnapshot, plan: FetchPlan) -> StoredTail:
        if plan.read is Read.SNAPSHOT:
            return snapshot.tail or NO_TAIL
        with run.step("read"):
            return self._store.read_tail(run.task.symbol, run.timeframe, plan.read_from, LOOKBACK)

    def _refetch_history(
        self, run: SeriesRun, snapshot: SeriesSnapshot, plan: FetchPlan
    ) -> FetchedSeries:
        return self._replaced_history(run, snapshot, plan, self._fetch(run, plan.window))

    def _replaced_history(
        self, run: SeriesRun, snapshot: SeriesSnapshot, plan: FetchPlan, main: FetchResult
    ) -> FetchedSeries:
        """The whole history as fetched; stored bars from before it are put on its basis."""
        tail = self._read(run, snapshot, replace(plan, read=Read.ALL))
        anew = replace(snapshot, adjusted_until=None)
        main = _validated(run, anew, _without_noise(tail, main), StoredTail())
        fetched = main.validation.bars
        rebase = reconcile.detect_rebase(tail.bars, fetched)
        if rebase is None and run.puts_on_raw_basis:
            rebase = reconcile.rebase_of_unserved(tail.bars, fetched)
        series = _series(run, snapshot, [main], tail)
        return replace(series, rebase=rebase, replaces_history=True)

    def _restored(
        self, run: SeriesRun, snapshot: SeriesSnapshot, plan: FetchPlan, main: FetchResult
    ) -> FetchedSeries:
        """An adjusted series whose splits are known by now, put back to what was traded."""
        until, splits = snapshot.adjusted_until, _splits(run, snapshot)
        stored = self._read(run, snapshot, replace(plan, read=Read.ALL)).bars
        shares = splits.shares(stored.ts) / splits.shares(stored.ts, adjusted_until=until)
        tail = StoredTail(scaled(stored, 1 / shares))
        snapshot = replace(snapshot, adjusted_until=None)
        series = _series(run, snapshot, [_validated(run, snapshot, main, tail)], tail)
        return replace(series, restored_until=until)

    def _replacement(
        self, run: SeriesRun, snapshot: SeriesSnapshot, plan: FetchPlan, main: FetchResult
    ) -> FetchedSeries:
        """Bars that replace the stored ones, whatever these are."""
        _require_replacement(run, snapshot, main)
        tail = self._read(run, snapshot, plan)
        changes_hours = plan.situation is Situation.SESSION_CHANGED
        withdrawn = _impossible_bars(run, tail.bars, main, of_all=changes_hours)
        kept = tail.bars.take(~isin_sorted(tail.bars.ts, withdrawn))
        main = _validated(run, snapshot, main, replace(tail, bars=kept))
        series = replace(_series(run, snapshot, [main], tail), withdrawn=withdrawn)
        return replace(series, session=run.session) if changes_hours else series

    def _refetch_gap(
        self, run: SeriesRun, window: Window, tail: StoredTail, snapshot: SeriesSnapshot
    ) -> list[FetchResult]:
        """Fetch missing bars again, and those that are still missing from another vendor.

        A failure is recorded with the gaps and does not fail the item.
        """
        try:
            result = _on_stored_basis(run, snapshot, self._fetch(run, window))
            again = _validated(run, snapshot, result, tail)
        except StepFailed as exc:
            if not isinstance(exc.__cause__, ProviderError | Snooze):
                raise
            failure, cause = str(exc.__cause__), GapCause.FAILED_REQUEST
            return [FetchResult(window, None, exc.duration_ms, failure=failure, cause=cause)]
        gaps = between(snapshot.gaps_due, window.start, window.end)
        if np.isin(gaps, again.validation.bars.ts).all():
            return [again]
        return self._fetch_from_other(run, tail, again, snapshot)

    def _fetch_from_other(
        self, run: SeriesRun, tail: StoredTail, first: FetchResult, snapshot: SeriesSnapshot
    ) -> list[FetchResult]:
        """The result, and the bars that another vendor adds.

        Nobody traded in what both miss if both could know: the other one is asked for some bars
        around the window, which show that it lists the symbol.
        """
        window = first.window
        around = max(_BARS_AROUND_GAP * run.timeframe.duration, _CLOSED_AT_MOST)
        wider = Window(window.start - around, min(window.end + around, run.now))
        with run.step("fetch") as timer:
            fetched = self._source.fetch_from_other(
                run.task.symbol, run.task.asset_class, run.timeframe, wider, excluding=first.source
            )
        if fetched is None:
            return [first]
        second = FetchResult(window, fetched, timer.milliseconds)
        second = _on_stored_basis(run, snapshot, second)
        known = _could_know(first, snapshot) and _could_know(second, snapshot)
        cause = GapCause.NO_TRADES if known else GapCause.UNEXPLAINED
        if second.fetched is None:
            return [first]
        within = second.fetched.bars.between(window.start, window.end)
        second = replace(second, fetched=replace(second.fetched, bars=within))
        second = _validated(run, snapshot, second, tail)
        bars = second.validation.bars
        added = bars.take(bars.missing_from(first.validation.bars))
        flags = tuple(reconcile.other_source_flags(added, fetched))
        validation = replace(second.validation, bars=added, flags=flags)
        return [replace(first, cause=cause), replace(second, cause=cause, validation=validation)]


def _is_fallback(result: FetchResult) -> bool:
    return result.fetched is not None and result.fetched.fallback


def _could_know(result: FetchResult, snapshot: SeriesSnapshot) -> bool:
    """Whether the vendor was asked, lists the symbol and reaches back to the window's start."""
    fetched = result.fetched
    if fetched is None or result.served_from > result.window.start:
        return False
    if fetched.requests == 0 and not fetched.shared:
        return False
    return fetched.source == snapshot.source or len(fetched.bars) > 0


def _with_reported_splits(
    run: SeriesRun, snapshot: SeriesSnapshot, main: FetchResult
) -> SeriesSnapshot:
    """The snapshot with the splits that the answer reports and the ledger does not have."""
    if main.fetched is None or not main.fetched.actions:
        return snapshot
    reported = reported_splits(main.fetched.actions, run.now.date())
    return replace(snapshot, splits=union(snapshot.splits, reported))


def _splits(run: SeriesRun, snapshot: SeriesSnapshot) -> Splits:
    if not snapshot.splits:
        return NO_SPLITS
    return Splits.of(snapshot.splits, run.timeframe, run.market)


def _series(
    run: SeriesRun, snapshot: SeriesSnapshot, fetches: Sequence[FetchResult], tail: StoredTail
) -> FetchedSeries:
    session = snapshot.session if snapshot.bars else run.session
    return FetchedSeries(fetches, tail, snapshot.splits, _splits(run, snapshot), session=session)


def _on_stored_basis(run: SeriesRun, snapshot: SeriesSnapshot, result: FetchResult) -> FetchResult:
    if result.fetched is None or snapshot.adjusted_until is None:
        return result
    fetched = reconcile.on_stored_basis(snapshot, result.fetched, _splits(run, snapshot))
    return replace(result, fetched=fetched)


def _request(run: SeriesRun, snapshot: SeriesSnapshot, result: FetchResult) -> ValidationRequest:
    adjusted = result.fetched is not None and result.fetched.adjusted
    return ValidationRequest(
        run.market,
        run.timeframe,
        result.window,
        run.now,
        _splits(run, snapshot),
        run.now if adjusted else snapshot.adjusted_until,
        snapshot.market_returns,
    )


def _unchanged(run: SeriesRun, snapshot: SeriesSnapshot, main: FetchResult) -> FetchResult | None:
    """The result if it equals the stored bars, else None."""
    if snapshot.tail is None or main.fetched is None:
        return None
    with run.step("validate"):
        request = _request(run, snapshot, main)
        stored = reconcile.matches_stored(snapshot, snapshot.tail, main.fetched, request)
    if stored is None:
        return None
    return replace(main, validation=ValidationResult(stored), unchanged=True)


def _validated(
    run: SeriesRun, snapshot: SeriesSnapshot, result: FetchResult, tail: StoredTail
) -> FetchResult:
    if tail is not snapshot.tail:  # else it was compared before
        result = _without_noise(tail, _without_rejected(snapshot, result))
    if result.fetched is None:
        raise ValueError("a failed fetch can't be validated")
    with run.step("validate"):
        request = _request(run, snapshot, result)
        validation = validate(result.fetched.bars, request, context=tail.bars)
    return replace(result, validation=validation)


def _without_rejected(snapshot: SeriesSnapshot, result: FetchResult) -> FetchResult:
    if result.fetched is None or len(snapshot.rejected) == 0:
        return result
    bars = result.fetched.bars
    kept = bars.take(~isin_sorted(bars.ts, snapshot.rejected))
    return replace(result, fetched=replace(result.fetched, bars=kept))


def _without_noise(tail: StoredTail, result: FetchResult) -> FetchResult:
    if result.fetched is None or len(tail.bars.ts) == 0:
        return result
    fetched = reconcile.without_noise(tail.bars, result.fetched)
    return result if fetched is result.fetched else replace(result, fetched=fetched)


def _require_bars(
    run: SeriesRun, snapshot: SeriesSnapshot, plan: FetchPlan, main: FetchResult
) -> None:
    """Raise UnknownSymbol if the vendor sent no bar at all; a chunk of a backfill may be empty."""
    sent = main.fetched is None or len(main.fetched.bars.ts) > 0
    if sent or plan.situation in (Situation.BACKFILL, Situation.REPAIR):
        return
    with run.step("fetch", main.milliseconds):
        if snapshot.bars == 0:
            raise no_bars(main.source, run, _spelling(main))
        raise UnknownSymbol(
            f"{main.source} returned nothing for {_spelling(main) or run.task.symbol} "
            f"{run.timeframe}, of which "
            f"{snapshot.bars:,} bars are stored: it may be delisted or renamed; what is stored "
            "stays"
        )


def _require_replacement(run: SeriesRun, snapshot: SeriesSnapshot, main: FetchResult) -> None:
    """Raise StepFailed from Snooze if a fallback answered for another vendor's series, and from
    UnknownSymbol or NoProvider if nothing real came for a series that is to be started anew.
    """
    with run.step("fetch", main.milliseconds):
        answer = main.fetched
        if run.restarts and is_sandbox(main.source):
            raise NoProvider(
                f"{run.task.symbol} {run.timeframe} is not repaired from the sandbox: set "
                "ENRICHMENT_SANDBOX=false"
            )
        if run.restarts and answer is not None and len(answer.bars) == 0:
            raise no_bars(main.source, run, _spelling(main))
        if answer is not None and answer.fallback and snapshot.source not in (None, main.source):
            reason = f"the repair waits for {snapshot.source}; {main.source} is a fallback"
            raise Snooze(reason, _OUTAGE_SECONDS, SnoozeCause.OUTAGE)


def _withdrawn_bars(
    run: SeriesRun, snapshot: SeriesSnapshot, stored: Bars, main: FetchResult
) -> tuple[Timestamps, Timestamps]:
    """Stored bars that their vendor has taken back, and those that it may have; of the latter also
    those of earlier runs from before this one's window.

    It has if it sent bars of before and after but not this one, in two runs in a row, or in one
    where the calendar has no such bar. Not if it left out most of the bars: such an answer is
    incomplete.
    """
    older = snapshot.doubted[snapshot.doubted < to_datetime64(main.window.start)]
    if main.fetched is None or main.source != snapshot.source or len(main.fetched.bars) == 0:
        return no_timestamps(), older
    sent = np.union1d(main.fetched.bars.ts, snapshot.rejected)
    inside = stored.ts[(stored.ts > sent[0]) & (stored.ts < sent[-1])]
    missing = inside[~isin_sorted(inside, sent)]
    if len(missing) == 0 or 2 * len(missing) > len(inside):
        return no_timestamps(), older
    start = to_datetime(missing[0]) - run.timeframe.duration
    expected = missing_bars(run.market, run.timeframe, no_timestamps(), start, run.now)
    gone = ~isin_sorted(missing, expected) | np.isin(missing, snapshot.doubted)
    return missing[gone], np.append(older, missing[~gone])


def _impossible_bars(
    run: SeriesRun, stored: Bars, main: FetchResult, *, of_all: bool = False
) -> Timestamps:
    """Stored bars of the served part, or of all, that the calendar does not have, or not yet."""
    if main.fetched is None or len(main.fetched.bars) == 0 or len(stored) == 0:
        return no_timestamps()
    since = min(main.served_from, to_datetime(stored.ts[0])) if of_all else main.served_from
    ts = between(stored.ts, since, main.window.end)
    start = since - run.timeframe.duration
    expected = missing_bars(run.market, run.timeframe, no_timestamps(), start, run.now)
    return ts[~isin_sorted(ts, expected)]


def replaces_sandbox(run: SeriesRun, snapshot: SeriesSnapshot, fetched: FetchedSeries) -> bool:
    """Whether real bars came for a series of the sandbox, which is then started anew.

    Raises StepFailed from NoProvider for the reverse: real bars are not given up for the sandbox's.
    """
    if snapshot.source is None:
        return False
    source = fetched.fetches[0].source
    if source == snapshot.source or is_sandbox(snapshot.source) == is_sandbox(source):
        return False
    if not is_sandbox(source):
        return True
    with run.step("fetch"):
        raise NoProvider(
            f"{run.task.symbol} {run.timeframe} has bars of {snapshot.source}, and the sandbox's "
            "are not stored beside them: set ENRICHMENT_SANDBOX=false, or use another database"
        )


def _spelling(result: FetchResult) -> str | None:
    return None if result.fetched is None else result.fetched.spelling


def no_bars(source: str, run: SeriesRun, spelling: str | None = None) -> UnknownSymbol:
    """The error for a symbol without any bar.

    Args:
        source: The vendor.
        run: Of the series.
        spelling: How the vendor was asked for the symbol, if in another spelling.
    """
    symbol = run.task.symbol
    asked = f" (asked for {spelling})" if spelling not in (None, symbol) else ""
    return UnknownSymbol(
        f"{source} has no {run.timeframe} bars of {symbol}{asked}: check the ticker and "
        "its asset class, or remove it with 'enrichment symbols remove'"
    )
