"""All series of the sandbox, by ticker."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from datetime import datetime
from functools import lru_cache
from itertools import chain

from enrichment.domain.bars import Bars
from enrichment.domain.model import Timeframe, is_simulated
from enrichment.sandbox.generator import Compute, SimulatedSeries
from enrichment.sandbox.recorded import recorded_series, recordings
from enrichment.sandbox.series import SandboxSeries
from enrichment.sandbox.share_actions import ShareActions

# Simulated, for the sake of their spelling: with a dot, or a small p for preferred shares.
SHARE_CLASSES = ("BRK.B", "BACpL")
_MAX_SERIES = 64  # kept in memory with their random walks, 0.1 to 0.5 MB each
_MAX_CACHED = 16_384  # short results, 2 KB each
_MAX_CACHED_BARS = 32  # of one short result


def _exists(ticker: str) -> bool:
    return is_simulated(ticker) or ticker in recordings() or ticker in SHARE_CLASSES


def serves(ticker: str, timeframe: Timeframe) -> bool:
    """Whether sandboxes have such bars of a ticker: recorded stocks have daily and weekly ones."""
    daily_only = ticker in recordings() and ":" not in ticker
    return _exists(ticker) and not (daily_only and timeframe.intraday)


class Market:
    """All series of one sandbox.

    Args:
        anchor: Recorded series end at the last session that is complete by then.
        shifted: False replays them on their original dates, without continuation.
        seed: Of the simulated series and of the continuations.
        simulated: Stocks SIM1, SIM2, … that whole-market answers list.
        actions: Splits and dividends of simulated stocks, in place of those they have everywhere.
    """

    def __init__(
        self,
        anchor: datetime,
        *,
        shifted: bool = True,
        seed: int = 0,
        simulated: int = 100,
        actions: Mapping[str, ShareActions] | None = None,
    ) -> None:
        self.anchor, self.shifted, self.seed, self.simulated = anchor, shifted, seed, simulated
        self.actions = actions or {}
        self._series = lru_cache(maxsize=_MAX_SERIES)(self._make)
        self._cache: OrderedDict[tuple[object, ...], Bars] = OrderedDict()
        self._cache_lock = threading.Lock()

    def series(self, ticker: str) -> SandboxSeries | None:
        """The ticker's series; None if it has none."""
        return self._series(ticker) if _exists(ticker) else None

    def recorded(self) -> Iterator[tuple[str, SandboxSeries]]:
        """The recorded stocks."""
        return ((t, self._series(t)) for t in recordings() if ":" not in t)

    def with_actions(self) -> Iterator[tuple[str, SandboxSeries]]:
        """The stocks with splits or dividends."""
        simulated = dict.fromkeys((*map("SIM{}".format, range(self.simulated + 1)), *self.actions))
        others = ((t, self._series(t)) for t in simulated if self._has_actions(t))
        return chain(self.recorded(), others)

    def _has_actions(self, ticker: str) -> bool:
        actions = self.actions.get(ticker) or ShareActions.of(ticker)
        return bool(actions.splits or actions.yields)

    def listed(self) -> Iterator[tuple[str, SandboxSeries]]:
        """The stocks that whole-market answers hold."""
        simulated = (f"SIM{n + 1}" for n in range(self.simulated))
        others = ((t, self._series(t)) for t in (*SHARE_CLASSES, *simulated))
        return chain(self.recorded(), others)

    def warm_up(self) -> None:
        """Load the recordings and the calendar before the first request."""
        for ticker in recordings():
            self.series(ticker)

    def _cached(self, key: tuple[object, ...], compute: Compute) -> Bars:
        """A nightly run requests the same few bars of thousands of series again and again."""
        with self._cache_lock:
            cached = self._cache.get(key)
        if cached is not None:
            return cached
        bars = compute()
        if len(bars) <= _MAX_CACHED_BARS:
            for column in bars.columns().values():
                column.setflags(write=False)
            with self._cache_lock:
                self._cache[key] = bars
                if len(self._cache) > _MAX_CACHED:
                    self._cache.popitem(last=False)
        return bars

    def _make(self, ticker: str) -> SandboxSeries:
        if ticker not in recordings():
            return SimulatedSeries(ticker, self.seed, self._cached, self.actions.get(ticker))
        return recorded_series(ticker, self.anchor, shifted=self.shifted, seed=self.seed)
