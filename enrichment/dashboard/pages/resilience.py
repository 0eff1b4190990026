"""Resilience: the state of the providers, their latency and requests, and their breakers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from enrichment.dashboard.auth import actor
from enrichment.dashboard.charts import breakers as breaker_charts
from enrichment.dashboard.charts import providers as provider_charts
from enrichment.dashboard.components import (
    button_with_reason,
    coloured,
    empty_state,
    run_command,
    table,
)
from enrichment.dashboard.data import fetch_history
from enrichment.dashboard.data.cache import cached_figure, cached_read
from enrichment.dashboard.data.providers import (
    UNAVAILABLE,
    ProviderState,
    of_kind,
    provider_states,
)
from enrichment.dashboard.formatting import label, percent
from enrichment.dashboard.refresh import auto_refresh, refresh_on_change, refreshed_badge
from enrichment.dashboard.services import commands, services
from enrichment.dashboard.times import display_zone, to_display_zone
from enrichment.warehouse.read_models.dto import PatternStatus, Transition
from enrichment.warehouse.read_models.vendors import Answers, Fetches

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


@cached_read
def read_patterns() -> tuple[list[PatternStatus], list[Transition], pd.Timestamp]:
    reader = services().reader
    patterns = reader.resilience()
    return patterns, reader.transitions(TRANSITIONS), pd.Timestamp.now(tz="UTC")


@cached_read
def read_history(hours: int) -> tuple[list[Fetches], list[Answers]]:
    history = services().reader.vendors
    return history.fetches(hours), history.answers(hours)


def provider_sections() -> None:
    patterns, transitions, now = read_patterns()
    hours = int(st.session_state.get("vendor-span") or next(iter(RANGES)))
    fetches, answers = read_history(hours)
    refreshed_badge(now.to_pydatetime())
    providers = provider_states(patterns)
    latencies = fetch_history.latencies_by_provider(fetches)
    if not providers:
        empty_state("No worker has reported a breaker in the last day.")
    else:
        availability(providers)
        provider_cards(providers, latencies)
    breaker_history(transitions, now)
    served = fetch_history.served_fetches(answers, services().provider_orders)
    latency_and_requests(fetches, served, hours, now)
    if providers:
        provider_table(providers, latencies, served)
    if patterns:
        pattern_tables(patterns)


def availability(providers: Sequence[ProviderState]) -> None:
    unavailable = [provider for provider in providers if provider.breaker in UNAVAILABLE]
    if not any(provider.workers for provider in providers):
        st.warning("No worker reports the state of the providers.", icon=":material/help:")
    elif not unavailable:
        st.success("All providers available", icon=":material/check_circle:")
    else:
        lines = [
            f"- **{provider.name}**: its breaker is {label(provider.breaker or '')}"
            f"{'; last error: ' + provider.last_error if provider.last_error else ''}"
            for provider in unavailable
        ]
        st.error("\n".join(["**Providers not available**", *lines]), icon=":material/block:")


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


def breaker_history(transitions: list[Transition], now: pd.Timestamp) -> None:
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
    st.plotly_chart(breaker_figure(now, display_zone().key, frame), key="breakers")
    with st.expander("Transitions as a table"):
        table(frame, key="transitions")


@cached_figure
def breaker_figure(now: pd.Timestamp, zone_name: str, _transitions: pd.DataFrame) -> go.Figure:
    intervals = breaker_charts.state_intervals(_transitions, now)
    return breaker_charts.breaker_timeline(to_display_zone(intervals))


@cached_figure
def history_figures(
    now: pd.Timestamp,
    zone_name: str,
    hours: int,
    _fetches: Sequence[Fetches],
    _served: pd.DataFrame,
) -> tuple[go.Figure | None, go.Figure | None]:
    """Latencies and requests by provider over the last hours; None where there were none."""
    end = now.tz_convert(zone_name)
    span = (end - pd.Timedelta(hours=hours), end)
    rows, served = fetch_history.latencies(_fetches), to_display_zone(_served)
    return (
        None if rows.empty else provider_charts.latency(to_display_zone(rows), zone_name, span),
        None if served.empty else provider_charts.requests_by_provider(served, zone_name, span),
    )


def latency_and_requests(
    fetches: Sequence[Fetches], served: pd.DataFrame, hours: int, now: pd.Timestamp
) -> None:
    latency, requests = history_figures(now, display_zone().key, hours, fetches, served)
    st.subheader(f"Latency of fetches, {RANGES[hours]}")
    if latency is None:
        empty_state("No fetches in this time range yet; they are summed up every hour.")
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


def provider_table(
    providers: Sequence[ProviderState], latencies: Latencies, served: pd.DataFrame
) -> None:
    st.subheader("Providers")
    rows = []
    for provider in providers:
        own = served[served["provider"] == provider.name]
        rows.append(
            {
                "provider": provider.name,
                "breaker": provider.breaker or "unknown",
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


def pattern_tables(patterns: Sequence[PatternStatus]) -> None:
    with st.expander("Patterns of every worker"):
        tabs = st.tabs(list(PATTERN_FIELDS))
        for tab, (kind, fields) in zip(tabs, PATTERN_FIELDS.values(), strict=True):
            with tab:
                table(pattern_rows(of_kind(patterns, kind), fields), key=kind)


def pattern_rows(patterns: Sequence[PatternStatus], fields: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {
            "name": pattern.name,
            "worker": pattern.worker_id,
            **{label(field): pattern.status.get(field) for field in fields},
            "age, s": round(pattern.age_seconds, 1),
            "report": "stale" if pattern.stale else "current",
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
    return sorted({pattern.name for pattern in of_kind(read_patterns()[0], "circuit_breaker")})


def manual_override() -> None:
    """Forcing the state of a breaker in every worker."""
    names = breaker_names()
    if not names:
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
auto_refresh(provider_sections)
refresh_on_change(manual_override, inputs=breaker_names)
