"""Figures, made by pure functions from frames; one template for the light and the dark theme."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

FEW_JOBS = 12  # room for as many, so that one job is not a wall

OUTCOMES = {"successful": "#2f9e6e", "failed": "#d64550"}
STATES = ("healthy", "warning", "stale", "error", "not_enriched")
STATE_COLOURS = {
    "healthy": "#2f9e6e",
    "warning": "#e0a82e",
    "stale": "#e07b39",
    "error": "#d64550",
    "not_enriched": "#8a94a6",
}


def job_outcomes(jobs: pd.DataFrame) -> go.Figure:
    """Symbols per job, succeeded and failed, oldest on the left.

    jobs: columns label, successful, failed, duration_seconds, kind, one row per job.
    """
    figure = go.Figure()
    for outcome, colour in OUTCOMES.items():
        figure.add_bar(
            x=jobs["label"],
            y=jobs[outcome],
            name=outcome,
            marker_color=colour,
            customdata=jobs[["duration_seconds", "kind"]],
            hovertemplate=(
                "%{x}<br>%{y} symbols " + outcome + "<br>%{customdata[1]}, "
                "%{customdata[0]:.1f} s<extra></extra>"
            ),
        )
    figure.update_layout(
        barmode="stack",
        yaxis_title="symbols",
        xaxis={"type": "category", "range": [-0.5, max(len(jobs), FEW_JOBS) - 0.5]},
    )
    return _framed(figure)


def quality_by_series(series: pd.DataFrame, worst: int = 20) -> go.Figure:
    """The lowest quality scores, worst at the top.

    series: columns name, quality_score (0–1), status, why.
    """
    shown = series.nsmallest(worst, "quality_score").iloc[::-1]
    figure = go.Figure()
    for status in STATES:
        part = shown[shown["status"] == status]
        if part.empty:
            continue
        figure.add_bar(
            y=part["name"],
            x=part["quality_score"],
            orientation="h",
            name=status.replace("_", " "),
            marker_color=STATE_COLOURS[status],
            customdata=part[["why"]],
            hovertemplate="%{y}<br>quality %{x:.3f}<br>%{customdata[0]}<extra></extra>",
        )
    figure.add_vline(x=0.9, line_dash="dot", line_color="#8a94a6")
    figure.add_annotation(
        x=0.9, y=1.0, yref="paper", yanchor="bottom", text="target 0.90", showarrow=False
    )
    figure.update_yaxes(categoryorder="array", categoryarray=list(shown["name"]))
    figure.update_layout(xaxis={"range": [0, 1.02], "title": "quality score (0–1)"}, bargap=0.35)
    return _framed(figure)


def _framed(figure: go.Figure) -> go.Figure:
    figure.update_layout(
        height=330,
        margin={"l": 8, "r": 8, "t": 28, "b": 8},
        legend={"orientation": "h", "y": 1.12, "x": 0},
        hovermode="closest",
    )
    return figure
