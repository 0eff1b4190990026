"""Frozen values of the domain: symbols, timeframes, tasks and their results.

>>> [str(timeframe) for timeframe in Timeframe.parse_list("1d,5m|1h")]
['5m', '1h', '1d']
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Self, TypeVar
from uuid import UUID

from enrichment.domain.errors import InvalidRequest
from enrichment.domain.statuses import HistoryLimit, SeriesStatus

if TYPE_CHECKING:  # settings and command line use this module and need no numpy
    from enrichment.domain.bars import Bars
    from enrichment.domain.corporate_actions import CorporateAction

# Upper bounds of the latency histogram of fetches; one more bucket counts slower ones.
LATENCY_BUCKETS_MS = (10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000)

_SIMULATED = re.compile(r"SIM\d+(\.[A-Z]{1,2})?|X:SIM\d+USD")


_Member = TypeVar("_Member", bound=StrEnum)


def _member(kind: type[_Member], text: str, noun: str, hint: str) -> _Member:
    """The member of that name. Raises InvalidRequest if there is none."""
    try:
        return kind(text.strip().lower())
    except ValueError:
        raise InvalidRequest(f"unknown {noun} {text!r}: {hint} {', '.join(kind)}") from None


class AssetClass(StrEnum):
    """Decides on the calendar of a symbol and on the vendors that serve it."""

    STOCK = "stock"
    ETF = "etf"
    CRYPTO = "crypto"

    @classmethod
    def parse(cls, text: str) -> Self:
        """The asset class of that name. Raises InvalidRequest if there is none."""
        return _member(cls, text, "asset class", "choose one of")


class StockSession(StrEnum):
    """Hours of a day in which a stock's or ETF's intraday bars start."""

    REGULAR = "regular"
    EXTENDED = "extended"  # also before the open and after the close

    @classmethod
    def parse(cls, text: str) -> Self:
        """The session of that name. Raises InvalidRequest if there is none."""
        return _member(cls, text, "session", "choose one of")


class SessionPart(StrEnum):
    """Where an intraday bar of a stock or ETF lies in its day."""

    PRE = "pre"
    REGULAR = "regular"
    POST = "post"


_DURATIONS = {
    "5m": timedelta(minutes=5),
    "15m": timedelta(minutes=15),
    "30m": timedelta(minutes=30),
    "1h": timedelta(hours=1),
    "4h": timedelta(hours=4),
    "1d": timedelta(days=1),
    "1w": timedelta(weeks=1),
}


class Timeframe(StrEnum):
    """Length of a bar, ascending."""

    M5 = "5m"
    M15 = "15m"
    M30 = "30m"
    H1 = "1h"
    H4 = "4h"
    D1 = "1d"
    W1 = "1w"

    def __init__(self, name: str) -> None:
        self.duration = _DURATIONS[name]
        """Nominal length of one bar."""
        self.intraday = self.duration < timedelta(days=1)
        """Whether a bar is shorter than a day."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """The timeframe of that name. Raises InvalidRequest if there is none."""
        return _member(cls, text, "timeframe", "choose from")

    @classmethod
    def parse_list(cls, text: str) -> tuple[Self, ...]:
        """Timeframes separated by ',' or '|', each once, in ascending length.

        Raises InvalidRequest if one is unknown or there is none.
        """
        named = {cls.parse(part) for part in re.split(r"[,|]", text) if part.strip()}
        if not named:
            raise InvalidRequest(f"no timeframe given: choose from {', '.join(cls)}")
        return tuple(timeframe for timeframe in cls if timeframe in named)


def is_simulated(symbol: str) -> bool:
    """Whether the ticker names a simulated series of the sandbox vendor."""
    return _SIMULATED.fullmatch(symbol) is not None


def is_sandbox(source: str | None) -> bool:
    """Whether bars of this source are the sandbox's.

    >>> is_sandbox("sandbox:yahoo"), is_sandbox("yahoo")
    (True, False)
    """
    return (source or "").partition(":")[0] == "sandbox"


@dataclass(frozen=True, slots=True)
class TrackedSymbol:
    """One row of `tracked_symbols`."""

    symbol: str
    asset_class: AssetClass
    timeframes: tuple[Timeframe, ...]
    active: bool = True
    session: StockSession | None = None  # None: that of the settings


@dataclass(frozen=True, slots=True)
class Window:
    """Half-open range of bar starts, [start, end), timezone-aware UTC."""

    start: datetime
    end: datetime

    def __contains__(self, ts: datetime) -> bool:
        return self.start <= ts < self.end

    def includes(self, other: Window) -> bool:
        """Whether all of the other range lies in this one."""
        return self.start <= other.start and other.end <= self.end


class Severity(StrEnum):
    """Of a flag; an error keeps the bar out of the series."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"


