"""Symbols: the status of every series, one symbol's prices, and which symbols are tracked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from enrichment.dashboard.auth import actor, is_operator
from enrichment.dashboard.charts import quality
from enrichment.dashboard.charts.candlestick import INDICATORS, OVERLAYS, candlestick
from enrichment.dashboard.components import (
    BAR,
    PROVIDER,
    SCORE,
    WIDE_TEXT,
    action_button,
    button_with_reason,
    coloured,
    empty_state,
    paginator,
    run_command,
    select,
    sentences,
    table,
)
from enrichment.dashboard.corporate_actions import actions_list, chart_events, read_actions
from enrichment.dashboard.data.cache import cached_figure, cached_read
from enrichment.dashboard.data.jobs import read_newest_log
from enrichment.dashboard.data.request_plan import trigger_preview
from enrichment.dashboard.formatting import age, label, provider_text
from enrichment.dashboard.refresh import Section, guarded, show
from enrichment.dashboard.services import commands, services
from enrichment.dashboard.times import bar_time, display_zone, format_time, to_display_zone
from enrichment.dashboard.zoom import zoomable_chart
from enrichment.domain.corporate_actions import Adjustment
from enrichment.domain.escape import for_markdown
from enrichment.domain.model import AssetClass, StockSession, Timeframe
from enrichment.domain.plurals import counted
from enrichment.domain.statuses import PauseScope, SeriesStatus
from enrichment.domain.symbol_csv import MAX_SHOWN, parse_tracked, read_csv
from enrichment.warehouse.read_models.bars import Candles
from enrichment.warehouse.read_models.dto import Pause
from enrichment.warehouse.read_models.quality_all import ScoreOfDay
from enrichment.warehouse.read_models.quality_symbol import SeriesReport
from enrichment.warehouse.read_models.symbols import SymbolDetails, TimeframeState

PAGE_SIZE = 100
MAX_SYMBOLS = 20_000
MAX_SEARCH = 100  # characters
RANGES = {92: "3 months", 366: "1 year", 1827: "5 years", 36_500: "all"}  # days → label
BASES = {
    Adjustment.NONE: "as traded",
    Adjustment.SPLIT: "adjusted for splits",
    Adjustment.TOTAL: "adjusted for splits and dividends",
}
COLUMNS = {
    "quality": SCORE,
    "bars": st.column_config.NumberColumn(format="localized"),
    "last bar": BAR,
    "provider": PROVIDER,
    "why": WIDE_TEXT,
}


@cached_read
def read_page(search: str, status: str, after: str | None) -> list[SymbolDetails]:
    return services().reader.symbols.page(
        PAGE_SIZE, search=search or None, status=status or None, after=after
    )


@cached_read
def read_names(search: str, status: str) -> tuple[list[str], dict[str, int]]:
    """The names of the symbols that match, and all series' counts by status."""
    reader = services().reader
    names = reader.symbols.names(MAX_SYMBOLS, search=search or None, status=status or None)
    return names, dict(reader.night().statuses)


@cached_read
def read_symbol(name: str) -> tuple[SymbolDetails | None, Pause | None]:
    reader = services().reader
    pauses = (p for p in reader.pauses() if (p.scope, p.key) == (PauseScope.SYMBOL, name))
    return reader.symbols.find(name), next(pauses, None)


@cached_read
def read_scores_by_day() -> tuple[list[ScoreOfDay], int]:
    """The scores of the symbols with the lowest ones, and how many symbols have scores."""
    quality_all = services().reader.quality_all
    return quality_all.symbol_days(), quality_all.scored_symbols()


@st.cache_data(ttl=30, show_spinner=False)
def read_candles(
    symbol: str,
    timeframe: str,
    days: int,
    last: pd.Timestamp,
    indicator: str,
    kind: str,
    adjust: Adjustment,
    version: tuple[datetime | None, int, tuple[str, ...]],
) -> Candles:
    """version: What other candles follow from: the last run, the number of bars, the corporate
    actions.
    """
    end = last.to_pydatetime() + timedelta(seconds=1)
    features = (*OVERLAYS, indicator)
    return services().reader.prices.candles(
        symbol,
        Timeframe.parse(timeframe),
        end - timedelta(days=days),
        end,
        features,
        asset_class=AssetClass(kind),
        adjustment=adjust,
    )


@cached_read
def read_reports(symbol: str) -> list[SeriesReport]:
    return services().reader.reports.of(symbol) or []


def filters() -> tuple[str, str]:
    """The search text and the status; empty where nothing is filtered.

    The text is cut to MAX_SEARCH characters, and its NULs, which Postgres can't hold, are replaced.
    """
    state = st.session_state
    search = str(state.get("search") or "").strip()[:MAX_SEARCH].replace("\0", "\ufffd")
    return search, str(state.get("status") or "")


