"""Market structure, from swing highs and lows.

>>> waves = np.tile([1.0, 2, 3, 4, 5, 6, 6, 5, 4, 3, 2, 1], 6) + np.arange(72) / 2
>>> bars = Bars.of(np.arange(72).astype("datetime64[D]"), waves, waves, waves, waves, volume=waves)
>>> market_structure(bars)[[0, 71]].tolist()
[None, 'bullish']
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from enrichment.domain.bars import Bars, Floats

_SIDE = 5  # bars on either side that a swing must exceed
# Indexed by the sum of two signs: 0, 1, 2, -2, -1.
_LABELS = np.array(["range", "range", "bullish", "bearish", "range"], dtype=object)

WARMUP = 49
LOOKBACK = 99


def market_structure(bars: Bars) -> NDArray[Any]:
    """'bullish' after a higher swing high and a higher swing low, 'bearish' after two lower ones,
    else 'range' (Dow's definition of trend: Murphy, 1999, chapter 4).

    A swing high is a high above those of the 5 bars before it and not below those of the 5 bars
    after it; it counts from the bar that confirms it, the fifth after. A swing low likewise. The
    newest swing is compared with the one before it, as long as both lie within the last 100 bars.
    """
    labels = np.asarray(_LABELS[_swing_direction(bars.high) - _swing_direction(-bars.low)])
    labels[:WARMUP] = None
    return labels


def _swing_direction(extreme: Floats) -> NDArray[np.int8]:
    """At each bar, the sign of the newest swing high minus the one before it; 0 if unknown."""
    rows = len(extreme)
    out = np.zeros(rows, np.int8)
    confirmed = _confirmations(extreme)
    if len(confirmed) < 2:
        return out
    steps = np.sign(np.diff(extreme[confirmed - _SIDE])).astype(np.int8)
    since, next_swing = confirmed[1:], np.append(confirmed[2:], rows)
    expires = confirmed[:-1] + LOOKBACK - 2 * _SIDE + 1
    until = np.clip(expires, since, next_swing)
    values = np.column_stack([steps, np.zeros_like(steps)]).ravel()
    lengths = np.column_stack([until - since, next_swing - until]).ravel()
    out[since[0] :] = np.repeat(values, lengths)
    return out


def _confirmations(extreme: Floats) -> NDArray[np.intp]:
    """Rows at which swing highs are confirmed, ascending."""
    import talib

    if len(extreme) <= 2 * _SIDE:
        return np.empty(0, np.intp)
    highest = talib.MAX(extreme, _SIDE)
    pivot = extreme[_SIDE:-_SIDE]
    before, after = highest[_SIDE - 1 : -_SIDE - 1], highest[2 * _SIDE :]
    return np.flatnonzero((pivot > before) & (pivot >= after)) + 2 * _SIDE
