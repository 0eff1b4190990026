"""Resilience: whose fault is it, and taking a breaker into one's own hands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from enrichment.dashboard.charts import jobs as job_charts
from enrichment.dashboard.charts import providers as provider_charts
from enrichment.dashboard.components import (
    auto_refresh,
    empty_state,
    local,
    percent,
    refresh_on_change,
    refreshed_at,
    run_command,
    table,
    with_reason,
)
from enrichment.dashboard.data import fetch_history
from enrichment.dashboard.data.cache import cached_figure, cached_read
from enrichment.dashboard.data.providers import VendorState, of_kind, vendors
from enrichment.dashboard.services import actor, commands, services
from enrichment.dashboard.times import zone
from enrichment.warehouse.read_models.dto import PatternStatus, Transition
from enrichment.warehouse.read_models.vendors import Answers, Fetches

TRANSITIONS = 500
CARDS = 4
SPANS = {"24 hours": 24, "3 days": 72, "30 days": 720}
ACTIONS = {
    "reset": "Reset: let it decide again",
    "force_open": "Force open: let nothing through",
    "disable": "Disable: let everything through",
}
SIGNS = {
    "closed": ":green[● closed]",
    "half_open": ":orange[● half open]",
    "open": ":red[● open]",
    "forced_open": ":red[● forced open]",
    "disabled": ":gray[● disabled]",
}
PER_WORKER = {
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
def read() -> tuple[list[PatternStatus], list[Transition], pd.Timestamp]:
    reader = services().reader
    patterns = reader.resilience()
    return patterns, reader.transitions(TRANSITIONS), pd.Timestamp.now(tz="UTC")


@cached_read
def history(hours: int) -> tuple[list[Fetches], list[Answers]]:
    vendor_history = services().reader.vendors
    return vendor_history.fetches(hours), vendor_history.answers(hours)


def state() -> None:
    """The verdict, each vendor, their latencies and who stepped in, breakers over time."""
    patterns, transitions, now = read()
    span = str(st.session_state.get("vendor-span") or next(iter(SPANS)))
    fetches, answered = history(SPANS[span])
    refreshed_at(now.to_pydatetime())
    found, percentiles = vendors(patterns), fetch_history.overall(fetches)
    if not found:
        empty_state("No worker has published a breaker within the last day.")
    else:
        verdict(found)
        cards(found, percentiles)
    changes(transitions, now)
    stepped_in = fetch_history.answers(answered, services().orders)
    quickness(fetches, stepped_in, span, now)
    summary(found, percentiles, stepped_in)
    if patterns:
        per_worker(patterns)


def verdict(found: Sequence[VendorState]) -> None:
    """Whose fault, in a sentence each."""
    out = [vendor for vendor in found if vendor.breaker in ("open", "forced_open", "half_open")]
    if not any(vendor.working for vendor in found):
        st.warning("No worker says how the vendors are.", icon=":material/help:")
    elif not out:
        st.success("Every vendor is let through.", icon=":material/check_circle:")
    else:
        lines = [
            f"- **{vendor.name}**: its breaker is {(vendor.breaker or '').replace('_', ' ')}"
            f"{'; last error: ' + vendor.last_error if vendor.last_error else ''}"
            for vendor in out
        ]
        st.error("\n".join(["**Kept out until they recover**", *lines]), icon=":material/block:")


def cards(
    found: Sequence[VendorState], percentiles: Mapping[str, Mapping[str, float | None]]
) -> None:
    for start in range(0, len(found), CARDS):
        row = found[start : start + CARDS]
        for column, vendor in zip(st.columns(min(CARDS, len(found))), row, strict=False):
            with column.container(border=True, height="stretch"):
                sign = SIGNS.get(vendor.breaker or "", ":orange[● unknown]")
                st.markdown(f"**{vendor.name}** · {sign}")
                p95 = percentiles.get(vendor.name, {}).get("p95")
                failing = None if vendor.failing is None else 100.0 * vendor.failing
                tokens = "no quota" if vendor.quota is None else f"{vendor.tokens}/{vendor.quota}"
                figures = {
                    "failures": percent(failing),
                    "429 answers": percent(vendor.refused),
                    "p95": "–" if p95 is None else f"{p95:,.0f} ms",
                    "tokens left": tokens,
                    "slots in use": f"{vendor.active}/{vendor.slots}",
                    "workers": str(vendor.working),
                }
                with st.container(horizontal=True, gap="medium"):
                    for label, value in figures.items():
                        st.markdown(f":small[:gray[{label}]]  \n**{value}**", width="content")


def changes(transitions: list[Transition], now: pd.Timestamp) -> None:
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
    st.plotly_chart(timeline(now, zone().key, frame), key="breakers")
    with st.expander("As a table"):
        table(frame, key="transitions")


@cached_figure
def timeline(now: pd.Timestamp, zone_name: str, _transitions: pd.DataFrame) -> go.Figure:
    return job_charts.breaker_timeline(local(job_charts.breaker_states(_transitions, now)))


@cached_figure
def pictures(
    now: pd.Timestamp,
    zone_name: str,
    span: str,
    _fetches: Sequence[Fetches],
    _answers: pd.DataFrame,
) -> tuple[go.Figure | None, go.Figure | None]:
    """Latencies and answers over the span, where there are any."""
    until = now.tz_convert(zone_name)
    axis = (until - pd.Timedelta(hours=SPANS[span]), until)
    rows = fetch_history.latencies(_fetches)
    return (
        None if rows.empty else provider_charts.latency(local(rows), zone_name, axis),
        None if _answers.empty else provider_charts.answers(local(_answers), zone_name, axis),
    )


def quickness(
    fetches: Sequence[Fetches], stepped_in: pd.DataFrame, span: str, now: pd.Timestamp
) -> None:
    latencies, answered = pictures(now, zone().key, span, fetches, stepped_in)
    st.subheader(f"Latency of fetches, {span}")
    if latencies is None:
        empty_state("No fetch has been summed up in this time.")
    else:
        st.plotly_chart(latencies, key="latency")
        st.caption("percentiles of the hourly histograms, interpolated within a bucket")
    st.subheader("Who answered")
    if answered is None:
        empty_state("No fetch has been answered in this time.")
        return
    st.plotly_chart(answered, key="answers")
    shares = fetch_history.fallback_shares(stepped_in)
    st.caption(
        "answered by a fallback: "
        + " · ".join(f"{kind} {percent(share)}" for kind, share in shares.items())
    )


def summary(
    found: Sequence[VendorState],
    percentiles: Mapping[str, Mapping[str, float | None]],
    stepped_in: pd.DataFrame,
) -> None:
    """Every vendor's figures side by side."""
    if not found:
        return
    st.subheader("Vendors")
    rows = []
    for vendor in found:
        own = stepped_in[stepped_in["provider"] == vendor.name]
        rows.append(
            {
                "vendor": vendor.name,
                "breaker": (vendor.breaker or "unknown").replace("_", " "),
                **{f"{p}, ms": v for p, v in percentiles.get(vendor.name, {}).items()},
                "answers": int(own["answered"].sum()),
                "as fallback": int(own.loc[own["fallback"], "answered"].sum()),
                "requests": vendor.requests,
                "429": vendor.refusals,
                "429, %": vendor.refused,
                "tokens left": vendor.tokens,
                "slots in use": vendor.active / vendor.slots if vendor.slots else None,
            }
        )
    whole = st.column_config.NumberColumn(format="%.0f")
    configured: dict[str, Any] = {f"{p}, ms": whole for p in fetch_history.PERCENTILES}
    configured["429, %"] = st.column_config.NumberColumn(format="%.1f")
    configured["slots in use"] = st.column_config.ProgressColumn(
        format="percent", min_value=0.0, max_value=1.0
    )
    table(rows, configured, key="vendors")


