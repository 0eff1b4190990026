"""The states of circuit breakers over time."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from enrichment.dashboard.charts import theme
from enrichment.dashboard.data.providers import BREAKER_STATES
from enrichment.dashboard.formatting import label
from resilience import Mode

LANE_PIXELS = 26
OVERRIDES = {label(mode): str(mode) for mode in (Mode.FORCED_OPEN, Mode.DISABLED)}


def state_intervals(transitions: pd.DataFrame, until: pd.Timestamp) -> pd.DataFrame:
    """The intervals between the transitions of each worker's breakers.

    Args:
        transitions: Columns at, name, worker, from_state, to_state, reason; any order.
        until: Where each breaker's last interval ends.

    Returns:
        Columns name (of breaker and worker), state, start, end, reason.
    """
    intervals = []
    for (name, worker), part in transitions.sort_values("at").groupby(["name", "worker"]):
        ends = [*part["at"].iloc[1:], until]
        for row, end in zip(part.itertuples(), ends, strict=True):
            state = OVERRIDES.get(str(row.reason), str(row.to_state))
            intervals.append((f"{name} · {worker}", state, row.at, end, row.reason or ""))
    return pd.DataFrame(intervals, columns=["name", "state", "start", "end", "reason"])


def breaker_timeline(intervals: pd.DataFrame) -> go.Figure:
    """A row for each breaker of each worker. intervals: from `state_intervals`."""
    names = sorted(intervals["name"].unique(), reverse=True)
    figure = go.Figure()
    for state in reversed(BREAKER_STATES):
        part = intervals[intervals["state"] == state]
        if part.empty:
            continue
        seconds = (part["end"] - part["start"]).dt.total_seconds()
        figure.add_bar(
            base=part["start"],
            x=seconds * 1000,
            y=part["name"],
            orientation="h",
            name=label(state),
            marker_color=theme.state_colour(state),
            customdata=pd.DataFrame({"seconds": seconds, "reason": part["reason"]}),
            hovertemplate=(
                "%{y}<br>" + label(state) + " from %{base|%m-%d %H:%M:%S}"
                "<br>for %{customdata[0]:.0f} s<br>%{customdata[1]}<extra></extra>"
            ),
        )
    zone = str(intervals["start"].dt.tz)
    figure.update_layout(barmode="overlay", xaxis={"type": "date", "title": zone})
    figure.update_yaxes(categoryorder="array", categoryarray=names)
    return theme.apply_layout(figure, LANE_PIXELS * len(names) + 120)
