"""Impact of a flagged bar: the features of the next bar with it and without it.

>>> close = np.append(np.full(60, 10.0), [15.0, 10.0])
>>> bars = Bars.of(np.arange(62).astype("datetime64[D]"), close, close, close, close, volume=close)
>>> impacts = flag_impact(bars, to_datetime(bars.ts[60]))
>>> [round(i.with_bar, 2) for i in impacts if i.feature == "sma_20"]
[10.25]
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import numpy as np

from enrichment.domain.bars import Bars, to_datetime, to_datetime64
from enrichment.pipeline import features

_MIN_CHANGE = 1e-9


@dataclass(frozen=True, slots=True)
class FlagImpact:
    """One feature at the bar after a flagged one."""

    at: datetime  # start of that bar
    feature: str
    with_bar: float
    without_bar: float

    @property
    def change(self) -> float:
        """|with / without - 1|; infinite where it is 0 without the bar."""
        return abs(self.with_bar / self.without_bar - 1.0) if self.without_bar else float("inf")


def flag_impact(bars: Bars, ts: datetime) -> list[FlagImpact]:
    """The features of the next bar that the bar at `ts` changes by more than 1e-9, largest first.

    Only numbers that look back further than one bar: that a return over the bar itself changes is
    obvious. Empty if there is no such bar or no next one.

    Args:
        bars: ascending, with the lookback of the features before `ts`.
        ts: start of the flagged bar.
    """
    row = int(np.searchsorted(bars.ts, to_datetime64(ts)))
    if row >= len(bars) - 1 or bars.ts[row] != to_datetime64(ts):
        return []
    with_bar = bars.take(slice(None, row + 2))
    without_bar = with_bar.take(np.arange(len(with_bar)) != row)
    after, before = features.compute(with_bar), features.compute(without_bar)
    at = to_datetime(with_bar.ts[-1])
    impacts = [
        FlagImpact(at, name, float(after[name][-1]), float(before[name][-1]))
        for name, feature in features.FEATURES.items()
        if feature.kind == "number" and feature.lookback > 1
    ]
    finite = [i for i in impacts if np.isfinite([i.with_bar, i.without_bar]).all()]
    return sorted((i for i in finite if i.change > _MIN_CHANGE), key=lambda i: -i.change)
