"""What a vendor's wire format is spoken over: a series of bars, recorded or simulated."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from enrichment.domain.bars import Bars, Floats, Timestamps, to_datetime64
from enrichment.domain.model import AssetClass, Timeframe, Window

TICKS = 10_000.0  # simulated prices are whole multiples of 1 / TICKS


class SandboxSeries(Protocol):
    """One instrument's bars in every timeframe; timestamps are as in `domain.bars`.

    now: nothing that lies after it is shown; the bar that is forming holds what is known by then.
    """

    asset_class: AssetClass
    simulated: bool
    splits: Mapping[np.datetime64, float]  # start of the first bar after it → new shares for one

    def starts(self, timeframe: Timeframe, window: Window, now: datetime) -> Timestamps:
        """Starts of the bars in the window, without making them."""

    def bars(self, timeframe: Timeframe, window: Window, now: datetime) -> Bars:
        """The bars in the window, ascending."""


def within(bars: Bars, window: Window) -> Bars:
    """The rows of an ascending series that lie in the window."""
    first, last = np.searchsorted(bars.ts, [to_datetime64(window.start), to_datetime64(window.end)])
    return bars.take(slice(int(first), int(last)))


def aggregate(bars: Bars, keys: Timestamps) -> Bars:
    """Bars of equal key as one bar that starts at the key: first, max, min, last, sums."""
    if len(bars) == 0:
        return Bars.empty()
    changes = np.flatnonzero(keys[1:] != keys[:-1]) + 1
    first = np.concatenate([[0], changes])
    last = np.append(changes, len(keys)) - 1
    volume = np.add.reduceat(bars.volume, first)
    return Bars.of(
        keys[first],
        bars.open[first],
        np.maximum.reduceat(bars.high, first),
        np.minimum.reduceat(bars.low, first),
        bars.close[last],
        volume,
        vwap=_vwap(bars, first, volume),
        trades=np.add.reduceat(bars.trades, first),
        taker_buy_volume=np.add.reduceat(bars.taker_buy_volume, first),
    )


def _vwap(bars: Bars, first: NDArray[np.intp], volume: Floats) -> Floats | None:
    if np.isnan(bars.vwap).any():
        return None
    # Whole numbers make the sum exact, hence independent of how the bars were cut into requests.
    traded = np.rint(bars.vwap * TICKS).astype(np.int64) * bars.volume.astype(np.int64)
    return np.asarray(np.rint(np.add.reduceat(traded, first) / volume) / TICKS)