def symbol_list() -> None:
    """The symbols that match the filters, page by page, and the lowest scores by day."""
    names, counts = read_names(*filters())
    if not names:
        filtered = any(filters())
        empty_state(
            "No symbol matches these filters."
            if filtered
            else "No symbols are tracked. Track one below."
        )
        return
    st.markdown(
        " · ".join(
            f"{coloured('●', status)} {counts[status]:,} {label(status)}"
            for status in SeriesStatus
            if status in counts
        )
        + (
            f" · of all {counted(sum(counts.values()), 'series', 'series')}"
            if any(filters())
            else ""
        )
    )
    page = paginator(len(names), PAGE_SIZE, "symbols", key="page")
    table(page_rows(names, page), COLUMNS, key="symbols")
    if len(names) == MAX_SYMBOLS:
        st.caption(f"the first {MAX_SYMBOLS:,} by name: use the search to find others")


def scores_by_day() -> None:
    scores, scored = read_scores_by_day()
    if scores:
        st.subheader("Lowest scores by day")
        frame = pd.DataFrame([asdict(score) for score in scores])
        st.plotly_chart(quality.scores_by_day(frame), key="scores-by-day")
        st.caption(
            f"{frame['symbol'].nunique():,} of {counted(scored, 'symbol')} with scores, those with "
            "the lowest means: the page Data quality lists the series"
        )


def list_inputs() -> object:
    names, counts = read_names(*filters())
    page = int(st.session_state.get("page") or 1) - 1
    rows = page_rows(names, page) if page * PAGE_SIZE < len(names) else []
    return names, counts, rows


def page_rows(names: Sequence[str], page: int) -> list[dict[str, Any]]:
    after = names[page * PAGE_SIZE - 1] if page else None
    return symbol_rows(read_page(*filters(), after), pd.Timestamp.now(tz="UTC"))


def symbol_rows(symbols: Sequence[SymbolDetails], now: pd.Timestamp) -> list[dict[str, Any]]:
    return [
        {
            "symbol": symbol.symbol,
            "asset class": symbol.asset_class + ("" if symbol.active else ", untracked"),
            "timeframe": series.timeframe,
            "status": series.status,
            "quality": series.quality_score,
            "bars": series.bars,
            "last bar": bar_time(series.last_ts, series.timeframe),
            "enriched": age(series.last_success_at, now) if series.last_success_at else "never",
            "provider": provider_text(symbol.symbol, series.source),
            "why": series.cause,
        }
        for symbol in symbols
        for series in symbol.timeframes
    ]


def symbol_inputs() -> object:
    """What the section of one symbol depends on."""
    names, _ = read_names(*filters())
    name = st.session_state.get("symbol") or next(iter(names), None)
    return names, ((read_symbol(name), read_reports(name), read_actions(name)) if name else None)


def one_symbol() -> None:
    """The selected symbol's status, actions and prices."""
    names, _ = read_names(*filters())
    if not names:
        return
    st.subheader("One symbol")
    with st.container(horizontal=True, vertical_alignment="bottom"):
        name = st.selectbox("Symbol", names, key="symbol", width=260) or names[0]
        symbol, pause = read_symbol(name)
        if symbol is None:
            empty_state(f"{name} is not in the list of symbols any more.")
            return
        timeframes = [series.timeframe for series in symbol.timeframes]
        timeframe = st.selectbox("Timeframe", timeframes, key="timeframe", width=140)
        days = st.selectbox("Range", list(RANGES), 1, RANGES.__getitem__, key="range", width=160)
        indicator = select("Indicator", INDICATORS, key="indicator", width=180)
        adjust = Adjustment.NONE if symbol.asset_class == AssetClass.CRYPTO else basis()
    status_messages(symbol, pause)
    symbol_actions(symbol, paused=pause is not None)
    series = next((s for s in symbol.timeframes if s.timeframe == timeframe), symbol.timeframes[0])
    price_chart(symbol, series, days, indicator, adjust)
    if symbol.asset_class != AssetClass.CRYPTO:
        actions_list(symbol.symbol)


def basis() -> Adjustment:
    """The basis of prices that is chosen, `adjust` in the address."""
    chosen = st.selectbox(
        "Adjust prices for",
        [adjustment.value for adjustment in Adjustment],
        list(Adjustment).index(Adjustment.SPLIT),
        key="adjust",
        bind="query-params",
        help="none: as traded; split: on today's share basis; total: also as if dividends had "
        "been reinvested",
        width=160,
    )
    return Adjustment(chosen)


