"""Polygon's aggregates: parsing a request's parameters and its page cursor."""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from urllib.parse import parse_qsl, urlencode

import numpy as np

from enrichment.domain.calendars import local_midnights
from enrichment.domain.model import AssetClass, Timeframe

_TIMEFRAMES = {
    (5, "minute"): Timeframe.M5,
    (15, "minute"): Timeframe.M15,
    (30, "minute"): Timeframe.M30,
    (1, "hour"): Timeframe.H1,
    (4, "hour"): Timeframe.H4,
    (1, "day"): Timeframe.D1,
    (1, "week"): Timeframe.W1,
}
_MAX_LIMIT = 50_000


class BadQueryError(ValueError):
    """A parameter that Polygon answers with 400."""


@dataclass(frozen=True, slots=True)
class AggregatesQuery:
    """A parsed request."""

    ticker: str
    timeframe: Timeframe
    first_ms: int
    last_ms: int
    adjusted: bool
    ascending: bool
    limit: int
    """Base aggregates of a page."""
    after: int | None
    """The last stamp of the page before, in milliseconds."""

    @property
    def base_aggregates(self) -> int:
        """Minutes or days in one bar."""
        unit = timedelta(minutes=1) if self.timeframe.intraday else timedelta(days=1)
        return self.timeframe.duration // unit

    @property
    def bars_per_page(self) -> int:
        return max(1, self.limit // self.base_aggregates)


def parse(
    ticker: str,
    multiplier: str,
    timespan: str,
    start: str,
    end: str,
    parameters: Mapping[str, str],
) -> AggregatesQuery:
    """Parse a path's parts and parameters, including those in the cursor; BadQueryError."""
    arguments = {**parameters, **_unpacked(parameters.get("cursor"))}
    size = int(multiplier) if multiplier.isascii() and multiplier.isdigit() else 0
    timeframe = _TIMEFRAMES.get((size, timespan))
    if timeframe is None:
        raise BadQueryError(f"'{multiplier}/{timespan}' is not served: use {_served_spans()}")
    local = AssetClass.CRYPTO if ticker[:2] in ("X:", "C:") else AssetClass.STOCK
    first, last = _milliseconds(start, local, "from", 0), _milliseconds(end, local, "to", 1)
    if first > last:
        raise BadQueryError("The parameter 'to' cannot be a time that occurs before 'from'")
    return AggregatesQuery(
        ticker,
        timeframe,
        first,
        last,
        adjusted=_choice(arguments, "adjusted", {"true": True, "false": False}, "true"),
        ascending=_choice(arguments, "sort", {"asc": True, "desc": False}, "asc"),
        limit=integer(arguments.get("limit", "5000"), "limit", 1, _MAX_LIMIT),
        after=integer(arguments["after"], "cursor") if "after" in arguments else None,
    )


def _served_spans() -> str:
    return ", ".join(f"{size}/{span}" for size, span in _TIMEFRAMES)


def _choice(arguments: dict[str, str], name: str, options: dict[str, bool], default: str) -> bool:
    value = arguments.get(name, default).lower()
    if value not in options:
        raise BadQueryError(f"Could not parse the parameter '{name}': use {' or '.join(options)}")
    return options[value]


def integer(text: str, name: str, minimum: int = -(10**14), maximum: int = 10**14) -> int:
    """A parameter as a number; BadQueryError unless it lies within the bounds."""
    try:
        number = int(text) if len(text) <= 16 else maximum + 1
    except ValueError:
        raise BadQueryError(f"Could not parse the parameter '{name}': '{text}'") from None
    if not minimum <= number <= maximum:
        raise BadQueryError(f"The parameter '{name}' must lie between {minimum} and {maximum}")
    return number


def _milliseconds(text: str, local: AssetClass, name: str, days: int) -> int:
    """A date or a number of milliseconds, in milliseconds; days=1: the end of the date."""
    if len(text) != 10 or text.count("-") != 2:
        return integer(text, name)
    try:
        day = np.datetime64(text, "D")
    except ValueError:
        raise BadQueryError(
            f"Could not parse the time parameter '{name}': use YYYY-MM-DD"
        ) from None
    midnight = local_midnights(
        local, (day + np.timedelta64(days, "D")).astype("datetime64[us]").reshape(1)
    )
    return int(midnight.astype("datetime64[ms]").astype(np.int64)[0]) - days


def _unpacked(cursor: str | None) -> dict[str, str]:
    if cursor is None:
        return {}
    try:
        parameters = dict(parse_qsl(urlsafe_b64decode(cursor.encode()).decode()))
    except ValueError:
        parameters = {}
    if "after" not in parameters:
        raise BadQueryError("Could not parse the parameter 'cursor'")
    return parameters


def cursor(query: AggregatesQuery, after: int) -> str:
    """The cursor of the page that follows the stamp `after`."""
    parameters = {
        "adjusted": str(query.adjusted).lower(),
        "sort": "asc" if query.ascending else "desc",
        "limit": query.limit,
        "after": after,
    }
    return urlsafe_b64encode(urlencode(parameters).encode()).decode()
