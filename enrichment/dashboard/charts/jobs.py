"""Figures over time: a job's symbols on their threads, breakers' states, durations and outcomes."""

from __future__ import annotations

from typing import Any

import pandas as pd
import plotly.graph_objects as go

from enrichment.dashboard.charts.theme import day_axis, framed

OUTCOME_COLOURS = {
    "completed": "#2f9e6e",
    "failed": "#d64550",
    "cancelled": "#8a94a6",
    "in_progress": "#4c7fe0",
}
BREAKER_COLOURS = {
    "closed": "#2f9e6e",
    "half_open": "#e0a82e",
    "open": "#d64550",
    "forced_open": "#8f1d2c",
    "disabled": "#8a94a6",
}
LANE_PIXELS = 26
DAY_MILLISECONDS = 86_400_000


def lanes(items: pd.DataFrame) -> pd.Series:
    """The thread that each item ran on: the first of its worker's that was free when it began.

    items: columns worker, started_at, completed_at. Threads are numbered from 1 for each worker.
    """
    free: dict[str, list[Any]] = {}
    found = {}
    ordered = items.sort_values("started_at")
    times = (ordered["worker"], ordered["started_at"], ordered["completed_at"])
    for index, worker, began, ended in zip(ordered.index, *times, strict=True):
        ends = free.setdefault(worker, [])
        lane = next((n for n, end in enumerate(ends) if end <= began), len(ends))
        ends[lane : lane + 1] = [ended]
        found[index] = f"{worker} · {lane + 1}"
    return pd.Series(found, dtype=object).reindex(items.index)


def gantt(items: pd.DataFrame) -> go.Figure:
    """A job's symbols as bars on the threads that they ran on.

    items: columns symbol, worker, status, started_at, completed_at (in the zone to show), one row
    per symbol.
    """
    placed = items.assign(lane=lanes(items))
    names = sorted(placed["lane"].unique(), key=_by_number, reverse=True)
    figure = go.Figure()
    for status, colour in OUTCOME_COLOURS.items():
        part = placed[placed["status"] == status]
        if part.empty:
            continue
        took = part["completed_at"] - part["started_at"]
        figure.add_bar(
            base=part["started_at"],
            x=took.dt.total_seconds() * 1000,
            y=part["lane"],
            orientation="h",
            name=status.replace("_", " "),
            marker={"color": colour, "line": {"width": 1, "color": "rgba(127,127,127,.4)"}},
            text=part["symbol"],
            textposition="inside",
            insidetextanchor="start",
            customdata=took.dt.total_seconds(),
            hovertemplate="%{text}<br>%{y}<br>%{customdata:.2f} s<extra></extra>",
        )
    figure.update_layout(
        barmode="overlay", xaxis={"type": "date", "title": _zone(items["started_at"])}
    )
    figure.update_yaxes(categoryorder="array", categoryarray=names)
    return framed(figure, LANE_PIXELS * len(names) + 120)


def _by_number(lane: str) -> tuple[str, int]:
    worker, _, number = lane.rpartition(" · ")
    return worker, int(number)


def _zone(moments: pd.Series) -> str:
    return str(moments.dt.tz)


def durations(jobs: pd.DataFrame, window: int = 20) -> go.Figure:
    """How long jobs took, with the median and the 95th percentile of the `window` jobs before.

    jobs: columns at (in the zone to show), duration_seconds, kind; oldest first.
    """
    rolling = jobs["duration_seconds"].rolling(window, min_periods=1)
    figure = go.Figure()
    figure.add_scatter(
        x=jobs["at"],
        y=rolling.quantile(0.95),
        name="p95",
        line={"width": 1, "dash": "dot", "color": "#4c7fe0"},
        hovertemplate="p95 %{y:.1f} s<extra></extra>",
    )
    figure.add_scatter(
        x=jobs["at"],
        y=rolling.median(),
        name="p50",
        fill="tonexty",
        fillcolor="rgba(76,127,224,.18)",
        line={"color": "#4c7fe0"},
        hovertemplate="median %{y:.1f} s<extra></extra>",
    )
    figure.add_scatter(
        x=jobs["at"],
        y=jobs["duration_seconds"],
        mode="markers",
        name="job",
        marker={"color": "#e07b39", "size": 7},
        customdata=jobs["kind"],
        hovertemplate="%{customdata}<br>%{x|%m-%d %H:%M}<br>%{y:.1f} s<extra></extra>",
    )
    last = jobs["at"].max()
    first = min(jobs["at"].min(), last - pd.Timedelta(hours=6))
    edge = (last - first) * 0.03
    figure.update_layout(
        yaxis={"title": "seconds", "rangemode": "tozero"},
        xaxis={"range": [first - edge, last + edge]},
    )
    return framed(figure, 320)


def outcomes_by_day(days: pd.DataFrame) -> go.Figure:
    """Symbols per day, succeeded and failed. days: columns date, successful, failed."""
    figure = go.Figure()
    for outcome, status in (("successful", "completed"), ("failed", "failed")):
        figure.add_bar(
            x=days["date"],
            y=days[outcome],
            name=outcome,
            marker_color=OUTCOME_COLOURS[status],
            hovertemplate="%{x|%Y-%m-%d}<br>%{y} symbols " + outcome + "<extra></extra>",
        )
    figure.update_layout(
        barmode="stack",
        xaxis=day_axis(days["date"]),
        yaxis={"title": "symbols", "rangemode": "nonnegative"},
        bargap=0.2,
    )
    figure.update_traces(width=0.8 * DAY_MILLISECONDS)
    return framed(figure, 320)


def breaker_states(transitions: pd.DataFrame, until: pd.Timestamp) -> pd.DataFrame:
    """Spells of one state: columns name, state, start, end, reason.

    transitions: columns at, name, worker, from_state, to_state, reason, any order. A spell ends
    with the next change of the same worker's breaker, the last one at `until`.
    """
    spells = []
    for (name, worker), part in transitions.sort_values("at").groupby(["name", "worker"]):
        ends = [*part["at"].iloc[1:], until]
        for row, end in zip(part.itertuples(), ends, strict=True):
            spells.append((f"{name} · {worker}", row.to_state, row.at, end, row.reason or ""))
    return pd.DataFrame(spells, columns=["name", "state", "start", "end", "reason"])


def breaker_timeline(spells: pd.DataFrame) -> go.Figure:
    """The breakers' states over time, as `breaker_states` gives them."""
    names = sorted(spells["name"].unique(), reverse=True)
    figure = go.Figure()
    for state, colour in BREAKER_COLOURS.items():
        part = spells[spells["state"] == state]
        if part.empty:
            continue
        took = (part["end"] - part["start"]).dt.total_seconds()
        figure.add_bar(
            base=part["start"],
            x=took * 1000,
            y=part["name"],
            orientation="h",
            name=state.replace("_", " "),
            marker_color=colour,
            customdata=pd.DataFrame({"took": took, "reason": part["reason"]}),
            hovertemplate=(
                "%{y}<br>" + state.replace("_", " ") + " from %{base|%m-%d %H:%M:%S}"
                "<br>for %{customdata[0]:.0f} s<br>%{customdata[1]}<extra></extra>"
            ),
        )
    figure.update_layout(barmode="overlay", xaxis={"type": "date", "title": _zone(spells["start"])})
    figure.update_yaxes(categoryorder="array", categoryarray=names)
    return framed(figure, LANE_PIXELS * len(names) + 120)
