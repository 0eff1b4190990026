"""What a job will ask of the vendors: which requests, how many, and how long their quotas make it.

The runs' own `fetch_plan` is applied to each series as it is stored now, so that a plan differs
from what then happens only by what nobody can know: answers that change the history or leave gaps.

>>> quota_minutes(500, 5), quota_minutes(5, 5), quota_minutes(40, 300, burst=10)
(99.0, 0.0, 0.1)
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from functools import partial
from itertools import groupby
from math import ceil
from operator import itemgetter

import numpy as np

from enrichment.domain import calendars
from enrichment.domain.bars import Timestamps, no_timestamps, to_datetime, to_datetime64
from enrichment.domain.calendars import Market, is_extended, market_of, session_of
from enrichment.domain.exchanges import NEW_YORK
from enrichment.domain.model import AssetClass, Timeframe, TrackedSymbol, Window
from enrichment.domain.plurals import counted
from enrichment.domain.series import SeriesSnapshot
from enrichment.domain.statuses import PauseScope
from enrichment.pipeline.fetch_plan import (
    BARS_PER_CHUNK,
    FetchPlan,
    backfill_chunks,
    extend_to_stored,
    plan_run,
)
from enrichment.pipeline.market_days import cheapest_days
from enrichment.services.command_checks import unserved_reason
from enrichment.vendors.canonical import asked_window, source_timeframe
from enrichment.vendors.registry import SHORTEST_PLAN, VENDORS
from enrichment.warehouse import closures
from enrichment.warehouse.database import Connection
from enrichment.warehouse.queue.market_days import WORTH_PLANNING, refused_lately
from enrichment.warehouse.read_models.dto import Pause
from enrichment.warehouse.read_models.night import pauses_in_force
from enrichment.warehouse.series.snapshots import read_snapshots

EXAMPLES = 5
SERIES_PER_MINUTE = 15_000  # of one new bar each, that a worker processes on one core
_SERIES_PER_READ = 2_000


def _serve_whole_days() -> frozenset[str]:
    return frozenset(spec.name for spec in VENDORS if spec.build_market_days is not None)


@dataclass(frozen=True, slots=True)
class RequestSettings:
    """The settings that requests depend on."""

    providers: Mapping[str, Sequence[str]]
    """Asset class → its vendors in order of failover."""
    quotas: Mapping[str, int | None] = field(default_factory=dict)
    """Vendor → requests a minute; those that have none may be missing."""
    history_days: int = 365
    """How far back the first run of a series reaches."""
    whole_days: Collection[str] = field(default_factory=_serve_whole_days)
    """The vendors that serve all symbols of a day of the US market in one request."""


@dataclass(frozen=True, slots=True)
class SkippedSymbols:
    """Symbols that a job does not fetch, or not now, for one reason."""

    reason: str
    symbols: int
    examples: Sequence[str]
    """The first of them."""


@dataclass(frozen=True, slots=True)
class RequestPlan:
    """What fetching some symbols takes, as far as it can be known beforehand."""

    symbols: int
    """That are fetched."""
    requests: Mapping[str, int]
    """Vendor → how many, the whole days included."""
    minutes: Mapping[str, float]
    """Vendor → how long its quota makes them take, from an unused minute on."""
    market_days: Sequence[date]
    """Sessions of the US market that are fetched whole, each by one request, ascending."""
    by_market_days: frozenset[str]
    """Symbols whose newest days and weeks come from these days; older gaps are asked for singly."""
    work_minutes: float
    """About how long one worker takes to process the series, requests aside."""
    skipped: Sequence[SkippedSymbols]
    """Most symbols first."""
    in_other_jobs: int = 0
    """Of the symbols: those that an open job is going to fetch, too."""

    @property
    def total_requests(self) -> int:
        return sum(self.requests.values())

    @property
    def total_minutes(self) -> float:
        """Until all is stored: the vendors are asked and series processed at the same time."""
        return max(self.work_minutes, *self.minutes.values(), 0.0)

    @property
    def sentences(self) -> list[str]:
        """What it says, for people."""
        texts = [
            f"{counted(self.symbols, 'symbol')}: {requests_text(self.requests)}, "
            f"{minutes_text(self.total_minutes)}"
        ]
        if self.market_days:
            first, last = self.market_days[0], self.market_days[-1]
            texts.append(
                f"{counted(len(self.market_days), 'day')} of the whole US market, {first} to "
                f"{last}, {'serves' if len(self.market_days) == 1 else 'serve'} "
                f"{counted(len(self.by_market_days), 'symbol')}"
            )
        if self.in_other_jobs:
            texts.append(
                f"{counted(self.in_other_jobs, 'symbol')} of them in another open job, too"
            )
        texts += [
            f"{counted(skip.symbols, 'symbol')} not fetched "
            f"({', '.join(skip.examples)}{', …' if skip.symbols > len(skip.examples) else ''}): "
            f"{skip.reason}"
            for skip in self.skipped
        ]
        return texts


@dataclass(frozen=True, slots=True)
class _Group:
    """The series of a symbol that are built from the same bars of a vendor."""

    symbol: str
    asset_class: AssetClass
    vendor: str
    source: Timeframe
    market: Market
    windows: Sequence[Window]
    """In the order in which they are asked for: of each series the newest bars, then the gaps."""
    newest_from: datetime
    """Start of the newest bars, of the series that needs most."""

    def requests(self, since: datetime | None = None) -> int:
        """About how many; `since`: from here on the whole days of the market are at hand."""
        held = [] if since is None else [Window(since, self.windows[0].end)]
        count = 0
        for window in self.windows:
            if not any(other.includes(window) for other in held):
                held.append(window)
                count += VENDORS[self.vendor].requests(self.asset_class, self.source, window)
        return count


def plan_requests(
    conn: Connection, items: Sequence[TrackedSymbol], *, now: datetime, settings: RequestSettings
) -> RequestPlan:
    """The plan of bringing these symbols up to date.

    Args:
        conn: Where the series and the pauses are read.
        items: The symbols, each with the timeframes to fetch.
        now: When they are fetched; all windows end here.
        settings: Of the installation.
    """
    closures.refresh(conn)
    skipping = _Skipping(pauses_in_force(conn), settings.providers)
    due = [item for item in items if not skipping.skips(item)]
    groups = list(_groups(conn, due, now, settings))
    vendors = {name for name in settings.whole_days if not refused_lately(conn, name)}
    vendors = vendors if sum(i.active for i in items) >= WORTH_PLANNING else set()
    whole = [group for group in groups if _has_whole_days(group, vendors, now)]
    days, since = _market_days(whole, now)
    requests: Counter[str] = Counter()
    for group in groups:
        requests[group.vendor] += group.requests()
    served = [group for group in whole if since and since <= group.newest_from]
    for group in served:
        requests[group.vendor] += group.requests(since) - group.requests()
    if since:
        requests[whole[0].vendor] += len(days)
    return replace(
        _plan(due, requests, skipping.skipped, settings),
        market_days=days.astype("datetime64[D]").tolist(),
        by_market_days=frozenset(group.symbol for group in served),
    )


def plan_backfill(
    conn: Connection,
    items: Sequence[TrackedSymbol],
    window: Window,
    *,
    now: datetime,
    settings: RequestSettings,
) -> RequestPlan:
    """The plan of fetching a part of these symbols' history; arguments as for `plan_requests`."""
    closures.refresh(conn)
    skipping = _Skipping(pauses_in_force(conn), settings.providers)
    due = [item for item in items if not skipping.skips(item)]
    requests: Counter[str] = Counter()
    for item, timeframe, snapshot in _snapshots(conn, due):
        vendor = _first_vendor(item, timeframe, settings.providers[item.asset_class])
        part = extend_to_stored(window, snapshot, now)
        requests[vendor] += requests_of_chunks(vendor, item, timeframe, part)
    return _plan(due, requests, skipping.skipped, settings)


