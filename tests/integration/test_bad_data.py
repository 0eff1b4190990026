"""Bad answers of vendors: flagged, set apart or refused with a reason; what is stored stays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from enrichment.domain.bars import Bars, to_datetime
from enrichment.domain.errors import StepFailed, UnknownSymbol
from enrichment.domain.model import FetchedBars, Timeframe
from enrichment.pipeline.enrich import EnrichmentPipeline
from enrichment.warehouse.database import Database
from enrichment.warehouse.series.warehouse import Warehouse
from tests.helpers.nightly_runs import NightlyRuns, assert_stored, quiet_bars

GOOD = 800
NEW = 805
NAN, INF = float("nan"), float("inf")


def column(name: str, row: int, value: float) -> Callable[[Bars], Bars]:
    def change(bars: Bars) -> Bars:
        values = bars.columns()[name].copy()
        values[row] = value
        return replace(bars, **{name: values})

    return change


def moved(bars: Bars) -> Bars:
    """One new bar at noon, where no daily bar starts."""
    ts = bars.ts.copy()
    ts[803] += np.timedelta64(12, "h")
    return replace(bars, ts=ts)


@pytest.mark.parametrize(
    ("change", "check", "row"),
    [
        (column("close", 802, NAN), "non_finite_price", 802),
        (column("high", 802, INF), "non_finite_price", 802),
        (column("close", 797, NAN), "non_finite_price", 797),
        (column("low", 802, -1.0), "non_positive_price", 802),
        (column("volume", 802, -5.0), "negative_volume", 802),
        (column("volume", 802, NAN), "negative_volume", 802),
        (column("high", 802, 1e300), "extreme_value", 802),
        (column("low", 802, 1e9), "ohlc", 802),
        (moved, "misaligned", 803),
    ],
)
def test_a_bad_bar_is_set_apart_and_the_rest_is_stored(
    db: Database, change: Callable[[Bars], Bars], check: str, row: int
) -> None:
    """Among the new bars, or in the overlap, where the stored bar stays."""
    night = NightlyRuns(db, quiet_bars())
    night.run_at(GOOD)
    night.vendor.bars = change(quiet_bars())
    night.run_at(NEW, at=quiet_bars())
    kept = np.arange(NEW) if row < GOOD else np.setdiff1d(np.arange(NEW), [row])
    assert_stored(night, quiet_bars().take(kept))
    assert night.rows("SELECT DISTINCT check_name FROM bar_quarantine") == [(check,)]
    ((detail,),) = night.rows("SELECT DISTINCT detail FROM bar_quarantine")
    assert isinstance(detail, str)
    assert len(detail) > 20
    missing = [] if row < GOOD else [(to_datetime(quiet_bars().ts[row]), "quarantined")]
    assert night.rows("SELECT ts, cause FROM bar_gaps WHERE resolved_at IS NULL") == missing
    night.vendor.bars = quiet_bars()
    night.run_at(NEW + 1)
    assert_stored(night, quiet_bars().take(slice(NEW + 1)))


class Careless(NightlyRuns):
    """A vendor that answers with more, in another order, or in another unit than asked."""

    def answer(self, change: Callable[[Bars], Bars]) -> None:
        vendor = self.vendor

        class Answers:
            def fetch(self, *asked: object) -> FetchedBars:
                found = vendor.fetch(*asked)  # type: ignore[arg-type]
                return replace(found, bars=change(found.bars))

            def fetch_from_other(self, *asked: object, excluding: str) -> None:
                return None

        self.pipeline = EnrichmentPipeline(
            Answers(), Warehouse(self.db), history_days=9000, now=lambda: self.now
        )


def test_doubled_and_unsorted_bars_are_put_in_order(db: Database) -> None:
    night = Careless(db, quiet_bars())
    night.run_at(GOOD)
    night.answer(
        lambda bars: bars.concat(bars).take(np.random.default_rng(1).permutation(2 * len(bars)))
    )
    night.run_at(NEW)
    assert_stored(night, quiet_bars().take(slice(NEW)))
    checks = night.rows("SELECT DISTINCT check_name FROM bar_flags ORDER BY 1")
    assert ("duplicate",) in checks
    assert ("out_of_order",) in checks


def test_bars_that_were_not_asked_for_change_nothing(db: Database) -> None:
    night = Careless(db, quiet_bars())
    night.run_at(GOOD)
    stray = quiet_bars().take(slice(100, 103))
    night.answer(lambda bars: replace(stray, close=stray.low).concat(bars))
    night.run_at(NEW)
    assert_stored(night, quiet_bars().take(slice(NEW)))
    assert night.rows("SELECT check_name, count(*) FROM bar_quarantine GROUP BY 1") == [
        ("outside_window", 3)
    ]


def test_seconds_for_milliseconds_are_named(db: Database) -> None:
    night = Careless(db, quiet_bars())
    night.run_at(GOOD)

    def in_seconds(bars: Bars) -> Bars:
        return replace(bars, ts=(bars.ts.astype(np.int64) // 1000).astype("datetime64[us]"))

    night.answer(in_seconds)
    night.run_at(NEW)
    assert_stored(night, quiet_bars().take(slice(GOOD)))
    ((check, detail),) = night.rows(
        "SELECT DISTINCT check_name, substring(detail FROM 'seconds where.*') FROM bar_quarantine"
    )
    assert check in ("epoch_unit", "outside_window")
    assert check == "outside_window" or detail == "seconds where milliseconds belong"


@pytest.mark.parametrize("stored", [0, GOOD])
def test_an_empty_answer_fails_with_a_reason_and_leaves_what_is_stored(
    db: Database, stored: int
) -> None:
    night = Careless(db, quiet_bars())
    if stored:
        night.run_at(stored)
    night.answer(lambda bars: bars.take(slice(0)))
    with pytest.raises(StepFailed) as raised:
        night.run_at(NEW)
    assert isinstance(raised.value.__cause__, UnknownSymbol)
    assert ("800 bars are stored" if stored else "check the ticker") in str(raised.value.__cause__)
    assert len(night.bars()) == stored


def test_a_year_without_bars_is_a_year_of_gaps(db: Database) -> None:
    whole = quiet_bars()
    lost = np.arange(300, 552)
    night = NightlyRuns(db, whole.take(np.setdiff1d(np.arange(900), lost)))
    night.run_at(GOOD - len(lost))
    assert night.rows("SELECT ts FROM bar_gaps ORDER BY ts") == [
        (to_datetime(ts),) for ts in whole.ts[lost]
    ]
    known = Warehouse(db).snapshot("AAPL", Timeframe.D1)
    assert len(known.gaps) == len(lost)
    night.vendor.bars = whole
    night.run_at(GOOD)
    assert_stored(night, whole.take(slice(GOOD)))
    assert night.rows("SELECT count(*) FROM bar_gaps WHERE resolved_at IS NULL") == [(0,)]
