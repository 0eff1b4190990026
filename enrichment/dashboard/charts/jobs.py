"""Charts of jobs: outcomes, durations, and one job's symbols on the threads that ran them."""

from __future__ import annotations

from typing import Any

import pandas as pd
import plotly.graph_objects as go

from enrichment.dashboard.charts import theme
from enrichment.dashboard.formatting import label
from enrichment.domain.statuses import ItemStatus

OUTCOMES = {"successful": theme.GREEN, "failed": theme.RED}
LANE_PIXELS = 26
DAY_MILLISECONDS = 86_400_000
RUN_STATUSES = (
    ItemStatus.COMPLETED,
    ItemStatus.FAILED,
    ItemStatus.CANCELLED,
    ItemStatus.RETRY,
    ItemStatus.IN_PROGRESS,
)
MIN_JOBS = 12  # the axis has room for as many, so that a single bar is not full width


def job_outcomes(jobs: pd.DataFrame) -> go.Figure:
    """Successful and failed symbols per job, as stacked bars.

    Args:
        jobs: Columns label, successful, failed, seconds, kind; one row per job, oldest
            first.
    """
    figure = go.Figure()
    for outcome, colour in OUTCOMES.items():
        figure.add_bar(
            x=jobs["label"],
            y=jobs[outcome],
            name=outcome,
            marker_color=colour,
            customdata=jobs[["seconds", "kind"]],
            hovertemplate=(
                "%{x}<br>%{y} symbols " + outcome + "<br>%{customdata[1]}, "
                "%{customdata[0]:.1f} s<extra></extra>"
            ),
        )
    figure.update_layout(
        barmode="stack",
        yaxis_title="symbols",
        xaxis={"type": "category", "range": [-0.5, max(len(jobs), MIN_JOBS) - 0.5]},
    )
    return theme.apply_layout(figure, 330)


def outcomes_by_day(days: pd.DataFrame) -> go.Figure:
    """Successful and failed distinct symbols per day. days: columns date, successful, failed."""
    figure = go.Figure()
    for outcome, colour in OUTCOMES.items():
        figure.add_bar(
            x=days["date"],
            y=days[outcome],
            name=outcome,
            marker_color=colour,
            hovertemplate="%{x|%Y-%m-%d}<br>%{y} symbols " + outcome + "<extra></extra>",
        )
    figure.update_layout(
        barmode="stack",
        xaxis=theme.day_axis(days["date"]),
        yaxis={"title": "symbols", "rangemode": "nonnegative"},
        bargap=0.2,
    )
    figure.update_traces(width=0.8 * DAY_MILLISECONDS)
    return theme.apply_layout(figure, 320)


def durations(jobs: pd.DataFrame, window: int = 20) -> go.Figure:
    """How long each job took, with the rolling median and 95th percentile.

    Args:
        jobs: Columns at (in the zone to show), seconds, kind; oldest first.
        window: Jobs in the rolling window, the job itself included.
    """
    rolling = jobs["seconds"].rolling(window, min_periods=1)
    figure = go.Figure()
    figure.add_scatter(
        x=jobs["at"],
        y=rolling.quantile(0.95),
        name="p95",
        line={"width": 1, "dash": "dot", "color": theme.BLUE},
        hovertemplate="p95 %{y:.1f} s<extra></extra>",
    )
    figure.add_scatter(
        x=jobs["at"],
        y=rolling.median(),
        name="p50",
        fill="tonexty",
        fillcolor=theme.translucent(theme.BLUE, 0.18),
        line={"color": theme.BLUE},
        hovertemplate="median %{y:.1f} s<extra></extra>",
    )
    figure.add_scatter(
        x=jobs["at"],
        y=jobs["seconds"],
        mode="markers",
        name="job",
        marker={"color": theme.ORANGE, "size": 7},
        customdata=jobs["kind"],
        hovertemplate="%{customdata}<br>%{x|%m-%d %H:%M}<br>%{y:.1f} s<extra></extra>",
    )
    last = jobs["at"].max()
    first = min(jobs["at"].min(), last - pd.Timedelta(hours=6))
    padding = (last - first) * 0.03
    figure.update_layout(
        yaxis={"title": "seconds", "rangemode": "tozero"},
        xaxis={"range": [first - padding, last + padding]},
    )
    return theme.apply_layout(figure, 320)


def stack_spans(items: pd.DataFrame) -> pd.Series:
    """Rows in which spans do not overlap: for each the first of its worker's that is free.

    Args:
        items: Columns worker, begun_at, ended_at.

    Returns:
        Numbers from 1 for each worker, with the index of `items`.
    """
    busy_until: dict[str, list[Any]] = {}
    numbers = {}
    ordered = items.sort_values("begun_at")
    times = (ordered["worker"], ordered["begun_at"], ordered["ended_at"])
    for index, worker, start, end in zip(ordered.index, *times, strict=True):
        ends = busy_until.setdefault(worker, [])
        free = next((n for n, busy in enumerate(ends) if busy <= start), len(ends))
        ends[free : free + 1] = [end]
        numbers[index] = free + 1
    return pd.Series(numbers, dtype=int).reindex(items.index)


def gantt(items: pd.DataFrame) -> go.Figure:
    """A job's symbols as bars, one lane per worker and thread.

    Where no thread is recorded, overlapping symbols are stacked on lanes named so.

    Args:
        items: Columns symbol, worker, thread (missing where it is not recorded), status, begun_at,
            ended_at (in the zone to show); one row per symbol.
    """
    recorded = items["thread"].notna()
    numbers = items["thread"].where(recorded, stack_spans(items[~recorded])).astype(int)
    kinds = recorded.map({True: "thread", False: "thread not recorded, row"})
    items = items.assign(number=numbers, recorded=recorded)
    items["lane"] = items["worker"] + " · " + kinds + " " + numbers.astype(str)
    order = items.sort_values(["worker", "recorded", "number"], ascending=[False, True, False])
    lanes = order["lane"].unique()
    figure = go.Figure()
    for status in RUN_STATUSES:
        part = items[items["status"] == status]
        if part.empty:
            continue
        seconds = (part["ended_at"] - part["begun_at"]).dt.total_seconds()
        figure.add_bar(
            base=part["begun_at"],
            x=seconds * 1000,
            y=part["lane"],
            orientation="h",
            name=label(status),
            marker={
                "color": theme.state_colour(status),
                "line": {"width": 1, "color": theme.translucent(theme.GREY, 0.4)},
            },
            text=part["symbol"],
            textposition="inside",
            insidetextanchor="start",
            customdata=seconds,
            hovertemplate="%{text}<br>%{y}<br>%{customdata:.2f} s<extra></extra>",
        )
    zone = str(items["begun_at"].dt.tz)
    figure.update_layout(barmode="overlay", xaxis={"type": "date", "title": zone})
    figure.update_yaxes(categoryorder="array", categoryarray=lanes)
    return theme.apply_layout(figure, LANE_PIXELS * len(lanes) + 120)
