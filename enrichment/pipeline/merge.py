"""Joins fetched bars to the stored ones: the merged series, its features, gaps and quality.

>>> from datetime import UTC
>>> from uuid import UUID
>>> from enrichment.domain.corporate_actions import NO_SPLITS
>>> from enrichment.domain.model import AssetClass, FetchedBars, Task, Timeframe, ValidationResult
>>> from enrichment.domain.series import FetchResult, StoredTail
>>> task = Task(UUID(int=1), "X:BTCUSD", AssetClass.CRYPTO, (Timeframe.D1,), "worker", 1)
>>> window = Window(datetime(2024, 1, 5, tzinfo=UTC), datetime(2024, 1, 8, tzinfo=UTC))
>>> ts, price = np.array(["2024-01-05", "2024-01-07"], "datetime64[us]"), np.full(2, 9.0)
>>> bars = Bars.of(ts, price, price, price, price, price)
>>> fetched = FetchedBars(bars, "demo", adjusted=False)
>>> result = FetchResult(window, fetched, 0.0, ValidationResult(bars))
>>> run = SeriesRun(task, Timeframe.D1, window.end, report=lambda step: None)
>>> merged = merge(run, SeriesSnapshot(), FetchedSeries([result], StoredTail(), [], NO_SPLITS))
>>> [f"{gap.ts:%d %B}" for gap in find_gaps(merged)]
['06 January']
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from operator import attrgetter

import numpy as np

from enrichment.domain import calendars
from enrichment.domain.bars import (
    Bars,
    Floats,
    Timestamps,
    between,
    isin_sorted,
    overlay,
    to_datetime,
    to_datetime64,
)
from enrichment.domain.corporate_actions import scaled
from enrichment.domain.model import Flag, Quality, Timeframe, Window
from enrichment.domain.series import (
    FetchResult,
    Gap,
    HistoryReach,
    QualityInputs,
    SeriesSnapshot,
    SeriesUpdate,
)
from enrichment.domain.statuses import GapCause
from enrichment.pipeline import features, fetch_plan, quality, reconcile
from enrichment.pipeline.fetch import FetchedSeries, SeriesRun
from enrichment.pipeline.validation.missing import classify_missing
from enrichment.pipeline.validation.series import newest_sign_of_life

_SECOND = timedelta(seconds=1)
_DENSE_SHARE = 0.9  # of a series in which a missing bar is a gap, whatever vendors say


@dataclass(frozen=True, slots=True, eq=False)
class MergedSeries:
    """The stored tail of a series with the fetched bars laid over it."""

    run: SeriesRun
    snapshot: SeriesSnapshot
    fetched: FetchedSeries
    bars: Bars
    first_changed: int  # first row that is new or differs; len(bars) if there is none
    flags: Sequence[Flag]
    expected: Timestamps  # bars that the calendar has, from the series' first one on
    rows_before: int  # stored bars that precede `bars`

    @property
    def adjusted_until(self) -> datetime | None:
        """As in SeriesSnapshot, after this run."""
        fetched, main = self.fetched, self.fetched.fetches[0].fetched
        if main is not None and main.adjusted:
            return None if reconcile.mixes_bases(self.snapshot, main) else self.run.now
        if fetched.restored_until is not None:
            return None
        if not fetched.replaces_history:
            return self.snapshot.adjusted_until
        if main is None or len(main.bars) == 0 or fetched.rebase is None:
            return None
        start = main.bars.ts.min()  # bars from before it were put on its basis
        return to_datetime(start) if self.bars.ts[0] < start else None

    @property
    def shares(self) -> Floats | None:
        """For each bar, what one of its shares has become until the newest; None: no split."""
        if len(self.fetched.splits.ratios) == 0 or len(self.bars.ts) == 0:
            return None
        splits = self.fetched.splits.up_to(self.bars.ts[-1])
        shares = splits.shares(self.bars.ts, adjusted_until=self.adjusted_until)
        return None if (shares == 1.0).all() else shares

    @property
    def rows_to_write(self) -> slice:
        return slice(self.first_changed if self.snapshot.features_current else 0, None)

    def missing(self, window: Window) -> Timestamps:
        """Expected bars of the window that will not be stored."""
        expected = between(self.expected, window.start, window.end)
        return expected[~isin_sorted(expected, self.bars.ts)]

    def validated(self, ts: datetime) -> bool:
        """Whether this run fetched and validated the bar at `ts`."""
        return any(ts in f.served_window for f in self.fetched.fetches if f.replaces_findings)


def merge(run: SeriesRun, snapshot: SeriesSnapshot, fetched: FetchedSeries) -> MergedSeries:
    """Lay the fetched bars over the stored ones."""
    merged = tail = fetched.tail.bars
    first_changed, flags = len(tail.ts), list[Flag]()
    if not fetched.fetches[0].unchanged:
        bars_to_store, flags = _bars_to_store(run, snapshot, fetched)
        kept = tail.take(~isin_sorted(tail.ts, fetched.withdrawn))
        merged, first_changed = overlay(kept, bars_to_store)
    if len(fetched.withdrawn):
        first_changed = min(first_changed, int(merged.ts.searchsorted(fetched.withdrawn[0])))
    first_bars = [to_datetime(ts) for ts in merged.ts[:1]]
    if snapshot.first_ts is not None:
        first_bars.append(snapshot.first_ts)
    since = min(first_bars, default=run.now)
    expected = calendars.ended_bar_starts(run.market, run.timeframe, since, run.now)
    before = max(0, snapshot.bars - len(tail.ts))
    return MergedSeries(run, snapshot, fetched, merged, first_changed, flags, expected, before)


def _bars_to_store(
    run: SeriesRun, snapshot: SeriesSnapshot, fetched: FetchedSeries
) -> tuple[Bars, list[Flag]]:
    """The bars to be stored, ascending, and the flags of this run.

    Another vendor than the series' source adds bars, but changes stored ones in a repair only.
    Flags that an analyst has confirmed are left out.
    """
    main, *others = fetched.fetches
    bars, stored = main.validation.bars, fetched.tail.bars
    if others:
        bars = bars.concat(*(result.validation.bars for result in others)).ascending()
    flags = [flag for result in fetched.fetches for flag in result.validation.flags]
    if snapshot.disputed and run.timeframe is Timeframe.D1:
        flags += reconcile.disputed_split_flags(snapshot.disputed, stored, bars)
    if fetched.rebase is not None and len(bars):
        older = stored.take(stored.ts < bars.ts[0])
        bars = scaled(older, np.full(len(older), 1 / fetched.rebase.factor)).concat(bars)
    elif snapshot.source and run.repair is None and main.fetched is not None:
        flags += reconcile.source_change_flags(snapshot, stored, bars, main.fetched)
        if snapshot.source != main.fetched.source:
            bars = bars.take(bars.missing_from(stored))
    return bars, [flag for flag in flags if (flag.ts, flag.check) not in snapshot.confirmed]


def compute_features(
    merged: MergedSeries,
) -> tuple[Mapping[str, features.Column], tuple[int, int]]:
    """Features of all merged rows, none if no row changed, and the series' coverage."""
    snapshot = merged.snapshot
    unchanged = merged.first_changed == len(merged.bars.ts) and snapshot.features_current
    if unchanged and snapshot.coverage is not None:
        return {}, snapshot.coverage
    bars = replace(merged.bars, ts=calendars.in_local_time(merged.run.market, merged.bars.ts))
    columns = features.compute(bars, merged.fetched.tail.cumulative_seed, merged.shares)
    lookback = features.LOOKBACK if merged.rows_before else 0
    counted = {name: column[lookback:] for name, column in columns.items()}
    return columns, features.coverage(merged.rows_before + lookback, counted)


