"""The nights as a calendar: each date a square, coloured and signed by how its run went."""

from __future__ import annotations

from typing import Any

import pandas as pd
import plotly.graph_objects as go

from enrichment.dashboard.charts.theme import framed

# state → its sign in a square, its colour, what it says
STATES = {
    "before": ("", "rgba(138,148,166,.10)", "before the first run"),
    "missed": ("–", "#8a94a6", "nothing ran"),
    "manual": ("m", "#7a9bd8", "run by hand, not at night"),
    "cancelled": ("c", "#8a94a6", "cancelled"),
    "running": ("…", "#4c7fe0", "still running"),
    "completed": ("✓", "#2f9e6e", "every symbol successful"),
    "partial": ("!", "#e0a82e", "some symbols failed"),
    "failed": ("✕", "#d64550", "failed"),
}
WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
SQUARE_PIXELS = 30


def state_of(state: str) -> str:
    """The calendar's word for a job's state."""
    return "running" if state == "queued" else state


def calendar(nights: pd.DataFrame) -> go.Figure:
    """Weeks as columns, weekdays as lines.

    nights: columns date, state (a key of STATES), successful, failed, duration_seconds,
    late_seconds; one row per date.
    """
    dates = pd.to_datetime(nights["date"])
    monday = dates - pd.to_timedelta(dates.dt.day_of_week, unit="D")
    figure = go.Figure()
    for state, (sign, colour, meaning) in STATES.items():
        part = nights["state"] == state
        if not part.any():
            continue
        figure.add_scatter(
            x=monday[part],
            y=[WEEKDAYS[day] for day in dates[part].dt.day_of_week],
            mode="markers+text",
            name=f"{sign} {meaning}".strip(),
            text=[sign] * int(part.sum()),
            textfont={"color": "white", "size": 13},
            marker={"symbol": "square", "size": SQUARE_PIXELS - 4, "color": colour},
            customdata=[_tooltip(night) for night in nights[part].itertuples()],
            hovertemplate="%{customdata}<extra></extra>",
            showlegend=state != "before",
        )
    figure.update_xaxes(showgrid=False, zeroline=False, tickformat="%d %b", tickangle=0)
    figure.update_yaxes(
        categoryorder="array", categoryarray=WEEKDAYS[::-1], showgrid=False, zeroline=False
    )
    return framed(figure, 7 * SQUARE_PIXELS + 90)


def _tooltip(night: Any) -> str:
    """A date in words, for whoever hovers over its square."""
    lines = [f"<b>{pd.Timestamp(night.date):%a %d %b %Y}</b>", STATES[night.state][2]]
    if pd.notna(night.successful):
        lines.append(f"{night.successful:.0f} symbols successful, {night.failed:.0f} failed")
    if pd.notna(night.duration_seconds):
        lines.append(f"took {night.duration_seconds:.0f} s")
    if pd.notna(night.late_seconds) and night.late_seconds >= 60:
        lines.append(f"began {night.late_seconds / 60:.0f} min late")
    return "<br>".join(lines)
