"""The seam between what is stored and what a vendor sends again: does it still say the same?

A vendor that adjusts for splits multiplies its whole history on the day of the split. A run that
asks for the newest bars only sees that as one constant factor in the overlap, and has to fetch the
series anew; any other difference is a restatement of single bars.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from enrichment.domain.bars import Bars, to_datetime, to_datetime64
from enrichment.domain.model import FetchedBars, Flag, Severity
from enrichment.domain.series import Rebase, SeriesSnapshot, StoredTail
from enrichment.pipeline.validation import (
    ValidationRequest,
    complete_bars,
    missing_bars,
    source_disagreement,
)

PRICES = ("open", "high", "low", "close")
RATIO_TOLERANCE = 1e-3  # vendors round adjusted prices
_UNEXPLAINED_SHARE = 0.01


def matches_stored(
    known: SeriesSnapshot, tail: StoredTail, fetched: FetchedBars, request: ValidationRequest
) -> Bars | None:
    """The bars of the overlap where the answer to it only says what is stored: the same source sent
    the same bars, none of them is missing, and none was doubted. None otherwise.

    Then nothing that was found in them can have changed.
    """
    window = request.window
    if (window.start, fetched.source) != (known.overlap_from, known.source):
        return None
    if fetched.adjusted != known.adjusted or not known.overlap_trusted:
        return None
    stored = tail.bars.take(tail.bars.ts >= to_datetime64(window.start))
    if not _equal(complete_bars(fetched.bars, request), stored):
        return None
    kind, timeframe = request.asset_class, request.timeframe
    missing = missing_bars(kind, timeframe, stored.ts, window.start, request.now)
    return None if len(missing) else stored


def _equal(a: Bars, b: Bars) -> bool:
    """Whether both have the same rows in the same order; NaN equals NaN."""
    pairs = zip(a.columns().values(), b.columns().values(), strict=True)
    return all(np.array_equal(one, other, equal_nan=True) for one, other in pairs)


def changed_before_overlap(known: SeriesSnapshot, stored: Bars, fetched: Bars) -> bool:
    """Whether the vendor changed more than the overlap shows: its oldest bar has other prices, and
    there are older ones that were not asked for again.
    """
    before, after = stored.intersect(fetched)
    if len(before) == 0 or known.first_ts is None or to_datetime(before.ts[0]) <= known.first_ts:
        return False
    return any(getattr(before, name)[0] != getattr(after, name)[0] for name in PRICES)


def detect_rebase(stored: Bars, fetched: Bars) -> Rebase | None:
    """The one factor by which all common bars up to some date differ, the later ones being equal.

    A ratio counts as constant within 0.1 % (and a fifth of the step itself); one bar in a hundred
    may have been restated beside.
    """
    before, after = stored.intersect(fetched)
    if len(before) < 2:
        return None
    ratios = np.stack([getattr(after, name) / getattr(before, name) for name in PRICES])
    factor = float(np.median(ratios[:, : min(10, len(before))]))
    tolerance = min(RATIO_TOLERANCE, abs(factor - 1.0) / 5.0)
    if tolerance < 1e-9:
        return None
    scaled = (np.abs(ratios / factor - 1.0) <= tolerance).all(axis=0)
    same = (np.abs(ratios - 1.0) <= tolerance).all(axis=0)
    until = int(np.flatnonzero(scaled)[-1]) if scaled.any() else -1
    explained = np.where(np.arange(len(before)) <= until, scaled, same)
    if until < 1 or np.count_nonzero(~explained) > _UNEXPLAINED_SHARE * len(before):
        return None
    last = before.ts[until]
    later = fetched.ts[fetched.ts > last]
    return Rebase(factor, to_datetime(last), to_datetime(later[0] if len(later) else last))


def apply_rebase(older: Bars, factor: float) -> Bars:
    """Bars that the vendor no longer serves, on the new basis: prices × factor, volumes ÷ it."""
    prices = {name: getattr(older, name) * factor for name in (*PRICES, "vwap")}
    volumes = {name: getattr(older, name) / factor for name in ("volume", "taker_buy_volume")}
    return replace(older, **prices, **volumes)


def source_change_flags(
    known: SeriesSnapshot, stored: Bars, good: Bars, fetched: FetchedBars
) -> list[Flag]:
    """What a change of the source leaves to be told: where the two disagree, and mixed_adjustment,
    bars adjusted for splits that follow unadjusted ones, or the reverse.
    """
    flags = list(source_disagreement(stored, good, fetched.source))
    new = good.ts[good.missing_from(stored)]
    if fetched.adjusted != known.adjusted and len(new):
        words = {True: "adjusted for splits", False: "not adjusted for splits", None: "unknown"}
        detail = (
            f"from here on {fetched.source}, {words[fetched.adjusted]}; before it {known.source}, "
            f"{words[known.adjusted]}"
        )
        flags.append(Flag(to_datetime(new[0]), "mixed_adjustment", Severity.WARNING, detail))
    return flags


def other_source_flags(added: Bars, fetched: FetchedBars) -> list[Flag]:
    """other_source: a bar that the series' own source does not have came from another one."""
    detail = f"missing at the series' source, taken from {fetched.source}"
    return [Flag(to_datetime(ts), "other_source", Severity.INFO, detail) for ts in added.ts]
