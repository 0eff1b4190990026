"""What vendors do to a history after the fact, and what the pipeline makes of it: splits in
adjusted series, restated bars, holes that fill, other sources, long histories piece by piece."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enrichment.domain.bars import Bars, to_datetime
from enrichment.domain.errors import ProviderUnavailable, StepFailed, UnknownSymbol
from enrichment.domain.model import AssetClass, FetchedBars, Timeframe, Window
from enrichment.pipeline.enrich import EnrichmentPipeline
from tests.helpers.fakes import (
    TASK,
    FakePipeline,
    FakeVendor,
    assert_equal_to_one_full_run,
    recorded_bars,
)

HALF = 0.5


def on_new_basis(bars: Bars, upto: int, factor: float = HALF) -> Bars:
    scale = np.where(np.arange(len(bars)) < upto, factor, 1.0)
    prices = {name: getattr(bars, name) * scale for name in ("open", "high", "low", "close")}
    return replace(bars, **prices, volume=bars.volume / scale)


def quiet(count: int = 900) -> Bars:
    """Recorded sessions without a split or a crash, so that a factor stands out."""
    return recorded_bars().take(slice(1400, 1400 + count))


def test_a_rebased_history_is_fetched_again_whole() -> None:
    bench = FakePipeline(quiet())
    bench.run_at(800)
    bench.vendor.bars = on_new_basis(quiet(), 800)
    written = bench.run_at(802)
    assert (written.inserted, written.updated) == (2, 800)
    np.testing.assert_array_equal(bench.store.bars.close, bench.vendor.bars.close[:802])
    (rebase,) = bench.store.corrections
    assert rebase.factor == HALF
    assert rebase.ts == to_datetime(quiet().ts[800])
    assert_equal_to_one_full_run(bench)
    assert bench.run_at(803).updated == 0
    assert len(bench.store.corrections) == 1


def test_what_the_vendor_no_longer_serves_moves_to_the_new_basis() -> None:
    bench = FakePipeline(quiet())
    bench.run_at(800)
    served = on_new_basis(quiet(), 801).take(slice(300, None))
    bench.vendor.bars = served
    bench.run_at(802 - 300)
    np.testing.assert_array_equal(bench.store.bars.close, on_new_basis(quiet(), 801).close[:802])
    assert_equal_to_one_full_run(bench)


def test_a_restatement_that_reaches_back_is_followed_to_its_end() -> None:
    bench = FakePipeline(quiet())
    bench.run_at(800)
    restated = replace(quiet(), close=quiet().close.copy())
    restated.close[780:795] = restated.low[780:795]
    bench.vendor.bars = restated
    bench.run_at(801)
    np.testing.assert_array_equal(bench.store.bars.close, restated.close[:801])
    assert bench.store.corrections == []
    assert_equal_to_one_full_run(bench)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(1, 60),
            st.one_of(st.none(), st.integers(1, 15), st.sampled_from([0.5, 2.0, 1 / 3])),
        ),
        min_size=1,
        max_size=7,
    )
)
def test_however_a_history_is_cut_and_restated_the_table_is_that_of_one_run(
    nights: list[tuple[int, int | float | None]],
) -> None:
    """Before every night the vendor may restate one of the newest 15 bars, or rebase all."""
    bench, upto = FakePipeline(quiet()), 400
    bench.run_at(upto)
    for sessions, change in nights:
        bars = bench.vendor.bars
        if isinstance(change, float):
            bench.vendor.bars = on_new_basis(bars, upto, change)
        elif change is not None:
            close = bars.close.copy()
            close[upto - change] = bars.low[upto - change]
            bench.vendor.bars = replace(bars, close=close)
        upto += sessions
        bench.run_at(upto)
    # A bar that was changed deeper than the overlap is seen when the vendor is asked for it again.
    shown = bench.vendor.bars.close[:upto]
    differing = np.flatnonzero(bench.store.bars.close != shown)
    np.testing.assert_allclose(
        np.delete(bench.store.bars.close, differing), np.delete(shown, differing)
    )
    assert len(differing) <= sum(isinstance(c, int) and c > 10 for _, c in nights)
    assert_equal_to_one_full_run(bench)


def test_a_hole_is_asked_for_again_and_filled() -> None:
    whole = quiet()
    bench = FakePipeline(whole.take(np.setdiff1d(np.arange(900), [500, 501])))
    bench.run_at(800 - 2)
    assert bench.store.last is not None
    assert [gap.ts for gap in bench.store.last.gaps] == [to_datetime(t) for t in whole.ts[500:502]]
    bench.vendor.bars = whole
    bench.run_at(801)
    assert bench.vendor.windows[-1] == Window(
        to_datetime(whole.ts[500]), to_datetime(whole.ts[501]) + timedelta(days=1)
    )
    np.testing.assert_array_equal(bench.store.bars.close, whole.close[:801])
    assert bench.store.last.gaps == []
    assert bench.store.last.quality.completeness == 1.0
    assert_equal_to_one_full_run(bench)


def test_a_hole_that_cannot_be_asked_for_fails_nothing() -> None:
    class Moody(FakeVendor):
        def fetch(
            self, symbol: str, asset_class: AssetClass, timeframe: Timeframe, window: Window
        ) -> FetchedBars:
            if window.end - window.start <= timedelta(days=2):
                raise ProviderUnavailable("answered 500")
            return super().fetch(symbol, asset_class, timeframe, window)

    whole = quiet()
    bench = FakePipeline(whole.take(np.setdiff1d(np.arange(900), [500])))
    bench.run_at(799)
    moody = Moody(bench.vendor.bars)
    bench.pipeline = EnrichmentPipeline(
        moody, bench.store, history_days=6000, now=lambda: bench.now
    )
    assert bench.run_at(800).inserted == 1
    assert bench.store.last is not None
    (gap,) = bench.store.last.gaps
    assert (gap.cause, gap.error) == ("failed_request", "answered 500")
    assert bench.store.last.quality.completeness < 1.0


class Elsewhere(FakeVendor):
    """A vendor with a second one beside it."""

    def __init__(self, bars: Bars, other: Bars) -> None:
        super().__init__(bars)
        self.other = FakeVendor(other)

    def fetch_from_other(self, *asked: object, excluding: str) -> FetchedBars | None:
        assert excluding == "memory"
        return replace(self.other.fetch(*asked), source="elsewhere")  # type: ignore[arg-type]


@pytest.mark.parametrize("other_has_it", [True, False])
def test_another_source_fills_a_hole_or_explains_it(other_has_it: bool) -> None:
    whole = quiet()
    holed = whole.take(np.setdiff1d(np.arange(900), [500]))
    bench = FakePipeline(holed)
    bench.run_at(799)
    both = Elsewhere(holed, whole if other_has_it else holed)
    bench.pipeline = EnrichmentPipeline(both, bench.store, history_days=6000, now=lambda: bench.now)
    bench.run_at(800)
    assert bench.store.last is not None
    stored = to_datetime(whole.ts[500]) in map(to_datetime, bench.store.bars.ts)
    assert stored is other_has_it
    if other_has_it:
        assert [flag.check for flag in bench.store.last.flags] == ["other_source"]
        assert bench.store.last.gaps == []
    else:
        assert [gap.cause for gap in bench.store.last.gaps] == ["no_trades"]


def test_another_source_adds_bars_and_restates_none() -> None:
    class Other(FakeVendor):
        def fetch(
            self, symbol: str, asset_class: AssetClass, timeframe: Timeframe, window: Window
        ) -> FetchedBars:
            found = super().fetch(symbol, asset_class, timeframe, window)
            return replace(found, source="other", adjusted=True)

    bench = FakePipeline(quiet())
    bench.run_at(800)
    theirs = replace(quiet(), close=quiet().close.copy())
    theirs.close[795] = theirs.low[795]
    bench.pipeline = EnrichmentPipeline(
        Other(theirs), bench.store, history_days=6000, now=lambda: bench.now
    )
    assert bench.run_at(802).inserted == 2
    np.testing.assert_array_equal(bench.store.bars.close, quiet().close[:802])
    assert bench.store.last is not None
    checks = {flag.check for flag in bench.store.last.flags}
    assert "mixed_adjustment" in checks


def backfill(start: datetime, end: datetime, **changes: object) -> object:
    return replace(TASK, backfill=Window(start, end), **changes)  # type: ignore[arg-type]


def test_a_backfill_joins_what_is_stored() -> None:
    bench = FakePipeline(recorded_bars(), history_days=365)
    bench.run_at(3270)
    start = datetime(2004, 1, 1, tzinfo=UTC)
    bench.pipeline.enrich(backfill(start, datetime(2006, 1, 1, tzinfo=UTC)))  # type: ignore[arg-type]
    expected = recorded_bars().take(recorded_bars().ts >= np.datetime64("2004-01-01"))
    np.testing.assert_array_equal(bench.store.bars.ts, expected.ts)
    np.testing.assert_array_equal(bench.store.bars.close, expected.close)
    assert_equal_to_one_full_run(bench)


def test_an_interrupted_backfill_goes_on_where_it_stopped() -> None:
    bench = FakePipeline(recorded_bars(), history_days=365)
    bench.run_at(3270)
    start, reached = datetime(2004, 1, 1, tzinfo=UTC), datetime(2008, 1, 1, tzinfo=UTC)
    rest = backfill(start, datetime(2013, 1, 1, tzinfo=UTC), remaining=((Timeframe.D1, reached),))
    bench.pipeline.enrich(rest)  # type: ignore[arg-type]
    assert bench.vendor.windows[-1] == Window(start, reached)
    assert bench.store.backfill_left == [start]


def test_a_backfill_before_the_listing_is_not_an_error_but_an_unknown_symbol_is() -> None:
    bench = FakePipeline(recorded_bars(), history_days=365)
    bench.run_at(3270)
    early = backfill(datetime(1970, 1, 1, tzinfo=UTC), datetime(1980, 1, 1, tzinfo=UTC))
    bench.pipeline.enrich(early)  # type: ignore[arg-type]
    assert_equal_to_one_full_run(bench)
    nobody = FakePipeline(Bars.empty())
    with pytest.raises(StepFailed) as raised:
        nobody.pipeline.enrich(early)  # type: ignore[arg-type]
    assert isinstance(raised.value.__cause__, UnknownSymbol)
