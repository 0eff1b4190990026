"""What all figures have in common: margins, legend, and room for a few days."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

FEW_DAYS = 13  # room for two weeks, so that one day is not a wall


def framed(figure: go.Figure, height: int) -> go.Figure:
    """The figure at this height in pixels, its legend above it."""
    figure.update_layout(
        height=height,
        margin={"l": 8, "r": 8, "t": 28, "b": 8},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        hovermode="closest",
    )
    figure.update_yaxes(automargin=True)
    return figure


def first_day(days: pd.Series) -> pd.Timestamp:
    """Where an axis of these days begins: with the first of them, or two weeks before the last."""
    last = pd.Timestamp(days.max())
    return min(pd.Timestamp(days.min()), last - pd.Timedelta(days=FEW_DAYS))


def day_axis(days: pd.Series) -> dict[str, object]:
    """An x axis on which every day has its whole width."""
    half = pd.Timedelta(hours=12)
    return {"type": "date", "range": [first_day(days) - half, pd.Timestamp(days.max()) + half]}
