"""The words of this field as frozen values: symbols, timeframes, bars, tasks and their results.

A `Bars` holds the columns of one series as numpy arrays of equal length n. Timestamps are
`datetime64[us]` in UTC and mark a bar's start. Daily bars carry their session's date at 00:00 UTC
and weekly bars the Monday of their week at 00:00 UTC, whatever the vendor's own convention, so that
series of different vendors meet on the same keys.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from operator import attrgetter
from typing import Any, Self
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from enrichment.errors import InvalidRequest, InvalidSymbol

Timestamps = NDArray[np.datetime64]
Floats = NDArray[np.float64]

PROVIDER_NAMES = ("polygon", "binance", "yahoo")

_SYMBOL = re.compile(r"(?:[XC]:)?[A-Z0-9][A-Z0-9.\-]{0,23}")
_SIMULATED = re.compile(r"SIM\d+|X:SIM\d+USD")


class AssetClass(StrEnum):
    STOCK = "stock"
    ETF = "etf"
    CRYPTO = "crypto"

    @classmethod
    def parse(cls, text: str) -> Self:
        try:
            return cls(text.strip().lower())
        except ValueError:
            raise InvalidRequest(
                f"unknown asset class {text!r}: choose one of {', '.join(cls)}"
            ) from None


class Timeframe(StrEnum):
    M5 = "5m"
    M15 = "15m"
    M30 = "30m"
    H1 = "1h"
    H4 = "4h"
    D1 = "1d"
    W1 = "1w"

    @property
    def duration(self) -> timedelta:
        """Nominal length of one bar."""
        return _DURATIONS[self]

    @property
    def intraday(self) -> bool:
        return self not in (Timeframe.D1, Timeframe.W1)

    @classmethod
    def parse(cls, text: str) -> Self:
        try:
            return cls(text.strip().lower())
        except ValueError:
            raise InvalidRequest(
                f"unknown timeframe {text!r}: choose from {', '.join(cls)}"
            ) from None

    @classmethod
    def parse_list(cls, text: str) -> tuple[Self, ...]:
        """Timeframes separated by commas or bars, without repetition, in ascending length."""
        chosen = {cls.parse(part) for part in re.split(r"[,|]", text) if part.strip()}
        if not chosen:
            raise InvalidRequest(f"no timeframe given: choose from {', '.join(cls)}")
        return tuple(timeframe for timeframe in cls if timeframe in chosen)


_DURATIONS = {
    Timeframe.M5: timedelta(minutes=5),
    Timeframe.M15: timedelta(minutes=15),
    Timeframe.M30: timedelta(minutes=30),
    Timeframe.H1: timedelta(hours=1),
    Timeframe.H4: timedelta(hours=4),
    Timeframe.D1: timedelta(days=1),
    Timeframe.W1: timedelta(weeks=1),
}


def parse_symbol(text: str) -> str:
    """The ticker in upper case; InvalidSymbol where it can't be one."""
    symbol = text.strip().upper()
    if not _SYMBOL.fullmatch(symbol):
        shown = text if len(text) <= 40 else f"{text[:40]}…"
        raise InvalidSymbol(
            f"malformed symbol {shown!r}: use letters, digits, '.' and '-', "
            "for crypto with the prefix 'X:' (AAPL, BRK.B, X:BTCUSD)"
        )
    return symbol


def is_simulated(symbol: str) -> bool:
    """Whether the ticker names a simulated series of the sandbox vendor."""
    return _SIMULATED.fullmatch(symbol) is not None


@dataclass(frozen=True, slots=True)
class TrackedSymbol:
    """One row of `tracked_symbols`."""

    symbol: str
    asset_class: AssetClass
    timeframes: tuple[Timeframe, ...]
    active: bool = True


@dataclass(frozen=True, slots=True)
class Window:
    """Half-open range of bar starts, [start, end), timezone-aware UTC."""

    start: datetime
    end: datetime


def to_datetime64(moment: datetime) -> np.datetime64:
    """A timezone-aware moment as `datetime64[us]` in UTC."""
    return np.datetime64(moment.astimezone(UTC).replace(tzinfo=None), "us")


def among(ts: Timestamps, ascending: Timestamps) -> NDArray[np.bool_]:
    """Whether each moment is one of the ascending ones."""
    return ascending.searchsorted(ts, side="right") > ascending.searchsorted(ts)


def divided(above: Floats, below: Floats) -> Floats:
    """above / below where below > 0, else NaN."""
    out = np.full(len(above), np.nan)
    with np.errstate(over="ignore", invalid="ignore"):
        np.divide(above, below, out=out, where=below > 0)
    return out


def to_datetime(ts: np.datetime64) -> datetime:
    """A `datetime64` as a timezone-aware UTC moment."""
    moment: datetime = ts.astype("datetime64[us]").item()
    return moment.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True, eq=False)
