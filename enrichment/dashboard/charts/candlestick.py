"""A candlestick chart with indicators, volume, flagged bars and corporate actions."""

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
MAX_HOLES = 600  # drawn
FLAG_MARKERS = {
    Severity.ERROR: "x",
    Severity.WARNING: "triangle-down",
    Severity.INFO: "circle-open",
}

EVENT_MARKERS = {"split": ("diamond", theme.PURPLE), "dividend": ("circle", theme.BLUE)}


def candlestick(
    candles: pd.DataFrame,
    flags: pd.DataFrame,
    overlays: Sequence[str],
    indicator: str | None,
    *,
    continuous: bool = False,
    missing: pd.Series | None = None,
    bars_each: int = 1,
    events: pd.DataFrame | None = None,
) -> go.Figure:
    """Candles with overlays and flags, the volume below them, and below that one indicator.

    Args:
        candles: Columns ts, open, high, low, close, volume and the features; maybe outside: whether
            a candle lies outside of the regular session, so that its volume is grey.
        flags: Columns ts, severity, text.
        overlays: Features in the unit of prices, keys of OVERLAYS.
        indicator: The feature in a panel of its own, a key of INDICATORS.
        continuous: Whether the market never closes; otherwise the candles stand side by side,
            without gaps for nights and weekends. Side by side also where clocks are set back.
        missing: The times of bars that should exist and do not: they are holes.
        bars_each: Bars per candle.
        events: Splits and dividends, columns ts (the first possible start of a bar after it), kind
            (a key of EVENT_MARKERS) and text.
    """
    rows = _with_holes(candles, missing, bars_each)
    flags = _placed(flags, rows, bars_each)
    events = _at_candles(events, rows, bars_each)
    by_date = continuous and not _repeats_an_hour(rows)
    order = pd.concat([rows["ts"], flags["ts"]]).drop_duplicates().sort_values()
    if not by_date:
        daily = _is_daily(rows)
        order, *labelled = (
            _categories(times, daily) for times in (order, flags["ts"], events["ts"], rows["ts"])
        )
        flags, events, rows = (
            part.assign(ts=ts) for part, ts in zip((flags, events, rows), labelled, strict=True)
        )
    heights = [0.66, 0.17, 0.17] if indicator else [0.78, 0.22]
    figure = make_subplots(
        rows=len(heights), cols=1, shared_xaxes=True, row_heights=heights, vertical_spacing=0.03
    )
    _add_prices(figure, rows)
    _add_overlays(figure, rows, overlays)
    _add_volume(figure, rows)
    if indicator:
        _add_indicator(figure, rows, indicator)
    _add_holes(figure, rows)
    _add_flags(figure, flags)
    _add_events(figure, events)
    figure.update_xaxes(rangeslider_visible=False)
    if not by_date:
        figure.update_xaxes(
            type="category",
            categoryorder="array",
            categoryarray=list(order),
            nticks=10,
        )
    return theme.apply_layout(figure, 560)


