"""What repairing damaged series will fetch: which parts, from which vendor, with how many requests.

>>> from datetime import UTC, datetime
>>> day = datetime(2024, 1, 2, 21, tzinfo=UTC)
>>> hours = "AAPL", AssetClass.STOCK, Timeframe.H1
>>> finding = Finding(DamageKind.AFTER_CLOSE, *hours, day, day, 1, "an example")
>>> plan = plan_repair([finding], day, {"stock": ["yahoo"]}, {"yahoo": 60})
>>> str(plan.series[0].start), plan.series[0].vendor, plan.series[0].requests
('2024-01-02 00:00:00+00:00', 'yahoo', 1)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import groupby

from enrichment.domain.damage import DamageKind, Finding
from enrichment.domain.model import AssetClass, SeriesRepair, Timeframe, TrackedSymbol, Window
from enrichment.services.request_plan import minutes_by_vendor, requests_of_chunks
from enrichment.vendors.registry import VENDORS


@dataclass(frozen=True, slots=True)
class PlannedSeries:
    """A part of a series that is to be fetched again."""

    symbol: str
    asset_class: AssetClass
    timeframe: Timeframe
    kinds: Sequence[DamageKind]
    start: datetime
    end: datetime
    restart: bool
    """Whether the whole series is given up first; its bars are kept as versions."""
    as_traded: bool
    """Whether the whole series is put on the basis as traded."""
    vendor: str
    """That will most likely be asked."""
    requests: int
    """About how many."""

    @property
    def repair(self) -> SeriesRepair:
        return SeriesRepair(
            self.timeframe, Window(self.start, self.end), self.restart, self.as_traded
        )


@dataclass(frozen=True, slots=True)
class DamageEntry:
    """A finding with what a repair does about it."""

    kind: DamageKind
    symbol: str
    timeframe: Timeframe
    first: datetime
    """Start of the earliest damaged bar, gap or missing history."""
    last: datetime
    """The same of the latest."""
    count: int
    example: str
    """The earliest one, with the stored value and the one that contradicts it."""
    unserved_before: datetime | None
    """What the last repair could not fetch: vendors served nothing older."""
    remedy: str
    requests: int
    """About how many the repair of its series takes."""


@dataclass(frozen=True, slots=True)
class RepairPlan:
    """What is damaged and what a repair will do."""

    findings: Sequence[Finding]
    series: Sequence[PlannedSeries]
    """By symbol and timeframe."""
    requests: Mapping[str, int]
    """Vendor → about how many."""
    minutes: float
    """About how long the vendors' quotas will make it take."""

    @property
    def entries(self) -> list[DamageEntry]:
        """The findings for people and programs."""
        requests = {(series.symbol, series.timeframe): series.requests for series in self.series}
        return [
            DamageEntry(
                finding.kind,
                finding.symbol,
                finding.timeframe,
                finding.first,
                finding.last,
                finding.count,
                finding.example,
                finding.unserved_before,
                finding.kind.remedy,
                requests[finding.symbol, finding.timeframe],
            )
            for finding in self.findings
        ]

    @property
    def symbols(self) -> dict[str, list[SeriesRepair]]:
        """Symbol → its repairs."""
        grouped = groupby(self.series, key=lambda planned: planned.symbol)
        return {symbol: [planned.repair for planned in series] for symbol, series in grouped}


def plan_repair(
    findings: Sequence[Finding],
    now: datetime,
    providers: Mapping[str, Sequence[str]],
    quotas: Mapping[str, int | None],
) -> RepairPlan:
    """The plan for these findings, which are sorted by symbol and timeframe.

    Args:
        findings: What is to be repaired.
        now: Where the windows end at the latest.
        providers: Asset class → its vendors in order of failover.
        quotas: Vendor → requests a minute; those that have none may be missing.
    """
    parts = [*findings, *(days for finding in findings for days in _days_of(finding))]
    parts.sort(key=lambda part: (part.symbol, part.timeframe.duration))
    series = [
        _planned(list(group), now, providers)
        for _, group in groupby(parts, key=lambda part: (part.symbol, part.timeframe))
    ]
    requests: dict[str, int] = {}
    for planned in series:
        requests[planned.vendor] = requests.get(planned.vendor, 0) + planned.requests
    minutes = minutes_by_vendor(requests, quotas)
    return RepairPlan(findings, series, requests, max(minutes.values(), default=0.0))


def _days_of(finding: Finding) -> Iterable[Finding]:
    """The days that a week contradicts: either may be wrong."""
    if finding.kind is DamageKind.WEEK_CONTRADICTS_DAYS:
        last = finding.window.end - Timeframe.D1.duration
        yield replace(finding, timeframe=Timeframe.D1, last=last)


def _planned(
    findings: Sequence[Finding], now: datetime, providers: Mapping[str, Sequence[str]]
) -> PlannedSeries:
    """The repair of one series."""
    first = findings[0]
    start = min(finding.window.start for finding in findings)
    whole = any(finding.kind.whole_history for finding in findings)
    end = now if whole else min(now, max(finding.window.end for finding in findings))
    window = Window(start, max(start, end))
    vendor = _vendor(first, window, now, providers.get(first.asset_class, ()))
    item = TrackedSymbol(first.symbol, first.asset_class, (first.timeframe,))
    requests = requests_of_chunks(vendor, item, first.timeframe, window) if vendor else 0
    return PlannedSeries(
        first.symbol,
        first.asset_class,
        first.timeframe,
        list(dict.fromkeys(finding.kind for finding in findings)),
        window.start,
        window.end,
        any(finding.kind is DamageKind.SANDBOX_BARS for finding in findings),
        any(finding.kind is DamageKind.ADJUSTED_PRICES for finding in findings),
        vendor or "unknown",
        requests,
    )


def _vendor(finding: Finding, window: Window, now: datetime, names: Sequence[str]) -> str | None:
    """The first vendor that reaches back far enough, else the first one, if there is one."""
    for name in names:
        reach = VENDORS[name].coverage.get(finding.asset_class, {}).get(finding.timeframe, 0)
        if reach is None or (now - window.start).days < reach:
            return name
    return names[0] if names else None
