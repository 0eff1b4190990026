"""Ticker → series: what this vendor has to offer."""

from __future__ import annotations

import threading
from collections import OrderedDict
from datetime import datetime
from functools import lru_cache

from enrichment.domain.bars import Bars
from enrichment.domain.model import is_simulated
from enrichment.sandbox.generator import Make, SimulatedSeries
from enrichment.sandbox.recorded import recorded_series, recordings
from enrichment.sandbox.series import SandboxSeries

_KEPT = 64  # series whose walks stay in memory, 0.1 to 0.5 MB each
_REMEMBERED = 16_384  # answers of a few daily or weekly bars, 2 KB each
_FEW = 32


class Market:
    """All series of one sandbox.

    anchor: the recorded series end at the last session that was complete by then.
    shifted: False replays them on their original dates, without continuation.
    """

    def __init__(self, anchor: datetime, *, shifted: bool = True, seed: int = 0) -> None:
        self.anchor, self.shifted, self.seed = anchor, shifted, seed
        self._series = lru_cache(maxsize=_KEPT)(self._make)
        self._answers: OrderedDict[tuple[object, ...], Bars] = OrderedDict()
        self._answering = threading.Lock()

    def series(self, ticker: str) -> SandboxSeries | None:
        """The ticker's series; None if this vendor does not know it."""
        known = is_simulated(ticker) or ticker in recordings()
        return self._series(ticker) if known else None

    def warm_up(self) -> None:
        """Read the recordings and the calendar now, not within the first request."""
        for ticker in recordings():
            self.series(ticker)

    def _recall(self, asked: tuple[object, ...], make: Make) -> Bars:
        """A nightly run asks thousands of series for the same few bars again and again."""
        with self._answering:
            known = self._answers.get(asked)
        if known is not None:
            return known
        made = make()
        if len(made) <= _FEW:
            for column in made.columns().values():
                column.setflags(write=False)
            with self._answering:
                self._answers[asked] = made
                if len(self._answers) > _REMEMBERED:
                    self._answers.popitem(last=False)
        return made

    def _make(self, ticker: str) -> SandboxSeries:
        if is_simulated(ticker):
            return SimulatedSeries(ticker, self.seed, self._recall)
        return recorded_series(ticker, self.anchor, shifted=self.shifted, seed=self.seed)
