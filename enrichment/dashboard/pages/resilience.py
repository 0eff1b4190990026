"""Resilience: the state of the providers, their latency and requests, and their breakers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from enrichment.dashboard.auth import actor, is_operator
from enrichment.dashboard.charts import breakers as breaker_charts
from enrichment.dashboard.charts import providers as provider_charts
from enrichment.dashboard.components import (
    button_with_reason,
    coloured,
    empty_state,
    load_more,
    row_limit,
    run_command,
    table,
)
from enrichment.dashboard.data import fetch_history
from enrichment.dashboard.data.cache import cached_figure, cached_read, live_read
from enrichment.dashboard.data.providers import (
    UNAVAILABLE,
    Override,
    ProviderState,
    of_kind,
    provider_states,
)
from enrichment.dashboard.formatting import label, percent
from enrichment.dashboard.refresh import Section, show
from enrichment.dashboard.services import commands, services
from enrichment.dashboard.times import display_zone, format_time, to_display_zone
from enrichment.domain.escape import for_markdown
from enrichment.domain.statuses import PauseScope
from enrichment.services import health
from enrichment.warehouse.read_models.dto import PatternStatus, Pause, Transition
from enrichment.warehouse.read_models.night import PausedLimiter
from enrichment.warehouse.read_models.vendors import Answers, Fetches
from resilience import Mode

TRANSITIONS = 500
CARDS_PER_ROW = 4
RANGES = {24: "24 hours", 72: "3 days", 720: "30 days"}  # hours → label
Latencies = Mapping[str, Mapping[str, float | None]]  # provider → percentile → ms
OVERRIDES = {  # action → its title and effect
    "reset": ("Reset", "The breaker decides by itself again, in every worker."),
    "force_open": (
        "Force open",
        "No worker sends a request until you reset the breaker; also after a restart.",
    ),
    "disable": (
        "Disable",
        "Every worker sends every request until you reset the breaker; also after a restart.",
    ),
}
PATTERN_FIELDS = {
    "Rate limits": (
        "rate_limiter",
        ("tokens", "rate", "interval", "waiting", "granted_count", "paused_count"),
    ),
    "Bulkheads": (
        "bulkhead",
        ("active_count", "max_concurrent", "waiting_count", "rejected_count", "overrun_count"),
    ),
    "Retries": ("retry", ("max_retries", "retry_count", "stopped_count", "budget", "last_error")),
    "Breakers": (
        "circuit_breaker",
        ("state", "failure_rate", "rejected_count", "retry_after", "last_error"),
    ),
}


@live_read
def read_patterns() -> list[PatternStatus]:
    return services().reader.resilience()


@cached_read
def read_pauses() -> tuple[list[Pause], list[PausedLimiter]]:
    """By operators, and by vendors."""
    reader = services().reader
    return reader.pauses(), reader.paused_limiters()


@cached_read
def read_transitions(limit: int) -> tuple[list[Transition], int]:
    """The newest transitions, and how many there are."""
    reader = services().reader
    return reader.transitions(limit), reader.list_totals().transitions


def transitions_shown() -> tuple[list[Transition], int]:
    return read_transitions(row_limit("transitions-limit", TRANSITIONS))


@cached_read
def read_history(hours: int) -> tuple[list[Fetches], list[Answers]]:
    history = services().reader.vendors
    return history.fetches(hours), history.answers(hours)


def span_hours() -> int:
    return int(st.session_state.get("vendor-span") or next(iter(RANGES)))


def chart_end() -> pd.Timestamp:
    """Where time axes end: the last five minutes, so that charts do not change all the time."""
    return pd.Timestamp.now(tz="UTC").floor("5min")


def hour_end() -> pd.Timestamp:
    """Where time axes of hourly figures end: with the running hour."""
    return (chart_end() + pd.Timedelta(hours=1)).floor("h")


def provider_states_and_latencies() -> tuple[list[ProviderState], Latencies]:
    fetches, _ = read_history(span_hours())
    return provider_states(read_patterns()), fetch_history.latencies_by_provider(fetches)


def provider_sections() -> None:
    providers, latencies = provider_states_and_latencies()
    if not providers:
        empty_state("No worker has reported a breaker in the last day.")
        return
    availability(providers, blocked_requests())
    provider_cards(providers, latencies)


def blocked_requests() -> list[str]:
    """Why no requests are sent although breakers are closed: pauses by operators and by vendors."""
    pauses, limiters = read_pauses()
    pauses = [p for p in pauses if p.scope in (PauseScope.GLOBAL, PauseScope.PROVIDER)]
    return [
        *health.pause_issues(pauses, format_time),
        *health.limiter_issues(limiters, format_time),
    ]


def availability(providers: Sequence[ProviderState], blocked: Sequence[str]) -> None:
    unavailable = [provider for provider in providers if provider.breaker in UNAVAILABLE]
    unprotected = [provider for provider in providers if provider.breaker == Mode.DISABLED]
    if not any(provider.workers for provider in providers):
        st.warning("No worker reports the state of the providers.", icon=":material/help:")
    elif not (unavailable or blocked):
        st.success("All providers available", icon=":material/check_circle:")
    elif unavailable:
        lines = [
            f"- **{provider.name}**: its breaker is {label(provider.breaker or '')}"
            f"{override_text(provider.override)}"
            f"{'; last error: ' + for_markdown(provider.last_error) if provider.last_error else ''}"
            for provider in unavailable
        ]
        st.error("\n".join(["**Providers not available**", *lines]), icon=":material/block:")
    for issue in blocked:
        st.warning(for_markdown(issue), icon=":material/pause_circle:")
    for provider in unprotected:
        st.warning(
            f"Requests to **{provider.name}** are not protected: its breaker is "
            f"disabled{override_text(provider.override)}",
            icon=":material/gpp_maybe:",
        )


def override_text(override: Override | None) -> str:
    if override is None:
        return ""
    reason = f": {override.reason}" if override.reason else ""
    return f" {for_markdown(f'by {override.set_by} since {format_time(override.since)}{reason}')}"


def provider_cards(providers: Sequence[ProviderState], latencies: Latencies) -> None:
    for start in range(0, len(providers), CARDS_PER_ROW):
        row = providers[start : start + CARDS_PER_ROW]
        columns = st.columns(min(CARDS_PER_ROW, len(providers)))
        for column, provider in zip(columns, row, strict=False):
            with column.container(border=True, height="stretch"):
                provider_card(provider, latencies.get(provider.name, {}).get("p95"))


def provider_card(provider: ProviderState, p95: float | None) -> None:
    state = provider.breaker or "unknown"
    st.markdown(f"**{provider.name}** · {coloured(f'● {label(state)}', state)}")
    if provider.override is not None:
        st.caption(override_text(provider.override).strip())
    failure_rate = None if provider.failure_rate is None else 100.0 * provider.failure_rate
    quota = "no quota" if provider.quota is None else f"{provider.quota_left}/{provider.quota}"
    figures = {
        "failures": percent(failure_rate),
        "429 responses": percent(provider.refused_percent),
        "p95": "–" if p95 is None else f"{p95:,.0f} ms",
        "quota left": quota,
        "concurrency": f"{provider.active}/{provider.concurrency}",
        "workers": str(provider.workers),
    }
    with st.container(horizontal=True, gap="medium"):
        for title, value in figures.items():
            st.markdown(f":small[:gray[{title}]]  \n**{value}**", width="content")


def breaker_history() -> None:
    transitions, total = transitions_shown()
    st.subheader("Breakers over time")
    if not transitions:
        empty_state("No breaker has changed its state yet.")
        return
    frame = pd.DataFrame(
        {
            "at": pd.to_datetime([t.at for t in transitions], utc=True),
            "name": [t.name for t in transitions],
            "worker": [t.worker_id.split(":")[0] for t in transitions],
            "from_state": [t.from_state for t in transitions],
            "to_state": [t.to_state for t in transitions],
            "reason": [t.reason for t in transitions],
        }
    )
    version = (chart_end(), len(frame), frame["at"].max())
    st.plotly_chart(breaker_figure(version, display_zone().key, frame), key="breakers")
    with st.expander("Transitions as a table"):
        table(frame, key="transitions")
    load_more("transitions-limit", TRANSITIONS, len(frame), total)


@cached_figure
def breaker_figure(
    version: tuple[pd.Timestamp, int, pd.Timestamp], zone_name: str, _transitions: pd.DataFrame
) -> go.Figure:
    """version: where the time axis ends, the number of transitions, and the newest one."""
    intervals = breaker_charts.state_intervals(_transitions, max(version[0], version[2]))
    return breaker_charts.breaker_timeline(to_display_zone(intervals))


@cached_figure
def history_figures(
    end: pd.Timestamp,
    fetched: int,
    zone_name: str,
    hours: int,
    _fetches: Sequence[Fetches],
    _served: pd.DataFrame,
) -> tuple[go.Figure | None, go.Figure | None]:
    """Latencies and requests by provider over the last hours; None where there were none."""
    end = end.tz_convert(zone_name)
    span = (end - pd.Timedelta(hours=hours), end)
    rows, served = fetch_history.latencies(_fetches), to_display_zone(_served)
    return (
        None if rows.empty else provider_charts.latency(to_display_zone(rows), zone_name, span),
        None if served.empty else provider_charts.requests_by_provider(served, zone_name, span),
    )


def served_fetches() -> pd.DataFrame:
    _, answers = read_history(span_hours())
    return fetch_history.served_fetches(answers, services().provider_orders)


def latency_and_requests() -> None:
    hours, served = span_hours(), served_fetches()
    fetches, _ = read_history(hours)
    fetched = sum(part.total for part in fetches)
    latency, requests = history_figures(
        hour_end(), fetched, display_zone().key, hours, fetches, served
    )
    st.subheader(f"Latency of fetches, {RANGES[hours]}")
    if latency is None:
        empty_state("No fetches in this time range yet.")
    else:
        st.plotly_chart(latency, key="latency")
        st.caption("percentiles of hourly histograms, interpolated within a bucket")
    st.subheader("Requests by provider")
    if requests is None:
        empty_state("No successful requests in this time range yet.")
        return
    st.plotly_chart(requests, key="requests")
    shares = fetch_history.fallback_shares(served)
    st.caption(
        "served by a fallback: "
        + " · ".join(f"{asset_class} {percent(share)}" for asset_class, share in shares.items())
    )


def provider_table() -> None:
    providers, latencies = provider_states_and_latencies()
    if not providers:
        return
    served = served_fetches()
    st.subheader("Providers")
    rows = []
    for provider in providers:
        own = served[served["provider"] == provider.name]
        rows.append(
            {
                "provider": provider.name,
                "breaker": provider.breaker or "unknown",
                "set by hand": override_text(provider.override).strip(),
                **{f"{p}, ms": ms for p, ms in latencies.get(provider.name, {}).items()},
                "fetches": int(own["fetches"].sum()),
                "as fallback": int(own.loc[own["fallback"], "fetches"].sum()),
                "requests": provider.requests,
                "429": provider.refusals,
                "429, %": provider.refused_percent,
                "quota left": provider.quota_left,
                "concurrency": provider.active / provider.concurrency
                if provider.concurrency
                else None,
            }
        )
    whole = st.column_config.NumberColumn(format="%.0f")
    columns: dict[str, Any] = {f"{p}, ms": whole for p in fetch_history.PERCENTILES}
    columns["429, %"] = st.column_config.NumberColumn(format="%.1f")
    columns["concurrency"] = st.column_config.ProgressColumn(
        format="percent", min_value=0.0, max_value=1.0
    )
    table(rows, columns, key="providers")


def pattern_tables() -> None:
    patterns = read_patterns()
    if not patterns:
        return
    with st.expander("Patterns of every worker"):
        tabs = st.tabs(list(PATTERN_FIELDS))
        for tab, (kind, fields) in zip(tabs, PATTERN_FIELDS.values(), strict=True):
            with tab:
                table(pattern_rows(of_kind(patterns, kind), fields), key=kind)


def pattern_inputs() -> object:
    """The tables' rows, without when the workers have reported them."""
    return [
        pattern_rows(of_kind(read_patterns(), kind), fields)
        for kind, fields in PATTERN_FIELDS.values()
    ]