def status_messages(symbol: SymbolDetails, pause: Pause | None) -> None:
    """Whether the symbol is enriched at all, and why its series are not healthy."""
    if not symbol.active:
        st.warning(f"{symbol.symbol} is not tracked any more.", icon=":material/block:")
    if pause is not None:
        until = f" until {format_time(pause.until)}" if pause.until else ""
        reason = f": {pause.reason}" if pause.reason else ""
        st.warning(
            for_markdown(
                f"Paused by {pause.paused_by} since {format_time(pause.at)}{until}{reason}"
            ),
            icon=":material/pause_circle:",
        )
    for series in symbol.timeframes:
        if series.cause:
            cause = for_markdown(series.cause)
            st.caption(f"{coloured('●', series.status)} **{series.timeframe}** {cause}")
    if SeriesStatus.ERROR in {series.status for series in symbol.timeframes}:
        failure_log(symbol.symbol)


def failure_log(symbol: str) -> None:
    log = read_newest_log(symbol)
    if log is not None:
        with st.expander(f"Log of its failed run, job {str(log.job_id)[:8]}"):
            st.code("\n".join(log.lines), language=None, wrap_lines=True)


def symbol_actions(symbol: SymbolDetails, *, paused: bool) -> None:
    name = symbol.symbol
    if symbol.active and is_operator():
        sentences(trigger_preview([name]))
    with st.container(horizontal=True):
        action_button(
            f"Trigger {name}",
            icon=":material/play_arrow:",
            key="trigger-one",
            disabled=not symbol.active,
            on_click=lambda: run_command(
                lambda: commands().trigger(actor=actor(), symbols=[name]), f"Triggered {name}"
            ),
        )
        button_with_reason(
            "Pause",
            f"{name} is not enriched until you resume it.",
            lambda reason: run_command(
                lambda: commands().pause(
                    actor=actor(), scope=PauseScope.SYMBOL, key=name, reason=reason
                ),
                f"{name} is paused",
            ),
            key="pause-one",
            disabled=paused or not symbol.active,
        )
        action_button(
            "Resume",
            icon=":material/resume:",
            key="resume-one",
            disabled=not paused,
            on_click=lambda: run_command(
                lambda: commands().resume(actor=actor(), scope=PauseScope.SYMBOL, key=name),
                f"{name} is resumed",
            ),
        )
        button_with_reason(
            "Untrack",
            f"{name} is not enriched any more; its stored data is kept.",
            lambda reason: run_command(
                lambda: commands().untrack(name, actor=actor(), reason=reason),
                f"{name} is untracked",
            ),
            key="untrack",
            disabled=not symbol.active,
        )


def price_chart(
    symbol: SymbolDetails, series: TimeframeState, days: int, indicator: str, adjust: Adjustment
) -> None:
    if series.last_ts is None:
        empty_state(f"No bars of {symbol.symbol} {series.timeframe} are stored yet.")
        return
    last = pd.Timestamp(series.last_ts)
    events = chart_events(read_actions(symbol.symbol), Timeframe.parse(series.timeframe))
    version = (series.last_success_at, series.bars, tuple(events["text"]))
    candles = read_candles(
        *(symbol.symbol, series.timeframe, days, last, indicator, symbol.asset_class),
        *(adjust, version),
    )
    first = candles.frame["ts"].min() if candles.bars_each > 1 else last - pd.Timedelta(days=days)
    flags = flags_from(symbol.symbol, series.timeframe, first)
    figure = price_figure(
        (symbol.symbol, series.timeframe, last, days, adjust, version, len(candles.missing)),
        tuple(flags["text"]),
        display_zone().key,
        indicator,
        symbol.asset_class == AssetClass.CRYPTO,
        candles,
        flags,
        events,
    )
    merged = f" · {candles.bars_each} bars per candle" if candles.bars_each > 1 else ""
    currency = f"{symbol.currency} " if symbol.currency else ""
    simulated = " · **simulated** by the sandbox" if symbol.simulated else ""
    st.caption(
        f"{counted(series.bars, 'bar')} stored{merged}{simulated} · {currency}{BASES[adjust]} · "
        f"{counted(len(flags), 'flag')} and {counted(len(candles.missing), 'missing bar')} in this "
        "range"
    )
    subject = (symbol.symbol, series.timeframe, days, indicator, adjust, display_zone().key)
    zoomable_chart(figure, key="candles", subject=subject)
    if len(flags):
        with st.expander("Flags as a table"):
            bars = [bar_time(ts, series.timeframe) for ts in flags["ts"]]
            table(flags.assign(ts=bars).rename(columns={"ts": "bar"}), key="flags")


