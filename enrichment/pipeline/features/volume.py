"""Volume: how much was traded, on which side, and at what average price.

>>> close, volume = np.array([10.0, 11.0, 10.5]), np.array([100.0, 40.0, 30.0])
>>> bars = Bars.of(np.arange(3).astype("datetime64[D]"), close, close, close, close, volume)
>>> on_balance_volume(bars).tolist()
[100.0, 140.0, 110.0]
"""

from __future__ import annotations

import numpy as np

from enrichment.domain.bars import Bars, Floats, Mask, safe_divide
from enrichment.pipeline.features import windows
from enrichment.pipeline.features.days import daily_cumsum


def mean_volume(bars: Bars, *, length: int) -> Floats:
    """Mean volume of the last `length` bars, in units traded."""
    return windows.rolling(windows.mean, bars.volume, length)


def volume_ratio(bars: Bars, *, length: int) -> Floats:
    """volume / mean volume of the last `length` bars, this one included; NULL if all are 0."""
    return safe_divide(bars.volume, mean_volume(bars, length=length))


def on_balance_volume(bars: Bars) -> Floats:
    """On-balance volume (Granville, 1963), TA-Lib OBV: the volume of rising bars minus that of
    falling ones, cumulated from the first bar's volume on, in units traded.
    """
    signed = bars.volume.copy()
    signed[1:] *= np.sign(np.diff(bars.close))
    return np.cumsum(signed)


def session_vwap(bars: Bars) -> Floats:
    """Volume-weighted average price of the UTC day so far: Σ price · volume / Σ volume.

    price is the vendor's vwap of the bar, or else its typical price (high + low + close) / 3; so is
    the result for daily and weekly bars. NULL while nothing was traded on that day.
    """
    price = (bars.high + bars.low + bars.close) / 3.0
    has_vwap = (bars.vwap >= bars.low) & (bars.vwap <= bars.high)
    np.copyto(price, bars.vwap, where=has_vwap)
    turnover, volume = daily_cumsum(bars.ts, price * bars.volume, bars.volume)
    return safe_divide(turnover, volume)


def volume_delta(bars: Bars) -> Floats:
    """Volume bought minus volume sold by takers: 2 · taker_buy_volume - volume.

    NULL where the vendor sends no taker volume, or one that exceeds the bar's volume.
    """
    return np.where(_has_taker_volume(bars), 2.0 * bars.taker_buy_volume - bars.volume, np.nan)


def buy_sell_ratio(bars: Bars) -> Floats:
    """taker_buy_volume / (volume - taker_buy_volume); NULL if that is 0, and as volume_delta."""
    sold = np.where(_has_taker_volume(bars), bars.volume - bars.taker_buy_volume, 0.0)
    return safe_divide(bars.taker_buy_volume, sold)


def _has_taker_volume(bars: Bars) -> Mask:
    return np.asarray((bars.taker_buy_volume >= 0) & (bars.taker_buy_volume <= bars.volume))
