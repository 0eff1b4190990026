"""The colours of all charts and states, and the layout that all charts share."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
import plotly.graph_objects as go
from plotly.basedatatypes import BaseTraceType

from enrichment.domain.statuses import (
    AlertStatus,
    ItemStatus,
    JobState,
    SeriesStatus,
    WorkerState,
)
from resilience import State

GREEN, LIGHT_GREEN, AMBER, ORANGE = "#2f9e6e", "#9fc9a5", "#e0a82e", "#e07b39"
RED, LIGHT_RED, DARK_RED = "#d64550", "#f0b7a0", "#8f1d2c"
BLUE, LIGHT_BLUE, PURPLE, GREY = "#4c7fe0", "#7a9bd8", "#8b6fd6", "#8a94a6"

# The colour of each state; GREY for the rest.
STATE_COLOURS: Mapping[str, str] = {
    **dict.fromkeys(
        (JobState.COMPLETED, SeriesStatus.HEALTHY, AlertStatus.OK, State.CLOSED), GREEN
    ),
    **dict.fromkeys((JobState.RUNNING, ItemStatus.IN_PROGRESS), BLUE),
    **dict.fromkeys(
        (JobState.PARTIAL, ItemStatus.RETRY, SeriesStatus.WARNING, State.HALF_OPEN), AMBER
    ),
    **dict.fromkeys((WorkerState.WAITING, AlertStatus.PENDING), AMBER),
    **dict.fromkeys((SeriesStatus.STALE, "unknown"), ORANGE),
    **dict.fromkeys((JobState.FAILED, SeriesStatus.ERROR, AlertStatus.FIRING, State.OPEN), RED),
    "lost": RED,  # a worker without a heartbeat
    "forced_open": DARK_RED,
    "disabled": ORANGE,  # a breaker that protects nothing
}
# The same colours as Streamlit's Markdown names them.
MARKDOWN_COLOURS: Mapping[str, str] = {
    **{GREEN: "green", AMBER: "yellow", ORANGE: "orange", BLUE: "blue", GREY: "gray"},
    **dict.fromkeys((RED, DARK_RED), "red"),
}
TEXT_COLOURS: Mapping[str, str] = {AMBER: "#c9851b", GREY: "#7c8799"}
MIN_DAYS = 13  # an axis of days has room for two weeks, so that a single bar is not full width


def state_colour(state: str) -> str:
    return STATE_COLOURS.get(state, GREY)


def text_colour(state: str) -> str:
    """The colour of a state, dark enough for text."""
    colour = state_colour(state)
    return TEXT_COLOURS.get(colour, colour)


def translucent(colour: str, opacity: float) -> str:
    """A hexadecimal colour with an opacity (0–1), as CSS."""
    red, green, blue = bytes.fromhex(colour.removeprefix("#"))
    return f"rgba({red},{green},{blue},{opacity})"


def apply_layout(figure: go.Figure, height: int) -> go.Figure:
    """The figure with the common layout and this height in pixels, its legend above it."""
    figure.update_layout(
        height=height,
        margin={"l": 8, "r": 8, "t": 28, "b": 8},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        hovermode="closest",
    )
    figure.update_yaxes(automargin=True)
    if not any(_has_points(trace) for trace in figure.data):  # Plotly would draw January 2000
        figure.update_xaxes(visible=False)
        figure.update_yaxes(visible=False)
        figure.add_annotation(
            text="no data", showarrow=False, x=0.5, y=0.5, xref="paper", yref="paper"
        )
    return figure


def _has_points(trace: BaseTraceType) -> bool:
    values = (getattr(trace, name, None) for name in ("x", "y", "z"))
    return any(value is not None and len(value) for value in values)


def first_day(days: pd.Series) -> pd.Timestamp:
    """Where an axis of these days begins: with the first of them, or two weeks before the last."""
    last = pd.Timestamp(days.max())
    return min(pd.Timestamp(days.min()), last - pd.Timedelta(days=MIN_DAYS))


def day_axis(days: pd.Series) -> dict[str, object]:
    """An x axis on which every day has its whole width."""
    half = pd.Timedelta(hours=12)
    return {"type": "date", "range": [first_day(days) - half, pd.Timestamp(days.max()) + half]}