def _with_holes(candles: pd.DataFrame, missing: pd.Series | None, bars_each: int) -> pd.DataFrame:
    """The candles with an empty row per missing candle, so that lines are interrupted there.

    A long hole is drawn as MAX_HOLES rows divided by the number of holes, its first ones.
    """
    if missing is None or missing.empty or candles.empty:
        return candles
    hole = candles["ts"].searchsorted(missing)  # the same for all bars between two candles
    place = missing.groupby(hole).cumcount()
    longest = max(1, MAX_HOLES // len(set(hole)))
    drawn = missing[(place % bars_each == bars_each - 1) & (place < longest * bars_each)]
    holes = drawn.to_frame("ts").reindex(columns=candles.columns)
    return pd.concat([candles, holes]).sort_values("ts", ignore_index=True)


def _placed(flags: pd.DataFrame, rows: pd.DataFrame, bars_each: int) -> pd.DataFrame:
    """The flags with the ts of the candle that they fall into, and the price to draw them at.

    Where each candle is one bar, a flag has its own time: that of a quarantined bar is in a hole.
    """
    if flags.empty or rows.empty:
        return flags.iloc[:0].assign(price=[])
    positions = (rows["ts"].searchsorted(flags["ts"], side="right") - 1).clip(0)
    prices = 1.01 * rows["high"].ffill().bfill().iloc[positions].to_numpy()
    if bars_each == 1:
        return flags.assign(price=prices)
    starts = pd.Series(rows["ts"].iloc[positions].array, index=flags.index)
    own = _categories(flags["ts"], _is_daily(rows))
    text = "in this candle, bar of " + own + ": " + flags["text"]
    return flags.assign(ts=starts, price=prices, text=text)


def _at_candles(events: pd.DataFrame | None, rows: pd.DataFrame, bars_each: int) -> pd.DataFrame:
    """The events in the range of the candles, with ts of the first candle that shows them."""
    if events is None or events.empty or rows.empty:
        return pd.DataFrame(columns=["ts", "kind", "text", "price"])
    if bars_each == 1:
        positions = rows["ts"].searchsorted(events["ts"])
    else:  # the candle that holds that time
        positions = rows["ts"].searchsorted(events["ts"], side="right") - 1
    shown = (events["ts"] > rows["ts"].iloc[0]).to_numpy() & (positions < len(rows))
    candles = rows["low"].ffill().iloc[positions[shown]]
    starts = rows["ts"].iloc[positions[shown]]
    placed: pd.DataFrame = events[shown].assign(ts=starts.array, price=0.99 * candles.to_numpy())
    return placed


def _is_daily(rows: pd.DataFrame) -> bool:
    return bool((rows["ts"] == rows["ts"].dt.normalize()).all())


def _repeats_an_hour(rows: pd.DataFrame) -> bool:
    """Whether clocks are set back in the range: a date axis would draw both hours at one place."""
    return bool(rows["ts"].dt.tz_localize(None).duplicated().any())


def _categories(times: pd.Series, daily: bool) -> pd.Series:
    """Wall-clock times as labels, with the offset from UTC where they occur twice."""
    return times.map(lambda time: f"{time:%Y-%m-%d}" if daily else _wall_clock(time))


def _wall_clock(time: pd.Timestamp) -> str:
    ambiguous = time.replace(fold=0).utcoffset() != time.replace(fold=1).utcoffset()
    return f"{time:%Y-%m-%d %H:%M%z}" if ambiguous else f"{time:%Y-%m-%d %H:%M}"


def _add_prices(figure: go.Figure, candles: pd.DataFrame) -> None:
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
    figure.update_yaxes(title_text="price", row=1, col=1)


def _add_overlays(figure: go.Figure, candles: pd.DataFrame, overlays: Sequence[str]) -> None:
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


def _add_volume(figure: go.Figure, candles: pd.DataFrame) -> None:
    rising = candles["close"] >= candles["open"]
    color = rising.map({True: theme.GREEN, False: theme.RED})
    figure.add_bar(
        x=candles["ts"],
        y=candles["volume"],
        name="volume",
        marker_color=color.mask(_is_outside(candles), theme.GREY),
        hovertemplate="%{x}<br>%{y:,.0f} traded<extra></extra>",
        row=2,
        col=1,
    )
    figure.update_yaxes(title_text="volume", row=2, col=1)


def _is_outside(candles: pd.DataFrame) -> pd.Series:
    outside: pd.Series = candles.get("outside", pd.Series(False, index=candles.index))
    return outside.eq(True)


def _add_indicator(figure: go.Figure, candles: pd.DataFrame, indicator: str) -> None:
    name = INDICATORS[indicator]
    line = {"color": theme.PURPLE, "width": 1.5}
    figure.add_scatter(x=candles["ts"], y=candles[indicator], name=name, line=line, row=3, col=1)
    figure.update_yaxes(title_text=name, row=3, col=1)


def _add_holes(figure: go.Figure, rows: pd.DataFrame) -> None:
    holes = rows["close"].isna()
    if not holes.any():
        return
    figure.add_scatter(
        x=rows.loc[holes, "ts"],
        y=rows["close"].ffill()[holes],
        mode="markers",
        name="missing bar",
        marker={"symbol": "line-ew-open", "size": 7, "color": theme.GREY},
        hovertemplate="%{x}<br>missing<extra></extra>",
        row=1,
        col=1,
    )


def _add_flags(figure: go.Figure, flags: pd.DataFrame) -> None:
    for severity, symbol in FLAG_MARKERS.items():
        part = flags[flags["severity"] == severity]
        _add_markers(figure, part, f"flag: {severity}", symbol, theme.ORANGE)


def _add_events(figure: go.Figure, events: pd.DataFrame) -> None:
    for kind, (symbol, color) in EVENT_MARKERS.items():
        _add_markers(figure, events[events["kind"] == kind], kind, symbol, color)


def _add_markers(
    figure: go.Figure, points: pd.DataFrame, name: str, symbol: str, color: str
) -> None:
    """Markers at the columns ts and price that show the column text; no trace without points."""
    if points.empty:
        return
    figure.add_scatter(
        x=points["ts"],
        y=points["price"],
        mode="markers",
        name=name,
        marker={"symbol": symbol, "size": 9, "color": color},
        text=points["text"],
        hovertemplate="%{x}<br>%{text}<extra></extra>",
        row=1,
        col=1,
    )
