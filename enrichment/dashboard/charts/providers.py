"""Charts of the providers: their latency, and who served the requests."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from enrichment.dashboard.charts import theme
from enrichment.vendors.registry import VENDORS

COLOURS = {spec.name: spec.colour for spec in VENDORS}  # GREY for unregistered ones
HOUR = pd.Timedelta(hours=1)
DASHES = {"p99": "dot", "p95": "dash", "p50": "solid"}


def latency(rows: pd.DataFrame, zone: str, span: tuple[pd.Timestamp, pd.Timestamp]) -> go.Figure:
    """p50, p95 and p99 over time, a panel per provider, on one logarithmic axis.

    Args:
        rows: From `fetch_history.latencies`, `start` in the zone to show.
        zone: The name of that zone.
        span: Of the time axis, in that zone.
    """
    providers = sorted(rows["provider"].unique())
    figure = make_subplots(
        rows=1,
        cols=len(providers),
        shared_yaxes=True,
        subplot_titles=providers,
        horizontal_spacing=0.03,
    )
    for column, provider in enumerate(providers, start=1):
        part = rows[rows["provider"] == provider]
        for line in _percentile_lines(part, str(provider), in_legend=column == 1):
            figure.add_trace(line, row=1, col=column)
    figure.update_yaxes(type="log", dtick=1)
    figure.update_yaxes(title_text="ms", row=1, col=1)
    figure.update_xaxes(title_text=zone, range=span, nticks=6)
    theme.apply_layout(figure, 320)
    figure.update_layout(legend_y=1.13, margin_t=64)
    return figure


def _percentile_lines(part: pd.DataFrame, provider: str, *, in_legend: bool) -> list[go.Scatter]:
    return [
        go.Scatter(
            x=part["start"],
            y=part[name],
            name=name,
            legendgroup=name,
            showlegend=in_legend,
            mode="lines+markers" if len(part) < 3 else "lines",
            line={"color": COLOURS.get(provider, theme.GREY), "dash": dash, "width": 2},
            customdata=part["fetches"],
            hovertemplate=(
                f"{provider} {name}<br>%{{x|%m-%d %H:%M}}<br>%{{y:.0f}} ms of "
                "%{customdata:,} fetches<extra></extra>"
            ),
        )
        for name, dash in DASHES.items()
    ]


def requests_by_provider(
    rows: pd.DataFrame, zone: str, span: tuple[pd.Timestamp, pd.Timestamp]
) -> go.Figure:
    """Served fetches as bars stacked by provider, those of fallbacks hatched.

    Args:
        rows: From `fetch_history.served_fetches`, `start` in the zone to show.
        zone: The name of that zone.
        span: Of the time axis, in that zone.
    """
    step = HOUR if span[1] - span[0] <= 72 * HOUR else 24 * HOUR
    figure = go.Figure()
    sums = rows.groupby(["provider", "fallback", "start"], as_index=False)["fetches"].sum()
    for (provider, fallback), part in sums.groupby(["provider", "fallback"]):
        name = f"{provider}, as fallback" if fallback else str(provider)
        figure.add_bar(
            x=part["start"] + step / 2,
            y=part["fetches"],
            width=0.75 * step / pd.Timedelta(milliseconds=1),
            name=name,
            marker={
                "color": COLOURS.get(str(provider), theme.GREY),
                "pattern": {"shape": "/" if fallback else ""},
            },
            hovertemplate=f"{name}<br>%{{x|%m-%d %H:%M}}<br>%{{y:,}} fetches<extra></extra>",
        )
    figure.update_layout(barmode="stack", yaxis_title="fetches")
    figure.update_xaxes(title_text=zone, type="date", range=span)
    return theme.apply_layout(figure, 280)