def requests_of_chunks(
    vendor: str, item: TrackedSymbol, timeframe: Timeframe, window: Window
) -> int:
    """About how many requests a backfill of one series takes, chunk by chunk."""
    source = source_timeframe(market_of(item.symbol, item.asset_class), timeframe)
    chunks = backfill_chunks(window, timeframe, BARS_PER_CHUNK)
    spec = VENDORS[vendor]
    return sum(spec.requests(item.asset_class, source, chunk) for chunk in chunks)


def _plan(
    due: Sequence[TrackedSymbol],
    requests: Mapping[str, int],
    skipped: Sequence[SkippedSymbols],
    settings: RequestSettings,
) -> RequestPlan:
    return RequestPlan(
        symbols=len(due),
        requests={name: count for name, count in sorted(requests.items()) if count},
        minutes=minutes_by_vendor(requests, settings.quotas),
        market_days=[],
        by_market_days=frozenset(),
        work_minutes=sum(len(item.timeframes) for item in due) / SERIES_PER_MINUTE,
        skipped=skipped,
    )


def requests_text(requests: Mapping[str, int]) -> str:
    """
    >>> requests_text({"yahoo": 1, "polygon": 1200})
    'about 1,200 requests to polygon, 1 request to yahoo'
    """
    each = [f"{counted(count, 'request')} to {name}" for name, count in sorted(requests.items())]
    return f"about {', '.join(each)}" if each else "no requests"


