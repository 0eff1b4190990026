"""Everything that the overview shows, read together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from enrichment.dashboard.data.cache import cached_read
from enrichment.dashboard.services import services
from enrichment.warehouse.read_models.dto import (
    HistoryPage,
    Overview,
    PatternStatus,
    Pause,
    Progress,
    SeriesStatus,
    WorkerStatus,
)
from enrichment.warehouse.read_models.night import NightState
from enrichment.warehouse.read_models.overview import Night, RecentError
from enrichment.warehouse.read_models.quality_all import DayOfQuality, SeriesQuality

JOBS = 30
QUALITY_DAYS = 30
WORST = 12


@dataclass(frozen=True)
class OverviewData:
    """The figures of one moment; `running` is the oldest job at work."""

    overview: Overview
    night: NightState
    history: HistoryPage
    attention: list[SeriesStatus]
    nights: list[Night]
    errors: list[RecentError]
    worst: list[SeriesQuality]
    quality_days: list[DayOfQuality]
    workers: list[WorkerStatus]
    patterns: list[PatternStatus]
    pauses: list[Pause]
    running: Progress | None


@cached_read
def overview_data() -> OverviewData:
    reader = services().reader
    running = reader.progress_of_open_jobs()
    return OverviewData(
        overview=reader.overview(),
        night=reader.night(),
        history=reader.history(JOBS),
        attention=reader.morning.needs_attention(),
        nights=reader.morning.nights(),
        errors=reader.morning.errors(),
        worst=reader.quality_overview.worst(WORST),
        quality_days=reader.quality_overview.days(QUALITY_DAYS),
        workers=reader.workers(),
        patterns=reader.resilience(),
        pauses=reader.pauses(),
        running=running[0] if running else None,
    )


@cached_read
def active_symbols() -> Mapping[str, str]:
    """Active symbol → asset class."""
    return services().reader.morning.symbols()
