"""Figures of the data and its quality."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from enrichment.dashboard.charts.theme import day_axis, first_day, framed
from enrichment.pipeline.quality import WEIGHTS

TARGET = 0.90
COMPONENTS = ("completeness", "validation", "features", "freshness")
COLOURS = {
    "completeness": "#4c7fe0",
    "validation": "#2f9e6e",
    "features": "#e0a82e",
    "freshness": "#8b6fd6",
}
LINES = {
    "sma_20": {"color": "#4c7fe0", "width": 1.5},
    "sma_50": {"color": "#e0a82e", "width": 1.5},
    "bollinger_upper": {"color": "#8a94a6", "width": 1, "dash": "dot"},
    "bollinger_lower": {"color": "#8a94a6", "width": 1, "dash": "dot"},
}
UP, DOWN = "#2f9e6e", "#d64550"
FLAG_SYMBOLS = {"error": "x", "warning": "triangle-down", "info": "circle-open"}
SCORES = [[0.0, "#d64550"], [0.8, "#e0a82e"], [0.9, "#9fc9a5"], [1.0, "#2f9e6e"]]
ROW_PIXELS = 18


def trend(days: pd.DataFrame) -> go.Figure:
    """The mean score by day with its worst series. days: columns date, score, lowest, series."""
    mode = "lines+markers" if len(days) < 30 else "lines"
    figure = go.Figure()
    figure.add_scatter(
        x=days["date"],
        y=days["score"],
        name="mean",
        mode=mode,
        line={"color": "#4c7fe0", "width": 2.5},
        customdata=days["series"],
        hovertemplate="%{x|%Y-%m-%d}<br>mean %{y:.3f} of %{customdata} series<extra></extra>",
    )
    figure.add_scatter(
        x=days["date"],
        y=days["lowest"],
        name="worst series",
        mode=mode,
        line={"color": "#e07b39", "dash": "dot"},
        hovertemplate="%{x|%Y-%m-%d}<br>worst %{y:.3f}<extra></extra>",
    )
    figure.add_hline(
        y=TARGET,
        line_dash="dot",
        line_color="#8a94a6",
        annotation_text=f"target {TARGET:.2f}",
        annotation_position="bottom left",
    )
    figure.update_layout(
        yaxis={"title": "score (0–1)", "range": [_floor(days["lowest"]), 1.01]},
        xaxis=day_axis(days["date"]),
    )
    return framed(figure, 320)


def distribution(scores: pd.Series) -> go.Figure:
    """How many series have which score, in steps of 0.01."""
    steps = (scores * 100).clip(upper=99.99).astype(int) / 100
    counts = steps.value_counts().sort_index()
    figure = go.Figure()
    figure.add_bar(
        x=counts.index + 0.005,
        y=counts,
        width=0.009,
        marker_color=["#4c7fe0" if step >= TARGET else "#e07b39" for step in counts.index],
        customdata=counts.index,
        hovertemplate="from %{customdata:.2f} on<br>%{y} series<extra></extra>",
    )
    figure.add_vline(x=TARGET, line_dash="dot", line_color="#8a94a6")
    figure.update_layout(
        xaxis={"title": "score (0–1)", "range": [_floor(scores), 1.005]},
        yaxis_title="series",
        showlegend=False,
    )
    return framed(figure, 320)


def _floor(scores: pd.Series) -> float:
    """Where an axis of these scores begins: never so close that a good score looks bad."""
    return max(0.0, min(0.7, float(scores.min()) - 0.05))


def components(series: pd.DataFrame) -> go.Figure:
    """What each series' score is made of, a bar of the four components' shares, worst on top; what
    a bar lacks to 1 is what the series lost.

    series: columns name, score and the four components, worst first.
    """
    figure = go.Figure()
    for component in COMPONENTS:
        weight = WEIGHTS[component]
        figure.add_bar(
            x=weight * series[component],
            y=series["name"],
            orientation="h",
            name=component,
            marker_color=COLOURS[component],
            customdata=pd.DataFrame({"own": series[component], "score": series["score"]}),
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
        marker={"color": "rgba(214,69,80,.25)", "line": {"color": DOWN, "width": 1}},
        hovertemplate="%{y}<br>%{x:.3f} lost<extra></extra>",
    )
    figure.add_vline(x=TARGET, line_dash="dot", line_color="#8a94a6")
    figure.update_yaxes(categoryorder="array", categoryarray=list(series["name"])[::-1])
    figure.update_layout(
        barmode="stack",
        bargap=0.3,
        legend_traceorder="normal",
        xaxis={"title": "score (0–1)", "range": [0, 1.01]},
    )
    return framed(figure, ROW_PIXELS * len(series) + 130)


def gap_map(gaps: pd.DataFrame) -> go.Figure:
    """Missing bars by series and month. gaps: columns name, month, missing."""
    grid = gaps.pivot_table(index="name", columns="month", values="missing", fill_value=0)
    months = pd.date_range(gaps["month"].min(), gaps["month"].max(), freq="MS")
    grid = grid.set_axis(pd.to_datetime(grid.columns), axis=1).reindex(columns=months, fill_value=0)
    most = int(gaps["missing"].max())
    figure = go.Figure(
        go.Heatmap(
            z=grid.to_numpy(dtype=int),
            x=[f"{month:%Y-%m}" for month in grid.columns],
            y=list(grid.index),
            zmin=0,
            zmax=most,
            xgap=1,
            ygap=2,
            colorscale=[[0.0, "rgba(138,148,166,.15)"], [0.01, "#f0b7a0"], [1.0, "#d64550"]],
            colorbar={"title": "bars", "dtick": max(1, most // 4)},
            hovertemplate="%{y}<br>%{x}<br>%{z} bars missing<extra></extra>",
        )
    )
    figure.update_xaxes(type="category", showgrid=False, nticks=12)
    figure.update_yaxes(showgrid=False)
    return framed(figure, 24 * len(grid) + 150)


def symbol_days(scores: pd.DataFrame) -> go.Figure:
    """Scores by symbol and day, lowest symbols first. scores: columns symbol, date, score."""
    days = pd.to_datetime(scores["date"])
    grid = scores.assign(date=days).pivot_table(index="symbol", columns="date", values="score")
    grid = grid.reindex(columns=pd.date_range(first_day(days), days.max()))
    order = grid.mean(axis=1).sort_values(ascending=False).index
    figure = go.Figure(
        go.Heatmap(
            z=grid.loc[order].to_numpy(),
            x=[f"{day:%m-%d}" for day in grid.columns],
            y=list(order),
            zmin=0,
            zmax=1,
            colorscale=SCORES,
            colorbar={"title": "score"},
            xgap=1,
            ygap=1,
            hovertemplate="%{y}<br>%{x}<br>score %{z:.3f}<extra></extra>",
        )
    )
    figure.update_xaxes(type="category")
    return framed(figure, ROW_PIXELS * len(grid) + 130)


def candlestick(
    candles: pd.DataFrame,
    flags: pd.DataFrame,
    overlays: tuple[str, ...],
    below: str | None,
    *,
    continuous: bool = False,
) -> go.Figure:
    """Candles with features over them, volume below, and flagged bars marked.

    candles: ts, open, high, low, close, volume and the features. flags: ts, severity, text.
    overlays: features in the unit of prices; below: a feature with a panel of its own, if any.
    continuous: the market never closes; else candles stand side by side, without nights and
    weekends between them.
    """
    flags = flags.assign(ts=_candle_of(flags["ts"], candles["ts"]))
    if not continuous:
        daily = bool((candles["ts"] == candles["ts"].dt.normalize()).all())
        flags = flags.assign(ts=_labels(flags["ts"], daily))
        candles = candles.assign(ts=_labels(candles["ts"], daily))
    heights = [0.66, 0.17, 0.17] if below else [0.78, 0.22]
    figure = make_subplots(
        rows=len(heights), cols=1, shared_xaxes=True, row_heights=heights, vertical_spacing=0.03
    )
    figure.add_candlestick(
        x=candles["ts"],
        open=candles["open"],
        high=candles["high"],
        low=candles["low"],
        close=candles["close"],
        name="price",
        increasing_line_color=UP,
        decreasing_line_color=DOWN,
        row=1,
        col=1,
    )
    for feature in overlays:
        figure.add_scatter(
            x=candles["ts"],
            y=candles[feature],
            name=feature,
            mode="lines",
            line=LINES.get(feature, {}),
            row=1,
            col=1,
        )
    rising = candles["close"] >= candles["open"]
    figure.add_bar(
        x=candles["ts"],
        y=candles["volume"],
        name="volume",
        marker_color=rising.map({True: UP, False: DOWN}),
        hovertemplate="%{x}<br>%{y:,.0f} traded<extra></extra>",
        row=2,
        col=1,
    )
    if below:
        line = {"color": "#8b6fd6", "width": 1.5}
        figure.add_scatter(x=candles["ts"], y=candles[below], name=below, line=line, row=3, col=1)
        figure.update_yaxes(title_text=below, row=3, col=1)
    _mark(figure, candles, flags)
    figure.update_yaxes(title_text="price", row=1, col=1)
    figure.update_yaxes(title_text="volume", row=2, col=1)
    figure.update_xaxes(rangeslider_visible=False)
    if not continuous:
        figure.update_xaxes(type="category", nticks=10, tickangle=0)
    return framed(figure, 560)


def _candle_of(moments: pd.Series, candles: pd.Series) -> pd.Series:
    """The candle that each moment falls into: the last one that begins by then."""
    if moments.empty:
        return moments
    positions = candles.searchsorted(moments, side="right") - 1
    return pd.Series(candles.iloc[positions].array, index=moments.index)


def _labels(moments: pd.Series, daily: bool) -> pd.Series:
    form = "%Y-%m-%d" if daily else "%Y-%m-%d %H:%M"
    return moments.map(lambda moment: f"{moment:{form}}")


def _mark(figure: go.Figure, candles: pd.DataFrame, flags: pd.DataFrame) -> None:
    above = 1.01 * candles.set_index("ts")["high"]
    for severity, symbol in FLAG_SYMBOLS.items():
        part = flags[flags["severity"] == severity]
        if part.empty:
            continue
        figure.add_scatter(
            x=part["ts"],
            y=above.reindex(part["ts"]),
            mode="markers",
            name=f"flag: {severity}",
            marker={"symbol": symbol, "size": 9, "color": "#e07b39"},
            text=part["text"],
            hovertemplate="%{x}<br>%{text}<extra></extra>",
            row=1,
            col=1,
        )
