"""The check of two vendors against each other.

>>> ts, volume = np.arange(2).astype("datetime64[D]"), np.ones(2)
>>> mine, theirs = np.array([10.0, 20.0]), np.array([10.0, 21.0])
>>> flags = source_disagreement(
...     Bars.of(ts, mine, mine, mine, mine, volume),
...     Bars.of(ts, mine, theirs, mine, mine, volume),
...     source="other",
... )
>>> [flag.detail for flag in flags]
['high is 20 here and 21 at other']
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from enrichment.domain.bars import PRICES, Bars, to_datetime
from enrichment.domain.model import Flag, Severity

TOLERANCE = 0.01


def source_disagreement(
    bars: Bars, other: Bars, source: str, tolerance: float = TOLERANCE
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
