"""Charts of the quality scores and of missing bars."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from enrichment.dashboard.charts import theme
from enrichment.dashboard.formatting import label
from enrichment.domain.statuses import SeriesStatus
from enrichment.pipeline.quality import WEIGHTS
from enrichment.services.health import QUALITY_TARGET

COMPONENT_COLOURS = {
    "completeness": theme.BLUE,
    "validation": theme.GREEN,
    "features": theme.AMBER,
    "freshness": theme.PURPLE,
}
SCORE_SCALE = [
    [0.0, theme.RED],
    [0.8, theme.AMBER],
    [QUALITY_TARGET, theme.LIGHT_GREEN],
    [1.0, theme.GREEN],
]
TARGET_TEXT = f"target {QUALITY_TARGET:.2f}"
ROW_PIXELS = 18


def trend(days: pd.DataFrame) -> go.Figure:
    """The mean and the lowest score by day. days: columns date, score, lowest, series."""
    mode = "lines+markers" if len(days) < 30 else "lines"
    figure = go.Figure()
    figure.add_scatter(
        x=days["date"],
        y=days["score"],
        name="mean",
        mode=mode,
        line={"color": theme.BLUE, "width": 2.5},
        customdata=days["series"],
        hovertemplate="%{x|%Y-%m-%d}<br>mean %{y:.3f} of %{customdata} series<extra></extra>",
    )
    figure.add_scatter(
        x=days["date"],
        y=days["lowest"],
        name="lowest",
        mode=mode,
        line={"color": theme.ORANGE, "dash": "dot"},
        hovertemplate="%{x|%Y-%m-%d}<br>lowest %{y:.3f}<extra></extra>",
    )
    figure.add_hline(
        y=QUALITY_TARGET,
        line_dash="dot",
        line_color=theme.GREY,
        annotation_text=TARGET_TEXT,
        annotation_position="bottom left",
    )
    figure.update_layout(
        yaxis={"title": "score (0–1)", "range": [_axis_start(days["lowest"]), 1.01]},
        xaxis=theme.day_axis(days["date"]),
    )
    return theme.apply_layout(figure, 320)


def distribution(scores: pd.Series) -> go.Figure:
    """A histogram of the series' scores in bins of 0.01."""
    bins = (scores * 100).clip(upper=99.99).astype(int) / 100
    counts = bins.value_counts().sort_index()
    figure = go.Figure()
    figure.add_bar(
        x=counts.index + 0.005,
        y=counts,
        width=0.009,
        marker_color=[
            theme.BLUE if start >= QUALITY_TARGET else theme.ORANGE for start in counts.index
        ],
        customdata=counts.index,
        hovertemplate="%{customdata:.2f} or more<br>%{y} series<extra></extra>",
    )
    figure.add_vline(x=QUALITY_TARGET, line_dash="dot", line_color=theme.GREY)
    figure.update_layout(
        xaxis={"title": "score (0–1)", "range": [_axis_start(scores), 1.005]},
        yaxis_title="series",
        showlegend=False,
    )
    return theme.apply_layout(figure, 320)


def _axis_start(scores: pd.Series) -> float:
    """Where an axis of these scores begins: far enough below them that a good score looks good."""
    return max(0.0, min(0.7, float(scores.min()) - 0.05))


def lowest_scores(series: pd.DataFrame, limit: int = 20) -> go.Figure:
    """The lowest scores as bars in the colour of their status, the lowest on top.

    Args:
        series: Columns name, score (0–1), status, reasons; one row per series.
        limit: Bars to draw.
    """
    lowest = series.nsmallest(limit, "score").iloc[::-1]
    figure = go.Figure()
    for status in SeriesStatus:
        part = lowest[lowest["status"] == status]
        if part.empty:
            continue
        figure.add_bar(
            y=part["name"],
            x=part["score"],
            orientation="h",
            name=label(status),
            marker_color=theme.state_colour(status),
            customdata=part[["reasons"]],
            hovertemplate="%{y}<br>score %{x:.3f}<br>%{customdata[0]}<extra></extra>",
        )
    figure.add_vline(
        x=QUALITY_TARGET,
        line_dash="dot",
        line_color=theme.GREY,
        annotation_text=TARGET_TEXT,
        annotation_position="top",
    )
    figure.update_yaxes(categoryorder="array", categoryarray=list(lowest["name"]))
    figure.update_layout(xaxis={"range": [0, 1.02], "title": "score (0–1)"}, bargap=0.35)
    return theme.apply_layout(figure, 330)


