"""The straight line with a vendor and a warehouse in memory: what is asked for, what is written."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enrichment import features
from enrichment.domain import (
    AssetClass,
    Bars,
    Enriched,
    Fetched,
    Stored,
    Task,
    Timeframe,
    Window,
    Written,
    to_datetime,
    to_datetime64,
)
from enrichment.errors import ProviderUnavailable, StepFailed, UnknownSymbol
from enrichment.pipeline import OVERLAP, Pipeline, merge

RECORDED = Path(__file__).parents[2] / "enrichment" / "sandbox" / "data" / "us_stocks_daily.csv.gz"
TASK = Task(UUID(int=1), "AAPL", AssetClass.STOCK, (Timeframe.D1,), "w", 1)


def recorded() -> Bars:
    with gzip.open(RECORDED, "rt") as file:
        rows = [row for row in csv.DictReader(file) if row["symbol"] == "AAPL"]
    prices = (
        np.array([float(row[name]) for row in rows])
        for name in ("open", "high", "low", "close", "volume")
    )
    return Bars.of(np.array([row["date"] for row in rows], dtype="datetime64[us]"), *prices)


class Vendor:
    """Serves bars up to a movable present; what was asked for is kept."""

    def __init__(self, bars: Bars) -> None:
        self.bars = bars
        self.windows: list[Window] = []

    def fetch(
        self, symbol: str, asset_class: AssetClass, timeframe: Timeframe, window: Window
    ) -> Fetched:
        self.windows.append(window)
        start, end = to_datetime64(window.start), to_datetime64(window.end)
        found = self.bars.take((self.bars.ts >= start) & (self.bars.ts < end))
        return Fetched(found, "memory", adjusted=False)


class Memory:
    """A warehouse in memory that keeps one series with its features."""

    def __init__(self) -> None:
        self.bars = Bars.empty()
        self.features: dict[str, np.ndarray] = {}
        self.history_from: datetime | None = None
        self.last: Enriched | None = None

    def stored(self, symbol: str, timeframe: Timeframe, tail: int | None) -> Stored:
        if len(self.bars) == 0:
            return Stored(Bars.empty(), history_from=self.history_from)
        return Stored(
            self.bars.take(slice(-tail if tail else None, None)),
            bars=len(self.bars),
            first_ts=to_datetime(self.bars.ts[0]),
            history_from=self.history_from,
        )

    def commit(self, task: Task, series: Sequence[Enriched]) -> Written:
        (self.last,) = series
        new = self.last.bars
        first = len(self.bars) if len(new) == 0 else np.searchsorted(self.bars.ts, new.ts[0])
        kept, updated = slice(0, int(first)), len(self.bars) - int(first)
        self.bars = self.bars.take(kept).followed_by(new)
        self.features = {
            name: np.concatenate([self.features[name][kept], column]) if self.features else column
            for name, column in self.last.features.items()
        }
        self.history_from = self.last.history_from
        return Written(len(new) - updated, updated)


class Bench:
    """A pipeline whose present is the evening of a chosen session."""

    def __init__(self, bars: Bars, history_days: int = 6000) -> None:
        self.vendor, self.memory = Vendor(bars), Memory()
        self.now = datetime(2013, 3, 2, tzinfo=UTC)
        self.pipeline = Pipeline(
            self.vendor, self.memory, history_days=history_days, now=lambda: self.now
        )

    def run_at(self, bars: int) -> Written:
        """Enrich on the night after the `bars`-th recorded session."""
        self.now = to_datetime(self.vendor.bars.ts[bars - 1]) + timedelta(days=1)
        return self.pipeline.enrich(TASK)


def assert_equal_to_one_full_run(bench: Bench) -> None:
    expected = features.compute(bench.memory.bars)
    for name, column in expected.items():
        if name in features.CARRIED:
            continue  # goes on from its stored value: the warehouse gives none yet
        found = bench.memory.features[name]
        if features.FEATURES[name].kind == "number":
            np.testing.assert_allclose(found, column, rtol=1e-9, atol=1e-12, err_msg=name)
        else:
            assert list(found) == list(column), name


def test_the_first_run_asks_for_the_whole_history() -> None:
    bench = Bench(recorded(), history_days=365)
    written = bench.run_at(3270)
    assert bench.vendor.windows[0].start == datetime(2012, 3, 2, tzinfo=UTC)
    assert (written.inserted, written.updated) == (250, 0)
    assert bench.memory.last is not None
    assert bench.memory.last.quality.completeness == 1.0
    assert bench.memory.last.gaps == []


def test_a_run_with_nothing_new_writes_nothing_and_asks_for_the_overlap_only() -> None:
    bench = Bench(recorded())
    bench.run_at(3270)
    again = bench.run_at(3270)
    assert (again.inserted, again.updated) == (0, 0)
    assert bench.vendor.windows[1].start == to_datetime(recorded().ts[-OVERLAP])


def test_the_next_night_adds_one_bar() -> None:
    bench = Bench(recorded())
    bench.run_at(3000)
    assert bench.run_at(3001) == Written(inserted=1)
    assert_equal_to_one_full_run(bench)


def test_an_intact_series_keeps_its_full_score_from_run_to_run() -> None:
    bench = Bench(recorded())
    for upto in (1500, 1500, 1501):
        bench.run_at(upto)
        assert bench.memory.last is not None
        assert bench.memory.last.quality.score == 1.0, bench.memory.last.quality.reasons


def test_a_restated_bar_is_updated_with_every_bar_after_it() -> None:
    bench = Bench(recorded())
    bench.run_at(3000)
    bench.vendor.bars.close[2995] += 1.0
    bench.vendor.bars.high[2995] += 1.0
    assert bench.run_at(3001) == Written(inserted=1, updated=5)
    assert_equal_to_one_full_run(bench)


def test_a_longer_history_is_fetched_when_it_is_asked_for() -> None:
    bench = Bench(recorded(), history_days=365)
    bench.run_at(3270)
    bench.pipeline = Pipeline(bench.vendor, bench.memory, history_days=730, now=lambda: bench.now)
    written = bench.run_at(3270)
    earlier = (recorded().ts >= np.datetime64("2011-03-03")) & (
        recorded().ts < np.datetime64("2012-03-02")
    )
    assert written.inserted == np.count_nonzero(earlier)
    assert_equal_to_one_full_run(bench)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(min_value=1, max_value=1200), min_size=1, max_size=6))
def test_however_a_history_is_cut_into_runs_the_features_are_those_of_one(cuts: list[int]) -> None:
    bench = Bench(recorded())
    for upto in sorted(set(cuts)):
        bench.run_at(upto)
    np.testing.assert_array_equal(bench.memory.bars.close, recorded().close[: max(cuts)])
    assert_equal_to_one_full_run(bench)


def test_missing_sessions_become_gaps_and_cost_completeness() -> None:
    whole = recorded()
    lost = [3200, 3201, 3250]
    bench = Bench(whole.take(np.setdiff1d(np.arange(3270), lost)), history_days=365)
    bench.now = datetime(2013, 3, 2, tzinfo=UTC)
    bench.pipeline.enrich(TASK)
    assert bench.memory.last is not None
    assert bench.memory.last.gaps == [to_datetime(whole.ts[n]) for n in lost]
    assert bench.memory.last.quality.completeness == pytest.approx(1 - 3 / 250)


def test_a_vendor_without_any_bars_says_what_to_check() -> None:
    bench = Bench(Bars.empty())
    with pytest.raises(StepFailed) as raised:
        bench.pipeline.enrich(TASK)
    assert isinstance(raised.value.__cause__, UnknownSymbol)
    assert "check the ticker" in str(raised.value.__cause__)
    assert (raised.value.step, raised.value.timeframe) == ("fetch", "1d")


def test_a_vendor_that_loses_a_symbol_leaves_what_is_stored() -> None:
    bench = Bench(recorded())
    bench.run_at(3270)
    bench.vendor.bars = Bars.empty()
    with pytest.raises(StepFailed) as raised:
        bench.pipeline.enrich(TASK)
    assert "3,270 bars are stored" in str(raised.value.__cause__)
    assert len(bench.memory.bars) == 3270


def test_the_step_that_failed_is_named() -> None:
    class Broken(Vendor):
        def fetch(self, *_: object) -> Fetched:  # type: ignore[override]  # it never looks
            raise ProviderUnavailable("answered 500")

    steps: list[str] = []
    pipeline = Pipeline(
        Broken(Bars.empty()), Memory(), history_days=9, now=lambda: datetime(2013, 3, 2, tzinfo=UTC)
    )
    with pytest.raises(StepFailed):
        pipeline.enrich(TASK, steps.append)
    assert steps == ["read 1d", "fetch 1d"]


def test_merge_tells_the_first_change() -> None:
    bars = recorded().take(slice(0, 20))
    assert merge(bars, bars.take(slice(10, None)))[1] == 20
    assert merge(bars.take(slice(0, 15)), bars.take(slice(10, None)))[1] == 15
    assert merge(Bars.empty(), bars)[1] == 0
    holed = bars.take(np.arange(20) != 12)
    merged, first = merge(holed, bars.take(slice(10, None)))
    assert first == 12
    np.testing.assert_array_equal(merged.ts, bars.ts)
