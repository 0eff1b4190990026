"""Two sources that speak of the same bars."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from enrichment.domain.bars import Bars, to_datetime
from enrichment.domain.model import Flag, Severity

TOLERANCE = 0.01


def source_disagreement(
    bars: Bars, other: Bars, source: str, tolerance: float = TOLERANCE
) -> tuple[Flag, ...]:
    """Flags bars of which the other source has open, high, low or close differing by more than
    `tolerance`, relative: max |theirs / ours - 1| > 0.01.

    Both must be ascending and unique, and both adjusted or both not. Volumes are not compared:
    sources count different venues. Bars that one of them lacks are not disagreed on.
    """
    return tuple(_disagreements(bars, other, source, tolerance))


def _disagreements(bars: Bars, other: Bars, source: str, tolerance: float) -> Iterator[Flag]:
    mine, yours = bars.intersect(other)
    names = ("open", "high", "low", "close")
    apart = np.stack([np.abs(getattr(yours, n) / getattr(mine, n) - 1) for n in names])
    for row in np.flatnonzero((apart > tolerance).any(axis=0)):
        name = names[int(np.nanargmax(apart[:, row]))]
        here, there = getattr(mine, name)[row], getattr(yours, name)[row]
        detail = f"{name} is {here:.10g} here and {there:.10g} at {source}"
        yield Flag(to_datetime(mine.ts[row]), "source_disagreement", Severity.WARNING, detail)
