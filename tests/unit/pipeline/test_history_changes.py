"""Changes of a stored history: splits in adjusted series, restated bars, filled gaps, other
sources, backfills in chunks."""

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
    fake = FakePipeline(quiet())
    fake.run_at(800)
    fake.vendor.bars = on_new_basis(quiet(), 800)
    written = fake.run_at(802)
    assert (written.inserted, written.updated) == (2, 800)
    np.testing.assert_array_equal(fake.store.bars.close, fake.vendor.bars.close[:802])
    (rebase,) = fake.store.corrections
    assert rebase.factor == HALF
    assert rebase.ts == to_datetime(quiet().ts[800])
    assert_equal_to_one_full_run(fake)
    assert fake.run_at(803).updated == 0
    assert len(fake.store.corrections) == 1


def test_bars_that_the_vendor_no_longer_serves_are_rebased() -> None:
    fake = FakePipeline(quiet())
    fake.run_at(800)
    served = on_new_basis(quiet(), 801).take(slice(300, None))
    fake.vendor.bars = served
    fake.run_at(802 - 300)
    np.testing.assert_array_equal(fake.store.bars.close, on_new_basis(quiet(), 801).close[:802])
    assert_equal_to_one_full_run(fake)


def test_a_restatement_beyond_the_overlap_is_fetched_whole() -> None:
    fake = FakePipeline(quiet())
    fake.run_at(800)
    restated = replace(quiet(), close=quiet().close.copy())
    restated.close[780:795] = restated.low[780:795]
    fake.vendor.bars = restated
    fake.run_at(801)
    np.testing.assert_array_equal(fake.store.bars.close, restated.close[:801])
    assert fake.store.corrections == []
    assert_equal_to_one_full_run(fake)


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
    fake, upto = FakePipeline(quiet()), 400
    fake.run_at(upto)
    for sessions, change in nights:
        bars = fake.vendor.bars
        if isinstance(change, float):
            fake.vendor.bars = on_new_basis(bars, upto, change)
        elif change is not None:
            close = bars.close.copy()
            close[upto - change] = bars.low[upto - change]
            fake.vendor.bars = replace(bars, close=close)
        upto += sessions
        fake.run_at(upto)
    # A bar that was changed deeper than the overlap is seen when the vendor is asked for it again.
    shown = fake.vendor.bars.close[:upto]
    differing = np.flatnonzero(fake.store.bars.close != shown)
    np.testing.assert_allclose(
        np.delete(fake.store.bars.close, differing), np.delete(shown, differing)
    )
    assert len(differing) <= sum(isinstance(c, int) and c > 10 for _, c in nights)
    assert_equal_to_one_full_run(fake)


def test_a_gap_is_fetched_again_and_filled() -> None:
    whole = quiet()
    fake = FakePipeline(whole.take(np.setdiff1d(np.arange(900), [500, 501])))
    fake.run_at(800 - 2)
    assert fake.store.last is not None
    assert [gap.ts for gap in fake.store.last.gaps] == [to_datetime(t) for t in whole.ts[500:502]]
    fake.vendor.bars = whole
    fake.run_at(801)
    assert fake.vendor.windows[-1] == Window(
        to_datetime(whole.ts[500]), to_datetime(whole.ts[501]) + timedelta(days=1)
    )
    np.testing.assert_array_equal(fake.store.bars.close, whole.close[:801])
    assert fake.store.last.gaps == []
    assert fake.store.last.quality.completeness == 1.0
    assert_equal_to_one_full_run(fake)


def test_a_failed_fetch_of_a_gap_does_not_fail_the_item() -> None:
    class FailingForShortWindows(FakeVendor):
        def fetch(
            self, symbol: str, asset_class: AssetClass, timeframe: Timeframe, window: Window
        ) -> FetchedBars:
            if window.end - window.start <= timedelta(days=2):
                raise ProviderUnavailable("answered 500")
            return super().fetch(symbol, asset_class, timeframe, window)

    whole = quiet()
    fake = FakePipeline(whole.take(np.setdiff1d(np.arange(900), [500])))
    fake.run_at(799)
    moody = FailingForShortWindows(fake.vendor.bars)
    fake.pipeline = EnrichmentPipeline(moody, fake.store, history_days=6000, now=lambda: fake.now)
    assert fake.run_at(800).inserted == 1
    assert fake.store.last is not None
    (gap,) = fake.store.last.gaps
    assert (gap.cause, gap.error) == ("failed_request", "answered 500")
    assert fake.store.last.quality.completeness < 1.0


class VendorWithFailover(FakeVendor):
    """A vendor with failover to a second one."""

    def __init__(self, bars: Bars, other: Bars) -> None:
        super().__init__(bars)
        self.other = FakeVendor(other)

    def fetch_from_other(self, *args: object, excluding: str) -> FetchedBars | None:
        assert excluding == "memory"
        return replace(self.other.fetch(*args), source="elsewhere")  # type: ignore[arg-type]


def causes_after_asking(bars: Bars, other: VendorWithFailover) -> set[str]:
    """The causes of the gaps after both vendors were asked for them."""
    fake = FakePipeline(bars)
    fake.run_at(500)
    fake.pipeline = EnrichmentPipeline(other, fake.store, history_days=6000, now=lambda: fake.now)
    fake.run_at(501)
    assert fake.store.last is not None
    return {gap.cause for gap in fake.store.last.gaps}


