"""Stored against fetched bars: rebases, restatements of single bars, another source."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from enrichment.domain.bars import Bars, to_datetime
from enrichment.domain.model import FetchedBars
from enrichment.domain.series import SeriesSnapshot
from enrichment.pipeline import reconcile

MONDAY = datetime(2024, 1, 1, tzinfo=UTC)


def series(count: int = 60, seed: int = 3) -> Bars:
    random = np.random.default_rng(seed)
    close = np.round(100 * np.exp(np.cumsum(random.normal(0, 0.02, count))), 2)
    ts = np.datetime64("2024-01-01", "us") + np.arange(count) * np.timedelta64(1, "D")
    return Bars.of(ts, close - 0.5, close + 1, close - 1, close, np.full(count, 1e6))


def on_new_basis(bars: Bars, factor: float, upto: int, decimals: int = 4) -> Bars:
    """Prices before row `upto` × factor, rounded as vendors do; volume ÷ factor."""
    scale = np.where(np.arange(len(bars)) < upto, factor, 1.0)
    prices = {
        name: np.round(getattr(bars, name) * scale, decimals)
        for name in ("open", "high", "low", "close")
    }
    return replace(bars, **prices, volume=bars.volume / scale)


KNOWN = SeriesSnapshot(bars=60, first_ts=MONDAY, history_from=MONDAY, source="v")


@pytest.mark.parametrize("factor", [0.5, 1 / 3, 2 / 3, 1 / 7, 10.0, 0.05, 0.995])
def test_a_split_is_one_factor_and_its_date(factor: float) -> None:
    before = series()
    rebase = reconcile.detect_rebase(before.take(slice(50)), on_new_basis(before, factor, 50))
    assert rebase is not None
    assert rebase.factor == pytest.approx(factor, rel=1e-3)
    assert rebase.ts == MONDAY + timedelta(days=50)


def test_bars_stored_after_the_split_are_not_rebased() -> None:
    before = series()
    rebase = reconcile.detect_rebase(before, on_new_basis(before, 0.5, 57))
    assert rebase is not None
    assert (rebase.factor, rebase.ts) == (pytest.approx(0.5), MONDAY + timedelta(days=57))


def test_one_restated_bar_beside_a_split_does_not_hide_it() -> None:
    before = series(300)
    after = on_new_basis(before, 0.5, 300)
    after.close[100] *= 1.3
    rebase = reconcile.detect_rebase(before, after)
    assert rebase is not None
    assert rebase.factor == pytest.approx(0.5)


@given(st.sets(st.integers(0, 59), min_size=1, max_size=20), st.integers(0, 100))
def test_restated_bars_are_no_split(rows: set[int], seed: int) -> None:
    before = series()
    after = replace(before, close=before.close.copy())
    noise = np.random.default_rng(seed)
    for row in rows:
        after.close[row] *= 1 + noise.choice([-1, 1]) * noise.uniform(0.01, 0.3)
    assert reconcile.detect_rebase(before, after) is None


def test_equal_bars_are_no_split() -> None:
    assert reconcile.detect_rebase(series(), series()) is None
    assert reconcile.detect_rebase(series(), Bars.empty()) is None


@pytest.mark.parametrize(("row", "deep"), [(50, True), (51, False), (59, False)])
def test_a_change_of_the_oldest_overlapping_bar_means_a_changed_history(
    row: int, deep: bool
) -> None:
    stored = series()
    fetched = stored.take(slice(50, None))
    fetched = replace(fetched, close=fetched.close.copy())
    fetched.close[row - 50] += 1
    assert reconcile.changed_before_overlap(KNOWN, stored, fetched) is deep


def test_a_series_within_the_overlap_has_no_earlier_history() -> None:
    stored = series(5)
    assert not reconcile.changed_before_overlap(KNOWN, stored, on_new_basis(stored, 0.5, 5))


def test_a_missing_overlap_is_no_changed_history() -> None:
    assert not reconcile.changed_before_overlap(KNOWN, series(), Bars.empty())


def test_a_change_of_the_source_flags_disagreements_and_the_basis() -> None:
    stored, theirs = series(55), series(60)
    theirs.close[52] *= 1.012
    theirs.close[53] *= 1.008
    flags = reconcile.source_change_flags(
        KNOWN, stored, theirs, FetchedBars(theirs, "other", adjusted=True)
    )
    assert [(flag.check, flag.ts) for flag in flags] == [
        ("source_disagreement", to_datetime(theirs.ts[52])),
        ("mixed_adjustment", to_datetime(theirs.ts[55])),
    ]
    assert "from here on other, adjusted for splits; before it v, as traded" in flags[1].detail
    same = FetchedBars(theirs, "other", adjusted=False)
    assert [f.check for f in reconcile.source_change_flags(KNOWN, stored, theirs, same)] == [
        "source_disagreement"
    ]
