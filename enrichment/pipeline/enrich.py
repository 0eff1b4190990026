"""Enriches one symbol: fetch → validate → features → quality → one transaction.

>>> from datetime import UTC
>>> from uuid import UUID
>>> import numpy as np
>>> from enrichment.domain.bars import Bars
>>> from enrichment.domain.model import AssetClass, FetchedBars
>>> class Vendor:
...     def fetch(self, symbol, asset_class, timeframe, window):
...         ts, price = np.arange("2024-01-01", "2024-01-08", dtype="M8[D]"), np.full(7, 9.0)
...         return FetchedBars(Bars.of(ts, price, price, price, price, price), "demo", False)
>>> class Store:
...     def read_snapshots(self, tasks, now):
...         return {task: {Timeframe.D1: SeriesSnapshot()} for task in tasks}
...
...     def commit(self, task, updates):
...         return [(len(u.bars), u.quality.score, u.quality.status.value) for u in updates]
>>> pipeline = EnrichmentPipeline(
...     Vendor(), Store(), history_days=30, now=lambda: datetime(2024, 1, 8, tzinfo=UTC)
... )
>>> pipeline.enrich(Task(UUID(int=1), "X:BTCUSD", AssetClass.CRYPTO, (Timeframe.D1,), "worker", 1))
[(7, 1.0, 'healthy')]
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import Generic

from enrichment.domain.item_scope import enter_item
from enrichment.domain.model import Task, Timeframe, Window
from enrichment.domain.series import SeriesSnapshot, SeriesUpdate
from enrichment.domain.statuses import HistoryLimit
from enrichment.pipeline import fetch_plan
from enrichment.pipeline.fetch import (
    OnStep,
    SeriesFetcher,
    SeriesRun,
    no_bars,
    replaces_sandbox,
    step,
)
from enrichment.pipeline.fetch_plan import FetchPlan, Situation
from enrichment.pipeline.merge import compute_features, find_gaps, merge, quality_inputs, to_update
from enrichment.pipeline.ports import BarSource, Outcome, SeriesStore
from enrichment.pipeline.quality import assess_quality
from resilience import Priority, with_priority

Snapshots = Mapping[Timeframe, SeriesSnapshot]


class EnrichmentPipeline(Generic[Outcome]):
    """Enriches tasks, any number of them at the same time.

    Args:
        source: where bars are fetched.
        store: where series are read and written.
        history_days: how far back the first run of a series reaches.
        now: the wall clock, timezone-aware UTC.
        bars_per_chunk: bars of a backfill that are fetched and stored at a time.
        parallel_timeframes: timeframes of a symbol that are enriched at the same time.
    """

    def __init__(
        self,
        source: BarSource,
        store: SeriesStore[Outcome],
        *,
        history_days: int,
        now: Callable[[], datetime],
        bars_per_chunk: int = fetch_plan.BARS_PER_CHUNK,
        parallel_timeframes: int = 1,
    ) -> None:
        self._fetcher = SeriesFetcher(source, store)
        self._store = store
        self._history = timedelta(days=history_days)
        self._now = now
        self._bars_per_chunk = bars_per_chunk
        self._parallel_timeframes = parallel_timeframes

    def prepare_batch(self, tasks: Sequence[Task]) -> list[Callable[[Task, OnStep], Outcome]]:
        """`enrich` for each of the tasks, with the snapshots of all of them read at once."""
        updates = [task for task in tasks if task.backfill is None]
        snapshots = self._store.read_snapshots(updates, self._now())
        return [partial(self.enrich, snapshots=snapshots.get(task)) for task in tasks]

    def enrich(
        self, task: Task, report: OnStep = lambda step: None, snapshots: Snapshots | None = None
    ) -> Outcome:
        """Bring every timeframe of the task up to date, in one transaction.

        A backfill is stored chunk by chunk, so that an interrupted one continues there.

        Args:
            task: the claimed item.
            report: called with the name of each step as it begins.
            snapshots: of its series, read since it was claimed; None: they are read now.

        Returns:
            The result of the store's commit.

        Raises:
            StepFailed: from the cause; only finished chunks of a backfill have been written.
        """
        # What the vendors' guards note of this item ends with it.
        return copy_context().run(self._enrich_in_lane, task, report, snapshots)

    def _enrich_in_lane(self, task: Task, report: OnStep, snapshots: Snapshots | None) -> Outcome:
        with with_priority(Priority.HIGH if task.interactive else Priority.NORMAL):
            return self._enrich(task, report, snapshots)

    def _enrich(self, task: Task, report: OnStep, snapshots: Snapshots | None) -> Outcome:
        enter_item(task)
        now = self._now()
        runs = [SeriesRun(task, timeframe, now, report) for timeframe in task.timeframes]
        if task.backfill is not None:
            updates = self._backfill(runs, task.backfill)
        else:
            updates = self._update(runs, snapshots or self._read_snapshots(task, now, report))
        with step("store", None, report):
            return self._store.commit(task, updates)

    def _enrich_series(
        self, run: SeriesRun, snapshot: SeriesSnapshot, plan: Callable[[SeriesSnapshot], FetchPlan]
    ) -> SeriesUpdate:
        fetched = self._fetcher.fetch_and_validate(run, snapshot, plan(snapshot))
        replaces = replaces_sandbox(run, snapshot, fetched)
        if replaces:
            snapshot = _without_bars(snapshot)
            fetched = self._fetcher.fetch_and_validate(run, snapshot, plan(snapshot))
        with run.step("compute") as timer:
            merged = merge(run, snapshot, fetched)
            features, coverage = compute_features(merged)
            gaps = find_gaps(merged)
            inputs = quality_inputs(merged, coverage, gaps)
            quality = assess_quality(inputs)
        update = to_update(merged, features, gaps, inputs, quality, timer.milliseconds)
        return replace(update, replaces_series=replaces or run.restarts)

    def _read_snapshots(self, task: Task, now: datetime, report: OnStep) -> Snapshots:
        with step("read", None, report):
            return self._store.read_snapshots([task], now)[task]

    def _update(self, runs: Sequence[SeriesRun], snapshots: Snapshots) -> list[SeriesUpdate]:
        """Every series up to date, one after another or some at the same time.

        The longest timeframe begins: it needs the most bars, and shorter ones may be part of them.
        """
        ordered = sorted(runs, key=lambda run: run.timeframe.duration, reverse=True)
        each = [partial(self._update_series, run, snapshots[run.timeframe]) for run in ordered]
        if self._parallel_timeframes == 1 or len(runs) == 1:
            updates = [update() for update in each]
        else:
            with ThreadPoolExecutor(self._parallel_timeframes, "timeframe") as threads:
                contexts = [copy_context() for _ in each]
                updates = list(threads.map(lambda context, u: context.run(u), contexts, each))
        of_timeframe = {update.timeframe: update for update in updates}
        return [of_timeframe[run.timeframe] for run in runs]

    def _update_series(self, run: SeriesRun, snapshot: SeriesSnapshot) -> SeriesUpdate:
        def plan(snapshot: SeriesSnapshot) -> FetchPlan:
            series = run.task.symbol, run.timeframe
            return fetch_plan.plan_run(
                *series, snapshot, run.now, self._history, session=run.session
            )

        return self._enrich_series(run, snapshot, plan)

    def _backfill(self, runs: Sequence[SeriesRun], window: Window) -> list[SeriesUpdate]:
        """Fetch and store the window of every series; nothing is left for the commit."""
        for run in runs:
            self._backfill_series(run, window)
        return []

    def _backfill_series(self, run: SeriesRun, window: Window) -> None:
        """Store a window of one series, the newest chunk first; one started anew as a whole."""
        snapshot = self._read_snapshot(run)
        window = fetch_plan.extend_to_stored(window, snapshot, run.now)
        situation = Situation.BACKFILL
        if run.repair is not None:
            window, situation = run.repair.window, Situation.REPAIR
        remaining = Window(window.start, run.task.remaining_until(run.timeframe) or window.end)
        chunks = fetch_plan.backfill_chunks(remaining, run.timeframe, self._bars_per_chunk)
        if run.restarts:
            snapshot = _without_bars(snapshot)
        if run.restarts or run.puts_on_raw_basis:
            chunks = iter([remaining] if remaining.start < remaining.end else [])
        for chunk in chunks:
            plan = partial(fetch_plan.plan_chunk, chunk=chunk, situation=situation)
            update = self._enrich_series(run, snapshot, plan)
            with run.step("store"):
                self._store.store_chunk(run.task, update, chunk.start)
            snapshot = self._read_snapshot(run)
            if update.fetched.limit is HistoryLimit.PLAN and len(update.fetched.bars) == 0:
                break  # older chunks are beyond the plan, too
        if snapshot.bars == 0 and not run.restarts:
            with run.step("fetch"):
                raise no_bars("no vendor", run)

    def _read_snapshot(self, run: SeriesRun) -> SeriesSnapshot:
        with run.step("read"):
            return self._store.snapshot(run.task.symbol, run.timeframe)


def _without_bars(snapshot: SeriesSnapshot) -> SeriesSnapshot:
    """The snapshot of a series that is to be started anew."""
    return SeriesSnapshot(wanted_from=snapshot.wanted_from, splits=snapshot.splits)
