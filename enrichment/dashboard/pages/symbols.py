"""Symbols: is it current, why not, and what is tracked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import timedelta
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from enrichment.dashboard.charts import quality
from enrichment.dashboard.components import (
    ago,
    auto_refresh,
    empty_state,
    guarded,
    local,
    moment,
    paginator,
    refresh_on_change,
    refreshed_at,
    run_command,
    table,
    with_reason,
)
from enrichment.dashboard.data.cache import cached_figure, cached_read
from enrichment.dashboard.services import actor, commands, services
from enrichment.dashboard.times import zone
from enrichment.domain.model import AssetClass, Timeframe
from enrichment.domain.symbol_csv import read_csv
from enrichment.services.commands import parse_tracked
from enrichment.warehouse.read_models.candles import Candles
from enrichment.warehouse.read_models.dto import Pause
from enrichment.warehouse.read_models.quality_all import ScoreOfDay
from enrichment.warehouse.read_models.quality_symbol import SeriesReport
from enrichment.warehouse.read_models.symbols import SymbolDetails, TimeframeState

ON_PAGE = 100
MOST = 20_000
STATUSES = ("healthy", "warning", "stale", "error", "not_enriched")
SIGNS = dict(zip(STATUSES, ("green", "yellow", "orange", "red", "gray"), strict=True))
SPANS = {"3 months": 92, "1 year": 366, "5 years": 1827, "everything": 36_500}
OVERLAYS = ("sma_20", "sma_50", "bollinger_upper", "bollinger_lower")
PANELS = ("rsi_14", "volatility_20", "atr_14", "macd", "obv")
COLUMNS = {
    "quality": st.column_config.ProgressColumn(format="%.3f", min_value=0.0, max_value=1.0),
    "bars": st.column_config.NumberColumn(format="localized"),
    "why": st.column_config.TextColumn(width="large"),
}


@cached_read
def listed(search: str, status: str, after: str | None) -> list[SymbolDetails]:
    return services().reader.symbols.page(
        ON_PAGE, search=search or None, status=status or None, after=after
    )


@cached_read
def names(search: str, status: str) -> tuple[list[str], dict[str, int], pd.Timestamp]:
    reader = services().reader
    found = reader.symbols.names(MOST, search=search or None, status=status or None)
    return found, dict(reader.night().statuses), pd.Timestamp.now(tz="UTC")


@cached_read
def one_symbol(name: str) -> tuple[SymbolDetails | None, Pause | None]:
    reader = services().reader
    pauses = (p for p in reader.pauses() if (p.scope, p.key) == ("symbol", name))
    return reader.symbols.find(name), next(pauses, None)


@cached_read
def score_days() -> list[ScoreOfDay]:
    return services().reader.quality_overview.symbol_days()


@st.cache_data(ttl=30, show_spinner=False)
def candles(symbol: str, timeframe: str, days: int, last: pd.Timestamp, panel: str) -> Candles:
    end = last.to_pydatetime() + timedelta(seconds=1)
    return services().reader.prices.candles(
        symbol, Timeframe.parse(timeframe), end - timedelta(days=days), end, (*OVERLAYS, panel)
    )


@cached_read
def reports(symbol: str) -> list[SeriesReport]:
    return services().reader.reports.of(symbol) or []


def search() -> str:
    return str(st.session_state.get("search") or "").strip()


def status() -> str:
    return str(st.session_state.get("status") or "")


def sign(status: str) -> str:
    return f":{SIGNS.get(status, 'gray')}[●]"


def overview() -> None:
    """The list with its freshness, page by page, and the lowest scores by day."""
    found, statuses, now = names(search(), status())
    refreshed_at(now.to_pydatetime())
    if not found:
        asked = search() or status()
        empty_state("No symbol fits." if asked else "No symbols are tracked. Add one below.")
        return
    st.markdown(
        " · ".join(
            f"{sign(kind)} {statuses[kind]:,} {kind.replace('_', ' ')}"
            for kind in STATUSES
            if kind in statuses
        )
    )
    page = paginator(len(found), ON_PAGE, "symbols", key="page")
    after = found[page * ON_PAGE - 1] if page else None
    table(rows_of(listed(search(), status(), after), now), COLUMNS, key="symbols")
    if len(found) == MOST:
        st.caption(f"the first {MOST:,} by name: search for others")
    scores = score_days()
    if scores:
        st.subheader("Lowest scores by day")
        frame = pd.DataFrame([asdict(score) for score in scores])
        st.plotly_chart(quality.symbol_days(frame), key="score-days")


def rows_of(found: Sequence[SymbolDetails], now: pd.Timestamp) -> list[dict[str, Any]]:
    return [
        {
            "symbol": symbol.symbol,
            "class": symbol.asset_class if symbol.active else f"{symbol.asset_class}, inactive",
            "timeframe": state.timeframe,
            "status": state.status.replace("_", " "),
            "quality": state.quality_score,
            "bars": state.bars,
            "last bar": state.last_ts,
            "enriched": ago(state.last_success_at, now) if state.last_success_at else "never",
            "source": f"{state.source or '–'}{' (simulated)' if symbol.simulated else ''}",
            "why": "; ".join(state.reasons) or state.last_error or "",
        }
        for symbol in found
        for state in symbol.timeframes
    ]


def looked_at() -> object:
    """What is told of the chosen symbol."""
    found, _, _ = names(search(), status())
    name = st.session_state.get("symbol") or next(iter(found), None)
    return found, one_symbol(name) if name else None


def one() -> None:
    """One symbol: its prices with features and flags, and what can be done to it."""
    found, _, _ = names(search(), status())
    if not found:
        return
    st.subheader("One symbol")
    with st.container(horizontal=True, vertical_alignment="bottom"):
        name = st.selectbox("Symbol", found, key="symbol", width=260) or found[0]
        chosen, pause = one_symbol(name)
        if chosen is None:
            return
        frames = [state.timeframe for state in chosen.timeframes]
        timeframe = st.selectbox("Timeframe", frames, key="timeframe", width=140)
        span = st.selectbox("Span", list(SPANS), index=1, key="span", width=160)
        panel = st.selectbox("Below", PANELS, key="panel", width=180)
    condition(chosen, pause)
    steer(chosen, paused=pause is not None)
    state = next((s for s in chosen.timeframes if s.timeframe == timeframe), chosen.timeframes[0])
    picture(chosen, state, SPANS[span or "1 year"], panel or PANELS[0])


def condition(chosen: SymbolDetails, pause: Pause | None) -> None:
    """What keeps the symbol from being enriched, and why it is not as it should be."""
    if not chosen.active:
        st.warning(f"{chosen.symbol} is no longer enriched.", icon=":material/block:")
    if pause is not None:
        until = f" until {moment(pause.until)}" if pause.until else ""
        why = f": {pause.reason}" if pause.reason else ""
        st.warning(
            f"Paused by {pause.paused_by} since {moment(pause.at)}{until}{why}",
            icon=":material/pause_circle:",
        )
    for state in chosen.timeframes:
        if reasons := "; ".join(state.reasons) or state.last_error:
            st.caption(f"{sign(state.status)} **{state.timeframe}** {reasons}")


def steer(chosen: SymbolDetails, *, paused: bool) -> None:
    name = chosen.symbol
    with st.container(horizontal=True):
        st.button(
            f"Trigger {name}",
            icon=":material/play_arrow:",
            key="trigger-one",
            disabled=not chosen.active,
            on_click=lambda: run_command(
                lambda: commands().trigger(actor=actor(), symbols=[name]), f"Triggered {name}"
            ),
        )
        with_reason(
            "Pause",
            f"No run of {name} starts until it is resumed.",
            lambda reason: run_command(
                lambda: commands().pause(actor=actor(), scope="symbol", key=name, reason=reason),
                f"{name} is paused",
            ),
            key="pause-one",
            disabled=paused or not chosen.active,
        )
        st.button(
            "Resume",
            icon=":material/resume:",
            key="resume-one",
            disabled=not paused,
            on_click=lambda: run_command(
                lambda: commands().resume(actor=actor(), scope="symbol", key=name),
                f"{name} goes on",
            ),
        )
        with_reason(
            "Deactivate",
            f"{name} is no longer enriched; what is stored of it stays.",
            lambda reason: run_command(
                lambda: commands().untrack(name, actor=actor(), reason=reason),
                f"{name} is no longer enriched",
            ),
            key="deactivate",
            disabled=not chosen.active,
        )


def picture(chosen: SymbolDetails, state: TimeframeState, days: int, panel: str) -> None:
    if state.last_ts is None:
        empty_state(f"Nothing is stored of {chosen.symbol} {state.timeframe} yet.")
        return
    last = pd.Timestamp(state.last_ts)
    found = candles(chosen.symbol, state.timeframe, days, last, panel)
    report = next((r for r in reports(chosen.symbol) if r.timeframe == state.timeframe), None)
    flags = pd.DataFrame(
        [
            {
                "ts": pd.Timestamp(f.timestamp),
                "severity": f.severity,
                "text": f"{f.check}: {f.detail}",
            }
            for f in (report.flags if report else ())
            if f.timestamp >= found.frame["ts"].min()
        ],
        columns=["ts", "severity", "text"],
    )
    series = (chosen.symbol, state.timeframe, last, days, len(flags))
    continuous = chosen.asset_class == AssetClass.CRYPTO
    figure = chart(series, zone().key, panel, continuous, found.frame, flags)
    each = f" · one candle stands for {found.bars_each} bars" if found.bars_each > 1 else ""
    simulated = " · **simulated** by the sandbox vendor" if chosen.simulated else ""
    st.caption(f"{state.bars:,} bars stored{each}{simulated} · {len(flags)} flags in view")
    st.plotly_chart(figure, key="candles")
    if len(flags):
        with st.expander("The flags as a table"):
            table(flags, key="flags")


@cached_figure
def chart(
    series: tuple[str, str, pd.Timestamp, int, int],
    zone_name: str,
    panel: str,
    continuous: bool,
    _frame: pd.DataFrame,
    _flags: pd.DataFrame,
) -> go.Figure:
    """series: symbol, timeframe, its last bar, how many days and how many flags are shown."""
    if Timeframe.parse(series[1]).duration < timedelta(days=1):
        _frame, _flags = local(_frame), local(_flags)  # a day's bar is of the day wherever one is
    return quality.candlestick(_frame, _flags, OVERLAYS, panel, continuous=continuous)


def add() -> None:
    chosen = st.session_state
    run_command(
        lambda: commands().track(
            [
                parse_tracked(
                    chosen["new-symbol"], chosen["new-class"], ",".join(chosen["new-timeframes"])
                )
            ],
            actor=actor(),
        ),
        f"{chosen['new-symbol'].upper()} is tracked: trigger it, or wait for the night",
    )


def management() -> None:
    """Adding one symbol, and importing many."""
    left, right = st.columns(2)
    with left, st.form("add", clear_on_submit=False):
        st.subheader("Track a symbol")
        st.text_input("Symbol", key="new-symbol", placeholder="AAPL, BRK.B or X:BTCUSD")
        st.selectbox("Asset class", [kind.value for kind in AssetClass], key="new-class")
        st.multiselect("Timeframes", [t.value for t in Timeframe], ["1d"], key="new-timeframes")
        st.form_submit_button("Track", icon=":material/add:", on_click=add)
    with right, st.container(border=True):
        st.subheader("Import a CSV file")
        st.caption("header: symbol,asset_class,timeframes · timeframes separated by |")
        file = st.file_uploader("CSV file", type="csv", key="file", label_visibility="collapsed")
        if file is not None:
            imported(file.getvalue().decode("utf-8", "replace"))


def imported(content: str) -> None:
    found = read_csv(content)
    if found.bad_lines:
        st.error(f"{len(found.bad_lines)} bad lines: nothing is imported until they are mended.")
        table([asdict(line) for line in found.bad_lines], key="bad-lines")
        return
    rows = [
        {"symbol": t.symbol, "class": t.asset_class, "timeframes": ", ".join(t.timeframes)}
        for t in found.symbols
    ]
    table(rows, key="preview")
    with_reason(
        f"Track these {len(rows)} symbols",
        "Those tracked already get the asset class and the timeframes of the file.",
        lambda reason: run_command(
            lambda: commands().track(found.symbols, actor=actor(), reason=reason),
            f"{len(rows)} symbols are tracked",
        ),
        key="import",
    )


st.title("Symbols")
with st.container(horizontal=True, vertical_alignment="bottom"):
    st.text_input("Search", key="search", placeholder="a part of the name", bind="query-params")
    st.selectbox(
        "Status",
        STATUSES,
        index=None,
        key="status",
        placeholder="any",
        format_func=lambda kind: kind.replace("_", " "),
        bind="query-params",
        width=220,
    )
auto_refresh(overview)
refresh_on_change(one, of=looked_at)
guarded(management)
