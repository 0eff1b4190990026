"""Faults of stored series that earlier versions left behind, and what repairs them.

>>> DamageKind("after_close").remedy
'fetch the days again and delete the bars that no session has'
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from enrichment.domain.model import AssetClass, Timeframe, Window

_DAY = timedelta(days=1)
_CLOSED_AT_MOST = 4 * _DAY  # a weekend with a holiday
_REBUILD = "build the bars again from {parts} that are fetched anew"
_DELETE = "fetch the days again and delete the bars that no session has"


class DamageKind(StrEnum):
    """What is wrong with the bars, the gaps or the extent of a series."""

    WEEK_CONTRADICTS_DAYS = "week_contradicts_days"
    """A weekly bar differs from the stored days of its week."""
    WEEK_IS_LAST_DAY = "week_is_last_day"
    """A weekly bar holds only the last day of its week."""
    WEEK_OFF_MONDAY = "week_off_monday"
    """A weekly bar starts on another day than Monday."""
    RUNNING_BAR = "running_bar"
    """A bar was stored before it had ended, such as the running week."""
    AFTER_CLOSE = "after_close"
    """An intraday bar starts at the close of its session or later."""
    OUTSIDE_SESSION = "outside_session"
    """A bar lies before the open of its session, or on a day without one."""
    CLOCK_HOURS = "clock_hours"
    """A bar of one or four hours is not that of the half-hours of its session."""
    OFF_GRID = "off_grid"
    """A bar starts where no bar of its timeframe does, as a live quote."""
    SHORT_HISTORY = "short_history"
    """A series begins later than was asked for, and no vendor has said to have no more."""
    UNPROVEN_NO_TRADES = "unproven_no_trades"
    """A gap was closed for want of trades by vendors that could not know."""
    SANDBOX_BARS = "sandbox_bars"
    """Bars of the sandbox and of a real vendor are in one series."""
    TWO_BASES = "two_bases"
    """Prices before and after a bar are adjusted for different splits."""
    ADJUSTED_PRICES = "adjusted_prices"
    """Prices are adjusted for splits that are not known, so that no other basis can be read."""

    @property
    def remedy(self) -> str:
        """What a repair does."""
        return _REMEDIES[self]

    @property
    def whole_history(self) -> bool:
        """Whether a repair fetches the whole series."""
        return self in (
            DamageKind.SANDBOX_BARS,
            DamageKind.TWO_BASES,
            DamageKind.ADJUSTED_PRICES,
        )


_REMEDIES = {
    DamageKind.WEEK_CONTRADICTS_DAYS: "fetch the days again and build the weeks from them",
    DamageKind.WEEK_IS_LAST_DAY: _REBUILD.format(parts="days"),
    DamageKind.WEEK_OFF_MONDAY: f"{_REBUILD.format(parts='days')}, delete those off Monday",
    DamageKind.RUNNING_BAR: "fetch it again if it has ended, else delete it",
    DamageKind.AFTER_CLOSE: _DELETE,
    DamageKind.OUTSIDE_SESSION: _DELETE,
    DamageKind.CLOCK_HOURS: _REBUILD.format(parts="half-hours"),
    DamageKind.OFF_GRID: "fetch the range again and delete the bars off the grid",
    DamageKind.SHORT_HISTORY: "fetch what is missing at the beginning",
    DamageKind.UNPROVEN_NO_TRADES: "reopen the gaps and fetch them again",
    DamageKind.SANDBOX_BARS: "start the series anew from the vendor",
    DamageKind.TWO_BASES: "fetch the whole history again",
    DamageKind.ADJUSTED_PRICES: "fetch the whole history again as it was traded",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One kind of damage of one series."""

    kind: DamageKind
    symbol: str
    asset_class: AssetClass
    timeframe: Timeframe
    first: datetime
    """Start of the earliest damaged bar, gap or missing history."""
    last: datetime
    """The same of the latest."""
    count: int
    """Damaged bars or gaps; 1 for a missing history."""
    example: str
    """The earliest one, with the stored value and the one that contradicts it."""
    series_from: datetime | None = None
    """Where the series begins, or was to begin."""
    unserved_before: datetime | None = None
    """What the last repair could not fetch: vendors served nothing older."""

    @property
    def window(self) -> Window:
        """What is to be fetched again: whole days or weeks, and some before them.

        Those show that the vendor serves the series where it has no bar in the place of a damaged
        one.
        """
        start, step = _midnight(self.first), max(self.timeframe.duration, _DAY)
        earliest = start if self.series_from is None else _midnight(self.series_from)
        if self.timeframe is Timeframe.W1:
            start -= start.weekday() * _DAY
            earliest += -earliest.weekday() % 7 * _DAY
        start = max(start - max(step, _CLOSED_AT_MOST), min(start, earliest))
        return Window(start, self.last + step)


def _midnight(moment: datetime) -> datetime:
    return moment.replace(hour=0, minute=0, second=0, microsecond=0)
