"""Overview: did last night work, is anything wrong now, and the three buttons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

import pandas as pd
import streamlit as st

from enrichment import health
from enrichment.clock import utc_now
from enrichment.dashboard import charts
from enrichment.dashboard.page import act, ago, as_of, calmly, live, number, percent, seconds
from enrichment.dashboard.services import ACTOR, Figures, commands, figures
from enrichment.domain import PROVIDER_NAMES, is_simulated
from enrichment.storage.figures import WorkerStatus

BANNERS = {"healthy": st.success, "warning": st.warning, "critical": st.error}
ICONS = {
    "healthy": ":material/check_circle:",
    "warning": ":material/warning:",
    "critical": ":material/error:",
}


def trigger() -> None:
    act(lambda: commands().trigger(actor=ACTOR), "Triggered: every active symbol is queued")


def pause() -> None:
    act(lambda: commands().pause(actor=ACTOR), "Paused: nothing new starts")


def resume() -> None:
    act(lambda: commands().resume(actor=ACTOR), "Resumed")


def until(then: datetime, now: datetime) -> str:
    minutes = max(0, int((then - now) / timedelta(minutes=1)))
    return f"{minutes // 60} h {minutes % 60:02} min"


def banner(data: Figures) -> None:
    judged = health.judge(data.overview, data.pauses)
    headline = {
        "healthy": "Healthy: the last run worked and nothing needs you.",
        "warning": "Needs a look",
        "critical": "Critical",
    }[judged.status]
    text = "\n".join([f"**{headline}**", *(f"- {issue}" for issue in judged.issues)])
    BANNERS[judged.status](text, icon=ICONS[judged.status])


def buttons(data: Figures) -> None:
    tracked = len({s.symbol for s in data.series if s.active})
    paused = any(pause.scope == "global" for pause in data.pauses)
    with st.container(horizontal=True):
        st.button(
            f"Trigger {tracked} symbols" if tracked else "Trigger",
            icon=":material/play_arrow:",
            type="primary",
            on_click=trigger,
            disabled=tracked == 0,
            help="Enrich every active symbol now",
        )
        st.button("Pause", icon=":material/pause:", on_click=pause, disabled=paused)
        st.button("Resume", icon=":material/resume:", on_click=resume, disabled=not paused)


def cards(data: Figures) -> None:
    overview, quality = data.overview, data.overview.metrics.data_quality
    now, job = overview.timestamp, overview.last_job
    rate = health.success_rate(overview)
    alive = [worker for worker in data.workers if worker.alive]
    following = overview.scheduler.next_enrichment_time
    last = ago(job.completed_at, now) if job and job.completed_at else "never"
    shown = [
        ("Last run", last, "target: within 24 h"),
        ("Symbols successful", percent(rate), "target: above 95 %"),
        ("Duration", seconds(job.duration_seconds if job else None), "target: below 30 min"),
        ("Mean quality", number(quality.avg_quality_score, 3), "target: above 0.90"),
        ("Bars valid", percent(quality.avg_validation_rate), "target: above 95 %"),
        ("Next run in", *_next_run(following, now)),
        ("Queue", str(len(overview.job_queue)), "symbols waiting or at work"),
        ("Workers alive", str(len(alive)), _busy(alive)),
    ]
    for row in (shown[:4], shown[4:]):
        for column, (label, value, note) in zip(st.columns(4), row, strict=True):
            with column.container(border=True, height="stretch"):
                st.metric(label, value)
                st.caption(note)


def progress(data: Figures) -> None:
    if data.running is None:
        return
    job = data.running
    work = ", ".join(f"{symbol} ({step})" for symbol, step in list(job.at_work.items())[:5])
    eta = f" · about {job.eta_seconds:.0f} s left" if job.eta_seconds else ""
    st.progress(
        job.done / job.total if job.total else 0.0,
        text=f"{job.done} of {job.total} symbols done{eta}{' · ' + work if work else ''}",
    )


def recent_jobs(data: Figures) -> None:
    st.subheader("Recent jobs")
    if not data.history.jobs:
        st.info("No job yet. Trigger one, or wait for the nightly run.", icon=":material/info:")
        return
    frame = pd.DataFrame(
        {
            "label": [
                f"{(job.started_at or details.created_at):%m-%d %H:%M:%S}"
                for job, details in zip(data.history.jobs, data.history.details, strict=True)
            ],
            "successful": [job.successful for job in data.history.jobs],
            "failed": [job.failed for job in data.history.jobs],
            "duration_seconds": [job.duration_seconds or 0.0 for job in data.history.jobs],
            "kind": [details.kind for details in data.history.details],
        }
    )
    st.plotly_chart(charts.job_outcomes(frame.iloc[::-1]), key="jobs")


def quality(data: Figures) -> None:
    st.subheader("Lowest quality")
    scored = [s for s in data.series if s.quality_score is not None]
    if not scored:
        st.info("No series has been scored yet.", icon=":material/info:")
        return
    frame = pd.DataFrame(
        {
            "name": [f"{s.symbol} {s.timeframe}" for s in scored],
            "quality_score": [s.quality_score for s in scored],
            "status": [s.status for s in scored],
            "bars": [s.bars for s in scored],
        }
    )
    st.plotly_chart(charts.quality_by_series(frame, worst=12), key="quality")


def series_table(data: Figures) -> None:
    st.subheader("Series")
    if not data.series:
        st.info(
            "No symbols are tracked. Add one: `enrichment symbols add AAPL --asset-class stock`",
            icon=":material/add_circle:",
        )
        return
    frame = pd.DataFrame(
        {
            "Symbol": [s.symbol for s in data.series],
            "Class": [s.asset_class for s in data.series],
            "Timeframe": [s.timeframe for s in data.series],
            "Status": [s.status.replace("_", " ") for s in data.series],
            "Quality": [s.quality_score for s in data.series],
            "Bars": [s.bars for s in data.series],
            "Last bar": [s.last_ts for s in data.series],
            "Source": [_source(s.symbol, s.source) for s in data.series],
            "Why": ["; ".join(s.reasons) or s.last_error or "" for s in data.series],
        }
    )
    st.dataframe(
        frame,
        hide_index=True,
        height=min(38 * (len(frame) + 1), 560),
        column_config={
            "Quality": st.column_config.ProgressColumn(format="%.3f", min_value=0.0, max_value=1.0),
            "Bars": st.column_config.NumberColumn(format="localized"),
            "Last bar": st.column_config.DatetimeColumn(
                "Last bar (UTC)", format="YYYY-MM-DD HH:mm", timezone="UTC"
            ),
            "Why": st.column_config.TextColumn(width="large"),
        },
    )


def _source(symbol: str, source: str | None) -> str:
    if source is None:
        return "–"
    return f"{source} (simulated)" if is_simulated(symbol) else source


def _next_run(following: datetime | None, now: datetime) -> tuple[str, str]:
    if following is None:
        return "–", "disabled: ENABLE_DAILY_ENRICHMENT"
    return until(following, now), f"{following:%Y-%m-%d %H:%M} UTC"


def _busy(alive: Sequence[WorkerStatus]) -> str:
    return f"{sum(w.busy for w in alive)} of {sum(w.threads for w in alive)} threads busy"


def overview() -> None:
    """The part that moves: health, buttons, figures and progress."""
    data = figures()
    banner(data)
    buttons(data)
    progress(data)
    cards(data)
    left, right = st.columns(2)
    with left:
        recent_jobs(data)
    with right:
        quality(data)
    series_table(data)
    as_of(data.overview.timestamp)


def some() -> None:
    """Triggering and pausing less than everything."""
    series = [s for s in figures().series if s.active]
    if not series:
        return
    with st.container(horizontal=True):
        trigger_some({s.symbol: s.asset_class for s in series})
        pause_some(sorted({s.asset_class for s in series}))


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
            on_click=lambda: act(
                lambda: commands().trigger(actor=ACTOR, symbols=wanted),
                f"Triggered: {len(wanted)} symbols are queued",
            ),
        )


def pause_some(kinds: Sequence[str]) -> None:
    scopes = {f"asset class {kind}": ("asset_class", kind) for kind in kinds}
    scopes |= {f"provider {name}": ("provider", name) for name in PROVIDER_NAMES}
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
            on_click=lambda: act(
                lambda: commands().pause(
                    actor=ACTOR,
                    scope=scope,
                    key=key,
                    reason=reason.strip(),
                    until=utc_now() + timedelta(minutes=minutes),
                ),
                f"Paused: {chosen}, for {minutes} minutes",
            ),
        )
    for pause in figures().pauses:
        if pause.scope != "global":
            st.button(
                f"Resume {pause.scope.replace('_', ' ')} {pause.key}",
                icon=":material/resume:",
                key=f"resume-{pause.scope}-{pause.key}",
                on_click=resume_one,
                args=(pause.scope, pause.key),
            )


def resume_one(scope: str, key: str) -> None:
    act(lambda: commands().resume(actor=ACTOR, scope=scope, key=key), f"Resumed {key}")


st.title("Market enrichment")
live(overview)
calmly(some)
