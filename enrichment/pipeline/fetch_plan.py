"""What to ask a vendor for: the newest bars, holes that are due, a long history piece by piece."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

import numpy as np

from enrichment.domain import calendars
from enrichment.domain.bars import Timestamps, to_datetime, to_datetime64
from enrichment.domain.model import AssetClass, Timeframe, Window
from enrichment.domain.series import SeriesSnapshot

OVERLAP = 10
BARS_PER_CHUNK = 10_000
GAP_FETCHES_PER_RUN = 5
_NEAR = 200  # bars: holes this close together are asked for in one request


def incremental_window(known: SeriesSnapshot, now: datetime, history: timedelta) -> Window:
    """From the overlap on; or the whole history, where less of it was ever asked for."""
    wanted = (now - history).replace(hour=0, minute=0, second=0, microsecond=0)
    asked = known.history_from
    if known.overlap_from is None or asked is None or wanted < asked - timedelta(days=1):
        return Window(wanted, now)
    return Window(known.overlap_from, now)


def nothing_due(
    known: SeriesSnapshot, asset_class: AssetClass, timeframe: Timeframe, now: datetime
) -> bool:
    """Whether no bar has ended since the newest one, and nothing is in doubt in the overlap."""
    if known.last_ts is None or not known.overlap_trusted:
        return False
    newest = calendars.last_complete(asset_class, timeframe, now)
    return bool(to_datetime64(known.last_ts) >= newest)


def gap_windows(timeframe: Timeframe, due: Timestamps, before: datetime) -> list[Window]:
    """Windows around the holes that are due and that the main window does not cover, oldest
    first; at most HEALS_PER_RUN of them.
    """
    holes = due[due < to_datetime64(before)]
    if len(holes) == 0:
        return []
    step = np.timedelta64(timeframe.duration)
    breaks = np.flatnonzero(np.diff(holes) > _NEAR * step) + 1
    clusters = np.split(holes, breaks)[:GAP_FETCHES_PER_RUN]
    ends = [min(to_datetime(cluster[-1] + step), before) for cluster in clusters]
    return [Window(to_datetime(c[0]), end) for c, end in zip(clusters, ends, strict=True)]


def backfill_chunks(window: Window, timeframe: Timeframe, bars: int) -> Iterator[Window]:
    """The window in pieces of so many nominal bars, newest first."""
    end = window.end
    while end > window.start:
        start = max(window.start, end - bars * timeframe.duration)
        yield Window(start, end)
        end = start


def extend_to_stored(window: Window, known: SeriesSnapshot, now: datetime) -> Window:
    """A backfill's window without the future, and reaching up to what is stored: a history has no
    hole that nobody asked about.
    """
    end = min(window.end, now)
    if known.history_from is None:
        return Window(window.start, end)
    return Window(window.start, max(end, min(known.history_from, now)))
