"""Days of a whole market, which a vendor sends with one request each.

>>> day = np.array(["2024-03-01"], "datetime64[us]")
>>> bars = Bars.of(day.repeat(2), *np.full((5, 2), 9.0))
>>> MarketDay(("AAPL", "MSFT"), bars).of({"MSFT"}).symbols
('MSFT',)
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, field

import numpy as np

from enrichment.domain.bars import Bars, Timestamps, no_timestamps


@dataclass(frozen=True, slots=True, eq=False)
class MarketDay:
    """The daily bars of all symbols that traded on one day. Empty: it is not published yet."""

    symbols: tuple[str, ...] = ()
    bars: Bars = field(default_factory=Bars.empty)  # one for each symbol, in their order

    def of(self, symbols: Container[str]) -> MarketDay:
        """The bars of these symbols only."""
        kept = [n for n, symbol in enumerate(self.symbols) if symbol in symbols]
        return MarketDay(tuple(self.symbols[n] for n in kept), self.bars.take(np.array(kept, int)))


@dataclass(frozen=True, slots=True, eq=False)
class DaysOfSymbol:
    """What the fetched days of a market hold of one symbol."""

    bars: Bars  # ascending
    unpublished: Timestamps = field(default_factory=no_timestamps)  # days that no symbol has yet
