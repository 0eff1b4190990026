"""A candlestick chart with indicators, volume and flagged bars."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from enrichment.dashboard.charts import theme
from enrichment.domain.model import Severity

OVERLAYS = {"sma_20": "SMA (20)", "sma_50": "SMA (50)"}
OVERLAYS |= {"bollinger_upper": "Bollinger upper", "bollinger_lower": "Bollinger lower"}
INDICATORS = {
    "rsi_14": "RSI (14)",
    "volatility_20": "Volatility (20)",
    "atr_14": "ATR (14)",
    "macd": "MACD",
    "obv": "OBV",
}
OVERLAY_LINES = {
    "sma_20": {"color": theme.BLUE, "width": 1.5},
    "sma_50": {"color": theme.AMBER, "width": 1.5},
    "bollinger_upper": {"color": theme.GREY, "width": 1, "dash": "dot"},
    "bollinger_lower": {"color": theme.GREY, "width": 1, "dash": "dot"},
}
FLAG_MARKERS = {
    Severity.ERROR: "x",
    Severity.WARNING: "triangle-down",
    Severity.INFO: "circle-open",
}


def candlestick(
    candles: pd.DataFrame,
    flags: pd.DataFrame,
    overlays: Sequence[str],
    indicator: str | None,
    *,
    continuous: bool = False,
) -> go.Figure:
    """Candles with overlays and flags, the volume below them, and below that one indicator.

    Args:
        candles: Columns ts, open, high, low, close, volume and the features.
        flags: Columns ts, severity, text.
        overlays: Features in the unit of prices, keys of OVERLAYS.
        indicator: The feature in a panel of its own, a key of INDICATORS.
        continuous: Whether the market never closes; otherwise the candles stand side by side,
            without gaps for nights and weekends.
    """
    flags = flags.assign(ts=_candle_of(flags["ts"], candles["ts"]))
    if not continuous:
        daily = bool((candles["ts"] == candles["ts"].dt.normalize()).all())
        flags = flags.assign(ts=_categories(flags["ts"], daily))
        candles = candles.assign(ts=_categories(candles["ts"], daily))
    heights = [0.66, 0.17, 0.17] if indicator else [0.78, 0.22]
    figure = make_subplots(
        rows=len(heights), cols=1, shared_xaxes=True, row_heights=heights, vertical_spacing=0.03
    )
    _add_prices(figure, candles, overlays)
    _add_volume(figure, candles)
    if indicator:
        _add_indicator(figure, candles, indicator)
    _add_flags(figure, candles, flags)
    figure.update_xaxes(rangeslider_visible=False)
    if not continuous:
        figure.update_xaxes(type="category", nticks=10, tickangle=0)
    return theme.apply_layout(figure, 560)


def _candle_of(times: pd.Series, candles: pd.Series) -> pd.Series:
    """The start of the candle that each time falls into."""
    if times.empty:
        return times
    positions = candles.searchsorted(times, side="right") - 1
    return pd.Series(candles.iloc[positions].array, index=times.index)


def _categories(times: pd.Series, daily: bool) -> pd.Series:
    form = "%Y-%m-%d" if daily else "%Y-%m-%d %H:%M"
    return times.map(lambda time: f"{time:{form}}")


def _add_prices(figure: go.Figure, candles: pd.DataFrame, overlays: Sequence[str]) -> None:
    figure.add_candlestick(
        x=candles["ts"],
        open=candles["open"],
        high=candles["high"],
        low=candles["low"],
        close=candles["close"],
        name="price",
        increasing_line_color=theme.GREEN,
        decreasing_line_color=theme.RED,
        row=1,
        col=1,
    )
    for feature in overlays:
        figure.add_scatter(
            x=candles["ts"],
            y=candles[feature],
            name=OVERLAYS[feature],
            mode="lines",
            line=OVERLAY_LINES[feature],
            row=1,
            col=1,
        )
    figure.update_yaxes(title_text="price", row=1, col=1)


def _add_volume(figure: go.Figure, candles: pd.DataFrame) -> None:
    rising = candles["close"] >= candles["open"]
    figure.add_bar(
        x=candles["ts"],
        y=candles["volume"],
        name="volume",
        marker_color=rising.map({True: theme.GREEN, False: theme.RED}),
        hovertemplate="%{x}<br>%{y:,.0f} traded<extra></extra>",
        row=2,
        col=1,
    )
    figure.update_yaxes(title_text="volume", row=2, col=1)


def _add_indicator(figure: go.Figure, candles: pd.DataFrame, indicator: str) -> None:
    name = INDICATORS[indicator]
    line = {"color": theme.PURPLE, "width": 1.5}
    figure.add_scatter(x=candles["ts"], y=candles[indicator], name=name, line=line, row=3, col=1)
    figure.update_yaxes(title_text=name, row=3, col=1)


def _add_flags(figure: go.Figure, candles: pd.DataFrame, flags: pd.DataFrame) -> None:
    above = 1.01 * candles.set_index("ts")["high"]
    for severity, marker in FLAG_MARKERS.items():
        part = flags[flags["severity"] == severity]
        if part.empty:
            continue
        figure.add_scatter(
            x=part["ts"],
            y=above.reindex(part["ts"]),
            mode="markers",
            name=f"flag: {severity}",
            marker={"symbol": marker, "size": 9, "color": theme.ORANGE},
            text=part["text"],
            hovertemplate="%{x}<br>%{text}<extra></extra>",
            row=1,
            col=1,
        )
