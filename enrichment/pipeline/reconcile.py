"""Compares fetched bars with the stored ones: those of the overlap, which every run fetches again.

A vendor that adjusts for splits multiplies its whole history on the day of the split. A run that
fetches the newest bars only sees that as one constant factor in the overlap, and has to fetch the
series anew; any other difference is a restatement of single bars.

>>> ts = np.arange(4).astype("datetime64[D]")
>>> prices, volume = np.array([100.0, 102.0, 101.0, 103.0]), np.full(4, 5.0)
>>> stored = Bars.of(ts, prices, prices, prices, prices, volume)
>>> detect_rebase(stored.take(slice(3)), scaled(stored, np.full(4, 2.0))).factor
0.5
>>> other = replace(stored, high=prices * [1.0, 1.0, 1.05, 1.0])
>>> [flag.detail for flag in source_disagreement(stored, other, source="other")]
['high is 101 here and 106.05 at other']
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import date, datetime

import numpy as np

from enrichment.domain import calendars
from enrichment.domain.bars import (
    PRICES,
    Bars,
    Timestamps,
    isin_sorted,
    to_datetime,
    to_datetime64,
)
from enrichment.domain.calendars import Market
from enrichment.domain.corporate_actions import Splits, scaled
from enrichment.domain.model import FetchedBars, Flag, Severity, Timeframe
from enrichment.domain.series import FetchResult, Rebase, SeriesSnapshot, StoredTail
from enrichment.pipeline.validation.bars import ValidationRequest

SETTLING_FACTOR = 1.1  # by which the volume of a new session may still grow
RATIO_TOLERANCE = 1e-3  # vendors round adjusted prices
_NOISE = 2e-6  # relative, of prices that a vendor sends as float32
_PRICE_NOISE, _MIN_TICK = 5e-7, 1e-4
_MAX_SETTLING_BARS = 2 * 288
_UNEXPLAINED_SHARE = 0.01
_WEEK = np.timedelta64(7, "D")


def matches_stored(
    snapshot: SeriesSnapshot, tail: StoredTail, fetched: FetchedBars, request: ValidationRequest
) -> Bars | None:
    """The bars of the overlap if the same vendor sent them as they are stored, else None.

    None also if one of them is missing or flagged: then validation may find something new.
    """
    window, market, timeframe = request.window, request.market, request.timeframe
    if (window.start, fetched.source) != (snapshot.overlap_from, snapshot.source):
        return None
    if mixes_bases(snapshot, fetched) or not snapshot.overlap_trusted:
        return None
    stored = tail.bars.take(tail.bars.ts >= to_datetime64(window.start))
    forming = calendars.is_forming(market, timeframe, fetched.bars.ts, request.now)
    complete = fetched.bars.take(~forming)
    if len(complete.ts) != len(stored.ts) or not complete.equal_rows(stored).all():
        return None
    expected = calendars.ended_bar_starts(market, timeframe, window.start, request.now)
    return stored if isin_sorted(expected, stored.ts).all() else None


def without_noise(stored: Bars, fetched: FetchedBars) -> FetchedBars:
    """The answer with the stored prices where it differs from them by noise only.

    Vendors send prices as float32, or adjust and round them, so that they differ in the seventh
    digit from one answer to the next: by less than 5e-7 of the price, and less than 1e-4, the
    least step of a price above 1 dollar.
    """
    bars = fetched.bars
    rows = stored.ts.searchsorted(bars.ts)
    known = rows < len(stored.ts)
    known[known] = stored.ts[rows[known]] == bars.ts[known]
    columns = {}
    for name in (*PRICES, "vwap"):
        column, before = getattr(bars, name), getattr(stored, name)[rows[known]]
        difference = np.abs(column[known] - before)
        noise = (difference > 0) & (difference < np.minimum(_PRICE_NOISE * before, _MIN_TICK))
        if noise.any():
            columns[name] = column.copy()
            columns[name][np.flatnonzero(known)[noise]] = before[noise]
    return replace(fetched, bars=replace(bars, **columns)) if columns else fetched


def settling_from(market: Market, timeframe: Timeframe, stored: Timestamps) -> datetime | None:
    """Start of the first stored bar whose volume may still grow without being a restatement: of the
    two newest sessions, or the newest week. None if nothing is stored.
    """
    if len(stored) == 0:
        return None
    if timeframe is Timeframe.W1:
        return to_datetime(stored[-1])
    newest = stored[-_MAX_SETTLING_BARS:]
    sessions = calendars.canonical(market, Timeframe.D1, newest)
    second = np.unique(sessions)[-2:][0]
    return to_datetime(newest[sessions >= second][0])


def mixes_bases(snapshot: SeriesSnapshot, fetched: FetchedBars) -> bool:
    """Whether a vendor answered adjusted bars for a series of bars as traded.

    Bars as traded can be put on the basis of an adjusted series, whose date is known.
    """
    return fetched.adjusted and snapshot.bars > 0 and snapshot.adjusted_until is None


def on_stored_basis(snapshot: SeriesSnapshot, fetched: FetchedBars, splits: Splits) -> FetchedBars:
    """The answer with bars as traded on the basis of those stored, where these are adjusted."""
    until = snapshot.adjusted_until
    if fetched.adjusted or until is None or len(splits.ratios) == 0:
        return fetched
    ts = fetched.bars.ts
    shares = splits.shares(ts) / splits.shares(ts, adjusted_until=until)
    return replace(fetched, bars=scaled(fetched.bars, shares))


def history_changed(snapshot: SeriesSnapshot, stored: Bars, main: FetchResult) -> bool:
    """Whether the overlap shows that older bars changed, too, so that all must be fetched again."""
    if len(stored.ts) == 0:
        return False
    fetched = main.validation.bars
    if snapshot.source not in (None, main.source):
        return detect_rebase(stored, fetched) is not None
    return changed_before_overlap(snapshot, stored, fetched)


def changed_before_overlap(snapshot: SeriesSnapshot, stored: Bars, fetched: Bars) -> bool:
    """Whether the oldest bar of the overlap has other prices, beyond the noise of float32, and
    there are older stored bars.
    """
    before, after = stored.intersect(fetched)
    first_ts = snapshot.first_ts
    if len(before) == 0 or first_ts is None or to_datetime(before.ts[0]) <= first_ts:
        return False
    ratios = [getattr(after, name)[0] / getattr(before, name)[0] for name in PRICES]
    return any(abs(ratio - 1.0) > _NOISE for ratio in ratios)


def detect_rebase(stored: Bars, fetched: Bars) -> Rebase | None:
    """The one factor by which all common bars up to some date differ, the later ones being equal.

    Ratios count as constant within 0.1 % and a fifth of the step; 1 % of the bars may be restated
    besides. None if there is no such factor.
    """
    before, after = stored.intersect(fetched)
    if len(before) < 2:
        return None
    ratios = np.stack([getattr(after, name) / getattr(before, name) for name in PRICES])
    factor = float(np.median(ratios[:, : min(10, len(before))]))
    tolerance = min(RATIO_TOLERANCE, abs(factor - 1.0) / 5.0)
    if abs(factor - 1.0) <= _NOISE:
        return None
    rescaled = (np.abs(ratios / factor - 1.0) <= tolerance).all(axis=0)
    equal = (np.abs(ratios - 1.0) <= tolerance).all(axis=0)
    until = int(np.flatnonzero(rescaled)[-1]) if rescaled.any() else -1
    explained = np.where(np.arange(len(before)) <= until, rescaled, equal)
    if until < 1 or np.count_nonzero(~explained) > _UNEXPLAINED_SHARE * len(before):
        return None
    last = before.ts[until]
    later = fetched.ts[fetched.ts > last]
    return Rebase(factor, to_datetime(last), to_datetime(later[0] if len(later) else last))


def rebase_of_unserved(stored: Bars, fetched: Bars) -> Rebase | None:
    """The factor at the first common bars, if bars from before them are stored, too.

    None if it is 1.
    """
    before, after = stored.intersect(fetched)
    if len(before) == 0 or stored.ts[0] >= fetched.ts[0]:
        return None
    first = slice(min(10, len(before)))
    factor = float(np.median(after.close[first] / before.close[first]))
    start = to_datetime(before.ts[0])
    return None if abs(factor - 1.0) <= _NOISE else Rebase(factor, start, start)


def source_change_flags(
    snapshot: SeriesSnapshot, stored: Bars, good: Bars, fetched: FetchedBars
) -> list[Flag]:
    """Flags where another vendor answered, source_disagreement, or on another basis,
    mixed_adjustment: bars adjusted for splits follow bars as traded.
    """
    changed = snapshot.source not in (None, fetched.source)
    flags = list(source_disagreement(stored, good, fetched.source)) if changed else []
    new = good.ts[good.missing_from(stored)]
    if mixes_bases(snapshot, fetched) and len(new):
        detail = (
            f"from here on {fetched.source}, adjusted for splits; before it {snapshot.source}, "
            "as traded"
        )
        flags.append(Flag(to_datetime(new[0]), "mixed_adjustment", Severity.WARNING, detail))
    return flags


def disputed_split_flags(
    disputed: Sequence[tuple[date, str]], stored: Bars, bars: Bars
) -> Iterator[Flag]:
    """split_disagreement: vendors report other ratios of a split; on its first bar, if among
    `bars`.
    """
    for day, detail in disputed:
        after = np.union1d(stored.ts, bars.ts)
        after = after[(after >= np.datetime64(day)) & (after < np.datetime64(day) + _WEEK)][:1]
        for ts in after[np.isin(after, bars.ts)]:
            text = f"the ratio of this day's split is disputed: {detail}"
            yield Flag(to_datetime(ts), "split_disagreement", Severity.WARNING, text)


def other_source_flags(added: Bars, fetched: FetchedBars) -> list[Flag]:
    """other_source: a bar that the vendor of the series lacks came from another one."""
    detail = f"missing at the series' source, taken from {fetched.source}"
    return [Flag(to_datetime(ts), "other_source", Severity.INFO, detail) for ts in added.ts]


_DISAGREEMENT = 0.01


def source_disagreement(
    bars: Bars, other: Bars, source: str, tolerance: float = _DISAGREEMENT
) -> Iterator[Flag]:
    """Flags of the bars whose open, high, low or close differs by more than `tolerance` at the
    other vendor: max |theirs / mine - 1| > 0.01.

    Both must be ascending and unique, and both adjusted or both not. Volumes are not compared,
    since vendors count different venues, nor bars that only one of them has.
    """
    mine, theirs = bars.intersect(other)
    difference = np.stack([np.abs(getattr(theirs, n) / getattr(mine, n) - 1) for n in PRICES])
    for row in np.flatnonzero((difference > tolerance).any(axis=0)):
        name = PRICES[int(np.nanargmax(difference[:, row]))]
        here, there = getattr(mine, name)[row], getattr(theirs, name)[row]
        detail = f"{name} is {here:.10g} here and {there:.10g} at {source}"
        yield Flag(to_datetime(mine.ts[row]), "source_disagreement", Severity.WARNING, detail)
