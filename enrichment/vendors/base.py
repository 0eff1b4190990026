"""What every vendor's provider offers, and the resilient call that its requests go through.

>>> from enrichment.vendors.registry import VENDORS
>>> isinstance(VENDORS["binance"].build(None, "binance"), Provider)
True
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar, runtime_checkable

from enrichment.domain.model import AssetClass, FetchedBars, Timeframe, Window

T = TypeVar("T")


@runtime_checkable
class Provider(Protocol):
    """A vendor's bars."""

    @property
    def name(self) -> str:
        """As in the registry."""

    @property
    def source(self) -> str:
        """What `FetchedBars.source` says of its bars."""

    def fetch(
        self, symbol: str, asset_class: AssetClass, timeframe: Timeframe, window: Window
    ) -> FetchedBars:
        """Fetch the bars that start in the window, in the vendor's order.

        Raises:
            ProviderError: The vendor's answer could not be used.
            Snooze: The vendor is not to be asked before some time has passed.
        """


class ResilientCall(Protocol):
    """Runs one HTTP request behind retry, circuit breaker, rate limiter and bulkhead."""

    def __call__(self, request: Callable[[], T]) -> T: ...