def minutes_text(minutes: float) -> str:
    """A time that quotas make it take.

    >>> minutes_text(0.4), minutes_text(125)
    ('less than a minute', '2 h 5 min at the vendors\' quotas')
    """
    if minutes < 1:
        return "less than a minute"
    hours, rest = divmod(round(minutes), 60)
    return f"{f'{hours} h ' if hours else ''}{rest} min at the vendors' quotas"


def minutes_by_vendor(
    requests: Mapping[str, int], quotas: Mapping[str, int | None]
) -> dict[str, float]:
    """Vendor → how long its quota makes these requests take; 0 for one without a quota."""
    return {
        name: quota_minutes(count, quota, VENDORS[name].burst if name in VENDORS else None)
        if (quota := quotas.get(name))
        else 0.0
        for name, count in sorted(requests.items())
        if count
    }


def quota_minutes(requests: int, quota: int, burst: int | None = None) -> float:
    """From the first request to the last one.

    Args:
        requests: At least one.
        quota: Requests in any minute.
        burst: At once, the others of a minute evenly; None: all.
    """
    if burst is None or burst >= quota:
        return float(ceil(requests / quota) - 1)
    return max(0.0, (requests - burst) / quota)


class _Skipping:
    """Sorts out the symbols that are not fetched now."""

    def __init__(self, pauses: Sequence[Pause], providers: Mapping[str, Sequence[str]]) -> None:
        self._pauses = {(pause.scope, pause.key): pause for pause in pauses}
        self._providers = providers
        self._symbols: dict[str, list[str]] = defaultdict(list)

    def skips(self, item: TrackedSymbol) -> bool:
        """Whether the symbol is not fetched now."""
        reason = self._reason(item)
        if reason is not None:
            self._symbols[reason].append(item.symbol)
        return reason is not None

    @property
    def skipped(self) -> list[SkippedSymbols]:
        groups = sorted(self._symbols.items(), key=lambda group: (-len(group[1]), group[0]))
        return [
            SkippedSymbols(reason, len(symbols), symbols[:EXAMPLES]) for reason, symbols in groups
        ]

    def _reason(self, item: TrackedSymbol) -> str | None:
        if not item.active:
            return "not active"
        for scope, key in (
            (PauseScope.GLOBAL, ""),
            (PauseScope.ASSET_CLASS, item.asset_class.value),
            (PauseScope.SYMBOL, item.symbol),
        ):
            if (pause := self._pauses.get((scope, key))) is not None:
                return _pause_text(pause)
        names = self._providers.get(item.asset_class, ())
        unserved = unserved_reason(item, names)
        if unserved is not None:
            return unserved.removeprefix(f"{item.symbol}: ")
        first = {_first_vendor(item, timeframe, names) for timeframe in item.timeframes}
        pauses = [self._pauses.get((PauseScope.PROVIDER, name)) for name in sorted(first)]
        return next((_pause_text(pause) for pause in pauses if pause is not None), None)