def flags_from(symbol: str, timeframe: str, start: pd.Timestamp) -> pd.DataFrame:
    """A series' flags from this time on: columns ts, severity, text."""
    report = next((r for r in read_reports(symbol) if r.timeframe == timeframe), None)
    rows = [
        {
            "ts": pd.Timestamp(flag.timestamp),
            "severity": flag.severity,
            "text": f"{flag.check}: {flag.detail}",
        }
        for flag in (report.flags if report else ())
        if flag.timestamp >= start
    ]
    return pd.DataFrame(rows, columns=["ts", "severity", "text"])


@cached_figure
def price_figure(
    version: tuple[
        str, str, pd.Timestamp, int, str, tuple[datetime | None, int, tuple[str, ...]], int
    ],
    flag_texts: tuple[str, ...],
    zone_name: str,
    indicator: str,
    continuous: bool,
    _candles: Candles,
    _flags: pd.DataFrame,
    _events: pd.DataFrame,
) -> go.Figure:
    """version: symbol, timeframe, last bar, range in days, basis, the version of the candles,
    number of missing bars.
    """
    frame = _candles.frame
    missing = pd.Series(_candles.missing, name="ts").dt.tz_localize("UTC")
    if Timeframe.parse(version[1]).intraday:  # daily bars are dates
        frame, _flags = to_display_zone(frame), to_display_zone(_flags)
        missing = missing.dt.tz_convert(display_zone())
    return candlestick(
        frame,
        _flags,
        list(OVERLAYS),
        indicator,
        continuous=continuous,
        missing=missing,
        bars_each=_candles.bars_each,
        events=_events,
    )


def track_symbol() -> None:
    form = st.session_state
    symbol, timeframes = form["new-symbol"].strip(), ",".join(form["new-timeframes"])
    run_command(
        lambda: commands().track(
            [parse_tracked(symbol, form["new-class"], timeframes, form["new-session"])],
            actor=actor(),
        ),
        f"{symbol} is tracked: trigger it, or wait for the nightly run",
    )


def tracking_forms() -> None:
    """Tracking one symbol, and importing a list; for operators."""
    if not is_operator():
        return
    left, right = st.columns(2)
    with left, st.form("track", clear_on_submit=False):
        st.subheader("Track a symbol")
        st.text_input("Symbol", key="new-symbol", placeholder="AAPL, BRK.B or X:BTCUSD")
        st.selectbox("Asset class", [kind.value for kind in AssetClass], key="new-class")
        st.multiselect("Timeframes", [t.value for t in Timeframe], ["1d"], key="new-timeframes")
        st.selectbox(
            "Session of intraday bars",
            [session.value for session in StockSession],
            index=None,
            key="new-session",
            placeholder="as set by STOCK_SESSION",
        )
        st.form_submit_button("Track", icon=":material/add:", on_click=track_symbol)
    with right, st.container(border=True):
        st.subheader("Import a CSV file")
        st.caption(
            "header: symbol,asset_class,timeframes, and maybe session · timeframes separated by |"
        )
        file = st.file_uploader("CSV file", type="csv", key="file", label_visibility="collapsed")
        if file is not None:
            import_preview(file.getvalue().decode("utf-8", "replace"))


def import_preview(content: str) -> None:
    """The symbols of a CSV file with a button to track them, or its invalid lines."""
    parsed = read_csv(content, services().commands.require_served)
    if parsed.bad_lines:
        st.error(
            f"{counted(len(parsed.bad_lines), 'invalid line')}: correct them to import the file."
        )
        table([asdict(line) for line in parsed.bad_lines[:MAX_SHOWN]], key="bad-lines")
        return
    rows = [
        {"symbol": t.symbol, "asset class": t.asset_class, "timeframes": ", ".join(t.timeframes)}
        for t in parsed.symbols
    ]
    table(rows, key="preview")
    button_with_reason(
        f"Track {'this' if len(rows) == 1 else 'these'} {counted(len(rows), 'symbol')}",
        "Symbols that are already tracked get the asset class and, in addition, the timeframes.",
        lambda reason: run_command(
            lambda: commands().track(parsed.symbols, actor=actor(), reason=reason),
            f"Tracked: {counted(len(rows), 'symbol')}",
        ),
        key="import",
    )


st.title("Symbols")
with st.container(horizontal=True, vertical_alignment="bottom"):
    st.text_input("Search", key="search", placeholder="part of the name", bind="query-params")
    st.selectbox(
        "Status",
        list(SeriesStatus),
        index=None,
        key="status",
        placeholder="any",
        format_func=label,
        bind="query-params",
        width=220,
    )
show(
    Section("list", symbol_list, list_inputs),
    Section("scores", scores_by_day, read_scores_by_day),
    Section("one-symbol", one_symbol, symbol_inputs),
)
guarded(tracking_forms)
