"""What a doubtful bar does to the features: their values with it and without it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import numpy as np

from enrichment.domain.bars import Bars, to_datetime, to_datetime64
from enrichment.pipeline import features


@dataclass(frozen=True, slots=True)
class FlagImpact:
    """One feature at the bar after a doubtful one (at the newest bar's own place where there is
    none after it).
    """

    at: datetime
    feature: str
    with_bar: float
    without_bar: float

    @property
    def change(self) -> float:
        """|with / without - 1|; infinite where it is 0 without the bar."""
        return abs(self.with_bar / self.without_bar - 1.0) if self.without_bar else float("inf")


def flag_impact(bars: Bars, ts: datetime) -> list[FlagImpact]:
    """The features that the bar at `ts` changes in the bar after it, most changed first.

    bars: ascending, the doubtful bar among them, with its past. Only features that look back
    further than one bar, and forget: a return over the bar itself says nothing new. A change below
    1e-9 is none.
    """
    row = int(np.searchsorted(bars.ts, to_datetime64(ts)))
    if row >= len(bars) - 1 or bars.ts[row] != to_datetime64(ts):
        return []
    upto = bars.take(slice(None, row + 2))
    without = upto.take(np.arange(len(upto)) != row)
    mine, theirs = features.compute(upto), features.compute(without)
    found = [
        FlagImpact(to_datetime(upto.ts[-1]), name, float(mine[name][-1]), float(theirs[name][-1]))
        for name, feature in features.FEATURES.items()
        if feature.kind == "number" and feature.lookback > 1
    ]
    moved = [one for one in found if np.isfinite([one.with_bar, one.without_bar]).all()]
    return sorted((one for one in moved if one.change > 1e-9), key=lambda one: -one.change)
