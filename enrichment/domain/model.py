"""The words of this field as frozen values: symbols, timeframes, tasks and their results."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Self
from uuid import UUID

from enrichment.domain.errors import InvalidRequest, InvalidSymbol

if TYPE_CHECKING:  # settings and command line use this module and need no numpy
    from enrichment.domain.bars import Bars

# Upper bounds of the histogram of fetches; one more bucket holds what took longer.
LATENCY_BUCKETS_MS = (10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000)

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
class QuarantinedBar:
    """A bar that is kept apart with the reason, as the vendor sent it (NaN as None)."""

    ts: datetime
    check: str
    detail: str
    bar: Mapping[str, float | None]


@dataclass(frozen=True, slots=True)
class ValidationResult:
    """What validation made of fetched bars: the good ones in order, and everything found."""

    bars: Bars
    flags: tuple[Flag, ...] = ()
    quarantined: tuple[QuarantinedBar, ...] = ()


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
class FetchedBars:
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
    remaining: tuple[tuple[Timeframe, datetime], ...] = ()

    def remaining_until(self, timeframe: Timeframe) -> datetime | None:
        """Where the rest of a timeframe's backfill ends; None if it has not begun."""
        return dict(self.remaining).get(timeframe)


@dataclass(frozen=True, slots=True)
class Failure:
    """What went wrong with an item, and at which step."""

    error_class: str
    error: str
    step: str
    timeframe: str | None = None
    duration_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class RowCounts:
    """Rows that a transaction inserted and updated."""

    inserted: int = 0
    updated: int = 0

    def __add__(self, other: RowCounts) -> RowCounts:
        return RowCounts(self.inserted + other.inserted, self.updated + other.updated)
