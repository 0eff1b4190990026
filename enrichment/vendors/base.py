"""What every vendor's provider offers, and the resilient call that its requests go through.

>>> from enrichment.vendors.registry import VENDORS
>>> isinstance(VENDORS["binance"].build(None, "binance"), Provider)
True
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar, runtime_checkable

from enrichment.domain.errors import MalformedResponse, ProviderError, UnknownSymbol
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


@contextmanager
def naming(vendor: str, spelling: str) -> Iterator[None]:
    """Errors of the block name the vendor and the symbol as it spells it, and say what to do.

    >>> with naming("yahoo", "BRK-B"):
    ...     raise ProviderError("an error is reported")
    Traceback (most recent call last):
    enrichment.domain.errors.ProviderError: yahoo, BRK-B: an error is reported
    """
    try:
        yield
    except ProviderError as exc:
        advice = _ADVICE.get(type(exc), "")
        exc.args = (f"{vendor}, {spelling}: {exc}{advice}",)
        raise


_ADVICE: dict[type[ProviderError], str] = {
    MalformedResponse: "; the answer is not used, and the next run asks again",
    UnknownSymbol: "; check the symbol, or take it out with 'enrichment symbols remove'",
}


class ResilientCall(Protocol):
    """Runs one HTTP request behind retry, circuit breaker, rate limiter and bulkhead."""

    def __call__(self, request: Callable[[], T]) -> T: ...
