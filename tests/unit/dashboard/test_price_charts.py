"""Charts, by their JSON: what is drawn, with which words."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd

from enrichment.dashboard.charts import prices


def drawn(figure: Any) -> dict[str, Any]:
    return dict(json.loads(figure.to_json()))


def jobs(count: int) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "label": [f"03-{day + 1:02} 01:30:00" for day in range(count)],
            "successful": [10 - day % 3 for day in range(count)],
            "failed": [day % 3 for day in range(count)],
            "duration_seconds": [1.5 * day for day in range(count)],
            "kind": ["scheduled"] * count,
        }
    )


def series(scores: list[float]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "name": [f"S{n} 1d" for n in range(len(scores))],
            "quality_score": scores,
            "status": ["healthy" if score > 0.9 else "stale" for score in scores],
            "why": ["something is missing"] * len(scores),
        }
    )


def test_outcomes_are_stacked_per_job() -> None:
    figure = drawn(prices.job_outcomes(jobs(5)))
    assert [bar["name"] for bar in figure["data"]] == ["successful", "failed"]
    assert figure["layout"]["barmode"] == "stack"
    assert figure["layout"]["yaxis"]["title"]["text"] == "symbols"
    assert "symbols failed" in figure["data"][1]["hovertemplate"]


def test_one_job_is_no_wall() -> None:
    figure = drawn(prices.job_outcomes(jobs(1)))
    assert figure["layout"]["xaxis"]["range"] == [-0.5, prices.FEW_JOBS - 0.5]
    many = drawn(prices.job_outcomes(jobs(28)))
    assert many["layout"]["xaxis"]["range"] == [-0.5, 27.5]


def test_the_worst_series_stand_on_top_in_their_states_colour() -> None:
    figure = drawn(prices.quality_by_series(series([0.99, 0.5, 0.95, 0.8]), worst=3))
    assert figure["layout"]["yaxis"]["categoryarray"] == ["S2 1d", "S3 1d", "S1 1d"]
    colours = {bar["name"]: bar["marker"]["color"] for bar in figure["data"]}
    assert colours == {
        "healthy": prices.STATE_COLOURS["healthy"],
        "stale": prices.STATE_COLOURS["stale"],
    }


def test_a_thousand_series_stay_readable() -> None:
    figure = prices.quality_by_series(series([n / 1000 for n in range(1000)]))
    assert sum(len(bar.y) for bar in figure.data) == 20
    assert len(figure.to_json()) < 20_000
