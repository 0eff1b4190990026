"""Volume: how much was traded, on which side, and at what price on average."""

from __future__ import annotations

import numpy as np

from enrichment.domain.bars import Bars, Floats, safe_divide
from enrichment.pipeline.features import windows
from enrichment.pipeline.features.days import daily_cumsum


def mean_volume(bars: Bars, *, length: int) -> Floats:
    """Mean volume of the last `length` bars, in units traded."""
    return windows.rolling(windows.mean, bars.volume, length)


def volume_ratio(bars: Bars, *, length: int) -> Floats:
    """volume / mean volume of the last `length` bars, this one included; NULL if all are 0."""
    usual = mean_volume(bars, length=length)
    return safe_divide(bars.volume, usual)


def on_balance_volume(bars: Bars) -> Floats:
    """Granville's on-balance volume (1963), TA-Lib OBV: the sum of the volumes of rising bars less
    that of falling ones, in units traded, beginning with the first bar's volume.
    """
    signed = bars.volume.copy()
    signed[1:] *= np.sign(np.diff(bars.close))
    return np.cumsum(signed)


def session_vwap(bars: Bars) -> Floats:
    """Volume-weighted average price of the day so far: Σ price · volume / Σ volume over its bars.

    price is the vendor's vwap of the bar, or else its typical price (high + low + close) / 3. Days
    are those of UTC that hold bars, so a daily or weekly bar, alone on its day, has its own vwap or
    typical price. NULL while nothing was traded on that day.
    """
    price = (bars.high + bars.low + bars.close) / 3.0
    known = (bars.vwap >= bars.low) & (bars.vwap <= bars.high)
    np.copyto(price, bars.vwap, where=known)
    paid, traded = daily_cumsum(bars.ts, price * bars.volume, bars.volume)
    return safe_divide(paid, traded)


def volume_delta(bars: Bars) -> Floats:
    """Volume of takers who bought less that of takers who sold: 2 · taker_buy_volume - volume.

    NULL where the vendor gives no taker volume, or one that is not within the bar's volume.
    """
    return np.where(_has_taker_volume(bars), 2.0 * bars.taker_buy_volume - bars.volume, np.nan)


def buy_sell_ratio(bars: Bars) -> Floats:
    """taker_buy_volume / (volume - taker_buy_volume); NULL where nobody sold, and as for delta."""
    sold = np.where(_has_taker_volume(bars), bars.volume - bars.taker_buy_volume, 0.0)
    return safe_divide(bars.taker_buy_volume, sold)


def _has_taker_volume(bars: Bars) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    return np.asarray((bars.taker_buy_volume >= 0) & (bars.taker_buy_volume <= bars.volume))
