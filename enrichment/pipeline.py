"""The straight line of one symbol: fetch → validate → features → quality → one transaction."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Protocol

import numpy as np

from enrichment import calendars, features, quality
from enrichment.domain import (
    AssetClass,
    Bars,
    Checked,
    Enriched,
    Fetched,
    Quality,
    Stored,
    Task,
    Timeframe,
    Timestamps,
    Window,
    Written,
    to_datetime,
    to_datetime64,
)
from enrichment.errors import StepFailed, UnknownSymbol
from enrichment.validation import missing_bars, validate

OVERLAP = 10
EXAMPLES = 4  # timestamps that a reason may name
_TAIL = OVERLAP + features.LOOKBACK


class Source(Protocol):
    """Where bars come from: one provider, or several in order."""

    def fetch(
        self, symbol: str, asset_class: AssetClass, timeframe: Timeframe, window: Window
    ) -> Fetched: ...


class Warehouse(Protocol):
    """Where bars go to."""

    def stored(self, symbol: str, timeframe: Timeframe, tail: int | None) -> Stored: ...

    def commit(self, task: Task, series: Sequence[Enriched]) -> Written: ...


class Pipeline:
    """Enriches tasks, any number of them at once.

    history_days: how far back the first run of a series reaches, in days.
    now: the wall clock, timezone-aware UTC.
    """

    def __init__(
        self,
        source: Source,
        warehouse: Warehouse,
        *,
        history_days: int,
        now: Callable[[], datetime],
    ) -> None:
        self._source = source
        self._warehouse = warehouse
        self._history = timedelta(days=history_days)
        self._now = now

    def enrich(self, task: Task, report: Callable[[str], None] = lambda step: None) -> Written:
        """Bring every timeframe of the task up to date; returns the rows written.

        report: told the name of each step as it begins. Raises StepFailed from the cause; nothing
        is written then.
        """
        series = [self._enrich(task, timeframe, report) for timeframe in task.timeframes]
        with _step("store", None, report):
            return self._warehouse.commit(task, series)

    def _enrich(self, task: Task, timeframe: Timeframe, report: Callable[[str], None]) -> Enriched:
        now, kind = self._now(), task.asset_class
        with _step("read", timeframe, report):
            stored, window = self._plan(task.symbol, timeframe, now)
        with _step("fetch", timeframe, report) as fetching:
            fetched = self._source.fetch(task.symbol, kind, timeframe, window)
            _refuse_nothing(task.symbol, timeframe, fetched, stored)
        with _step("compute", timeframe, report) as computing:
            checked = validate(
                fetched.bars,
                asset_class=kind,
                timeframe=timeframe,
                window=window,
                now=now,
                context=stored.tail,
            )
            merged, first_changed = merge(stored.tail, checked.bars)
            computed = features.compute(merged)
            gaps = _gaps(kind, timeframe, merged, window, now)
            scored = _score(task, timeframe, now, window, stored, checked, merged, computed, gaps)
        changed = slice(first_changed, None)
        return Enriched(
            timeframe=timeframe,
            window=window,
            fetched=fetched,
            fetch_ms=fetching.milliseconds,
            checked=checked,
            bars=merged.take(changed),
            features={name: column[changed] for name, column in computed.items()},
            compute_ms=computing.milliseconds,
            gaps=[to_datetime(ts) for ts in gaps],
            quality=scored,
            history_from=min(stored.history_from or window.start, window.start),
        )

    def _plan(self, symbol: str, timeframe: Timeframe, now: datetime) -> tuple[Stored, Window]:
        """What is stored and what to ask for: from the overlap on, or the whole history."""
        stored = self._warehouse.stored(symbol, timeframe, _TAIL)
        wanted = (now - self._history).replace(hour=0, minute=0, second=0, microsecond=0)
        if len(stored.tail) == 0 or stored.history_from is None:
            return stored, Window(wanted, now)
        if wanted < stored.history_from - timedelta(days=1):
            return self._warehouse.stored(symbol, timeframe, None), Window(wanted, now)
        overlap = stored.tail.ts[-min(OVERLAP, len(stored.tail))]
        return stored, Window(to_datetime(overlap), now)


def merge(tail: Bars, fetched: Bars) -> tuple[Bars, int]:
    """The stored tail with the fetched bars on top, and the first row that is new or differs.

    Both are ascending without repetition. The row is len(merged) where nothing changed.
    """
    kept = tail.take(~np.isin(tail.ts, fetched.ts))
    union = kept.followed_by(fetched)
    merged = union.take(np.argsort(union.ts, kind="stable"))
    known = np.searchsorted(tail.ts, merged.ts)
    same = np.zeros(len(merged), dtype=bool)
    found = known < len(tail)
    found[found] = tail.ts[known[found]] == merged.ts[found]
    before = tail.take(known[found])
    same[found] = _equal_rows(merged.take(found), before)
    changed = np.flatnonzero(~same)
    return merged, int(changed[0]) if len(changed) else len(merged)


def _equal_rows(a: Bars, b: Bars) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    theirs = b.columns()
    equal = np.ones(len(a), dtype=bool)
    for name, column in a.columns().items():
        other = theirs[name]
        equal &= (column == other) | (np.isnan(column) & np.isnan(other) if name != "ts" else False)
    return equal


def _refuse_nothing(symbol: str, timeframe: Timeframe, fetched: Fetched, stored: Stored) -> None:
    if len(fetched.bars) > 0:
        return
    if len(stored.tail) == 0:
        raise UnknownSymbol(
            f"{fetched.source} has no {timeframe} bars of {symbol}: check the ticker and its "
            "asset class, or remove it with 'enrichment symbols remove'"
        )
    raise UnknownSymbol(
        f"{fetched.source} returned nothing for {symbol} {timeframe}, of which "
        f"{stored.bars:,} bars are stored: it may be delisted or renamed; what is stored stays"
    )


def _gaps(
    kind: AssetClass, timeframe: Timeframe, merged: Bars, window: Window, now: datetime
) -> Timestamps:
    """Bars missing within the window, judged on what will be stored; a series begins with its first
    bar.
    """
    if len(merged) == 0:
        return np.empty(0, "datetime64[us]")
    start = max(window.start, to_datetime(merged.ts[0]))
    return missing_bars(kind, timeframe, merged.ts, start, now)


def _score(
    task: Task,
    timeframe: Timeframe,
    now: datetime,
    window: Window,
    stored: Stored,
    checked: Checked,
    merged: Bars,
    computed: Mapping[str, features.Column],
    gaps: Timestamps,
) -> Quality:
    """The quality of the whole series: what was known before the window, and what is new in it."""
    kind, start = task.asset_class, to_datetime64(window.start)
    nothing = merged.ts[:0]
    first = stored.first_ts or (to_datetime(merged.ts[0]) if len(merged) else now)
    bad = np.unique([to_datetime64(q.ts) for q in checked.quarantined]).astype(nothing.dtype)
    flagged = np.count_nonzero(stored.flagged < start) + len(bad)
    before = max(0, stored.bars - len(stored.tail))
    context = features.LOOKBACK if before else 0  # rows that only lend their past to later ones
    cells, nulls = quality.feature_coverage(
        before + context, {name: column[context:] for name, column in computed.items()}
    )
    newest = to_datetime(merged.ts[-1]) if len(merged) else None
    return quality.assess(
        quality.Evidence(
            expected=len(missing_bars(kind, timeframe, nothing, first, now)),
            missing=int(np.count_nonzero(stored.gaps < start)) + len(gaps),
            checked=before + len(merged) + int(flagged),
            with_errors=int(flagged),
            feature_cells=cells,
            feature_nulls=nulls,
            sessions_behind=calendars.sessions_behind(kind, timeframe, newest, now),
            missing_at=[to_datetime(ts) for ts in gaps[:EXAMPLES]],
            errors_at=[q.ts for q in checked.quarantined[:EXAMPLES]],
        )
    )


class _Timer:
    def __init__(self) -> None:
        self._began = time.perf_counter()
        self.milliseconds = 0.0

    def stop(self) -> None:
        self.milliseconds = (time.perf_counter() - self._began) * 1000.0


@contextmanager
def _step(
    name: str, timeframe: Timeframe | None, report: Callable[[str], None]
) -> Iterator[_Timer]:
    """Reports and times a step; whatever fails in it surfaces as StepFailed, caused by the
    failure.
    """
    report(f"{name} {timeframe}" if timeframe else name)
    timer = _Timer()
    try:
        yield timer
    except Exception as exc:
        timer.stop()
        raise StepFailed(name, timeframe, timer.milliseconds) from exc
    timer.stop()