@dataclass(frozen=True, slots=True)
class Flag:
    """Finding of a check at one bar."""

    ts: datetime  # start of the bar
    check: str
    severity: Severity
    detail: str


@dataclass(frozen=True, slots=True)
class QuarantinedBar:
    """A bar that is kept out of the series."""

    ts: datetime
    check: str  # the first check that rejected it
    detail: str
    bar: Mapping[str, float | None]  # columns as the vendor sent them, None where not finite


@dataclass(frozen=True, slots=True)
class ValidationResult:
    """Fetched bars after validation."""

    bars: Bars  # the good ones, ascending and unique
    flags: tuple[Flag, ...] = ()  # ascending
    quarantined: tuple[QuarantinedBar, ...] = ()  # ascending


@dataclass(frozen=True, slots=True)
class Quality:
    """Quality of a series; score and components are in [0, 1]."""

    score: float
    completeness: float
    validation: float
    features: float
    freshness: float
    status: SeriesStatus
    reasons: tuple[str, ...] = ()  # one per deduction, the largest first


@dataclass(frozen=True, slots=True, eq=False)
class FetchedBars:
    """A vendor's response for one series and window, all pages together."""

    bars: Bars
    source: str  # name of the vendor
    adjusted: bool  # whether the prices are adjusted for splits
    requests: int = 1  # HTTP requests that it took
    shared: bool = False  # whether requests made for others brought it
    quota_remaining: int | None = None  # requests that the vendor still allows, if it says so
    served_from: datetime | None = None  # the vendor has nothing older; None: all that was asked
    limit: HistoryLimit | None = None  # why it has nothing older
    fallback: bool = False  # whether a preferred vendor could not be asked
    spelling: str | None = None  # of the symbol, as it was asked for; None: as it is
    substitution: str | None = None  # quote currencies served and asked for, "USDT for USD"
    actions: Sequence[CorporateAction] = ()  # that the same answer reports


class JobKind(StrEnum):
    """What started a job. Scheduled and catch-up jobs share the one slot of their date."""

    SCHEDULED = "scheduled"
    CATCHUP = "catchup"
    MANUAL = "manual"
    BACKFILL = "backfill"


@dataclass(frozen=True, slots=True)
class ThreadUse:
    """Which thread of a worker ran an item, and when, on the database's clock."""

    thread: int  # from 1
    begun_at: datetime
    finished_at: datetime | None = None  # when its rows were handed to the writer


@dataclass(frozen=True, slots=True)
class SeriesRepair:
    """A part of a damaged series that is fetched again and replaced."""

    timeframe: Timeframe
    window: Window
    restart: bool = False  # whether all that is stored of the series is given up
    as_traded: bool = False  # whether the whole series is put on the basis as traded, in one piece


@dataclass(frozen=True, slots=True)
class Task:
    """One claimed item of a job: the symbol to enrich, and the lease on it."""

    job_id: UUID
    symbol: str
    asset_class: AssetClass
    timeframes: tuple[Timeframe, ...]
    worker_id: str  # holder of the lease
    fence: int  # fencing token of the lease
    retry_count: int = 0
    market_days: bool = False  # whether its job fetched the days that it needs, market by market
    backfill: Window | None = None  # the history to fetch; None: the newest bars
    remaining: tuple[tuple[Timeframe, datetime], ...] = ()  # where the rest of a backfill ends
    repairs: tuple[SeriesRepair, ...] = ()  # of the backfill; empty: stored bars are kept
    interactive: bool = False  # a person asked for it, and may be waiting
    thread_use: ThreadUse | None = field(default=None, compare=False)  # None before it begins

    def remaining_until(self, timeframe: Timeframe) -> datetime | None:
        """End of the rest of a timeframe's backfill; None if it has not begun."""
        return dict(self.remaining).get(timeframe)

    def repair_of(self, timeframe: Timeframe) -> SeriesRepair | None:
        """The repair of one of its series; None for a task that repairs nothing."""
        return next((r for r in self.repairs if r.timeframe is timeframe), None)


MAX_LOG_LINES = 100  # that are kept of an item


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an item failed."""

    error_class: str
    error: str  # its message
    step: str  # the step that failed
    timeframe: str | None = None
    duration_ms: float = 0.0  # of that step
    log_lines: tuple[str, ...] = ()  # of the attempt, the oldest first


@dataclass(frozen=True, slots=True)
class RowCounts:
    """Rows that a transaction inserted and updated."""

    inserted: int = 0
    updated: int = 0
