"""What every provider offers, and what it is given: one resilient call around every request."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from enrichment.domain.model import AssetClass, FetchedBars, Timeframe, Window

T = TypeVar("T")


class Provider(Protocol):
    """A vendor's bars."""

    @property
    def name(self) -> str: ...

    @property
    def source(self) -> str:
        """What `Fetched.source` says of its bars."""

    def fetch(
        self, symbol: str, asset_class: AssetClass, timeframe: Timeframe, window: Window
    ) -> FetchedBars:
        """The bars that start in the window, in the vendor's order; ProviderError if it fails."""


class ResilientCall(Protocol):
    """Runs one HTTP request; limiter, breaker, retry and bulkhead live in here."""

    def __call__(self, request: Callable[[], T]) -> T: ...


def direct(request: Callable[[], T]) -> T:
    """A call without protection."""
    return request()
