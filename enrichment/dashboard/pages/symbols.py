"""Symbols: is it current, why not, and what is tracked."""

from __future__ import annotations

from dataclasses import asdict
from datetime import timedelta

import pandas as pd
import streamlit as st

from enrichment.commands import parse_tracked
from enrichment.dashboard import quality_charts
from enrichment.dashboard.page import act, ago, as_of, calmly, live, nothing, table, with_reason
from enrichment.dashboard.services import ACTOR, commands, services
from enrichment.domain import AssetClass, Timeframe
from enrichment.storage.catalogue import CataloguedSymbol, TimeframeState
from enrichment.storage.price_chart import Candles
from enrichment.storage.quality_overview import ScoreOfDay
from enrichment.storage.quality_report import SeriesReport
from enrichment.symbol_lists import read_csv

SHOWN = 500
SPANS = {"3 months": 92, "1 year": 366, "5 years": 1827, "everything": 36_500}
OVERLAYS = ("sma_20", "sma_50", "bollinger_upper", "bollinger_lower")
PANELS = ("rsi_14", "volatility_20", "atr_14", "macd", "obv")


@st.cache_data(ttl=2, show_spinner=False)
def listed(search: str) -> tuple[list[CataloguedSymbol], pd.Timestamp]:
    found = services().reader.symbols.page(SHOWN, search=search or None)
    return found, pd.Timestamp.now(tz="UTC")


@st.cache_data(ttl=2, show_spinner=False)
def score_days() -> list[ScoreOfDay]:
    return services().reader.quality_overview.symbol_days()


@st.cache_data(ttl=30, show_spinner=False)
def candles(symbol: str, timeframe: str, days: int, last: pd.Timestamp, panel: str) -> Candles:
    end = last.to_pydatetime() + timedelta(seconds=1)
    return services().reader.prices.candles(
        symbol, Timeframe.parse(timeframe), end - timedelta(days=days), end, (*OVERLAYS, panel)
    )


@st.cache_data(ttl=2, show_spinner=False)
def reports(symbol: str) -> list[SeriesReport]:
    return services().reader.reports.of(symbol) or []


def search() -> str:
    return str(st.session_state.get("search") or "").strip()


def overview() -> None:
    """The list with its freshness, and the lowest scores by day."""
    found, now = listed(search())
    if not found:
        nothing("No symbol fits." if search() else "No symbols are tracked. Add one below.")
        return
    rows = [
        {
            "symbol": symbol.symbol,
            "class": symbol.asset_class,
            "active": "yes" if symbol.active else "no",
            "timeframe": state.timeframe,
            "status": state.status.replace("_", " "),
            "quality": state.quality_score,
            "bars": state.bars,
            "last bar": state.last_ts,
            "enriched": ago(state.last_success_at, now) if state.last_success_at else "never",
            "source": f"{state.source or '–'}{' (simulated)' if symbol.simulated else ''}",
        }
        for symbol in found
        for state in symbol.timeframes
    ]
    quality = st.column_config.ProgressColumn(format="%.3f", min_value=0.0, max_value=1.0)
    table(rows, {"quality": quality}, key="symbols")
    if len(found) == SHOWN:
        st.caption(f"the first {SHOWN} by name: search for others")
    scores = score_days()
    if scores:
        st.subheader("Lowest scores by day")
        frame = pd.DataFrame([asdict(score) for score in scores])
        st.plotly_chart(quality_charts.symbol_days(frame), key="score-days")
    as_of(now.to_pydatetime())


def one() -> None:
    """One symbol: its prices with features and flags, and what can be done to it."""
    found, _ = listed(search())
    if not found:
        return
    st.subheader("One symbol")
    by_name = {symbol.symbol: symbol for symbol in found}
    with st.container(horizontal=True, vertical_alignment="bottom"):
        name = st.selectbox("Symbol", list(by_name), key="symbol", width=260)
        chosen = by_name[name or found[0].symbol]
        frames = [state.timeframe for state in chosen.timeframes]
        timeframe = st.selectbox("Timeframe", frames, key="timeframe", width=140)
        span = st.selectbox("Span", list(SPANS), index=1, key="span", width=160)
        panel = st.selectbox("Below", PANELS, key="panel", width=180)
    steer(chosen)
    state = next((s for s in chosen.timeframes if s.timeframe == timeframe), chosen.timeframes[0])
    picture(chosen, state, SPANS[span or "1 year"], panel or PANELS[0])


def steer(chosen: CataloguedSymbol) -> None:
    name = chosen.symbol
    with st.container(horizontal=True):
        st.button(
            f"Trigger {name}",
            icon=":material/play_arrow:",
            key="trigger-one",
            disabled=not chosen.active,
            on_click=lambda: act(
                lambda: commands().trigger(actor=ACTOR, symbols=[name]), f"Triggered {name}"
            ),
        )
        with_reason(
            "Pause",
            f"No run of {name} starts until it is resumed.",
            lambda reason: act(
                lambda: commands().pause(actor=ACTOR, scope="symbol", key=name, reason=reason),
                f"{name} is paused",
            ),
            key="pause-one",
            disabled=not chosen.active,
        )
        st.button(
            "Resume",
            icon=":material/resume:",
            key="resume-one",
            on_click=lambda: act(
                lambda: commands().resume(actor=ACTOR, scope="symbol", key=name), f"{name} goes on"
            ),
        )
        with_reason(
            "Deactivate",
            f"{name} is no longer enriched; what is stored of it stays.",
            lambda reason: act(
                lambda: commands().untrack(name, actor=ACTOR, reason=reason),
                f"{name} is no longer enriched",
            ),
            key="deactivate",
            disabled=not chosen.active,
        )


def picture(chosen: CataloguedSymbol, state: TimeframeState, days: int, panel: str) -> None:
    if state.last_ts is None:
        nothing(f"Nothing is stored of {chosen.symbol} {state.timeframe} yet.")
        return
    last = pd.Timestamp(state.last_ts)
    drawn = candles(chosen.symbol, state.timeframe, days, last, panel)
    report = next((r for r in reports(chosen.symbol) if r.timeframe == state.timeframe), None)
    flags = pd.DataFrame(
        [
            {"ts": f.timestamp, "severity": f.severity, "text": f"{f.check}: {f.detail}"}
            for f in (report.flags if report else ())
            if f.timestamp >= drawn.frame["ts"].min()
        ],
        columns=["ts", "severity", "text"],
    )
    each = f" · one candle stands for {drawn.bars_each} bars" if drawn.bars_each > 1 else ""
    simulated = " · **simulated** by the sandbox vendor" if chosen.simulated else ""
    st.caption(f"{state.bars:,} bars stored{each}{simulated} · {len(flags)} flags in view")
    st.plotly_chart(quality_charts.candlestick(drawn.frame, flags, OVERLAYS, panel), key="candles")
    if len(flags):
        with st.expander("The flags as a table"):
            table(flags, key="flags")


def add() -> None:
    chosen = st.session_state
    act(
        lambda: commands().track(
            [
                parse_tracked(
                    chosen["new-symbol"], chosen["new-class"], ",".join(chosen["new-timeframes"])
                )
            ],
            actor=ACTOR,
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
    st.button(
        f"Track these {len(rows)} symbols",
        type="primary",
        key="import",
        on_click=lambda: act(
            lambda: commands().track(found.symbols, actor=ACTOR),
            f"{len(rows)} symbols are tracked",
        ),
    )


st.title("Symbols")
st.text_input("Search", key="search", placeholder="a part of the name", bind="query-params")
live(overview)
calmly(one)
calmly(management)
