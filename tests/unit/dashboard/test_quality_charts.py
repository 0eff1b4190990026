"""Charts of the quality scores and of missing bars."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import pandas as pd
import pytest

from enrichment.dashboard.charts import quality, theme
from enrichment.domain.statuses import SeriesStatus
from enrichment.services.health import QUALITY_TARGET

TODAY = dt.date(2024, 3, 1)


def as_json(figure: Any) -> dict[str, Any]:
    return dict(json.loads(figure.to_json()))


def test_gaps_are_counted_by_series_and_month() -> None:
    gaps = pd.DataFrame(
        {
            "name": ["AAPL 1d", "AAPL 1d", "IBM 1h"],
            "month": [dt.date(2024, 1, 1), dt.date(2024, 3, 1), dt.date(2024, 3, 1)],
            "missing": [2, 1, 7],
        }
    )
    heat = quality.gap_map(gaps).data[0]
    assert list(heat.y) == ["AAPL 1d", "IBM 1h"]
    assert list(heat.x) == ["2024-01", "2024-02", "2024-03"]
    assert heat.z.tolist() == [[2, 0, 1], [0, 0, 7]]


def test_the_lowest_symbols_are_on_top_and_the_axis_has_room_for_two_weeks() -> None:
    scores = pd.DataFrame({"symbol": ["A", "B"], "date": [TODAY] * 2, "score": [0.4, 0.9]})
    heat = quality.scores_by_day(scores).data[0]
    assert list(heat.y) == ["B", "A"]  # the last row is drawn on top
    assert len(heat.x) == 14


def test_the_trend_shows_the_target_and_has_room_for_two_weeks() -> None:
    days = pd.DataFrame({"date": [TODAY], "score": [0.95], "lowest": [0.7], "series": [12]})
    figure = as_json(quality.trend(days))
    first, last = (pd.Timestamp(edge) for edge in figure["layout"]["xaxis"]["range"])
    assert last - first == pd.Timedelta(days=14)
    assert figure["layout"]["shapes"][0]["y0"] == QUALITY_TARGET


def test_the_components_and_the_lost_points_add_up_to_one() -> None:
    parts = {"completeness": 0.5, "validation": 0.9, "features": 1.0, "freshness": 0.25}
    series = pd.DataFrame([{"name": name, "score": 0.695, **parts} for name in ("A", "B")])
    figure = as_json(quality.components(series))
    assert [trace["name"] for trace in figure["data"]] == [*quality.COMPONENT_COLOURS, "lost"]
    assert sum(trace.x[0] for trace in quality.components(series).data) == pytest.approx(1.0)
    assert figure["layout"]["yaxis"]["categoryarray"] == ["B", "A"]


def test_scores_are_counted_in_bins_of_a_hundredth() -> None:
    bars = quality.distribution(pd.Series([1.0, 0.999, 0.99, 0.851, 0.859])).data[0]
    assert dict(zip(bars.customdata, bars.y, strict=True)) == {0.85: 2, 0.99: 3}
    orange, blue = bars.marker.color
    assert orange != blue  # below the target and above it


def scored(scores: list[float]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "name": [f"S{n} 1d" for n in range(len(scores))],
            "score": scores,
            "status": ["healthy" if score > QUALITY_TARGET else "stale" for score in scores],
            "reasons": ["something is missing"] * len(scores),
        }
    )


def test_the_lowest_scores_are_on_top_in_the_colour_of_their_status() -> None:
    figure = as_json(quality.lowest_scores(scored([0.99, 0.5, 0.95, 0.8]), limit=3))
    assert figure["layout"]["yaxis"]["categoryarray"] == ["S2 1d", "S3 1d", "S1 1d"]
    colours = {bar["name"]: bar["marker"]["color"] for bar in figure["data"]}
    assert colours == {
        "healthy": theme.state_colour(SeriesStatus.HEALTHY),
        "stale": theme.state_colour(SeriesStatus.STALE),
    }


def test_only_the_lowest_of_a_thousand_scores_are_drawn() -> None:
    figure = quality.lowest_scores(scored([n / 1000 for n in range(1000)]))
    assert sum(len(bar.y) for bar in figure.data) == 20
    assert len(figure.to_json()) < 20_000
