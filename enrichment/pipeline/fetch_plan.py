"""Decides what a run fetches and which stored bars it reads, from the snapshot of the series.

| Situation | When | Fetch | Read |
|---|---|---|---|
| `first_run` | no bar is stored | the configured history | nothing |
| `incremental` | bars are stored | from the overlap on, then each due gap | the tail |
| `longer_history` | more history is wanted than was ever served | also that part | the tail |
| `comparison` | a month after the last one | the whole history, then each due gap | all bars |
| `session_changed` | other hours than those stored are chosen | the whole history | all bars |
| `backfill` | a job requests a part of the history | one chunk of it at a time | the tail |
| `repair` | a job replaces a damaged part | one chunk of it at a time | the tail |
| `unchanged` | the overlap was returned as stored, no gap is due | nothing more | nothing more |
| `history_changed` | the bars before the overlap changed, too | all history again | all bars |

The tail: all stored bars from the earliest fetched window on, and the lookback of the features. The
tail from the overlap on mostly comes with the snapshot and is not read again. After a change of the
set of features all bars are read, since all need new values.

The first seven situations are known before the first request (`plan_update`,
`plan_comparison`, `plan_other_session`, `plan_chunk`), the last
two after its response (`plan_unchanged`, `plan_refetch`).

>>> from datetime import UTC
>>> plan = plan_update(
...     SeriesSnapshot(), Timeframe.D1, datetime(2024, 3, 1, 1, 30, tzinfo=UTC), timedelta(days=60)
... )
>>> plan.situation.value, f"{plan.window.start:%Y-%m-%d}", plan.read.value
('first_run', '2024-01-01', 'snapshot')
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from zlib import crc32

import numpy as np

from enrichment.domain import calendars
from enrichment.domain.bars import Timestamps, to_datetime, to_datetime64
from enrichment.domain.calendars import Market
from enrichment.domain.model import StockSession, Timeframe, Window
from enrichment.domain.series import SeriesSnapshot

OVERLAP = 10  # newest stored bars that each run fetches again
BARS_PER_CHUNK = 10_000
GAP_FETCHES_PER_RUN = 5
_DAY = timedelta(days=1)
COMPARISON_DAYS = 30  # between two comparisons of a series with all that its vendor has
MAX_COMPARED_BARS = 100_000  # nominal ones, the newest of a series
_MAX_BARS_BETWEEN_GAPS = 200  # closer gaps are fetched by one request


class Situation(StrEnum):
    """A row of the table above."""

    FIRST_RUN = "first_run"
    INCREMENTAL = "incremental"
    LONGER_HISTORY = "longer_history"
    COMPARISON = "comparison"
    SESSION_CHANGED = "session_changed"
    BACKFILL = "backfill"
    REPAIR = "repair"
    UNCHANGED = "unchanged"
    HISTORY_CHANGED = "history_changed"


class Read(StrEnum):
    """Which stored bars are read."""

    SNAPSHOT = "snapshot"  # nothing beyond what came with the snapshot
    TAIL = "tail"
    ALL = "all"


@dataclass(frozen=True, slots=True)
class FetchPlan:
    """What to fetch and what to read of one series."""

    situation: Situation
    window: Window  # fetched first
    read: Read
    gaps: Sequence[Window] = ()  # fetched after it: missing bars and unserved history

    @property
    def read_from(self) -> datetime | None:
        """Start of the bars to read; None: all."""
        return None if self.read is Read.ALL else _start(self.window, self.gaps)


def plan_run(
    symbol: str,
    timeframe: Timeframe,
    snapshot: SeriesSnapshot,
    now: datetime,
    history: timedelta,
    *,
    session: StockSession,
) -> FetchPlan:
    """Plan of a run that brings a series up to date, and compares all of it where that is due.

    Args:
        symbol: Of the series.
        timeframe: Of the series.
        snapshot: What is stored of it.
        now: Of the run.
        history: How far back the first run reaches.
        session: The hours of the symbol's bars.
    """
    if snapshot.bars and session is not snapshot.session:
        return plan_other_session(snapshot, now)
    plan = plan_update(snapshot, timeframe, now, history)
    if not comparison_due(symbol, timeframe, snapshot, now):
        return plan
    return plan_comparison(plan, snapshot, timeframe, now)


def plan_update(
    snapshot: SeriesSnapshot, timeframe: Timeframe, now: datetime, history: timedelta
) -> FetchPlan:
    """Plan of an update; `history` as for `plan_run`."""
    configured = (now - history).replace(hour=0, minute=0, second=0, microsecond=0)
    wanted = min(configured, snapshot.wanted_from or configured)
    if snapshot.overlap_from is None:
        return FetchPlan(Situation.FIRST_RUN, Window(wanted, now), Read.SNAPSHOT)
    window = Window(snapshot.overlap_from, now)
    older = _unserved_history(snapshot, wanted, window.start)
    gaps = [*older, *gap_windows(timeframe, snapshot.gaps_due, window.start)]
    situation = Situation.LONGER_HISTORY if older else Situation.INCREMENTAL
    return FetchPlan(situation, window, _read(snapshot, _start(window, gaps)), gaps)


def _unserved_history(snapshot: SeriesSnapshot, wanted: datetime, before: datetime) -> list[Window]:
    """What is wanted before the served history, unless vendors have lately said to lack it."""
    served = snapshot.history_from or snapshot.first_ts
    if served is None or served - wanted <= _DAY:
        return []
    longer = snapshot.wanted_from is None or snapshot.wanted_from - wanted > _DAY
    return [Window(wanted, min(served, before))] if longer or snapshot.history_due else []


def comparison_due(
    symbol: str, timeframe: Timeframe, snapshot: SeriesSnapshot, now: datetime
) -> bool:
    """Whether the whole history is to be compared with the vendor's: on one day in 30, which
    differs from series to series, so that a night compares a thirtieth of them; and again after a
    comparison that missed bars, which are withdrawn only if they are missing twice.
    """
    if snapshot.overlap_from is None:
        return False
    if (snapshot.doubted < to_datetime64(snapshot.overlap_from)).any():
        return True
    since = snapshot.compared_at
    if since is None or now - since < timedelta(days=COMPARISON_DAYS / 2):
        return False
    return (now.toordinal() + crc32(f"{symbol} {timeframe}".encode())) % COMPARISON_DAYS == 0


def plan_comparison(
    plan: FetchPlan, snapshot: SeriesSnapshot, timeframe: Timeframe, now: datetime
) -> FetchPlan:
    """The plan of an update that compares the whole history, too."""
    start = min(plan.window.start, compared_from(snapshot, timeframe, now))
    return replace(plan, situation=Situation.COMPARISON, window=Window(start, now), read=Read.ALL)


def plan_other_session(snapshot: SeriesSnapshot, now: datetime) -> FetchPlan:
    """Plan to fetch a stored series anew, in whose hours a symbol's bars are no longer stored."""
    start = snapshot.history_from or snapshot.first_ts or now
    return FetchPlan(Situation.SESSION_CHANGED, Window(start, now), Read.ALL)


