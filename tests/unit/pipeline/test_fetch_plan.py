"""What is fetched and what is read in each situation, and how windows are cut."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from enrichment.domain.bars import to_datetime64
from enrichment.domain.model import Timeframe, Window
from enrichment.domain.series import SeriesSnapshot, StoredTail
from enrichment.domain.statuses import HistoryLimit
from enrichment.pipeline import fetch_plan
from enrichment.pipeline.fetch_plan import FetchPlan, Read, Situation

NOW = datetime(2026, 3, 2, 1, 30, tzinfo=UTC)
YEAR = timedelta(days=365)


START = datetime(2025, 1, 2, tzinfo=UTC)
OVERLAP_FROM = NOW - timedelta(days=14)
CHUNK = Window(datetime(2019, 1, 1, tzinfo=UTC), datetime(2020, 1, 1, tzinfo=UTC))
TAIL = StoredTail()


def stored(**changes: object) -> SeriesSnapshot:
    """A series of a year, with its tail."""
    snapshot = SeriesSnapshot(
        bars=250, first_ts=START, overlap_from=OVERLAP_FROM, history_from=START, tail=TAIL
    )
    return replace(snapshot, **changes)  # type: ignore[arg-type]  # as replace itself is typed


def update(snapshot: SeriesSnapshot, history: timedelta = YEAR) -> FetchPlan:
    return fetch_plan.plan_update(snapshot, Timeframe.D1, NOW, history)


def test_a_first_run_fetches_the_configured_history_and_reads_nothing() -> None:
    plan = update(SeriesSnapshot())
    window = Window(datetime(2025, 3, 2, tzinfo=UTC), NOW)
    assert plan == FetchPlan(Situation.FIRST_RUN, window, Read.SNAPSHOT)


def test_later_runs_fetch_the_overlap_and_use_the_tail_of_the_snapshot() -> None:
    window = Window(OVERLAP_FROM, NOW)
    assert update(stored()) == FetchPlan(Situation.INCREMENTAL, window, Read.SNAPSHOT, [])


@pytest.mark.parametrize("tail", [None, StoredTail(without_lookback=True)])
def test_a_tail_that_did_not_come_with_the_snapshot_is_read(tail: StoredTail | None) -> None:
    plan = update(stored(tail=tail))
    assert (plan.read, plan.read_from) == (Read.TAIL, OVERLAP_FROM)


def test_due_gaps_are_fetched_after_the_overlap_and_the_tail_begins_with_them() -> None:
    gap = np.array(["2025-06-03"], dtype="datetime64[us]")
    plan = update(stored(gaps_due=gap))
    start = datetime(2025, 6, 3, tzinfo=UTC)
    assert plan.situation is Situation.INCREMENTAL
    assert plan.gaps == [Window(start, start + timedelta(days=1))]
    assert (plan.read, plan.read_from) == (Read.TAIL, start)


def test_a_longer_history_is_fetched_once() -> None:
    plan = update(stored(), 3 * YEAR)
    start = datetime(2023, 3, 3, tzinfo=UTC)
    overlap, older = Window(OVERLAP_FROM, NOW), Window(start, START)
    assert plan == FetchPlan(Situation.LONGER_HISTORY, overlap, Read.TAIL, [older])
    assert plan.read_from == start
    served = stored(history_from=start, wanted_from=start)
    assert update(served, 3 * YEAR).situation is Situation.INCREMENTAL


def test_unserved_history_is_fetched_when_it_is_due() -> None:
    start = datetime(2015, 1, 1, tzinfo=UTC)
    assert update(stored(wanted_from=start)).gaps == [Window(start, START)]
    checked = stored(wanted_from=start, history_limit=HistoryLimit.PLAN, history_due=False)
    assert update(checked).gaps == []
    assert update(replace(checked, wanted_from=START), 3 * YEAR).gaps != []  # wanted more since


def test_a_chunk_of_a_backfill_reads_the_tail_from_its_start_on() -> None:
    plan = fetch_plan.plan_chunk(stored(tail=None), CHUNK)
    assert plan == FetchPlan(Situation.BACKFILL, CHUNK, Read.TAIL)
    assert plan.read_from == CHUNK.start
    assert fetch_plan.plan_chunk(SeriesSnapshot(), CHUNK).read is Read.SNAPSHOT


def test_an_unchanged_overlap_needs_nothing_more() -> None:
    plan = fetch_plan.plan_unchanged(update(stored(tail=StoredTail(without_lookback=True))))
    window = Window(OVERLAP_FROM, NOW)
    assert plan == FetchPlan(Situation.UNCHANGED, window, Read.SNAPSHOT)


def test_a_changed_history_is_fetched_and_read_whole() -> None:
    for snapshot, plan in (
        (stored(), update(stored())),
        (SeriesSnapshot(), fetch_plan.plan_chunk(stored(), Window(START, OVERLAP_FROM))),
    ):
        again = fetch_plan.plan_refetch(plan, snapshot, NOW)
        assert again == FetchPlan(Situation.HISTORY_CHANGED, Window(START, NOW), Read.ALL)
        assert again.read_from is None


def test_after_a_change_of_the_features_all_bars_are_read() -> None:
    outdated = stored(features_current=False)
    for plan in (update(outdated), fetch_plan.plan_chunk(outdated, CHUNK)):
        assert (plan.read, plan.read_from) == (Read.ALL, None)


def test_the_table_of_the_module_names_every_situation() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", fetch_plan.__doc__ or "", re.MULTILINE)
    assert rows == [situation.value for situation in Situation]


def test_close_gaps_are_one_request_and_those_above_the_limit_wait() -> None:
    days = [1, 2, 5, 400, 800, 1200, 1600, 2000]
    due = np.array([np.datetime64("2015-01-01", "us") + np.timedelta64(n, "D") for n in days])
    windows = fetch_plan.gap_windows(Timeframe.D1, due, NOW)
    assert len(windows) == fetch_plan.GAP_FETCHES_PER_RUN
    assert windows[0] == Window(datetime(2015, 1, 2, tzinfo=UTC), datetime(2015, 1, 7, tzinfo=UTC))
    assert windows[1].end - windows[1].start == timedelta(days=1)


def test_gaps_in_the_main_window_need_no_request_of_their_own() -> None:
    due = np.array([to_datetime64(NOW)])
    assert fetch_plan.gap_windows(Timeframe.D1, due, NOW) == []


@given(
    st.sets(st.integers(0, 5000), max_size=40),
    st.sampled_from([Timeframe.M5, Timeframe.H1, Timeframe.D1]),
)
def test_every_gap_is_covered_or_waits(rows: set[int], timeframe: Timeframe) -> None:
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
def test_chunks_cover_a_backfill_without_overlap(hours: int) -> None:
    start = datetime(2010, 1, 1, tzinfo=UTC)
    window = Window(start, start + timedelta(hours=hours))
    chunks = list(fetch_plan.backfill_chunks(window, Timeframe.H1, 700))
    assert (chunks[-1].start, chunks[0].end) == (window.start, window.end)
    assert all(older.end == newer.start for newer, older in itertools.pairwise(chunks))
    assert all(p.end - p.start <= timedelta(hours=700) for p in chunks)


def test_a_backfill_reaches_up_to_what_is_stored_and_not_into_the_future() -> None:
    wanted = Window(datetime(2010, 1, 1, tzinfo=UTC), datetime(2012, 1, 1, tzinfo=UTC))
    assert fetch_plan.extend_to_stored(wanted, stored(), NOW).end == datetime(
        2025, 1, 2, tzinfo=UTC
    )
    assert fetch_plan.extend_to_stored(wanted, SeriesSnapshot(), NOW) == wanted
    late = Window(wanted.start, NOW + timedelta(days=9))
    assert fetch_plan.extend_to_stored(late, stored(), NOW).end == NOW
