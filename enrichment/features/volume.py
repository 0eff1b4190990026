"""Volume: how much was traded."""

from __future__ import annotations

from enrichment.domain import Bars, Floats
from enrichment.features import windows


def average(bars: Bars, *, length: int) -> Floats:
    """Mean volume of the last `length` bars, in units traded."""
    return windows.rolling(windows.mean, bars.volume, length)
