"""Everything that the overview shows, read together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from enrichment.dashboard.data.cache import cached_read
from enrichment.dashboard.services import services
from enrichment.domain.model import JobKind
from enrichment.warehouse.read_models.dto import (
    HistoryPage,
    Overview,
    PatternStatus,
    Pause,
    Progress,
    TrackedSeries,
    WorkerStatus,
)
from enrichment.warehouse.read_models.night import NightState
from enrichment.warehouse.read_models.overview import Night, RecentError
from enrichment.warehouse.read_models.quality_all import DayOfQuality, SeriesQuality

JOBS = 30
QUALITY_DAYS = 30
LOWEST_SCORES = 12


@dataclass(frozen=True)
class OverviewData:
    overview: Overview
    night: NightState
    history: HistoryPage
    nightly_jobs: HistoryPage
    unhealthy_series: list[TrackedSeries]
    nights: list[Night]
    errors: list[RecentError]
    lowest_scores: list[SeriesQuality]
    quality_days: list[DayOfQuality]
    workers: list[WorkerStatus]
    patterns: list[PatternStatus]
    pauses: list[Pause]
    open_jobs: list[Progress]  # the oldest first


@cached_read
def overview_data() -> OverviewData:
    reader = services().reader
    return OverviewData(
        overview=reader.overview(),
        night=reader.night(),
        history=reader.history(JOBS),
        nightly_jobs=reader.history(JOBS, kinds=(JobKind.SCHEDULED, JobKind.CATCHUP)),
        unhealthy_series=reader.overview_page.needs_attention(),
        nights=reader.overview_page.nights(),
        errors=reader.overview_page.errors(),
        lowest_scores=reader.quality_all.worst(LOWEST_SCORES),
        quality_days=reader.quality_all.days(QUALITY_DAYS),
        workers=reader.workers(),
        patterns=reader.resilience(),
        pauses=reader.pauses(),
        open_jobs=reader.progress_of_open_jobs(),
    )


@cached_read
def active_symbols() -> Mapping[str, str]:
    """Active symbol → asset class."""
    return services().reader.overview_page.symbols()
