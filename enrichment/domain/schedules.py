"""Schedules: when which symbols are enriched by themselves.

A schedule has one slot per local date on which it runs. A slot whose local time does not exist,
since clocks went forward, is at the next minute that does; one that exists twice is at the first.

>>> schedule = Schedule("us", time(2, 30), ZoneInfo("America/New_York"))
>>> f"{schedule.slot(date(2026, 3, 8)).at:%H:%M}"  # 03:00 in New York: there is no 02:30
'07:00'
>>> f"{schedule.next_slot(datetime(2026, 11, 1, 5, 0, tzinfo=UTC)).at:%d %H:%M}"
'01 07:30'
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from itertools import combinations, count
from zoneinfo import ZoneInfo

from enrichment.domain.exchanges import EXCHANGES, exchange_of
from enrichment.domain.model import AssetClass

DEFAULT_NAME = "nightly"
WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_DAY, _MINUTE = timedelta(days=1), timedelta(minutes=1)
_CATCH_UP_UNTIL = timedelta(hours=4)

Market = tuple[AssetClass, str]
"""What a schedule covers as a whole: an asset class and an exchange (MIC, '' for crypto)."""

MARKETS: frozenset[Market] = frozenset(
    {
        (AssetClass.CRYPTO, ""),
        *((kind, mic) for kind in (AssetClass.STOCK, AssetClass.ETF) for mic in EXCHANGES),
    }
)


def market_of(asset_class: AssetClass, symbol: str) -> Market:
    """The market of a symbol.

    >>> market_of(AssetClass.STOCK, "VOD.L")[1]
    'XLON'
    """
    return asset_class, "" if asset_class is AssetClass.CRYPTO else exchange_of(symbol).mic


@dataclass(frozen=True, slots=True)
class Slot:
    """A run that a schedule has planned; its key is the schedule's name with the date."""

    schedule: str
    date: date  # on the schedule's clock
    at: datetime  # UTC


@dataclass(frozen=True, slots=True)
class Schedule:
    """When its symbols are enriched."""

    name: str
    time: time
    """On the clock of the zone."""
    zone: ZoneInfo
    days: tuple[int, ...] = tuple(range(7))
    """Of the week, ascending; Monday is 0."""
    asset_classes: tuple[AssetClass, ...] = tuple(AssetClass)
    exchanges: tuple[str, ...] = ()
    """MICs to which stocks and ETFs are limited; empty for all."""

    @property
    def when(self) -> str:
        """Its time and zone, and its days unless it runs on all."""
        days = "" if len(self.days) == len(WEEKDAYS) else f" {' '.join(self.day_names)}"
        return f"{self.time:%H:%M} {self.zone.key}{days}"

    @property
    def day_names(self) -> tuple[str, ...]:
        return tuple(WEEKDAYS[day] for day in self.days)

    @property
    def markets(self) -> frozenset[Market]:
        """What it covers."""
        return frozenset(filter(self._covers, MARKETS))

    def covers(self, asset_class: AssetClass, symbol: str) -> bool:
        return self._covers(market_of(asset_class, symbol))

    def _covers(self, market: Market) -> bool:
        kind, mic = market
        return kind in self.asset_classes and (not self.exchanges or mic in self.exchanges)

    def slot(self, day: date) -> Slot:
        """The slot of a local date, whether or not the schedule runs on it."""
        local = datetime.combine(day, self.time)
        while (at := local.replace(tzinfo=self.zone).astimezone(UTC)).astimezone(self.zone).replace(
            tzinfo=None
        ) != local:
            local += _MINUTE
        return Slot(self.name, day, at)

    def last_slot(self, now: datetime) -> Slot:
        """The newest slot at or before a time."""
        return next(self.slots_before(now))

    def next_slot(self, now: datetime) -> Slot:
        """The first slot after a time."""
        start = now - _DAY  # a slot may be later than its local date
        return next(slot for slot in self._slots(start, _DAY) if slot.at > now)

    def slots_before(self, now: datetime) -> Iterator[Slot]:
        """The slots at or before a time, newest first."""
        return (slot for slot in self._slots(now, -_DAY) if slot.at <= now)

    def may_catch_up(self, slot: Slot, now: datetime) -> bool:
        """Whether a slot that was missed is still worth its run: until 4 hours before the next."""
        return self.next_slot(slot.at).at - now >= _CATCH_UP_UNTIL

    def _slots(self, start: datetime, step: timedelta) -> Iterator[Slot]:
        """Its slots from the local date of a time on, in both directions of time."""
        first = start.astimezone(self.zone).date()
        dates = (first + n * step for n in count())
        return (self.slot(day) for day in dates if day.weekday() in self.days)


def nightly(hour: int = 1, minute: int = 30) -> Schedule:
    """The one schedule of an installation without others: all symbols, every day, in UTC."""
    return Schedule(DEFAULT_NAME, time(hour, minute), ZoneInfo("UTC"))


def overlap(schedules: Sequence[Schedule]) -> tuple[Schedule, Schedule, Market] | None:
    """Two schedules that cover the same market, and the first such market; None if none do."""
    for one, other in combinations(schedules, 2):
        if shared := sorted(one.markets & other.markets):
            return one, other, shared[0]
    return None


def uncovered(schedules: Sequence[Schedule], symbols: Counter[Market]) -> Counter[Market]:
    """Of the symbols by market, those that no schedule covers."""
    covered = {market for schedule in schedules for market in schedule.markets}
    return Counter({market: n for market, n in symbols.items() if market not in covered})
