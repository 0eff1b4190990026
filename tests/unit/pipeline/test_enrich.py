"""The straight line with a vendor and a warehouse in memory: what is asked for, what is written."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enrichment.domain.bars import Bars, to_datetime
from enrichment.domain.errors import ProviderUnavailable, StepFailed, UnknownSymbol
from enrichment.domain.model import AssetClass, FetchedBars, RowCounts, Timeframe, Window
from enrichment.pipeline.enrich import EnrichmentPipeline
from enrichment.pipeline.fetch_plan import OVERLAP
from enrichment.pipeline.merge import overlay
from tests.helpers.fakes import (
    TASK,
    FakePipeline,
    FakeVendor,
    InMemorySeriesStore,
    assert_equal_to_one_full_run,
    recorded_bars,
)


def test_the_first_run_asks_for_the_whole_history() -> None:
    bench = FakePipeline(recorded_bars(), history_days=365)
    written = bench.run_at(3270)
    assert bench.vendor.windows[0].start == datetime(2012, 3, 2, tzinfo=UTC)
    assert (written.inserted, written.updated) == (250, 0)
    assert bench.store.last is not None
    assert bench.store.last.quality.completeness == 1.0
    assert bench.store.last.gaps == []


def test_a_run_with_nothing_new_writes_nothing_and_asks_for_the_overlap_only() -> None:
    bench = FakePipeline(recorded_bars())
    bench.run_at(3270)
    again = bench.run_at(3270)
    assert (again.inserted, again.updated) == (0, 0)
    assert bench.vendor.windows[1].start == to_datetime(recorded_bars().ts[-OVERLAP])


def test_features_of_unchanged_bars_are_not_computed_again() -> None:
    bench = FakePipeline(recorded_bars())
    bench.run_at(3270)
    assert bench.store.last is not None
    before = bench.store.last
    bench.run_at(3270)
    assert bench.store.last.features == {}
    assert bench.store.last.quality == before.quality
    assert_equal_to_one_full_run(bench)


def test_the_next_night_adds_one_bar() -> None:
    bench = FakePipeline(recorded_bars())
    bench.run_at(3000)
    assert bench.run_at(3001) == RowCounts(inserted=1)
    assert_equal_to_one_full_run(bench)


def test_what_was_read_for_many_tasks_at_once_is_not_read_again() -> None:
    bench = FakePipeline(recorded_bars())
    bench.run_at(3000)
    bench.now = to_datetime(recorded_bars().ts[3000]) + timedelta(days=1)
    (run,) = bench.pipeline.prepare_batch([TASK])
    reads = bench.store.reads
    assert run(TASK, lambda step: None) == RowCounts(inserted=1)
    assert bench.store.reads == reads
    assert_equal_to_one_full_run(bench)


class Meeting(FakeVendor):
    """Answers once two requests are under way at the same time."""

    def __init__(self, bars: Bars) -> None:
        super().__init__(bars)
        self.both = threading.Barrier(2, timeout=20)

    def fetch(
        self, symbol: str, asset_class: AssetClass, timeframe: Timeframe, window: Window
    ) -> FetchedBars:
        self.both.wait()
        return super().fetch(symbol, asset_class, timeframe, window)


def test_timeframes_may_be_at_work_side_by_side() -> None:
    vendor, memory = Meeting(recorded_bars()), InMemorySeriesStore()
    now = to_datetime(recorded_bars().ts[-1]) + timedelta(days=1)
    pipeline = EnrichmentPipeline(
        vendor, memory, history_days=300, now=lambda: now, parallel_timeframes=2
    )
    pipeline.enrich(replace(TASK, timeframes=(Timeframe.D1, Timeframe.W1)))
    assert len(vendor.windows) == 2


def test_a_series_keeps_its_score_from_run_to_run() -> None:
    """Two splits and one crash of the recorded history are held against it, and nothing else."""
    bench = FakePipeline(recorded_bars())
    for upto in (1500, 1500, 1501):
        bench.run_at(upto)
        assert bench.store.last is not None
        assert bench.store.last.quality.score == pytest.approx(1 - 0.30 * 3 / upto, abs=1e-12)


def test_a_restated_bar_is_updated_with_every_bar_after_it() -> None:
    bench = FakePipeline(recorded_bars())
    bench.run_at(3000)
    bench.vendor.bars.close[2995] += 1.0
    bench.vendor.bars.high[2995] += 1.0
    assert bench.run_at(3001) == RowCounts(inserted=1, updated=5)
    assert_equal_to_one_full_run(bench)


def test_a_longer_history_is_fetched_when_it_is_asked_for() -> None:
    bench = FakePipeline(recorded_bars(), history_days=365)
    bench.run_at(3270)
    bench.pipeline = EnrichmentPipeline(
        bench.vendor, bench.store, history_days=730, now=lambda: bench.now
    )
    written = bench.run_at(3270)
    earlier = (recorded_bars().ts >= np.datetime64("2011-03-03")) & (
        recorded_bars().ts < np.datetime64("2012-03-02")
    )
    assert written.inserted == np.count_nonzero(earlier)
    assert_equal_to_one_full_run(bench)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(min_value=1, max_value=1200), min_size=1, max_size=6))
def test_however_a_history_is_cut_into_runs_the_features_are_those_of_one(cuts: list[int]) -> None:
    bench = FakePipeline(recorded_bars())
    for upto in sorted(set(cuts)):
        bench.run_at(upto)
    np.testing.assert_array_equal(bench.store.bars.close, recorded_bars().close[: max(cuts)])
    assert_equal_to_one_full_run(bench)


def test_missing_sessions_become_gaps_and_cost_completeness() -> None:
    whole = recorded_bars()
    lost = [3200, 3201, 3250]
    bench = FakePipeline(whole.take(np.setdiff1d(np.arange(3270), lost)), history_days=365)
    bench.now = datetime(2013, 3, 2, tzinfo=UTC)
    bench.pipeline.enrich(TASK)
    assert bench.store.last is not None
    assert [gap.ts for gap in bench.store.last.gaps] == [to_datetime(whole.ts[n]) for n in lost]
    assert bench.store.last.quality.completeness == pytest.approx(1 - 3 / 250)


def test_a_vendor_without_any_bars_says_what_to_check() -> None:
    bench = FakePipeline(Bars.empty())
    with pytest.raises(StepFailed) as raised:
        bench.pipeline.enrich(TASK)
    assert isinstance(raised.value.__cause__, UnknownSymbol)
    assert "check the ticker" in str(raised.value.__cause__)
    assert (raised.value.step, raised.value.timeframe) == ("fetch", "1d")


def test_a_vendor_that_loses_a_symbol_leaves_what_is_stored() -> None:
    bench = FakePipeline(recorded_bars())
    bench.run_at(3270)
    bench.vendor.bars = Bars.empty()
    with pytest.raises(StepFailed) as raised:
        bench.pipeline.enrich(TASK)
    assert "3,270 bars are stored" in str(raised.value.__cause__)
    assert len(bench.store.bars) == 3270


def test_the_step_that_failed_is_named() -> None:
    class Broken(FakeVendor):
        def fetch(self, *_: object) -> FetchedBars:  # type: ignore[override]  # it never looks
            raise ProviderUnavailable("answered 500")

    steps: list[str] = []
    pipeline = EnrichmentPipeline(
        Broken(Bars.empty()),
        InMemorySeriesStore(),
        history_days=9,
        now=lambda: datetime(2013, 3, 2, tzinfo=UTC),
    )
    with pytest.raises(StepFailed):
        pipeline.enrich(TASK, steps.append)
    assert steps == ["read", "fetch 1d"]


def test_merge_tells_the_first_change() -> None:
    bars = recorded_bars().take(slice(0, 20))
    assert overlay(bars, bars.take(slice(10, None)))[1] == 20
    assert overlay(bars.take(slice(0, 15)), bars.take(slice(10, None)))[1] == 15
    assert overlay(Bars.empty(), bars)[1] == 0
    holed = bars.take(np.arange(20) != 12)
    merged, first = overlay(holed, bars.take(slice(10, None)))
    assert first == 12
    np.testing.assert_array_equal(merged.ts, bars.ts)
