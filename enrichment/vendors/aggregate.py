"""Longer bars from shorter ones.

>>> day = np.array(["2024-05-30T14", "2024-05-30T15", "2024-05-31T14"], "datetime64[us]")
>>> hours = Bars.of(day, *([np.array([3.0, 1.0, 2.0])] * 4), np.ones(3))
>>> days = aggregate(hours, day.astype("datetime64[D]").astype("datetime64[us]"))
>>> days.high.tolist(), days.close.tolist(), days.volume.tolist()
([3.0, 2.0], [1.0, 2.0], [2.0, 1.0])
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from enrichment.domain.bars import Bars, Floats, Timestamps, safe_divide


def aggregate(bars: Bars, starts: Timestamps) -> Bars:
    """One bar for each distinct start, ascending; a NaN in one of its parts makes the value NaN.

    First open, highest high, lowest low, last close; volume and counts are summed, and the VWAP is
    the mean of the parts', weighted by volume.

    Args:
        bars: n bars in any order.
        starts: For each of them the start of the longer bar it belongs to, shape (n,).
    """
    if len(bars) == 0:
        return bars
    order = np.argsort(bars.ts, kind="stable")
    bars, starts = bars.take(order), starts[order]
    first = np.concatenate([[0], np.flatnonzero(starts[1:] != starts[:-1]) + 1])
    last = np.append(first[1:], len(starts)) - 1
    volume = np.add.reduceat(bars.volume, first)
    return Bars.of(
        starts[first],
        bars.open[first],
        np.maximum.reduceat(bars.high, first),
        np.minimum.reduceat(bars.low, first),
        bars.close[last],
        volume,
        vwap=_mean_price(bars, first, volume),
        trades=np.add.reduceat(bars.trades, first),
        taker_buy_volume=np.add.reduceat(bars.taker_buy_volume, first),
    )


def _mean_price(bars: Bars, first: NDArray[np.intp], volume: Floats) -> Floats:
    turnover = np.where(bars.volume == 0, 0.0, bars.vwap * bars.volume)
    return safe_divide(np.add.reduceat(turnover, first), volume)
