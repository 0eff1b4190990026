"""A vendor and a warehouse in memory, around the real pipeline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import numpy as np

from enrichment.domain.bars import Bars, to_datetime, to_datetime64
from enrichment.domain.model import AssetClass, FetchedBars, RowCounts, Task, Timeframe, Window
from enrichment.domain.series import Rebase, SeriesSnapshot, SeriesUpdate, StoredTail
from enrichment.pipeline import features
from enrichment.pipeline.enrich import EnrichmentPipeline
from enrichment.pipeline.fetch_plan import OVERLAP, nothing_due
from enrichment.pipeline.quality import counts_against_score
from tests.helpers.recorded_series import daily_stocks

TASK = Task(UUID(int=1), "AAPL", AssetClass.STOCK, (Timeframe.D1,), "w", 1)


def recorded_bars() -> Bars:
    """The recorded sessions of AAPL, which the test may change in place."""
    bars = daily_stocks()["AAPL"].bars
    return bars.take(np.arange(len(bars)))


class FakeVendor:
    """Serves the bars of the requested windows and records the windows."""

    def __init__(self, bars: Bars) -> None:
        self.bars = bars
        self.windows: list[Window] = []

    def fetch(
        self, symbol: str, asset_class: AssetClass, timeframe: Timeframe, window: Window
    ) -> FetchedBars:
        self.windows.append(window)
        bounds = self.bars.ts.searchsorted([to_datetime64(window.start), to_datetime64(window.end)])
        return FetchedBars(self.bars.take(slice(*bounds)), "memory", adjusted=False)

    def fetch_from_other(self, *_: object, excluding: str) -> FetchedBars | None:
        return None


@dataclass
class EmptyStore:
    """Has no bars of any series and keeps the updates."""

    updates: dict[tuple[str, Timeframe], SeriesUpdate] = field(default_factory=dict)

    def read_snapshots(
        self, tasks: Sequence[Task], now: datetime
    ) -> Mapping[Task, Mapping[Timeframe, SeriesSnapshot]]:
        return {task: dict.fromkeys(task.timeframes, SeriesSnapshot()) for task in tasks}

    def commit(self, task: Task, updates: Sequence[SeriesUpdate]) -> None:
        self.updates |= {(task.symbol, update.timeframe): update for update in updates}


class InMemorySeriesStore:
    """A warehouse in memory that keeps one series with its features."""

    def __init__(self) -> None:
        self.bars = Bars.empty()
        self.features: dict[str, np.ndarray] = {}
        self.current = SeriesSnapshot()
        self.last: SeriesUpdate | None = None
        self.corrections: list[Rebase] = []
        self.backfill_left: list[datetime] = []
        self.reads = 0

    def read_snapshots(
        self, tasks: Sequence[Task], now: datetime
    ) -> dict[Task, dict[Timeframe, SeriesSnapshot]]:
        self.reads += 1
        since = self.current.overlap_from
        tail = None if since is None else self.read_tail("", Timeframe.D1, since, features.LOOKBACK)
        if since is not None and nothing_due(self.current, TASK.asset_class, Timeframe.D1, now):
            tail = StoredTail(
                self.read_tail("", Timeframe.D1, since, 0).bars, without_lookback=True
            )
        snapshot = replace(self.current, tail=tail)
        return {task: dict.fromkeys(task.timeframes, snapshot) for task in tasks}

    def snapshot(self, symbol: str, timeframe: Timeframe) -> SeriesSnapshot:
        return self.current

    def read_tail(
        self, symbol: str, timeframe: Timeframe, since: datetime | None, lookback: int
    ) -> StoredTail:
        first = 0 if since is None else int(np.searchsorted(self.bars.ts, to_datetime64(since)))
        begin = max(0, first - lookback)
        seed = {n: float(self.features[n][begin]) for n in features.CUMULATIVE} if begin else {}
        return StoredTail(self.bars.take(slice(begin, None)), seed)

    def store_chunk(self, task: Task, update: SeriesUpdate, remaining_until: datetime) -> None:
        self.backfill_left.append(remaining_until)
        self.write(update)

    def commit(self, task: Task, updates: Sequence[SeriesUpdate]) -> RowCounts:
        counts = [self.write(update) for update in updates]
        return RowCounts(sum(c.inserted for c in counts), sum(c.updated for c in counts))

    def write(self, update: SeriesUpdate) -> RowCounts:
        self.last, new = update, update.bars
        first = len(self.bars) if len(new) == 0 else np.searchsorted(self.bars.ts, new.ts[0])
        rows, updated = slice(0, int(first)), len(self.bars) - int(first)
        self.bars = self.bars.take(rows).concat(new)
        for name, column in update.features.items():
            kept = self.features[name][rows] if self.features.get(name) is not None else column[:0]
            self.features[name] = np.concatenate([kept, column])
        if update.rebase is not None:
            self.corrections.append(update.rebase)
        window = update.fetches[0].window
        flagged = {
            (f.ts, f.check) for f in update.flags if counts_against_score(f.check, f.severity)
        }
        flagged |= {(ts, check) for ts, check in self.current.flagged if ts not in window}
        gaps = np.array([to_datetime64(gap.ts) for gap in update.gaps], "datetime64[us]")
        reach = update.quality_inputs.history
        assert reach is not None
        self.current = SeriesSnapshot(
            bars=len(self.bars),
            first_ts=to_datetime(self.bars.ts[0]) if len(self.bars) else None,
            last_ts=to_datetime(self.bars.ts[-1]) if len(self.bars) else None,
            overlap_from=to_datetime(self.bars.ts[-OVERLAP:][0]) if len(self.bars) else None,
            history_from=update.history_from,
            wanted_from=reach.wanted_from,
            history_limit=reach.limit,
            history_due=reach.limit is None,
            source=update.fetched.source,
            adjusted_until=update.adjusted_until,
            splits=self.current.splits,
            flagged=frozenset(flagged),
            newest_flagged=max((ts for ts, _ in flagged), default=None),
            gaps=gaps,
            gaps_due=gaps,
            confirmed=self.current.confirmed,
            coverage=(update.quality_inputs.feature_cells, update.quality_inputs.feature_nulls),
        )
        return RowCounts(len(new) - updated, updated)


class FakePipeline:
    """The real pipeline on a fake vendor and an in-memory store, with a clock that tests set."""

    def __init__(self, bars: Bars, history_days: int = 6000) -> None:
        self.vendor, self.store = FakeVendor(bars), InMemorySeriesStore()
        self.now = datetime(2013, 3, 2, tzinfo=UTC)
        self.pipeline = EnrichmentPipeline(
            self.vendor, self.store, history_days=history_days, now=lambda: self.now
        )

    def run_at(self, bars: int) -> RowCounts:
        """Enrich on the night after the `bars`-th recorded session."""
        self.now = to_datetime(self.vendor.bars.ts[bars - 1]) + timedelta(days=1)
        return self.pipeline.enrich(TASK)


def assert_equal_to_one_full_run(fake: FakePipeline) -> None:
    expected = features.compute(fake.store.bars)
    for name, column in expected.items():
        actual = fake.store.features[name]
        if features.FEATURES[name].kind == "number":
            np.testing.assert_allclose(actual, column, rtol=1e-9, atol=1e-12, err_msg=name)
        else:
            assert list(actual) == list(column), name