def per_worker(patterns: Sequence[PatternStatus]) -> None:
    with st.expander("Every worker's patterns"):
        for tab, (kind, fields) in zip(st.tabs(list(PER_WORKER)), PER_WORKER.values(), strict=True):
            with tab:
                table(rows_of(of_kind(patterns, kind), fields), key=kind)


def rows_of(patterns: Sequence[PatternStatus], fields: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {
            "name": pattern.name,
            "worker": pattern.worker_id,
            **{field.replace("_", " "): pattern.status.get(field) for field in fields},
            "age, s": round(pattern.age_seconds, 1),
            "known": "stale" if pattern.stale else "now",
        }
        for pattern in patterns
    ]


def override(action: str, reason: str) -> None:
    name = st.session_state["breaker"]
    run_command(
        lambda: commands().override_breaker(name, action, actor=actor(), reason=reason),
        f"{name}: {action.replace('_', ' ')}; workers follow within two seconds",
    )


def breakers() -> list[str]:
    return sorted({pattern.name for pattern in of_kind(read()[0], "circuit_breaker")})


def by_hand() -> None:
    """Forcing a breaker's state in every worker."""
    names = breakers()
    if not names:
        return
    st.subheader("By hand")
    st.selectbox("Breaker", names, key="breaker", width=420)
    with st.container(horizontal=True):
        for action, label in ACTIONS.items():
            with_reason(
                label.partition(":")[0],
                f"{label}, in every worker, until it is reset; also after a restart.",
                lambda reason, action=action: override(action, reason),  # type: ignore[misc]
                key=action,
            )


st.title("Resilience")
st.selectbox("Time span", list(SPANS), key="vendor-span", bind="query-params", width=160)
auto_refresh(state)
refresh_on_change(by_hand, of=breakers)
