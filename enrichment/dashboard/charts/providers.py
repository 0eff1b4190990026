"""Figures of the vendors: how quickly they answer, and who answers."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from enrichment.dashboard.charts.theme import framed
from enrichment.vendors.registry import VENDORS

COLOURS = {spec.name: spec.colour for spec in VENDORS}
OTHER = "#8a94a6"  # a vendor of stored bars that is no longer in the registry
HOUR = pd.Timedelta(hours=1)


def latency(rows: pd.DataFrame, zone: str, span: tuple[pd.Timestamp, pd.Timestamp]) -> go.Figure:
    """p50, p95 and p99 over time, a panel per provider, on one logarithmic axis.

    rows: from `fetch_history.latencies`, `start` in the zone of this name. span: of the time
    axis, in the same zone.
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
        for trace in _percentiles(rows[rows["provider"] == provider], str(provider), column == 1):
            figure.add_trace(trace, row=1, col=column)
    figure.update_yaxes(type="log", dtick=1)
    figure.update_yaxes(title_text="ms", row=1, col=1)
    figure.update_xaxes(title_text=zone, range=span, nticks=6, tickangle=0)
    framed(figure, 320)
    figure.update_layout(legend_y=1.13, margin_t=64)
    return figure


def _percentiles(part: pd.DataFrame, provider: str, named: bool) -> list[go.Scatter]:
    """The lines of one provider; named: whether they stand in the legend for all."""
    return [
        go.Scatter(
            x=part["start"],
            y=part[name],
            name=name,
            legendgroup=name,
            showlegend=named,
            mode="lines+markers" if len(part) < 3 else "lines",
            line={"color": COLOURS.get(provider, OTHER), "dash": dash, "width": 2},
            customdata=part["fetches"],
            hovertemplate=(
                f"{provider} {name}<br>%{{x|%m-%d %H:%M}}<br>%{{y:.0f}} ms of "
                "%{customdata:,} fetches<extra></extra>"
            ),
        )
        for name, dash in (("p99", "dot"), ("p95", "dash"), ("p50", "solid"))
    ]


def answers(rows: pd.DataFrame, zone: str, span: tuple[pd.Timestamp, pd.Timestamp]) -> go.Figure:
    """Fetches by who answered them, fallbacks hatched.

    rows: as `fetch_history.answers` gives them, `start` in the zone of this name. span: of the time
    axis, in the same zone.
    """
    step = HOUR if span[1] - span[0] <= 72 * HOUR else 24 * HOUR
    figure = go.Figure()
    sums = rows.groupby(["provider", "fallback", "start"], as_index=False)["answered"].sum()
    for (provider, fallback), part in sums.groupby(["provider", "fallback"]):
        figure.add_bar(
            x=part["start"] + step / 2,
            y=part["answered"],
            width=0.75 * step / pd.Timedelta(milliseconds=1),
            name=f"{provider}, as fallback" if fallback else provider,
            marker={
                "color": COLOURS.get(str(provider), OTHER),
                "pattern": {"shape": "/" if fallback else ""},
            },
            hovertemplate=(
                f"{provider}{' as fallback' if fallback else ''}<br>%{{x|%m-%d %H:%M}}"
                "<br>%{y:,} fetches answered<extra></extra>"
            ),
        )
    figure.update_layout(barmode="stack", yaxis_title="fetches answered")
    figure.update_xaxes(title_text=zone, type="date", range=span)
    return framed(figure, 280)
