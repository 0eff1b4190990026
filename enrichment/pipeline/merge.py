"""What was fetched joined to what is stored: the merged series, its features, gaps and quality."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from enrichment.domain import calendars
from enrichment.domain.bars import (
    Bars,
    Timestamps,
    isin_sorted,
    no_timestamps,
    to_datetime,
    to_datetime64,
)
from enrichment.domain.model import AssetClass, Flag, Timeframe, Window
from enrichment.domain.series import (
    FetchResult,
    Gap,
    QualityInputs,
    Rebase,
    SeriesSnapshot,
    SeriesUpdate,
    StoredTail,
)
from enrichment.domain.statuses import GapCause
from enrichment.pipeline import features, quality, reconcile
from enrichment.pipeline.validation import classify_missing, missing_bars


def merge(
    asset_class: AssetClass,
    timeframe: Timeframe,
    known: SeriesSnapshot,
    tail: StoredTail,
    downloads: Sequence[FetchResult],
    rebase: Rebase | None,
    now: datetime,
) -> SeriesUpdate:
    """Everything that a run has to write of a series, the main download being the first.

    rebase: the change of basis that the main download, then of the whole history, has shown.
    """
    began = time.perf_counter()
    good, flags = _bars_to_store(known, tail.bars, downloads, rebase)
    merged, first_changed = overlay(tail.bars, good)
    before = max(0, known.bars - len(tail.bars))
    if first_changed == len(merged) and known.features_current and known.coverage is not None:
        computed, coverage = {}, known.coverage  # what has not changed is not computed again
    else:
        computed = features.compute(merged, tail.cumulative_seed)
        coverage = _coverage(before, computed)
    starts = [ts for ts in (known.first_ts, *map(to_datetime, merged.ts[:1])) if ts is not None]
    begins = min(starts, default=now)
    expected = missing_bars(asset_class, timeframe, no_timestamps(), begins, now)
    seen = _MergedSeries(asset_class, timeframe, known, merged, downloads, expected, now)
    gaps = _gaps(seen)
    evidence = _quality_inputs(seen, before, coverage, flags, gaps)
    changed = slice(first_changed if known.features_current else 0, None)
    new = merged.take(changed)
    asked = [download.window.start for download in downloads]
    return SeriesUpdate(
        timeframe=timeframe,
        fetches=downloads,
        bars=new,
        features={name: column[changed] for name, column in computed.items()},
        compute_ms=(time.perf_counter() - began) * 1000.0,
        flags=flags,
        gaps=gaps,
        quality=quality.assess_quality(evidence),
        quality_inputs=evidence,
        history_from=min(asked if known.history_from is None else [*asked, known.history_from]),
        rebase=rebase,
        appends=len(tail.bars) == 0 or bool(np.all(new.ts > tail.bars.ts[-1])),
    )


def overlay(tail: Bars, fetched: Bars) -> tuple[Bars, int]:
    """The stored tail with the fetched bars on top, and the first row that is new or differs.

    Both are ascending without repetition. The row is len(merged) where nothing changed.
    """
    if len(fetched) == 0:
        return tail, len(tail)
    merged = tail.overlaid_by(fetched)
    first = int(np.searchsorted(tail.ts, fetched.ts[0]))
    laid, before = merged.take(slice(first, None)), tail.take(slice(first, None))
    same = isin_sorted(laid.ts, before.ts)
    known = np.searchsorted(before.ts, laid.ts[same])
    same[same] = _equal_rows(laid.take(same), before.take(known))
    changed = np.flatnonzero(~same)
    return merged, first + int(changed[0]) if len(changed) else len(merged)


def _equal_rows(a: Bars, b: Bars) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    theirs = b.columns()
    equal = np.ones(len(a), dtype=bool)
    for name, column in a.columns().items():
        same = column == theirs[name]
        if not same.all():
            same |= (column != column) & (theirs[name] != theirs[name])  # NaN both times
        equal &= same
    return equal


def _bars_to_store(
    known: SeriesSnapshot, stored: Bars, downloads: Sequence[FetchResult], rebase: Rebase | None
) -> tuple[Bars, list[Flag]]:
    """The bars to be stored, ascending, and what is to be told about them.

    Another source than the last one adds bars, but does not restate those of its predecessor. What
    an analyst has confirmed is not raised again.
    """
    if downloads[0].unchanged:
        return Bars.empty(), []
    good, *others = (download.validation.bars for download in downloads)
    if others:
        good = good.concat(*others).ascending()
    flags = [flag for download in downloads for flag in download.validation.flags]
    main = downloads[0].fetched
    if rebase is not None and len(good):
        older = stored.take(stored.ts < good.ts[0])
        good = reconcile.apply_rebase(older, rebase.factor).concat(good)
    elif main is not None and known.source not in (None, main.source):
        flags += reconcile.source_change_flags(known, stored, good, main)
        good = good.take(good.missing_from(stored))
    return good, [flag for flag in flags if (flag.ts, flag.check) not in known.confirmed]


@dataclass(frozen=True, slots=True, eq=False)
class _MergedSeries:
    """A series as this run sees it; expected: the bars that it should have, from its first on."""

    asset_class: AssetClass
    timeframe: Timeframe
    known: SeriesSnapshot
    merged: Bars
    downloads: Sequence[FetchResult]
    expected: Timestamps
    now: datetime

    def missing(self, window: Window) -> Timestamps:
        """Bars of the window that should exist and will not be stored."""
        start, end = to_datetime64(window.start), to_datetime64(window.end)
        expected = self.expected[slice(*self.expected.searchsorted([start, end]))]
        return expected[~isin_sorted(expected, self.merged.ts)]

    def covered(self, ts: datetime) -> bool:
        """Whether this run looked at the bar: its window was asked for and answered anew."""
        windows = (d.window for d in self.downloads if d.replaces_findings)
        return any(window.start <= ts < window.end for window in windows)


def _gaps(seen: _MergedSeries) -> list[Gap]:
    """Bars missing within the windows, judged on what will be stored; a series begins with its
    first bar, and what nobody traded is not missing.
    """
    merged = seen.merged
    if len(merged) == 0:
        return []
    gaps: dict[datetime, Gap] = {}
    for download in seen.downloads:
        quarantined = {
            bar.ts: f"{bar.check}: {bar.detail}" for bar in download.validation.quarantined
        }
        lost, _ = classify_missing(
            seen.missing(download.window),
            merged.ts,
            merged.volume,
            seen.asset_class,
            seen.timeframe,
        )
        for ts in lost:
            moment = to_datetime(ts)
            if moment in seen.known.no_trade_ts:
                continue
            if moment in quarantined:
                gaps[moment] = Gap(moment, GapCause.QUARANTINED, quarantined[moment])
            else:
                gaps[moment] = Gap(moment, download.cause, download.failure)
    return [gaps[moment] for moment in sorted(gaps)]


def _coverage(before: int, computed: Mapping[str, features.Column]) -> tuple[int, int]:
    """Of the rows that do not only lend their past to later ones."""
    context = features.LOOKBACK if before else 0
    own = {name: column[context:] for name, column in computed.items()}
    return quality.feature_coverage(before + context, own)


def _quality_inputs(
    seen: _MergedSeries,
    before: int,
    coverage: tuple[int, int],
    flags: Sequence[Flag],
    gaps: Sequence[Gap],
) -> QualityInputs:
    """What the whole series rests on: what was known outside the windows, and what is new in
    them. before: stored bars that precede those at hand. coverage: feature values past their
    warm-up, and those of them that are NULL.
    """
    merged, known = seen.merged, seen.known
    expected = len(seen.expected)
    present = before + len(merged)
    old = (ts for ts in map(to_datetime, known.gaps) if not seen.covered(ts))
    missing = sorted({*old, *(gap.ts for gap in gaps)})
    objections = {
        (f.ts, f.check) for f in flags if quality.counts_against_score(f.check, f.severity)
    }
    objections |= {(ts, check) for ts, check in known.flagged if not seen.covered(ts)}
    newest = to_datetime(merged.ts[-1]) if len(merged) else None
    return QualityInputs(
        expected=expected,
        missing=len(missing),
        no_trades=max(0, expected - present - len(missing)),
        checked=present + len({ts for ts, check in objections if quality.quarantines(check)}),
        flag_counts=quality.flag_counts(objections),
        feature_cells=coverage[0],
        feature_nulls=coverage[1],
        sessions_behind=calendars.sessions_behind(
            seen.asset_class, seen.timeframe, newest, seen.now
        ),
        missing_at=tuple(missing[-quality.EXAMPLES :]),
    )
