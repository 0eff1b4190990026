"""A vendor whose daily bars come from the days that a job fetched of the whole market.

What is missing there, or may be, is asked for symbol by symbol.

>>> from enrichment.vendors.registry import VENDORS
>>> provider = WithMarketDays(VENDORS["binance"].build(None, "binance"), lambda job, symbol: None)
>>> provider.source
'binance'
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from typing import Protocol
from uuid import UUID

from enrichment.domain.bars import Bars, isin_sorted
from enrichment.domain.calendars import ended_bar_starts, market_of
from enrichment.domain.item_scope import item_scope
from enrichment.domain.market_days import DaysOfSymbol, MarketDay
from enrichment.domain.model import AssetClass, FetchedBars, Timeframe, Window
from enrichment.vendors.base import Provider

ReadDays = Callable[[UUID, str], DaysOfSymbol | None]
"""(job, symbol) → what the days that the job fetched hold of the symbol; None for nothing."""


class MarketDaySource(Protocol):
    """A vendor that sends whole days of the US stock market."""

    @property
    def name(self) -> str:
        """As in the registry."""

    @property
    def source(self) -> str:
        """What `FetchedBars.source` says of its bars."""

    def fetch_day(self, day: date) -> MarketDay:
        """The bars of one session; empty if they are not published yet, or nobody traded.

        Raises:
            AccessDenied: The plan does not include it.
            ProviderError: The answer could not be used.
            Snooze: The vendor is not to be asked before some time has passed.
        """


class WithMarketDays:
    """Serves daily bars from the job's days, if these have every session of the window."""

    def __init__(self, provider: Provider, read: ReadDays) -> None:
        self._provider, self._read = provider, read
        self.name = provider.name
        self.source = provider.source

    def fetch(
        self, symbol: str, asset_class: AssetClass, timeframe: Timeframe, window: Window
    ) -> FetchedBars:
        """The bars that start in the window, or some around it; ProviderError from the vendor."""
        scope = item_scope()
        if scope is not None and scope.market_days and timeframe is Timeframe.D1:
            bars = self._of_job(scope.job_id, symbol, asset_class, window)
            if bars is not None:
                return FetchedBars(bars, self.source, adjusted=False, requests=0, shared=True)
        return self._provider.fetch(symbol, asset_class, timeframe, window)

    def _of_job(
        self, job_id: UUID, symbol: str, asset_class: AssetClass, window: Window
    ) -> Bars | None:
        held = self._read(job_id, symbol)
        if held is None:
            return None
        market = market_of(symbol, asset_class)
        sessions = ended_bar_starts(market, Timeframe.D1, window.start, window.end)
        known = isin_sorted(sessions, held.bars.ts) | isin_sorted(sessions, held.unpublished)
        return held.bars.between(window.start, window.end) if known.all() else None