def compared_from(snapshot: SeriesSnapshot, timeframe: Timeframe, now: datetime) -> datetime:
    """Where a comparison of the whole history begins; `now` for an empty series."""
    longest = timedelta(days=min(MAX_COMPARED_BARS * timeframe.duration / _DAY, 36_500))
    return max(snapshot.history_from or snapshot.first_ts or now, now - longest)


def plan_chunk(
    snapshot: SeriesSnapshot, chunk: Window, situation: Situation = Situation.BACKFILL
) -> FetchPlan:
    """Plan of one chunk of a backfill or a repair."""
    return FetchPlan(situation, chunk, _read(snapshot, chunk.start))


def plan_unchanged(plan: FetchPlan) -> FetchPlan:
    """The rest of a plan whose response equals the stored bars."""
    return FetchPlan(Situation.UNCHANGED, plan.window, Read.SNAPSHOT)


def plan_refetch(plan: FetchPlan, snapshot: SeriesSnapshot, now: datetime) -> FetchPlan:
    """Plan to fetch the whole history again, as far back as it was ever served or is wanted now."""
    start = min(snapshot.history_from or plan.window.start, _start(plan.window, plan.gaps))
    return FetchPlan(Situation.HISTORY_CHANGED, Window(start, now), Read.ALL)


def _start(window: Window, gaps: Sequence[Window]) -> datetime:
    return min(each.start for each in (window, *gaps))


def _read(snapshot: SeriesSnapshot, since: datetime) -> Read:
    if not snapshot.features_current:
        return Read.ALL
    tail = snapshot.tail
    came_along = tail is not None and not tail.without_lookback and since == snapshot.overlap_from
    return Read.SNAPSHOT if snapshot.overlap_from is None or came_along else Read.TAIL


def nothing_due(
    snapshot: SeriesSnapshot, market: Market, timeframe: Timeframe, now: datetime
) -> bool:
    """Whether no bar has ended since the newest stored one and the overlap is trusted."""
    if snapshot.last_ts is None or not snapshot.overlap_trusted:
        return False
    newest = calendars.last_complete(market, timeframe, now)
    return bool(to_datetime64(snapshot.last_ts) >= newest)


def gap_windows(timeframe: Timeframe, gaps_due: Timestamps, before: datetime) -> list[Window]:
    """Windows of the due gaps before a moment, close ones together, ascending.

    At most GAP_FETCHES_PER_RUN; the rest is left to later runs.
    """
    gaps = gaps_due[gaps_due < to_datetime64(before)]
    if len(gaps) == 0:
        return []
    step = np.timedelta64(timeframe.duration)
    breaks = np.flatnonzero(np.diff(gaps) > _MAX_BARS_BETWEEN_GAPS * step) + 1
    clusters = np.split(gaps, breaks)[:GAP_FETCHES_PER_RUN]
    ends = [min(to_datetime(cluster[-1] + step), before) for cluster in clusters]
    return [Window(to_datetime(c[0]), end) for c, end in zip(clusters, ends, strict=True)]


def backfill_chunks(window: Window, timeframe: Timeframe, bars: int) -> Iterator[Window]:
    """The window in chunks of `bars` nominal bars, newest first."""
    end = window.end
    while end > window.start:
        start = max(window.start, end - bars * timeframe.duration)
        yield Window(start, end)
        end = start


def extend_to_stored(window: Window, snapshot: SeriesSnapshot, now: datetime) -> Window:
    """A backfill's window, without the future and extended up to the stored history, so that no
    part between them is never requested.
    """
    end = min(window.end, now)
    if snapshot.history_from is None:
        return Window(window.start, end)
    return Window(window.start, max(end, min(snapshot.history_from, now)))
