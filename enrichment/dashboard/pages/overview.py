"""Overview: did last night work, what stands in the way, and steering it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import timedelta

import pandas as pd
import streamlit as st

from enrichment.dashboard.charts import prices
from enrichment.dashboard.charts.nights import calendar, state_of
from enrichment.dashboard.charts.sparkline import sparkline
from enrichment.dashboard.components import (
    ago,
    auto_refresh,
    empty_state,
    moment,
    refresh_on_change,
    refreshed_at,
    run_command,
    table,
    with_reason,
)
from enrichment.dashboard.data.overview import OverviewData, active_symbols, overview_data
from enrichment.dashboard.data.overview_metrics import now_cards, trend_cards
from enrichment.dashboard.data.providers import of_kind
from enrichment.dashboard.services import actor, commands
from enrichment.domain.clock import utc_now
from enrichment.domain.model import is_simulated
from enrichment.services import health
from enrichment.vendors.registry import VENDORS

BANNERS = {"healthy": st.success, "warning": st.warning, "critical": st.error}
ICONS = {
    "healthy": ":material/check_circle:",
    "warning": ":material/warning:",
    "critical": ":material/error:",
}


def trigger(reason: str) -> None:
    run_command(
        lambda: commands().trigger(actor=actor(), reason=reason),
        "Triggered: every active symbol is queued",
    )


def pause(reason: str) -> None:
    run_command(
        lambda: commands().pause(actor=actor(), reason=reason), "Paused: nothing new starts"
    )


def resume() -> None:
    run_command(lambda: commands().resume(actor=actor()), "Resumed")


def banner(data: OverviewData) -> None:
    judged = health.assess(data.night)
    headline = {
        "healthy": "Healthy: the last run worked and nothing needs you.",
        "warning": "Needs a look",
        "critical": "Critical",
    }[judged.status]
    text = "\n".join([f"**{headline}**", *(f"- {issue}" for issue in judged.issues)])
    BANNERS[judged.status](text, icon=ICONS[judged.status])


def progress(data: OverviewData) -> None:
    if data.running is None:
        return
    job = data.running
    work = ", ".join(f"{symbol} ({step})" for symbol, step in list(job.at_work.items())[:5])
    eta = f" · about {job.eta_seconds:.0f} s left" if job.eta_seconds else ""
    st.progress(
        job.done / job.total if job.total else 0.0,
        text=f"{job.done:,} of {job.total:,} symbols done{eta}{' · ' + work if work else ''}",
    )


def cards(data: OverviewData) -> None:
    for row in (now_cards(data), trend_cards(data)):
        for column, card in zip(st.columns(4), row, strict=True):
            with column.container(border=True, height="stretch"):
                st.metric(card.label, card.value)
                if len(card.trend) > 1:
                    st.html(sparkline(card.trend, card.label))
                st.caption(card.note)


def nights(data: OverviewData) -> None:
    st.subheader("Did the nights work?")
    frame = pd.DataFrame([asdict(night) for night in data.nights])
    frame["state"] = frame["state"].map(state_of)
    if (frame["state"] == "before").all():
        empty_state("No night yet: the first run comes at the time above, or trigger one.")
        return
    st.plotly_chart(calendar(frame), key="nights")


def troubles(data: OverviewData) -> None:
    """Breakers that are not closed, and what symbols failed with lately."""
    st.subheader("What stands in the way")
    breakers = of_kind(data.patterns, "circuit_breaker")
    open_breakers = [breaker for breaker in breakers if breaker.state != "closed"]
    for breaker in open_breakers[:5]:
        known = (
            "stale, the worker is silent"
            if breaker.stale
            else f"as of {breaker.age_seconds:.0f} s ago"
        )
        st.warning(
            f"Breaker **{breaker.name}** is {(breaker.state or '').replace('_', ' ')} "
            f"in {breaker.worker_id.split(':')[0]} ({known})",
            icon=":material/electric_bolt:",
        )
    for error in data.errors:
        st.markdown(
            f"**{error.error_class}** · {error.symbols:,} symbols in {error.jobs} "
            f"job{'s' * (error.jobs != 1)}, last {ago(error.at, data.overview.timestamp)}"
        )
        st.code(error.example, language=None, wrap_lines=True)
    if not open_breakers and not data.errors:
        st.success(
            "Every breaker is closed, and no symbol failed within a week.", icon=":material/check:"
        )


def quality(data: OverviewData) -> None:
    st.subheader("Lowest quality")
    if not data.worst:
        empty_state("No series has been scored within a week.")
        return
    frame = pd.DataFrame(
        {
            "name": [f"{s.symbol} {s.timeframe}" for s in data.worst],
            "quality_score": [s.score for s in data.worst],
            "status": [s.status for s in data.worst],
            "why": ["; ".join(s.reasons) or "nothing taken off" for s in data.worst],
        }
    )
    st.plotly_chart(prices.quality_by_series(frame, worst=12), key="quality")


def recent_jobs(data: OverviewData) -> None:
    st.subheader("Recent jobs")
    if not data.history.jobs:
        empty_state("No job yet. Trigger one, or wait for the nightly run.")
        return
    frame = pd.DataFrame(
        {
            "label": [
                moment(job.started_at or details.created_at, "%m-%d %H:%M:%S", named=False)
                for job, details in zip(data.history.jobs, data.history.details, strict=True)
            ],
            "successful": [job.successful for job in data.history.jobs],
            "failed": [job.failed for job in data.history.jobs],
            "duration_seconds": [job.duration_seconds or 0.0 for job in data.history.jobs],
            "kind": [details.kind for details in data.history.details],
        }
    )
    st.plotly_chart(prices.job_outcomes(frame.iloc[::-1]), key="jobs")


def attention(data: OverviewData) -> None:
    """The series that are not healthy."""
    st.subheader("Series that need a look")
    if not data.night.series:
        empty_state(
            "No symbols are tracked. Add one on the page Symbols, or: "
            "`enrichment symbols add AAPL --asset-class stock`"
        )
        return
    counts = sorted(data.night.statuses.items(), key=lambda item: -item[1])
    st.caption(" · ".join(f"{n:,} {status.replace('_', ' ')}" for status, n in counts))
    if not data.attention:
        st.success("All series are healthy.", icon=":material/check:")
        return
    rows = pd.DataFrame(
        {
            "symbol": [s.symbol for s in data.attention],
            "timeframe": [s.timeframe for s in data.attention],
            "status": [s.status.replace("_", " ") for s in data.attention],
            "quality": [s.quality_score for s in data.attention],
            "last bar": pd.Series([s.last_ts for s in data.attention], dtype="datetime64[us, UTC]"),
            "source": [_source(s.symbol, s.source) for s in data.attention],
            "why": ["; ".join(s.reasons) or s.last_error or "" for s in data.attention],
        }
    )
    score = st.column_config.ProgressColumn(format="%.3f", min_value=0.0, max_value=1.0)
    table(
        rows,
        {"quality": score, "why": st.column_config.TextColumn(width="large")},
        key="attention",
    )


def _source(symbol: str, source: str | None) -> str:
    if source is None:
        return "–"
    return f"{source} (simulated)" if is_simulated(symbol) else source


def now() -> None:
    """Healthy? And what is at work."""
    data = overview_data()
    banner(data)
    progress(data)


def lately() -> None:
    """How it came to be, and what needs a look."""
    data = overview_data()
    cards(data)
    wide, narrow = st.columns([3, 2])
    with wide:
        nights(data)
    with narrow:
        troubles(data)
    left, right = st.columns(2)
    with left:
        recent_jobs(data)
    with right:
        quality(data)
    attention(data)
    refreshed_at(data.overview.timestamp)


def steering() -> None:
    """Triggering and pausing, everything or less."""
    data, classes = overview_data(), active_symbols()
    paused = any(pause.scope == "global" for pause in data.pauses)
    with st.container(horizontal=True):
        with_reason(
            f"Trigger {len(classes):,} symbol{'s' if len(classes) > 1 else ''}"
            if classes
            else "Trigger",
            f"Every active symbol is queued now: {len(classes):,} of them.",
            trigger,
            key="trigger-all",
            disabled=not classes,
            icon=":material/play_arrow:",
        )
        with_reason(
            "Pause",
            "Nothing new starts until somebody resumes, also after restarts and at night; symbols "
            "at work are finished.",
            pause,
            key="pause-all",
            disabled=paused,
            icon=":material/pause:",
        )
        st.button("Resume", icon=":material/resume:", on_click=resume, disabled=not paused)
        if classes:
            trigger_some(classes)
            pause_some(sorted(set(classes.values())))


def trigger_some(classes: Mapping[str, str]) -> None:
    """classes: active symbol → asset class."""
    with st.popover("Trigger some", icon=":material/play_arrow:"):
        kinds = sorted(set(classes.values()))
        kind = st.selectbox("Asset class", ["all", *kinds], key="trigger-class")
        offered = [name for name, own in classes.items() if kind in ("all", own)]
        names = st.multiselect(
            "Symbols", offered, key="trigger-symbols", placeholder="all of these"
        )
        wanted = names or offered
        st.button(
            f"Trigger these {len(wanted)}",
            key="trigger-some",
            type="primary",
            on_click=lambda: run_command(
                lambda: commands().trigger(actor=actor(), symbols=wanted),
                f"Triggered: {len(wanted)} symbols are queued",
            ),
        )


def pause_some(kinds: Sequence[str]) -> None:
    scopes = {f"asset class {kind}": ("asset_class", kind) for kind in kinds}
    scopes |= {f"provider {name}": ("provider", name) for name in VENDORS.names}
    with st.popover("Pause some", icon=":material/pause:"):
        chosen = st.selectbox("What", list(scopes), key="pause-scope") or next(iter(scopes))
        minutes = st.number_input("Minutes", 1, 525_600, 120, key="pause-minutes")
        reason = st.text_input("Reason, kept in the audit", key="pause-reason", max_chars=500)
        scope, key = scopes[chosen]
        st.button(
            f"Pause {chosen}",
            key="pause-some",
            type="primary",
            disabled=not reason.strip(),
            on_click=lambda: run_command(
                lambda: commands().pause(
                    actor=actor(),
                    scope=scope,
                    key=key,
                    reason=reason.strip(),
                    until=utc_now() + timedelta(minutes=minutes),
                ),
                f"Paused: {chosen}, for {minutes} minutes",
            ),
        )
    for pause in overview_data().pauses:
        if pause.scope != "global":
            st.button(
                f"Resume {pause.scope.replace('_', ' ')} {pause.key}",
                icon=":material/resume:",
                key=f"resume-{pause.scope}-{pause.key}",
                on_click=resume_one,
                args=(pause.scope, pause.key),
            )


def resume_one(scope: str, key: str) -> None:
    run_command(lambda: commands().resume(actor=actor(), scope=scope, key=key), f"Resumed {key}")


st.title("Market enrichment")
auto_refresh(now)
refresh_on_change(steering, of=lambda: (overview_data().pauses, active_symbols()))
auto_refresh(lately)