class Bars:
    """Columns of one OHLCV series, each of length n.

    ts: UTC start of each bar. Prices are in the instrument's currency, volume in units traded.
    vwap, trades and taker_buy_volume are NaN where the vendor does not give them.
    """

    ts: Timestamps
    open: Floats
    high: Floats
    low: Floats
    close: Floats
    volume: Floats
    vwap: Floats
    trades: Floats
    taker_buy_volume: Floats

    def __post_init__(self) -> None:
        if len(set(map(len, _columns(self)))) != 1:
            raise ValueError("the columns of Bars must be of equal length")

    def __len__(self) -> int:
        return len(self.ts)

    @classmethod
    def of(
        cls,
        ts: Timestamps,
        open: Floats,
        high: Floats,
        low: Floats,
        close: Floats,
        volume: Floats,
        *,
        vwap: Floats | None = None,
        trades: Floats | None = None,
        taker_buy_volume: Floats | None = None,
    ) -> Self:
        """Bars of the given columns; the optional ones default to NaN."""
        unknown = np.full(len(ts), np.nan)
        return cls(
            ts.astype("datetime64[us]"),
            *(np.ascontiguousarray(c, np.float64) for c in (open, high, low, close, volume)),
            *(
                unknown if c is None else np.ascontiguousarray(c, np.float64)
                for c in (vwap, trades, taker_buy_volume)
            ),
        )

    @classmethod
    def empty(cls) -> Self:
        return cls.of(np.empty(0, "datetime64[us]"), *(np.empty(0) for _ in range(5)))

    def columns(self) -> dict[str, NDArray[Any]]:
        """Name → column, `ts` first."""
        return dict(zip(self.__slots__, _columns(self), strict=True))

    def take(self, rows: NDArray[np.bool_] | NDArray[np.intp] | slice) -> Self:
        """The chosen rows, by mask, index or slice."""
        return type(self)(*[column[rows] for column in _columns(self)])

    def followed_by(self, *others: Bars) -> Self:
        """These rows, then the others'."""
        rows = zip(_columns(self), *map(_columns, others), strict=True)
        return type(self)(*map(np.concatenate, rows))

    def ascending(self) -> Self:
        """The rows in the order of their starts; rows of one start keep theirs."""
        return self.take(np.argsort(self.ts, kind="stable"))

    def not_in(self, other: Bars) -> NDArray[np.bool_]:
        """Whether each row's start is none of the other's, which are ascending."""
        return ~among(self.ts, other.ts)

    def under(self, other: Bars) -> Self:
        """These ascending rows with the other's laid over them, whose row stays on equal starts."""
        first = int(np.searchsorted(self.ts, other.ts[0])) if len(other) else len(self)
        rest = self.take(slice(first, None))
        alone = rest.not_in(other)
        over = rest.take(alone).followed_by(other).ascending() if alone.any() else other
        return self.take(slice(first)).followed_by(over)

    def shared_with(self, other: Bars) -> tuple[Self, Bars]:
        """The rows of both with the same starts, ascending; neither may repeat a start."""
        _, mine, theirs = np.intersect1d(self.ts, other.ts, assume_unique=True, return_indices=True)
        return self.take(mine), other.take(theirs)


_columns: Callable[[Bars], tuple[NDArray[Any], ...]] = attrgetter(*Bars.__slots__)


class Severity(StrEnum):
    ERROR = "error"
    WARNING = "warning"
    INFO = "info"


@dataclass(frozen=True, slots=True)
class Flag:
    """What a check found at one bar."""

    ts: datetime
    check: str
    severity: Severity
    detail: str


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A bar that is kept apart with the reason, as the vendor sent it (NaN as None)."""

    ts: datetime
    check: str
    detail: str
    bar: Mapping[str, float | None]


@dataclass(frozen=True, slots=True)
class Checked:
    """What validation made of fetched bars: the good ones in order, and everything found."""

    bars: Bars
    flags: tuple[Flag, ...] = ()
    quarantined: tuple[Quarantined, ...] = ()


@dataclass(frozen=True, slots=True)
class Quality:
    """A score in [0, 1] with its four components, each in [0, 1], and the reasons for what is
    missing.
    """

    score: float
    completeness: float
    validation: float
    features: float
    freshness: float
    status: str
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Fetched:
    """A provider's answer for one series and window, all pages together."""

    bars: Bars
    source: str
    adjusted: bool
    requests: int = 1
    quota_remaining: int | None = None


class JobKind(StrEnum):
    """What opened a job. Scheduled and catch-up jobs share a date's one slot."""

    SCHEDULED = "scheduled"
    CATCHUP = "catchup"
    MANUAL = "manual"
    BACKFILL = "backfill"


@dataclass(frozen=True, slots=True)
class Task:
    """One claimed item: the symbol to enrich and the proof (worker, fence) of owning it.

    backfill: the stretch of history to fetch, None for the newest bars; left: timeframe → where the
    part of it that is still to be fetched ends.
    """

    job_id: UUID
    symbol: str
    asset_class: AssetClass
    timeframes: tuple[Timeframe, ...]
    worker_id: str
    fence: int
    retry_count: int = 0
    backfill: Window | None = None
    left: tuple[tuple[Timeframe, datetime], ...] = ()

    def left_of(self, timeframe: Timeframe) -> datetime | None:
        """Where the rest of a timeframe's backfill ends; None if it has not begun."""
        return dict(self.left).get(timeframe)


@dataclass(frozen=True, slots=True)
class Failure:
    """What went wrong with an item, and at which step."""

    error_class: str
    error: str
    step: str
    timeframe: str | None = None
    duration_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class Written:
    """Rows that a transaction inserted and updated."""

    inserted: int = 0
    updated: int = 0

    def __add__(self, other: Written) -> Written:
        return Written(self.inserted + other.inserted, self.updated + other.updated)