def components(series: pd.DataFrame) -> go.Figure:
    """Each series' score as stacked bars of its components' weighted shares and of the points lost.

    Args:
        series: Columns name, score and the components; lowest score first, drawn on top.
    """
    figure = go.Figure()
    for component, colour in COMPONENT_COLOURS.items():
        weight = WEIGHTS[component]
        figure.add_bar(
            x=weight * series[component],
            y=series["name"],
            orientation="h",
            name=component,
            marker_color=colour,
            customdata=pd.DataFrame({"component": series[component], "score": series["score"]}),
            hovertemplate=(
                "%{y}, score %{customdata[1]:.3f}<br>" + component + " %{customdata[0]:.3f},"
                f" {weight:.0%} of the score<extra></extra>"
            ),
        )
    figure.add_bar(
        x=[1.0] * len(series) - series["score"],
        y=series["name"],
        orientation="h",
        name="lost",
        marker={
            "color": theme.translucent(theme.RED, 0.25),
            "line": {"color": theme.RED, "width": 1},
        },
        hovertemplate="%{y}<br>%{x:.3f} lost<extra></extra>",
    )
    figure.add_vline(x=QUALITY_TARGET, line_dash="dot", line_color=theme.GREY)
    figure.update_yaxes(categoryorder="array", categoryarray=list(series["name"])[::-1])
    figure.update_layout(
        barmode="stack",
        bargap=0.3,
        legend_traceorder="normal",
        xaxis={"title": "score (0–1)", "range": [0, 1.01]},
    )
    return theme.apply_layout(figure, ROW_PIXELS * len(series) + 130)


def gap_map(gaps: pd.DataFrame) -> go.Figure:
    """A heat map of missing bars by series and month. gaps: columns name, month, missing."""
    grid = gaps.pivot_table(index="name", columns="month", values="missing", fill_value=0)
    months = pd.date_range(gaps["month"].min(), gaps["month"].max(), freq="MS")
    grid = grid.set_axis(pd.to_datetime(grid.columns), axis=1).reindex(columns=months, fill_value=0)
    max_missing = int(gaps["missing"].max())
    figure = go.Figure(
        go.Heatmap(
            z=grid.to_numpy(dtype=int),
            x=[f"{month:%Y-%m}" for month in grid.columns],
            y=list(grid.index),
            zmin=0,
            zmax=max_missing,
            xgap=1,
            ygap=2,
            colorscale=[
                [0.0, theme.translucent(theme.GREY, 0.15)],
                [0.01, theme.LIGHT_RED],
                [1.0, theme.RED],
            ],
            colorbar={"title": "bars", "dtick": max(1, max_missing // 4)},
            hovertemplate="%{y}<br>%{x}<br>%{z} bars missing<extra></extra>",
        )
    )
    figure.update_xaxes(type="category", showgrid=False, nticks=12)
    figure.update_yaxes(showgrid=False)
    return theme.apply_layout(figure, 24 * len(grid) + 150)


def scores_by_day(scores: pd.DataFrame) -> go.Figure:
    """A heat map of scores, lowest symbols on top. scores: columns symbol, date, score."""
    days = pd.to_datetime(scores["date"])
    grid = scores.assign(date=days).pivot_table(index="symbol", columns="date", values="score")
    grid = grid.reindex(columns=pd.date_range(theme.first_day(days), days.max()))
    order = grid.mean(axis=1).sort_values(ascending=False).index
    figure = go.Figure(
        go.Heatmap(
            z=grid.loc[order].to_numpy(),
            x=[f"{day:%m-%d}" for day in grid.columns],
            y=list(order),
            zmin=0,
            zmax=1,
            colorscale=SCORE_SCALE,
            colorbar={"title": "score"},
            xgap=1,
            ygap=1,
            hovertemplate="%{y}<br>%{x}<br>score %{z:.3f}<extra></extra>",
        )
    )
    figure.update_xaxes(type="category")
    return theme.apply_layout(figure, ROW_PIXELS * len(grid) + 130)