def pattern_rows(patterns: Sequence[PatternStatus], fields: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {
            "name": pattern.name,
            "worker": pattern.worker_id,
            **{label(field): pattern.status.get(field) for field in fields},
            **({"state": pattern.shown_state} if "state" in fields else {}),
            "report": f"stale since {format_time(pattern.updated_at)}"
            if pattern.stale
            else "current",
        }
        for pattern in patterns
    ]


def override_breaker(action: str, reason: str) -> None:
    name = st.session_state["breaker"]
    run_command(
        lambda: commands().override_breaker(name, action, actor=actor(), reason=reason),
        f"{name}: {label(action)}; the workers follow within two seconds",
    )


def breaker_names() -> list[str]:
    return sorted({pattern.name for pattern in of_kind(read_patterns(), "circuit_breaker")})


def manual_override() -> None:
    """Forcing the state of a breaker in every worker."""
    names = breaker_names()
    if not (names and is_operator()):
        return
    st.subheader("Manual override")
    st.selectbox("Breaker", names, key="breaker", width=420)
    with st.container(horizontal=True):
        for action, (title, effect) in OVERRIDES.items():
            button_with_reason(title, effect, partial(override_breaker, action), key=action)


st.title("Resilience")
st.selectbox(
    "Time range",
    list(RANGES),
    key="vendor-span",
    format_func=RANGES.__getitem__,
    bind="query-params",
    width=160,
)
show(
    Section(
        "availability",
        provider_sections,
        lambda: (provider_states_and_latencies(), blocked_requests()),
    ),
    Section("breaker-history", breaker_history, lambda: (transitions_shown(), chart_end())),
    Section("fetches", latency_and_requests, lambda: (read_history(span_hours()), hour_end())),
    Section("provider-table", provider_table, provider_states_and_latencies),
    Section("patterns", pattern_tables, pattern_inputs),
    Section("override", manual_override, breaker_names),
)
