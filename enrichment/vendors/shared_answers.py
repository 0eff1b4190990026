"""One request for what several timeframes of an item are built from.

Weeks are built from days, and stocks' bars of 30 minutes, one hour and four hours from half-hours.
The pipeline begins with the longest timeframe, so the days of its weeks mostly include those that
the daily bars need.

>>> from contextvars import copy_context
>>> from datetime import UTC, datetime
>>> from uuid import UUID
>>> from enrichment.domain.bars import Bars
>>> from enrichment.domain.item_scope import enter_item
>>> from enrichment.domain.model import Task
>>> class Vendor:
...     name = source = "demo"
...
...     def fetch(self, symbol, asset_class, timeframe, window):
...         return FetchedBars(Bars.empty(), "demo", False)
>>> def requests_of_one_item():
...     task = Task(UUID(int=1), "AAPL", AssetClass.STOCK, (Timeframe.D1, Timeframe.W1), "w", 1)
...     enter_item(task)
...     vendor, end = SharedAnswers(Vendor()), datetime(2024, 3, 1, tzinfo=UTC)
...     windows = [Window(datetime(2024, month, 1, tzinfo=UTC), end) for month in (1, 2)]
...     return [vendor.fetch("AAPL", task.asset_class, Timeframe.D1, w).requests for w in windows]
>>> copy_context().run(requests_of_one_item)
[1, 0]
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from enrichment.domain.item_scope import item_scope
from enrichment.domain.model import AssetClass, FetchedBars, Timeframe, Window
from enrichment.vendors.base import Provider


@dataclass(frozen=True, slots=True)
class _Answer:
    window: Window
    fetched: FetchedBars

    def narrowed(self, window: Window) -> FetchedBars:
        bars = self.fetched.bars.between(window.start, window.end)
        return replace(self.fetched, bars=bars, requests=0, shared=True)


class SharedAnswers:
    """A vendor whose answers of a timeframe also serve narrower windows of the same item.

    An answer that says how far back the vendor reaches serves its own window only.
    """

    def __init__(self, provider: Provider) -> None:
        self._provider = provider
        self.name = provider.name
        self.source = provider.source

    def fetch(
        self, symbol: str, asset_class: AssetClass, timeframe: Timeframe, window: Window
    ) -> FetchedBars:
        """The bars that start in the window, or some around it; ProviderError from the vendor."""
        scope = item_scope()
        if scope is None or not scope.several_timeframes:
            return self._provider.fetch(symbol, asset_class, timeframe, window)
        key = (self.name, symbol, timeframe)
        with scope.lock(key):
            answers: list[_Answer] = scope.answers.setdefault(key, [])
            for answer in answers:
                if answer.window.includes(window):
                    return answer.narrowed(window)
            fetched = self._provider.fetch(symbol, asset_class, timeframe, window)
            if fetched.limit is None and fetched.served_from is None:
                answers.append(_Answer(window, fetched))
            return fetched
