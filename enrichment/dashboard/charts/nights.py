"""A calendar of the nightly runs: a square per date, its colour and sign telling the outcome."""

from __future__ import annotations

from typing import Any

import pandas as pd
import plotly.graph_objects as go

from enrichment.dashboard.charts import theme
from enrichment.domain.schedules import DEFAULT_NAME, WEEKDAYS
from enrichment.domain.statuses import JobState

SQUARE_PIXELS = 30
# state → the sign in its square, its colour, the text of its tooltip
OUTCOMES = {
    "unplanned": ("", theme.translucent(theme.GREY, 0.1), "no run is planned"),
    "before": ("", theme.translucent(theme.GREY, 0.1), "before the first run"),
    "missed": ("–", theme.GREY, "no run"),
    "manual": ("m", theme.LIGHT_BLUE, "manual run only"),
    JobState.CANCELLED: ("c", theme.GREY, "cancelled"),
    JobState.RUNNING: ("…", theme.BLUE, "running"),
    JobState.COMPLETED: ("✓", theme.GREEN, "every symbol successful"),
    JobState.PARTIAL: ("!", theme.AMBER, "some symbols failed"),
    JobState.FAILED: ("✕", theme.RED, "failed"),
}


def outcome_of(state: str) -> str:
    """The key of OUTCOMES for the state of a night; a queued job counts as running."""
    return JobState.RUNNING if state == JobState.QUEUED else state


def calendar(nights: pd.DataFrame) -> go.Figure:
    """Weeks as columns, weekdays as rows.

    Args:
        nights: Columns date, state (a key of OUTCOMES), successful, failed, duration_seconds,
            late_seconds, schedule; one row per date.
    """
    dates = pd.to_datetime(nights["date"])
    monday = dates - pd.to_timedelta(dates.dt.day_of_week, unit="D")
    figure = go.Figure()
    for state, (sign, colour, meaning) in OUTCOMES.items():
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
            showlegend=bool(sign),
        )
    figure.update_xaxes(showgrid=False, zeroline=False, tickformat="%d %b", tickangle=0)
    figure.update_yaxes(
        categoryorder="array", categoryarray=WEEKDAYS[::-1], showgrid=False, zeroline=False
    )
    return theme.apply_layout(figure, 7 * SQUARE_PIXELS + 90)


def _tooltip(night: Any) -> str:
    lines = [f"<b>{pd.Timestamp(night.date):%a %d %b %Y}</b>", OUTCOMES[night.state][2]]
    if night.schedule not in (None, DEFAULT_NAME):
        lines.append(f"schedule {night.schedule}")
    if pd.notna(night.successful):
        lines.append(f"{night.successful:.0f} symbols successful, {night.failed:.0f} failed")
    if pd.notna(night.duration_seconds):
        lines.append(f"took {night.duration_seconds:.0f} s")
    if pd.notna(night.late_seconds) and night.late_seconds >= 60:
        lines.append(f"started {night.late_seconds / 60:.0f} min late")
    return "<br>".join(lines)
