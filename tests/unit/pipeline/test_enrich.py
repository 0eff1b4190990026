"""The pipeline with a vendor and a store in memory: what is fetched and what is written."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enrichment.domain.bars import Bars, overlay, to_datetime
from enrichment.domain.errors import ProviderUnavailable, StepFailed, UnknownSymbol
from enrichment.domain.model import AssetClass, FetchedBars, RowCounts, Timeframe, Window
from enrichment.pipeline.enrich import EnrichmentPipeline
from enrichment.pipeline.fetch_plan import OVERLAP
from tests.helpers.fakes import (
    TASK,
    FakePipeline,
    FakeVendor,
    InMemorySeriesStore,
    assert_equal_to_one_full_run,
    recorded_bars,
)


def test_the_first_run_fetches_the_whole_history() -> None:
    fake = FakePipeline(recorded_bars(), history_days=365)
    written = fake.run_at(3270)
    assert fake.vendor.windows[0].start == datetime(2012, 3, 2, tzinfo=UTC)
    assert (written.inserted, written.updated) == (250, 0)
    assert fake.store.last is not None
    assert fake.store.last.quality.completeness == 1.0
    assert fake.store.last.gaps == []


def test_a_run_with_nothing_new_fetches_the_overlap_and_writes_nothing() -> None:
    fake = FakePipeline(recorded_bars())
    fake.run_at(3270)
    again = fake.run_at(3270)
    assert (again.inserted, again.updated) == (0, 0)
    assert fake.vendor.windows[1].start == to_datetime(recorded_bars().ts[-OVERLAP])


def test_features_of_unchanged_bars_are_not_computed_again() -> None:
    fake = FakePipeline(recorded_bars())
    fake.run_at(3270)
    assert fake.store.last is not None
    before = fake.store.last
    fake.run_at(3270)
    assert fake.store.last.features == {}
    assert fake.store.last.quality == before.quality
    assert_equal_to_one_full_run(fake)


def test_the_next_night_adds_one_bar() -> None:
    fake = FakePipeline(recorded_bars())
    fake.run_at(3000)
    assert fake.run_at(3001) == RowCounts(inserted=1)
    assert_equal_to_one_full_run(fake)


def test_snapshots_read_in_a_batch_are_not_read_again() -> None:
    fake = FakePipeline(recorded_bars())
    fake.run_at(3000)
    fake.now = to_datetime(recorded_bars().ts[3000]) + timedelta(days=1)
    (run,) = fake.pipeline.prepare_batch([TASK])
    reads = fake.store.reads
    assert run(TASK, lambda step: None) == RowCounts(inserted=1)
    assert fake.store.reads == reads
    assert_equal_to_one_full_run(fake)


class ConcurrentVendor(FakeVendor):
    """Responds once two requests are in progress at the same time."""

    def __init__(self, bars: Bars) -> None:
        super().__init__(bars)
        self.both = threading.Barrier(2, timeout=20)

    def fetch(
        self, symbol: str, asset_class: AssetClass, timeframe: Timeframe, window: Window
    ) -> FetchedBars:
        self.both.wait()
        return super().fetch(symbol, asset_class, timeframe, window)


def test_timeframes_are_enriched_in_parallel() -> None:
    vendor, store = ConcurrentVendor(recorded_bars()), InMemorySeriesStore()
    now = to_datetime(recorded_bars().ts[-1]) + timedelta(days=1)
    pipeline = EnrichmentPipeline(
        vendor, store, history_days=300, now=lambda: now, parallel_timeframes=2
    )
    pipeline.enrich(replace(TASK, timeframes=(Timeframe.D1, Timeframe.W1)))
    assert len(vendor.windows) == 2


def test_a_series_keeps_its_score_from_run_to_run() -> None:
    """Two splits and one crash of the recorded history lower it, and nothing else."""
    fake = FakePipeline(recorded_bars())
    for upto in (1500, 1500, 1501):
        fake.run_at(upto)
        assert fake.store.last is not None
        assert fake.store.last.quality.score == pytest.approx(1 - 0.30 * 3 / upto, abs=1e-12)


def test_a_restated_bar_is_updated_with_every_bar_after_it() -> None:
    fake = FakePipeline(recorded_bars())
    fake.run_at(3000)
    fake.vendor.bars.close[2995] += 1.0
    fake.vendor.bars.high[2995] += 1.0
    assert fake.run_at(3001) == RowCounts(inserted=1, updated=5)
    assert_equal_to_one_full_run(fake)


def test_a_longer_configured_history_is_fetched() -> None:
    fake = FakePipeline(recorded_bars(), history_days=365)
    fake.run_at(3270)
    fake.pipeline = EnrichmentPipeline(
        fake.vendor, fake.store, history_days=730, now=lambda: fake.now
    )
    written = fake.run_at(3270)
    earlier = (recorded_bars().ts >= np.datetime64("2011-03-03")) & (
        recorded_bars().ts < np.datetime64("2012-03-02")
    )
    assert written.inserted == np.count_nonzero(earlier)
    assert_equal_to_one_full_run(fake)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(min_value=1, max_value=1200), min_size=1, max_size=6))
def test_however_a_history_is_cut_into_runs_the_features_are_those_of_one(cuts: list[int]) -> None:
    fake = FakePipeline(recorded_bars())
    for upto in sorted(set(cuts)):
        fake.run_at(upto)
    np.testing.assert_array_equal(fake.store.bars.close, recorded_bars().close[: max(cuts)])
    assert_equal_to_one_full_run(fake)


def test_missing_sessions_are_gaps_and_lower_completeness() -> None:
    whole = recorded_bars()
    lost = [3200, 3201, 3250]
    fake = FakePipeline(whole.take(np.setdiff1d(np.arange(3270), lost)), history_days=365)
    fake.now = datetime(2013, 3, 2, tzinfo=UTC)
    fake.pipeline.enrich(TASK)
    assert fake.store.last is not None
    assert [gap.ts for gap in fake.store.last.gaps] == [to_datetime(whole.ts[n]) for n in lost]
    assert fake.store.last.quality.completeness == pytest.approx(1 - 3 / 250)


def test_the_error_for_a_symbol_without_bars_says_what_to_check() -> None:
    fake = FakePipeline(Bars.empty())
    with pytest.raises(StepFailed) as raised:
        fake.pipeline.enrich(TASK)
    assert isinstance(raised.value.__cause__, UnknownSymbol)
    assert "check the ticker" in str(raised.value.__cause__)
    assert "asked for" not in str(raised.value.__cause__)
    assert (raised.value.step, raised.value.timeframe) == ("fetch", "1d")


def test_stored_bars_stay_if_the_vendor_drops_the_symbol() -> None:
    fake = FakePipeline(recorded_bars())
    fake.run_at(3270)
    fake.vendor.bars = Bars.empty()
    with pytest.raises(StepFailed) as raised:
        fake.pipeline.enrich(TASK)
    assert "3,270 bars are stored" in str(raised.value.__cause__)
    assert len(fake.store.bars) == 3270


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


def test_overlay_returns_the_first_changed_row() -> None:
    bars = recorded_bars().take(slice(0, 20))
    assert overlay(bars, bars.take(slice(10, None)))[1] == 20
    assert overlay(bars.take(slice(0, 15)), bars.take(slice(10, None)))[1] == 15
    assert overlay(Bars.empty(), bars)[1] == 0
    holed = bars.take(np.arange(20) != 12)
    merged, first = overlay(holed, bars.take(slice(10, None)))
    assert first == 12
    np.testing.assert_array_equal(merged.ts, bars.ts)
