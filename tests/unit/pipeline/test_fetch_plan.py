"""Which windows are asked for."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from enrichment.domain.bars import to_datetime64
from enrichment.domain.model import Timeframe, Window
from enrichment.domain.series import SeriesSnapshot
from enrichment.pipeline import fetch_plan

NOW = datetime(2026, 3, 2, 1, 30, tzinfo=UTC)
YEAR = timedelta(days=365)


def known(**changes: datetime) -> SeriesSnapshot:
    start = datetime(2025, 1, 2, tzinfo=UTC)
    values = {"first_ts": start, "overlap_from": NOW - timedelta(days=14), "history_from": start}
    return SeriesSnapshot(bars=250, **{**values, **changes})


def test_the_first_run_asks_from_a_midnight() -> None:
    window = fetch_plan.incremental_window(SeriesSnapshot(), NOW, YEAR)
    assert window == Window(datetime(2025, 3, 2, tzinfo=UTC), NOW)


def test_later_runs_ask_for_the_overlap() -> None:
    assert fetch_plan.incremental_window(known(), NOW, YEAR).start == NOW - timedelta(days=14)


def test_a_longer_history_is_asked_for_once() -> None:
    wanted = fetch_plan.incremental_window(known(), NOW, 3 * YEAR)
    assert wanted.start == datetime(2023, 3, 3, tzinfo=UTC)
    again = fetch_plan.incremental_window(known(history_from=wanted.start), NOW, 3 * YEAR)
    assert again.start == NOW - timedelta(days=14)


def test_holes_that_stand_close_are_one_request_and_others_wait_their_turn() -> None:
    days = [1, 2, 5, 400, 800, 1200, 1600, 2000]
    due = np.array([np.datetime64("2015-01-01", "us") + np.timedelta64(n, "D") for n in days])
    windows = fetch_plan.gap_windows(Timeframe.D1, due, NOW)
    assert len(windows) == fetch_plan.GAP_FETCHES_PER_RUN
    assert windows[0] == Window(datetime(2015, 1, 2, tzinfo=UTC), datetime(2015, 1, 7, tzinfo=UTC))
    assert windows[1].end - windows[1].start == timedelta(days=1)


def test_holes_in_the_main_window_need_no_request_of_their_own() -> None:
    due = np.array([to_datetime64(NOW)])
    assert fetch_plan.gap_windows(Timeframe.D1, due, NOW) == []


@given(
    st.sets(st.integers(0, 5000), max_size=40),
    st.sampled_from([Timeframe.M5, Timeframe.H1, Timeframe.D1]),
)
def test_every_hole_is_covered_or_waits(rows: set[int], timeframe: Timeframe) -> None:
    step = np.timedelta64(timeframe.duration)
    start = np.datetime64("2000-01-01", "us")
    due = np.array(sorted(start + row * step for row in rows), dtype="datetime64[us]")
    windows = fetch_plan.gap_windows(timeframe, due, NOW)
    assert len(windows) <= fetch_plan.GAP_FETCHES_PER_RUN
    assert all(a.end <= b.start for a, b in itertools.pairwise(windows))
    reached = windows[-1].end if windows else None
    for ts in due:
        covered = any(to_datetime64(w.start) <= ts < to_datetime64(w.end) for w in windows)
        assert covered or (reached is not None and ts >= to_datetime64(reached))


@given(st.integers(1, 20_000))
def test_pieces_cover_a_backfill_without_overlap(hours: int) -> None:
    start = datetime(2010, 1, 1, tzinfo=UTC)
    window = Window(start, start + timedelta(hours=hours))
    pieces = list(fetch_plan.backfill_chunks(window, Timeframe.H1, 700))
    assert (pieces[-1].start, pieces[0].end) == (window.start, window.end)
    assert all(older.end == newer.start for newer, older in itertools.pairwise(pieces))
    assert all(p.end - p.start <= timedelta(hours=700) for p in pieces)


def test_a_backfill_reaches_up_to_what_is_stored_and_not_into_the_future() -> None:
    wanted = Window(datetime(2010, 1, 1, tzinfo=UTC), datetime(2012, 1, 1, tzinfo=UTC))
    assert fetch_plan.extend_to_stored(wanted, known(), NOW).end == datetime(2025, 1, 2, tzinfo=UTC)
    assert fetch_plan.extend_to_stored(wanted, SeriesSnapshot(), NOW) == wanted
    late = Window(wanted.start, NOW + timedelta(days=9))
    assert fetch_plan.extend_to_stored(late, known(), NOW).end == NOW