def find_gaps(merged: MergedSeries) -> list[Gap]:
    """Bars missing in the fetched windows, ascending, without those that nobody traded."""
    bars, fetches = merged.bars, merged.fetched.fetches
    if len(bars.ts) == 0 or fetches[0].unchanged:
        return []
    gaps: dict[datetime, Gap] = {}
    for result in fetches:
        missing = merged.missing(result.window)
        if len(missing) == 0:
            continue
        dense = _traded_share(merged) >= _DENSE_SHARE
        missing, _ = classify_missing(
            missing, bars.ts, bars.volume, merged.run.market, merged.run.timeframe
        )
        rejected = _rejected(merged, result, missing)
        for ts in map(to_datetime, missing):
            if to_datetime64(ts) in merged.snapshot.rejected:
                gaps[ts] = Gap(ts, GapCause.QUARANTINED, "rejected by an analyst")
            elif ts in rejected:
                gaps[ts] = Gap(ts, GapCause.QUARANTINED, rejected[ts])
            elif ts in merged.snapshot.no_trade_ts:
                continue
            elif dense and result.cause is GapCause.NO_TRADES:
                gaps[ts] = Gap(ts)
            else:
                gaps[ts] = Gap(ts, result.cause, result.failure)
    return [gaps[ts] for ts in sorted(gaps)]


