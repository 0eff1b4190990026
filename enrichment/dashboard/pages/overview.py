"""Overview: whether the last night worked, what needs attention, and starting or pausing runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta

import pandas as pd
import streamlit as st

from enrichment.dashboard.auth import actor, is_operator
from enrichment.dashboard.charts import jobs as job_charts
from enrichment.dashboard.charts import nights, quality
from enrichment.dashboard.components import (
    BAR,
    PROVIDER,
    SCORE,
    WIDE_TEXT,
    action_button,
    button_with_reason,
    empty_state,
    run_command,
    sentences,
    table,
)
from enrichment.dashboard.data.jobs import history_frame
from enrichment.dashboard.data.overview import OverviewData, active_symbols, overview_data
from enrichment.dashboard.data.overview_metrics import Metric, current_metrics, trend_metrics
from enrichment.dashboard.data.quality import series_frame
from enrichment.dashboard.data.request_plan import trigger_preview
from enrichment.dashboard.formatting import age, label, provider_text
from enrichment.dashboard.refresh import Section, show
from enrichment.dashboard.services import commands
from enrichment.dashboard.times import bar_time, format_time
from enrichment.domain.clock import utc_now
from enrichment.domain.durations import duration_text
from enrichment.domain.escape import for_markdown
from enrichment.domain.plurals import counted
from enrichment.domain.statuses import OPEN_JOB_STATES, HealthStatus, PauseScope, SeriesStatus
from enrichment.services import health
from enrichment.vendors.registry import VENDORS
from enrichment.warehouse.read_models.dto import Progress
from enrichment.warehouse.read_models.overview import RecentError

ERRORS_SHOWN = 5  # kinds of errors; the others are folded
RUNNING_SHOWN = 5  # symbols that a line names
JOBS_SHOWN = 3
HEADLINES = {
    HealthStatus.HEALTHY: "Healthy",
    HealthStatus.WARNING: "Needs attention",
    HealthStatus.CRITICAL: "Critical",
}


def trigger_all(reason: str) -> None:
    run_command(
        lambda: commands().trigger(actor=actor(), reason=reason),
        "Triggered: every active symbol is queued",
    )


def pause_all(reason: str) -> None:
    run_command(
        lambda: commands().pause(actor=actor(), reason=reason), "Paused: no symbol is started"
    )


def resume(scope: str, key: str) -> None:
    run_command(lambda: commands().resume(actor=actor(), scope=scope, key=key), "Resumed")


def health_banner(data: OverviewData) -> None:
    assessment = health.assess(data.night, time_text=format_time)
    status = HealthStatus(assessment.status)
    text = "\n".join(
        [f"**{HEADLINES[status]}**", *(f"- {for_markdown(issue)}" for issue in assessment.issues)]
    )
    if not assessment.issues:
        text = f"**{HEADLINES[status]}**: {health.without_issues(data.night)}"
    if status == HealthStatus.HEALTHY:
        st.success(text, icon=":material/check_circle:")
    elif status == HealthStatus.WARNING:
        st.warning(text, icon=":material/warning:")
    else:
        st.error(text, icon=":material/error:")


def job_progress(data: OverviewData) -> None:
    for job in data.open_jobs[:JOBS_SHOWN]:
        st.progress(job.done / job.total if job.total else 0.0, text=progress_text(job))
        for waiting in job.waiting:
            st.caption(for_markdown(waiting.sentence(format_time)))
    for forecast in data.night.forecasts:
        if (forecast.minutes_late or 0.0) <= 0:  # else it is an issue above
            st.caption(for_markdown(f"{health.forecast_text(forecast, format_time)}."))
    if len(data.open_jobs) > JOBS_SHOWN:
        st.caption(f"{JOBS_SHOWN} of {len(data.open_jobs):,} open jobs: the page Jobs lists all")


def progress_text(job: Progress) -> str:
    steps = [f"{symbol} ({step})" for symbol, step in job.at_work.items()]
    more = f" and {len(steps) - RUNNING_SHOWN:,} more" if len(steps) > RUNNING_SHOWN else ""
    running = f" · {', '.join(steps[:RUNNING_SHOWN])}{more}" if steps else ""
    eta = f" · about {duration_text(job.eta_seconds)} left" if job.eta_seconds else ""
    return f"{job.done:,} of {counted(job.total, 'symbol')} done{eta}{running}"


def metric_rows(data: OverviewData) -> tuple[list[Metric], list[Metric]]:
    return current_metrics(data), trend_metrics(data)


def metrics() -> None:
    for row in metric_rows(overview_data()):
        for column, metric in zip(st.columns(4), row, strict=True):
            with column.container(border=True, height="stretch"):
                trend = metric.trend if len(metric.trend) > 1 else None
                st.metric(metric.label, metric.value, chart_data=trend)
                st.caption(metric.note)


def night_calendar(data: OverviewData) -> None:
    st.subheader("Nightly runs")
    frame = pd.DataFrame([asdict(night) for night in data.nights])
    frame["state"] = frame["state"].map(nights.outcome_of)
    if (frame["state"] == "before").all():
        empty_state("No nightly run yet. The next run is shown above; you can also trigger one.")
        return
    st.plotly_chart(nights.calendar(frame), key="nights")


def open_issues(data: OverviewData) -> None:
    """Breakers that are not closed, and the errors of the last days."""
    st.subheader("Errors and open breakers")
    for breaker in data.night.breakers:
        issue = for_markdown(health.breaker_issue(breaker, format_time))
        st.warning(issue, icon=":material/electric_bolt:")
    for error in data.errors[:ERRORS_SHOWN]:
        recent_error(error, data.overview.timestamp)
    others = data.errors[ERRORS_SHOWN:]
    if others:
        with st.expander(f"{counted(len(others), 'more kind')} of errors"):
            for error in others:
                recent_error(error, data.overview.timestamp)
    if not data.night.breakers and not data.errors:
        st.success(
            "No worker reports an open breaker, and no symbol has failed in the last week.",
            icon=":material/check:",
        )


def error_text(error: RecentError, now: datetime) -> str:
    cured = error.symbols - error.still_failing
    note = f", {cured:,} of them enriched since or no longer tracked" if cured else ""
    if not error.still_failing:
        note = ", all enriched since or no longer tracked"
    return (
        f"**{for_markdown(error.error_class)}** · {counted(error.symbols, 'symbol')} in "
        f"{counted(error.jobs, 'job')}, last {age(error.at, now)}{note}"
    )


def recent_error(error: RecentError, now: datetime) -> None:
    st.markdown(error_text(error, now))
    st.code(error.example, language=None, wrap_lines=True)


def lowest_scores(data: OverviewData) -> None:
    st.subheader("Lowest quality")
    if not data.lowest_scores:
        empty_state("No series has been scored in the last week.")
        return
    frame = series_frame(data.lowest_scores)
    frame["reasons"] = [one.cause or "no deductions" for one in data.lowest_scores]
    st.plotly_chart(quality.lowest_scores(frame), key="quality")
    st.caption(
        f"{len(frame):,} of {counted(data.night.series, 'series', 'series')}, without those that "
        "have had no score in the last week: the page Data quality shows more"
    )


def recent_jobs(data: OverviewData) -> None:
    st.subheader("Recent jobs")
    frame = ended_jobs(data).iloc[::-1]
    if frame.empty:
        empty_state("No job has ended yet. Trigger one, or wait for the nightly run.")
        return
    frame["label"] = [format_time(at, "%m-%d %H:%M:%S", with_zone=False) for at in frame["at"]]
    st.plotly_chart(job_charts.job_outcomes(frame), key="jobs")
    if data.history.next is not None:
        st.caption(f"the newest that have ended, {len(frame)}: the page Jobs lists all")


def ended_jobs(data: OverviewData) -> pd.DataFrame:
    """The others change all the time, and their progress is shown above."""
    jobs = history_frame(data.history)
    return jobs if jobs.empty else jobs[~jobs["state"].isin(OPEN_JOB_STATES)]


def unhealthy_series() -> None:
    data = overview_data()
    st.subheader("Series that are not healthy")
    if not data.night.series:
        empty_state(
            "No symbols are tracked. Track one on the page Symbols, or with "
            "`enrichment symbols add AAPL --asset-class stock`."
        )
        return
    counts = sorted(data.night.statuses.items(), key=lambda item: -item[1])
    st.caption(" · ".join(f"{count:,} {label(status)}" for status, count in counts))
    if not data.unhealthy_series:
        st.success("All series are healthy.", icon=":material/check:")
        return
    series = data.unhealthy_series
    rows = pd.DataFrame(
        {
            "symbol": [s.symbol for s in series],
            "timeframe": [s.timeframe for s in series],
            "status": [s.status for s in series],
            "quality": [s.quality_score for s in series],
            "last bar": [bar_time(s.last_ts, s.timeframe) for s in series],
            "provider": [provider_text(s.symbol, s.source) for s in series],
            "why": [s.cause for s in series],
        }
    )
    columns = {"quality": SCORE, "last bar": BAR, "provider": PROVIDER, "why": WIDE_TEXT}
    table(rows, columns, key="unhealthy")
    unhealthy = data.night.series - data.night.statuses.get(SeriesStatus.HEALTHY, 0)
    if unhealthy > len(series):
        st.caption(
            f"{len(series):,} of {unhealthy:,}, most severe first: the page Symbols lists all, "
            "filtered by status"
        )


def state_inputs() -> object:
    data = overview_data()
    return health.assess(data.night, time_text=format_time), data.night.statuses, data.open_jobs


def night_inputs() -> object:
    data = overview_data()
    errors = [(error_text(error, data.overview.timestamp), error.example) for error in data.errors]
    return data.nights, data.night.breakers, errors


def job_inputs() -> object:
    data = overview_data()
    jobs = zip(data.history.jobs, data.history.details, strict=True)
    ended = [(job, more) for job, more in jobs if more.state not in OPEN_JOB_STATES]
    return ended, data.lowest_scores


def series_inputs() -> object:
    data = overview_data()
    return data.night.statuses, data.unhealthy_series


def current_state() -> None:
    data = overview_data()
    health_banner(data)
    job_progress(data)


def nights_and_errors() -> None:
    data = overview_data()
    wide, narrow = st.columns([3, 2])
    with wide:
        night_calendar(data)
    with narrow:
        open_issues(data)


def jobs_and_scores() -> None:
    data = overview_data()
    left, right = st.columns(2)
    with left:
        recent_jobs(data)
    with right:
        lowest_scores(data)


def run_controls() -> None:
    """Triggering and pausing, for all symbols or some."""
    if not is_operator():
        return
    data, classes = overview_data(), active_symbols()
    paused = any(pause.scope == PauseScope.GLOBAL for pause in data.pauses)
    with st.container(horizontal=True):
        button_with_reason(
            f"Trigger {counted(len(classes), 'symbol')}" if classes else "Trigger",
            f"{counted(len(classes), 'active symbol')}, all that there are, "
            f"{'is' if len(classes) == 1 else 'are'} queued now.",
            trigger_all,
            key="trigger-all",
            disabled=not classes,
            icon=":material/play_arrow:",
            preview=trigger_preview,
        )
        button_with_reason(
            "Pause",
            "No symbol is started until you resume, neither after restarts nor by the nightly run. "
            "Symbols that are running are finished.",
            pause_all,
            key="pause-all",
            disabled=paused,
            icon=":material/pause:",
        )
        action_button(
            "Resume",
            icon=":material/resume:",
            on_click=resume,
            args=(PauseScope.GLOBAL, ""),
            disabled=not paused,
        )
        if classes:
            trigger_some(classes)
            pause_some(sorted(set(classes.values())))


def trigger_some(asset_classes: Mapping[str, str]) -> None:
    """asset_classes: active symbol → asset class."""
    popover = st.popover(
        "Trigger some", icon=":material/play_arrow:", key="trigger-some-open", on_change="rerun"
    )
    with popover:
        choices = ["all", *sorted(set(asset_classes.values()))]
        asset_class = st.selectbox("Asset class", choices, key="trigger-class")
        candidates = [
            symbol for symbol, own in asset_classes.items() if asset_class in ("all", own)
        ]
        selection = st.multiselect(
            "Symbols", candidates, key="trigger-symbols", placeholder="all of these"
        )
        symbols = selection or candidates
        if st.session_state.get("trigger-some-open"):
            sentences(trigger_preview(symbols))
        action_button(
            f"Trigger these {len(symbols)}",
            key="trigger-some",
            type="primary",
            on_click=lambda: run_command(
                lambda: commands().trigger(actor=actor(), symbols=symbols),
                f"Triggered: {counted(len(symbols), 'symbol')} queued",
            ),
        )


def pause_some(asset_classes: Sequence[str]) -> None:
    scopes = [
        *((PauseScope.ASSET_CLASS, asset_class) for asset_class in asset_classes),
        *((PauseScope.PROVIDER, name) for name in VENDORS.names),
    ]
    with st.popover("Pause some", icon=":material/pause:"):
        scope, key = st.selectbox(
            "Scope", scopes, key="pause-scope", format_func=lambda option: scope_text(*option)
        )
        minutes = st.number_input("Minutes", 1, 525_600, 120, key="pause-minutes")
        reason = st.text_input(
            "Reason (kept in the audit log)", key="pause-reason", max_chars=500
        ).strip()
        text = scope_text(scope, key)
        action_button(
            f"Pause {text}",
            key="pause-some",
            type="primary",
            disabled=not reason,
            on_click=lambda: run_command(
                lambda: commands().pause(
                    actor=actor(),
                    scope=scope,
                    key=key,
                    reason=reason,
                    until=utc_now() + timedelta(minutes=minutes),
                ),
                f"Paused: {text}, for {counted(minutes, 'minute')}",
            ),
        )
    for pause in overview_data().pauses:
        if pause.scope != PauseScope.GLOBAL:
            action_button(
                f"Resume {scope_text(pause.scope, pause.key)}",
                icon=":material/resume:",
                key=f"resume-{pause.scope}-{pause.key}",
                on_click=resume,
                args=(pause.scope, pause.key),
            )


def scope_text(scope: str, key: str) -> str:
    return f"{label(scope)} {key}"


st.title("Market enrichment")
show(
    Section("state", current_state, state_inputs),
    Section("controls", run_controls, lambda: (overview_data().pauses, active_symbols())),
    Section("metrics", metrics, lambda: metric_rows(overview_data())),
    Section("nights", nights_and_errors, night_inputs),
    Section("jobs", jobs_and_scores, job_inputs),
    Section("series", unhealthy_series, series_inputs),
)