def thin() -> Bars:
    """A series of which a third of the older bars is missing."""
    rows = np.arange(900)
    return quiet().take(np.flatnonzero((rows % 3 != 1) | (rows > 400)))


def test_another_source_fills_a_gap() -> None:
    whole = quiet()
    holed = whole.take(np.setdiff1d(np.arange(900), [500]))
    fake = FakePipeline(holed)
    fake.run_at(799)
    both = VendorWithFailover(holed, whole)
    fake.pipeline = EnrichmentPipeline(both, fake.store, history_days=6000, now=lambda: fake.now)
    fake.run_at(800)
    assert fake.store.last is not None
    assert to_datetime(whole.ts[500]) in map(to_datetime, fake.store.bars.ts)
    assert [flag.check for flag in fake.store.last.flags] == ["other_source"]
    assert fake.store.last.gaps == []


def test_nobody_traded_if_two_vendors_of_a_thin_series_agree() -> None:
    assert causes_after_asking(thin(), VendorWithFailover(thin(), thin())) == {"no_trades"}


def test_a_hole_in_a_dense_series_stays_a_gap_whatever_two_vendors_miss() -> None:
    holed = quiet().take(np.setdiff1d(np.arange(900), [300]))
    assert causes_after_asking(holed, VendorWithFailover(holed, holed)) == {"unexplained"}


@pytest.mark.parametrize(
    "changes",
    [
        {"bars": Bars.empty()},
        {"requests": 0},
        {"served_from": datetime(2030, 1, 1, tzinfo=UTC)},
    ],
    ids=["does not list the symbol", "was not asked", "does not reach the time"],
)
def test_a_vendor_that_could_not_know_is_no_evidence(changes: dict[str, object]) -> None:
    class Ignorant(VendorWithFailover):
        def fetch_from_other(self, *args: object, excluding: str) -> FetchedBars | None:
            response = super().fetch_from_other(*args, excluding=excluding)
            assert response is not None
            return replace(response, **changes)  # type: ignore[arg-type]  # as replace is typed

    assert causes_after_asking(thin(), Ignorant(thin(), thin())) == {"unexplained"}


def test_another_source_adds_bars_and_restates_none() -> None:
    class Other(FakeVendor):
        def fetch(
            self, symbol: str, asset_class: AssetClass, timeframe: Timeframe, window: Window
        ) -> FetchedBars:
            response = super().fetch(symbol, asset_class, timeframe, window)
            return replace(response, source="other", adjusted=True)

    fake = FakePipeline(quiet())
    fake.run_at(800)
    theirs = replace(quiet(), close=quiet().close.copy())
    theirs.close[795] = theirs.low[795]
    fake.pipeline = EnrichmentPipeline(
        Other(theirs), fake.store, history_days=6000, now=lambda: fake.now
    )
    assert fake.run_at(802).inserted == 2
    np.testing.assert_array_equal(fake.store.bars.close, quiet().close[:802])
    assert fake.store.last is not None
    checks = {flag.check for flag in fake.store.last.flags}
    assert "mixed_adjustment" in checks


def backfill(start: datetime, end: datetime, **changes: object) -> object:
    return replace(TASK, backfill=Window(start, end), **changes)  # type: ignore[arg-type]


def test_a_backfill_extends_to_the_stored_bars() -> None:
    fake = FakePipeline(recorded_bars(), history_days=365)
    fake.run_at(3270)
    start = datetime(2004, 1, 1, tzinfo=UTC)
    fake.pipeline.enrich(backfill(start, datetime(2006, 1, 1, tzinfo=UTC)))  # type: ignore[arg-type]
    expected = recorded_bars().take(recorded_bars().ts >= np.datetime64("2004-01-01"))
    np.testing.assert_array_equal(fake.store.bars.ts, expected.ts)
    np.testing.assert_array_equal(fake.store.bars.close, expected.close)
    assert_equal_to_one_full_run(fake)


def test_an_interrupted_backfill_goes_on_where_it_stopped() -> None:
    fake = FakePipeline(recorded_bars(), history_days=365)
    fake.run_at(3270)
    start, reached = datetime(2004, 1, 1, tzinfo=UTC), datetime(2008, 1, 1, tzinfo=UTC)
    rest = backfill(start, datetime(2013, 1, 1, tzinfo=UTC), remaining=((Timeframe.D1, reached),))
    fake.pipeline.enrich(rest)  # type: ignore[arg-type]
    assert fake.vendor.windows[-1] == Window(start, reached)
    assert fake.store.backfill_left == [start]


def test_a_backfill_before_the_listing_is_not_an_error_but_an_unknown_symbol_is() -> None:
    fake = FakePipeline(recorded_bars(), history_days=365)
    fake.run_at(3270)
    early = backfill(datetime(1970, 1, 1, tzinfo=UTC), datetime(1980, 1, 1, tzinfo=UTC))
    fake.pipeline.enrich(early)  # type: ignore[arg-type]
    assert_equal_to_one_full_run(fake)
    nobody = FakePipeline(Bars.empty())
    with pytest.raises(StepFailed) as raised:
        nobody.pipeline.enrich(early)  # type: ignore[arg-type]
    assert isinstance(raised.value.__cause__, UnknownSymbol)
