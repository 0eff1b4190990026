"""Resilience: whose fault is it, and taking a breaker into one's own hands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
import streamlit as st

from enrichment.dashboard import timelines
from enrichment.dashboard.page import act, as_of, calmly, live, nothing, table, with_reason
from enrichment.dashboard.services import ACTOR, commands, services
from enrichment.storage.figures import PatternStatus, Transition

TRANSITIONS = 500
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


@st.cache_data(ttl=2, show_spinner=False)
def read() -> tuple[list[PatternStatus], list[Transition], pd.Timestamp]:
    reader = services().reader
    patterns = reader.resilience()
    return patterns, reader.transitions(TRANSITIONS), pd.Timestamp.now(tz="UTC")


def of_kind(patterns: Sequence[PatternStatus], kind: str) -> list[PatternStatus]:
    return [pattern for pattern in patterns if pattern.kind == kind]


def state() -> None:
    """Breakers now and over time, limiters, bulkheads, retries."""
    patterns, transitions, now = read()
    breakers(of_kind(patterns, "circuit_breaker"))
    history(transitions, now)
    left, right = st.columns(2)
    with left:
        kept(patterns, "rate_limiter", "Rate limits", ("tokens", "rate", "interval", "burst"))
        kept(
            patterns, "retry", "Retries", ("max_retries", "retry_count", "stopped_count", "budget")
        )
    with right:
        kept(
            patterns,
            "bulkhead",
            "Bulkheads",
            ("active_count", "max_concurrent", "available_slots", "rejected_count"),
        )
    as_of(now.to_pydatetime())


def breakers(found: list[PatternStatus]) -> None:
    st.subheader("Breakers")
    if not found:
        nothing("No worker has published a breaker within the last day.")
        return
    for start in range(0, min(len(found), 12), 4):
        for column, pattern in zip(st.columns(4), found[start : start + 4], strict=False):
            with column.container(border=True, height="stretch"):
                st.markdown(f"**{pattern.name}** · {SIGNS.get(pattern.state or '', pattern.state)}")
                rate = pattern.status.get("failure_rate")
                shown = "–" if rate is None else f"{100 * rate:.0f} %"
                age = f"{pattern.age_seconds:.0f} s ago"
                stale = f":orange[stale, {age}]" if pattern.stale else age
                st.caption(f"{shown} failures · worker {pattern.worker_id} · {stale}")
    if len(found) > 12:
        st.caption(f"12 of {len(found)}; the API has all")


def history(transitions: list[Transition], now: pd.Timestamp) -> None:
    st.subheader("Their changes of state")
    if not transitions:
        nothing("No breaker has changed its state yet.")
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
    spells = timelines.breaker_states(frame, now)
    st.plotly_chart(timelines.breaker_timeline(spells), key="breakers")
    with st.expander("As a table"):
        table(frame, key="transitions")


def kept(patterns: Sequence[PatternStatus], kind: str, title: str, fields: tuple[str, ...]) -> None:
    st.subheader(title)
    rows: list[dict[str, Any]] = [
        {
            "name": pattern.name,
            "worker": pattern.worker_id,
            **{field.replace("_", " "): pattern.status.get(field) for field in fields},
            "age, s": round(pattern.age_seconds, 1),
            "stale": pattern.stale,
        }
        for pattern in of_kind(patterns, kind)
    ]
    if rows:
        table(rows, key=kind)
    else:
        nothing("None has been published within the last day.")


def override(action: str, reason: str) -> None:
    name = st.session_state["breaker"]
    act(
        lambda: commands().override_breaker(name, action, actor=ACTOR, reason=reason),
        f"{name}: {action.replace('_', ' ')}; workers follow within two seconds",
    )


def by_hand() -> None:
    """Forcing a breaker's state in every worker."""
    names = sorted({pattern.name for pattern in of_kind(read()[0], "circuit_breaker")})
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
live(state)
calmly(by_hand)