def _rejected(
    merged: MergedSeries, result: FetchResult, missing: Timestamps
) -> dict[datetime, str]:
    """Missing bar → why what was sent for it, at its start or within it, was set apart."""
    if not result.validation.quarantined or len(missing) == 0:
        return {}
    sent = np.array([to_datetime64(bar.ts) for bar in result.validation.quarantined])
    rows = merged.expected.searchsorted(sent, side="right") - 1
    reasons = {}
    for bar, ts, row in zip(result.validation.quarantined, sent, rows, strict=True):
        start = merged.expected[max(row, 0)]
        if row >= 0 and ts - start < np.timedelta64(merged.run.timeframe.duration):
            reasons[to_datetime(start)] = f"{bar.check}: {bar.detail}"
    return reasons


def _traded_share(merged: MergedSeries) -> float:
    """Share of the expected bars of the merged rows' time that have volume."""
    bars = merged.bars
    first, last = np.searchsorted(merged.expected, bars.ts[[0, -1]])
    traded = np.count_nonzero(bars.volume > 0)
    return float(traded / max(1, last + 1 - first))


def quality_inputs(
    merged: MergedSeries, coverage: tuple[int, int], gaps: Sequence[Gap]
) -> QualityInputs:
    """Counts of the whole series: stored findings outside the validated windows, new ones in them.

    coverage: feature values past their warm-up, and how many of them are NULL.
    """
    bars, run, snapshot = merged.bars, merged.run, merged.snapshot
    stored_gaps = (ts for ts in map(to_datetime, snapshot.gaps) if not merged.validated(ts))
    missing = sorted({*stored_gaps, *(gap.ts for gap in gaps)})
    flagged = {
        (flag.ts, flag.check)
        for flag in merged.flags
        if quality.counts_against_score(flag.check, flag.severity)
    }
    flagged |= {(ts, check) for ts, check in snapshot.flagged if not merged.validated(ts)}
    present, main = merged.rows_before + len(bars.ts), merged.fetched.fetches[0].fetched
    newest = to_datetime(bars.ts[-1]) if len(bars.ts) else None
    lifeless = newest is not None and (newest, quality.STALE_FEED) in flagged
    return QualityInputs(
        expected=len(merged.expected),
        missing=len(missing),
        no_trades=max(0, len(merged.expected) - present - len(missing)),
        checked=present + len({ts for ts, check in flagged if quality.quarantines(check)}),
        flag_counts=quality.flag_counts(flagged),
        feature_cells=coverage[0],
        feature_nulls=coverage[1],
        sessions_behind=calendars.sessions_behind(run.market, run.timeframe, newest, run.now),
        lifeless_sessions=calendars.sessions_behind(
            run.market, run.timeframe, newest_sign_of_life(bars), run.now
        )
        if lifeless
        else 0,
        missing_at=tuple(missing[-quality.EXAMPLES :]),
        history=history_reach(merged),
        substitution=main.substitution if main is not None and main.fallback else None,
    )


