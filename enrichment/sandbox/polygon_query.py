"""What a request to Polygon's aggregates asks for, and how one page leads to the next."""

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
    """What a request asks for; `after` is the stamp at which the page before ended, in ms."""

    ticker: str
    timeframe: Timeframe
    first_ms: int
    last_ms: int
    adjusted: bool
    ascending: bool
    limit: int
    after: int | None

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
    asked: Mapping[str, str],
) -> AggregatesQuery:
    """The query of a path and its parameters, those packed in the cursor included."""
    arguments = {**asked, **_opened(asked.get("cursor"))}
    size = int(multiplier) if multiplier.isascii() and multiplier.isdigit() else 0
    timeframe = _TIMEFRAMES.get((size, timespan))
    if timeframe is None:
        raise BadQueryError(f"'{multiplier}/{timespan}' is not served: use {_offer()}")
    local = AssetClass.CRYPTO if ticker[:2] in ("X:", "C:") else AssetClass.STOCK
    first, last = _moment(start, local, "from", 0), _moment(end, local, "to", 1)
    if first > last:
        raise BadQueryError("The parameter 'to' cannot be a time that occurs before 'from'")
    return AggregatesQuery(
        ticker,
        timeframe,
        first,
        last,
        adjusted=_choice(arguments, "adjusted", {"true": True, "false": False}, "true"),
        ascending=_choice(arguments, "sort", {"asc": True, "desc": False}, "asc"),
        limit=_integer(arguments.get("limit", "5000"), "limit", 1, _MAX_LIMIT),
        after=_integer(arguments["after"], "cursor") if "after" in arguments else None,
    )


def _offer() -> str:
    return ", ".join(f"{size}/{span}" for size, span in _TIMEFRAMES)


def _choice(arguments: dict[str, str], name: str, words: dict[str, bool], default: str) -> bool:
    value = arguments.get(name, default).lower()
    if value not in words:
        raise BadQueryError(f"Could not parse the parameter '{name}': use {' or '.join(words)}")
    return words[value]


def _integer(text: str, name: str, least: int = -(10**14), most: int = 10**14) -> int:
    try:
        number = int(text) if len(text) <= 16 else most + 1
    except ValueError:
        raise BadQueryError(f"Could not parse the parameter '{name}': '{text}'") from None
    if not least <= number <= most:
        raise BadQueryError(f"The parameter '{name}' must lie between {least} and {most}")
    return number


def _moment(text: str, local: AssetClass, name: str, days: int) -> int:
    """A date or a number of milliseconds as milliseconds; days=1 takes the end of a date."""
    if len(text) != 10 or text.count("-") != 2:
        return _integer(text, name)
    try:
        day = np.datetime64(text, "D")
    except ValueError:
        raise BadQueryError(
            f"Could not parse the time parameter '{name}': use YYYY-MM-DD"
        ) from None
    edge = local_midnights(
        local, (day + np.timedelta64(days, "D")).astype("datetime64[us]").reshape(1)
    )
    return int(edge.astype("datetime64[ms]").astype(np.int64)[0]) - days


def _opened(packed: str | None) -> dict[str, str]:
    if packed is None:
        return {}
    try:
        opened = dict(parse_qsl(urlsafe_b64decode(packed.encode()).decode()))
    except ValueError:
        opened = {}
    if "after" not in opened:
        raise BadQueryError("Could not parse the parameter 'cursor'")
    return opened


def cursor(query: AggregatesQuery, after: int) -> str:
    """What leads to the page that follows the stamp `after`."""
    said = {
        "adjusted": str(query.adjusted).lower(),
        "sort": "asc" if query.ascending else "desc",
        "limit": query.limit,
        "after": after,
    }
    return urlsafe_b64encode(urlencode(said).encode()).decode()
