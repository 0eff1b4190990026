"""Series of bars, recorded or simulated, that the wire formats serve."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from enrichment.domain.bars import Bars, Floats, Timestamps, to_datetime64
from enrichment.domain.calendars import Market
from enrichment.domain.corporate_actions import scaled
from enrichment.domain.model import AssetClass, Timeframe, Window
from enrichment.sandbox.share_actions import in_force

TICKS = 10_000.0  # simulated prices are whole multiples of 1 / TICKS


class SandboxSeries(Protocol):
    """One instrument's bars in every timeframe, with timestamps as in `domain.bars`.

    Nothing after `now` is served; the bar that is forming then is made of what has traded so far.
    """

    asset_class: AssetClass
    market: Market  # whose calendar its bars follow
    simulated: bool
    splits: Mapping[np.datetime64, float]
    """Start of the first bar after each split → new shares for an old one; future ones, too."""
    dividends: Mapping[np.datetime64, float]
    """Start of the bar of each ex-date → amount for one share of that day."""

    def starts(self, timeframe: Timeframe, window: Window, now: datetime) -> Timestamps:
        """The starts of the bars in the window, without computing the bars."""

    def bars(self, timeframe: Timeframe, window: Window, now: datetime) -> Bars:
        """The bars in the window, ascending."""


def within(bars: Bars, window: Window) -> Bars:
    """The rows of an ascending series that lie in the window."""
    first, last = np.searchsorted(bars.ts, [to_datetime64(window.start), to_datetime64(window.end)])
    return bars.take(slice(int(first), int(last)))


def aggregate(bars: Bars, keys: Timestamps) -> Bars:
    """One bar for each distinct key, which is its start; the bars are in ascending order."""
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
    # Sums of whole numbers are exact, so the result does not depend on how bars are requested.
    traded = np.rint(bars.vwap * TICKS).astype(np.int64) * bars.volume.astype(np.int64)
    return np.asarray(np.rint(np.add.reduceat(traded, first) / volume) / TICKS)


def split_adjusted(bars: Bars, splits: Mapping[np.datetime64, float], now: datetime) -> Bars:
    """Bars on the share basis after all splits that have taken effect by `now`."""
    for day, ratio in in_force(splits, to_datetime64(now)).items():
        bars = scaled(bars, np.where(bars.ts < day, ratio, 1.0))
    return bars
