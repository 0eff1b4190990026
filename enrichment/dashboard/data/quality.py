"""Scores and missing bars of all series."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import pandas as pd

from enrichment.dashboard.data.cache import cached_read
from enrichment.dashboard.services import services
from enrichment.warehouse.read_models.quality_all import DayOfQuality, GapsOfMonth, SeriesQuality


@dataclass(frozen=True)
class QualityData:
    days: list[DayOfQuality]
    scores: list[float]  # of all series, ascending
    lowest: list[SeriesQuality]
    gaps: list[GapsOfMonth]  # of the series with most of them
    series_with_gaps: int
    series: int  # that are active


@cached_read
def read_quality(lowest: int, gap_series: int) -> QualityData:
    reader = services().reader
    overview = reader.quality_all
    return QualityData(
        days=overview.days(),
        scores=overview.scores(),
        lowest=overview.worst(lowest),
        gaps=overview.gaps(gap_series),
        series_with_gaps=overview.series_with_gaps(),
        series=reader.night().series,
    )


def series_frame(rows: Sequence[SeriesQuality | GapsOfMonth]) -> pd.DataFrame:
    """A row per series or month, with its fields and the series' name."""
    frame = pd.DataFrame([asdict(row) for row in rows])
    return frame.assign(name=frame["symbol"] + " " + frame["timeframe"])