def history_reach(merged: MergedSeries) -> HistoryReach:
    """What was asked for and what was served, without a break, up to the newest bar.

    The limit is only learnt from a request for older bars that every preferred vendor answered.
    """
    snapshot, backfill = merged.snapshot, merged.run.backfill
    fetches = merged.fetched.fetches
    asked = [result.window.start for result in fetches]
    asked += [ts for ts in (snapshot.wanted_from, snapshot.history_from) if ts is not None]
    wanted = min(asked if backfill is None else [*asked, backfill.start])
    served = min(snapshot.history_from or fetches[0].served_from, merged.run.now)
    for result in sorted(fetches, key=attrgetter("window.end"), reverse=True):
        start = result.served_from
        if start < served <= result.window.end:
            served = start
    answers = [r.fetched for r in fetches if r.fetched is not None and r.window.start < served]
    limit = next((a.limit for a in answers if a.limit and not a.fallback), None)
    checked = limit is not None or served <= wanted
    main = fetches[0].fetched
    fallback = main.source if main is not None and main.fallback else None
    share = max(0.0, (served - wanted) / max(merged.run.now - wanted, _SECOND))
    return HistoryReach(wanted, served, limit or snapshot.history_limit, checked, fallback, share)


def _changes_session(merged: MergedSeries) -> bool:
    return merged.snapshot.bars > 0 and merged.fetched.session is not merged.snapshot.session


def _compared_at(merged: MergedSeries) -> datetime | None:
    """The run's time if it fetched all that is stored of the series from its vendor."""
    run, main = merged.run, merged.fetched.fetches[0]
    if main.fetched is None or (main.fetched.fallback and merged.snapshot.bars > 0):
        return None
    start = fetch_plan.compared_from(merged.snapshot, run.timeframe, run.now)
    return run.now if main.window.start <= start and main.window.end >= run.now else None


def to_update(
    merged: MergedSeries,
    columns: Mapping[str, features.Column],
    gaps: Sequence[Gap],
    inputs: QualityInputs,
    score: Quality,
    compute_ms: float,
) -> SeriesUpdate:
    """What the run writes: the rows from the first new or changed one on, and all findings."""
    fetched, rows, stored = merged.fetched, merged.rows_to_write, merged.fetched.tail.bars.ts
    bars = merged.bars.take(rows)
    reach = inputs.history or history_reach(merged)
    appends = len(stored) == 0 or bool((bars.ts[:1] > stored[-1]).all())
    return SeriesUpdate(
        timeframe=merged.run.timeframe,
        fetches=fetched.fetches,
        bars=bars,
        features={name: column[rows] for name, column in columns.items()},
        compute_ms=compute_ms,
        flags=merged.flags,
        gaps=gaps,
        quality=score,
        quality_inputs=inputs,
        history_from=reach.served_from,
        rebase=fetched.rebase,
        adjusted_until=merged.adjusted_until,
        restored_until=fetched.restored_until,
        splits=fetched.known_splits,
        last_ts=to_datetime(merged.bars.ts[-1]) if len(merged.bars.ts) else merged.snapshot.last_ts,
        appends=appends,
        withdrawn=fetched.withdrawn,
        doubted=fetched.doubted,
        compared_at=_compared_at(merged),
        session=fetched.session,
        settling_from=None
        if appends
        else reconcile.settling_from(merged.run.market, merged.run.timeframe, stored),
        repairs=merged.run.repair is not None or _changes_session(merged),
    )