def _pause_text(pause: Pause) -> str:
    what = f"{pause.scope} {pause.key}".replace("_", " ") if pause.key else "everything"
    until = f" until {pause.until:%Y-%m-%d %H:%M} UTC" if pause.until else ""
    reason = f": {pause.reason}" if pause.reason else ""
    return f"{what} is paused by {pause.paused_by}{until}{reason}"


def _first_vendor(item: TrackedSymbol, timeframe: Timeframe, names: Sequence[str]) -> str:
    """The one that is asked first for a series; one that can't serve it is not asked."""
    series = item.symbol, item.asset_class, timeframe
    extended = is_extended(market_of(*series))
    able = (n for n in names if VENDORS[n].refusal(*series, extended=extended) is None)
    return next(able)


def _snapshots(
    conn: Connection, items: Sequence[TrackedSymbol]
) -> Iterator[tuple[TrackedSymbol, Timeframe, SeriesSnapshot]]:
    """All series of the items, in their order."""
    series = [(item, timeframe) for item in items for timeframe in item.timeframes]
    for at in range(0, len(series), _SERIES_PER_READ):
        part = series[at : at + _SERIES_PER_READ]
        keys = [(item.symbol, timeframe) for item, timeframe in part]
        for (item, timeframe), snapshot in zip(part, read_snapshots(conn, keys, ""), strict=True):
            yield item, timeframe, snapshot


def _groups(
    conn: Connection, items: Sequence[TrackedSymbol], now: datetime, settings: RequestSettings
) -> Iterator[_Group]:
    """The windows of all series; those of one symbol one after another."""
    history = timedelta(days=settings.history_days)
    for item, series in groupby(_snapshots(conn, items), key=itemgetter(0)):
        market = market_of(item.symbol, item.asset_class)
        names = settings.providers[item.asset_class]
        plans: dict[tuple[str, Timeframe], list[FetchPlan]] = defaultdict(list)
        for _, timeframe, snapshot in reversed(list(series)):  # the longest timeframe begins
            session = session_of(market_of(item.symbol, item.asset_class, timeframe))
            plan = plan_run(item.symbol, timeframe, snapshot, now, history, session=session)
            source = source_timeframe(market, timeframe)
            asked = partial(asked_window, market=market, timeframe=timeframe, now=now)
            plan = replace(plan, window=asked(plan.window), gaps=list(map(asked, plan.gaps)))
            plans[_first_vendor(item, timeframe, names), source].append(plan)
        for (vendor, source), group in plans.items():
            windows = [window for plan in group for window in (plan.window, *plan.gaps)]
            newest_from = min(plan.window.start for plan in group)
            of_item = item.symbol, item.asset_class
            yield _Group(*of_item, vendor, source, market, windows, newest_from)


def _has_whole_days(group: _Group, vendors: Collection[str], now: datetime) -> bool:
    """Whether the bars can also come from all symbols' of whole days."""
    daily = group.source is Timeframe.D1 and group.market is NEW_YORK
    return daily and group.vendor in vendors and group.newest_from > now - SHORTEST_PLAN


def _market_days(groups: Sequence[_Group], now: datetime) -> tuple[Timestamps, datetime | None]:
    """The sessions that are cheaper fetched whole, ascending, and from when on they are all there
    are; None without any.
    """
    if not groups:
        return no_timestamps(), None
    earliest = min(group.newest_from for group in groups)
    sessions = calendars.ended_bar_starts(NEW_YORK, Timeframe.D1, earliest, now)
    days = cheapest_days(np.array([to_datetime64(g.newest_from) for g in groups]), sessions)
    if len(days) == 0:
        return days, None
    before = sessions[: len(sessions) - len(days)]
    return days, to_datetime(before[-1]) + Timeframe.D1.duration if len(before) else earliest
