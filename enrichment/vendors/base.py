"""What every vendor's provider offers and shares: its protocol, its errors, JSON values as columns.

numpy would silently convert text and booleans to numbers, so the types are checked first. A value
of the wrong type or range is a MalformedResponse that names the field.

>>> from enrichment.vendors.registry import VENDORS
>>> isinstance(VENDORS["binance"].build(None, "binance"), Provider)
True
>>> to_floats([1, None], "open")
array([ 1., nan])
>>> to_timestamps([1_700_000_000], "t", "s")
array(['2023-11-14T22:13:20.000000'], dtype='datetime64[us]')
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

import numpy as np

from enrichment.domain.bars import Bars, Floats, Timestamps, to_datetime64
from enrichment.domain.corporate_actions import CorporateAction
from enrichment.domain.errors import (
    MalformedResponse,
    ProviderError,
    ProviderUnavailable,
    RequestRefused,
    UnknownSymbol,
)
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


class ActionSource(Protocol):
    """A vendor that lists corporate actions of many symbols."""

    @property
    def source(self) -> str:
        """Recorded with its actions."""

    def fetch_actions(
        self, since: date, symbols: Sequence[str] | None = None
    ) -> list[CorporateAction]:
        """Actions effective at `since` or later, of these symbols or of the whole market.

        Raises:
            ProviderError: The answer could not be used.
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
        if not str(exc).startswith(f"{vendor}, "):  # by a block within this one
            exc.args = (f"{vendor}, {spelling}: {exc}{_ADVICE.get(type(exc), '')}",)
        raise


_ADVICE: dict[type[ProviderError], str] = {
    MalformedResponse: "; the answer is not used, and the next run asks again",
    ProviderUnavailable: "; the next run asks again",
    RequestRefused: "; check the symbol and its asset class",
    UnknownSymbol: "; check the symbol, or take it out with 'enrichment symbols remove'",
}


class ResilientCall(Protocol):
    """Runs one HTTP request behind retry, circuit breaker, rate limiter and bulkhead."""

    def __call__(self, request: Callable[[], T]) -> T: ...


_AROUND = np.timedelta64(8, "D")  # a week and the time zones, as answers may be rounded
_LAST_BARS = 2  # that a vendor may send in place of none
_FEW_BARS = 1_000  # that need no time to fit into
_NUMBER_TYPES = {float, int, type(None)}
_UNITS_PER_SECOND = {"s": 1, "ms": 1000}
_EARLIEST, _LATEST = -2_208_988_800, 4_102_444_800  # the years 1900 to 2099, in seconds


def to_floats(values: Sequence[Any], field: str) -> Floats:
    """JSON numbers; null becomes NaN."""
    if not set(map(type, values)) <= _NUMBER_TYPES:
        raise MalformedResponse(f"'{field}' is not a number")
    try:
        return np.array(values, dtype=np.float64)
    except OverflowError:
        raise MalformedResponse(f"'{field}' is too large for a number") from None


def text_to_floats(values: Sequence[Any], field: str) -> Floats:
    """Numbers sent as text."""
    if not set(map(type, values)) <= {str}:
        raise MalformedResponse(f"'{field}' is not a number in quotes")
    try:
        return np.array(values, dtype=np.str_).astype(np.float64)
    except ValueError:
        raise MalformedResponse(f"'{field}' is not a number") from None


def to_timestamps(values: Sequence[Any], field: str, unit: Literal["s", "ms"]) -> Timestamps:
    """Whole seconds or milliseconds since 1970, UTC."""
    if not set(map(type, values)) <= {int}:
        raise MalformedResponse(f"'{field}' is not a whole number of {unit}")
    scale = _UNITS_PER_SECOND[unit]
    if values and (min(values) < _EARLIEST * scale or max(values) > _LATEST * scale):
        raise MalformedResponse(f"'{field}' lies outside the years 1900 to 2099")
    return np.array(values, np.int64).astype(f"datetime64[{unit}]").astype("datetime64[us]")


def require_fewer_bars(bars: int, window: Window, timeframe: Timeframe) -> None:
    """Raise MalformedResponse for more bars than a window can have, twice over.

    Vendors are asked page by page: the pages of one that sends any without end are not collected.

    >>> from datetime import UTC, datetime
    >>> day = Window(datetime(2024, 1, 2, tzinfo=UTC), datetime(2024, 1, 3, tzinfo=UTC))
    >>> require_fewer_bars(2000, day, Timeframe.H1)
    Traceback (most recent call last):
    enrichment.domain.errors.MalformedResponse: more than 1,048 bars of 1h do not fit into the time
    """
    most = _FEW_BARS + 2 * int((window.end - window.start) / timeframe.duration)
    if bars > most:
        raise MalformedResponse(f"more than {most:,} bars of {timeframe} do not fit into the time")


def within(bars: Bars, window: Window) -> Bars:
    """The bars that start in the window; a vendor may send some around it.

    Raises:
        MalformedResponse: All of them, and not just the last there are, are far outside of it, as
            with a wrong unit of time.
    """
    start, end = to_datetime64(window.start), to_datetime64(window.end)
    kept = (bars.ts >= start) & (bars.ts < end)
    if kept.all():
        return bars
    if (
        len(bars) > _LAST_BARS
        and not ((bars.ts >= start - _AROUND) & (bars.ts < end + _AROUND)).any()
    ):
        raise MalformedResponse(f"all bars start outside the requested time, one at {bars.ts[0]}")
    return bars.take(kept)
