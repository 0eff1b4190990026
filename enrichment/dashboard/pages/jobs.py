"""Jobs: the history, and one job's progress, timeline and errors, with retrying and cancelling."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from uuid import UUID

import pandas as pd
import streamlit as st

from enrichment.dashboard.auth import actor
from enrichment.dashboard.charts import jobs as job_charts
from enrichment.dashboard.components import (
    SECONDS,
    WIDE_TEXT,
    action_button,
    button_with_reason,
    empty_state,
    load_more,
    row_limit,
    run_command,
    select,
    sentences,
    table,
)
from enrichment.dashboard.data.jobs import (
    HISTORY_LIMIT,
    ITEM_LIMIT,
    JobReport,
    history_frame,
    read_history,
    read_job,
    read_log,
    read_symbols_by_day,
)
from enrichment.dashboard.formatting import label, seconds
from enrichment.dashboard.refresh import Section, show
from enrichment.dashboard.services import commands
from enrichment.dashboard.times import display_zone, format_time, to_display_zone
from enrichment.dashboard.zoom import zoomable_chart
from enrichment.domain.escape import for_markdown
from enrichment.domain.model import JobKind
from enrichment.domain.plurals import counted
from enrichment.domain.statuses import OPEN_JOB_STATES, ItemStatus
from enrichment.warehouse.read_models.dto import HistoryPage, Progress
from enrichment.warehouse.read_models.jobs import ErrorGroup, Timeline

SHOWN_JOB = "shown-job"
JOB_ID = "job"  # in the session state: the selected job
ERROR_CLASS = "job-error"  # in the session state: of the failed symbols that are listed


def filtered_history() -> HistoryPage:
    """The newest jobs that match the filters."""
    state = st.session_state
    limit = row_limit("history-limit", HISTORY_LIMIT)
    return read_history(tuple(state.get("kinds") or ()), bool(state.get("failed-only")), limit)


def history() -> None:
    if st.session_state.pop("job-selected", False):
        st.rerun()  # the whole page: this part reruns by itself
    page = filtered_history()
    if not page.jobs:
        filtered = st.session_state.get("kinds") or st.session_state.get("failed-only")
        no_jobs = "No job yet. Trigger one on the overview, or wait for the nightly run."
        empty_state("No job matches these filters." if filtered else no_jobs)
        return
    jobs = history_frame(page)
    history_charts(jobs)
    table(
        jobs,
        {"seconds": SECONDS, "job_id": st.column_config.TextColumn("job")},
        key="history",
        on_select=lambda row: select_job(jobs["job_id"].iloc[row]),
    )
    load_more("history-limit", HISTORY_LIMIT, len(jobs), page.total)


def history_inputs() -> object:
    page = filtered_history()
    return page.jobs, page.details, page.total


def history_charts(jobs: pd.DataFrame) -> None:
    """jobs: from `history_frame`; those that have not ended are left out."""
    jobs = jobs[~jobs["state"].isin(OPEN_JOB_STATES)]
    if jobs.empty:
        empty_state("None of these jobs has ended yet.")
        return
    left, right = st.columns(2)
    with left:
        st.subheader("Symbols by day")
        days = pd.DataFrame(read_symbols_by_day(tuple(map(UUID, jobs["job_id"]))))
        days["date"] = pd.to_datetime(days["date"], utc=True)
        st.plotly_chart(job_charts.outcomes_by_day(days), key="days")
        st.caption("of jobs that have ended")
    with right:
        st.subheader("Duration, with p50 and p95")
        started = jobs[jobs["seconds"].notna()].iloc[::-1]
        if started.empty:
            empty_state("None of these jobs has started.")
            return
        st.plotly_chart(job_charts.durations(to_display_zone(started)), key="durations")


def select_job(job_id: str) -> None:
    st.session_state[JOB_ID] = job_id
    st.session_state["job-selected"] = True


def selected_job() -> UUID | None:
    job_id = st.session_state.get(JOB_ID)
    return UUID(job_id) if job_id else None


def job_report() -> None:
    """The selected job's figures, timeline, errors and symbols."""
    job_id = selected_job()
    if job_id is None:
        return
    error_class = st.session_state.get(ERROR_CLASS) or None
    limit = row_limit("items-limit", ITEM_LIMIT)
    report = read_job(job_id, error_class, limit)
    if error_class and error_class not in {group.error_class for group in report.error_groups}:
        error_class, report = None, read_job(job_id, None, limit)  # another job was selected
    request, progress = report.request, report.progress
    if request is None or progress is None:
        st.warning(f"There is no job {job_id}.", icon=":material/search_off:")
        return
    reason = f" · {request.reason}" if request.reason else ""
    st.caption(for_markdown(f"{request.kind} · requested by {request.requested_by}{reason}"))
    job_metrics(progress)
    timeline(job_id, report.timeline)
    error_groups(job_id, report.error_groups, finished=progress.finished)
    item_table(report, error_class)
    item_log(job_id, report)


def report_inputs() -> object:
    job_id = selected_job()
    error_class = st.session_state.get(ERROR_CLASS) or None
    return job_id and read_job(job_id, error_class, row_limit("items-limit", ITEM_LIMIT))


def job_metrics(progress: Progress) -> None:
    sentences([vendor.text for vendor in progress.vendors])
    rate = progress.symbols_per_second
    metrics = [
        ("State", label(progress.state)),
        ("Symbols done", f"{progress.done} of {progress.total}"),
        ("Failed", str(progress.counts.get(ItemStatus.FAILED, 0))),
        ("Duration", seconds(progress.duration_seconds)),
        ("Symbols a second", "–" if rate is None else f"{rate:.1f}"),
    ]
    widths = (4, 3, 2, 3, 3)  # a state is a long word
    for column, (title, value) in zip(st.columns(widths), metrics, strict=True):
        column.metric(title, value)
    if progress.market_days is not None:
        st.caption(progress.market_days.summary)


def timeline(job_id: UUID, used: Timeline) -> None:
    """The symbols on the threads that ran them."""
    if not used.spans:
        empty_state("No symbol of this job is running or has ended.")
        return
    spans = pd.DataFrame([asdict(span) for span in used.spans])
    rows = spans.assign(worker=worker_labels(spans["worker_id"]))
    figure = job_charts.gantt(to_display_zone(rows))
    zoomable_chart(figure, key="gantt", subject=(job_id, display_zone().key))
    st.caption(timeline_note(used))


def timeline_note(used: Timeline) -> str:
    """What the timeline shows and leaves out."""
    notes = ["Bars: how long a thread worked at a symbol, without storing its rows"]
    if used.total > len(used.spans):
        notes.append(
            f"the {len(used.spans):,} of {used.total:,} symbols that took longest (the API lists "
            "all with their threads)"
        )
    if used.earlier_attempts:
        notes.append(
            f"only the last attempt at each symbol, without {used.earlier_attempts:,} earlier ones"
        )
    unknown = sum(span.thread is None for span in used.spans)
    if unknown:
        notes.append(
            f"{unknown:,} of {len(used.spans):,} ran before threads were recorded: their bars "
            "begin with the claim, end with the commit and may overlap on a thread"
        )
    return "; ".join(notes)


def worker_labels(ids: pd.Series) -> pd.Series:
    """Host and process of each worker, or its whole id where that names several."""
    labels = {name: ":".join(str(name).split(":")[:2]) for name in ids.dropna().unique()}
    counts = Counter(labels.values())
    return ids.map(
        lambda name: labels[name] if counts[labels[name]] == 1 else name, na_action="ignore"
    ).fillna("–")


def error_groups(job_id: UUID, groups: list[ErrorGroup], *, finished: bool) -> None:
    for group in groups:
        with st.container(border=True):
            st.markdown(f"**{for_markdown(group.error_class)}** · {group_text(group)}")
            st.code(group.example, language=None, wrap_lines=True)
            action_button(
                f"Retry these {group.count}",
                icon=":material/replay:",
                key=f"retry-{group.error_class}",
                disabled=not finished,
                on_click=retry_failed,
                args=(job_id, group.error_class),
            )


def group_text(group: ErrorGroup) -> str:
    """How many failed, which, and how many of them do not fail any more."""
    symbols = ", ".join(group.symbols)
    shown = symbols if group.count == len(group.symbols) else f"such as {symbols}"
    cured = group.count - group.still_failing
    note = f"; {counted(cured, 'symbol')} enriched since or no longer tracked" if cured else ""
    return f"{counted(group.count, 'symbol')}, {shown}{note}"


def item_table(report: JobReport, error_class: str | None) -> None:
    st.subheader("Symbols")
    counts = {group.error_class: group.count for group in report.error_groups}
    if counts:
        choices = {"": "all", **{name: f"{name} ({n:,})" for name, n in counts.items()}}
        select("Failed with", choices, key=ERROR_CLASS, width=320)
    items = report.items
    rows = [
        {
            "symbol": item.symbol,
            "status": item.status,
            "enriched since": "yes" if item.enriched_since else "",
            "step": item.step,
            "waits for": item.waiting.text(format_time) if item.waiting else "",
            "retries": item.retry_count,
            "inserted": item.inserted,
            "updated": item.updated,
            "started": item.started_at,
            "ended": item.completed_at,
            "last error": item.last_error,
        }
        for item in items
    ]
    table(rows, {"last error": WIDE_TEXT}, key="items")
    of_job = report.progress.total if report.progress else len(items)
    total = counts.get(error_class, 0) if error_class else of_job
    load_more("items-limit", ITEM_LIMIT, len(items), total, "by name, the first")


def item_log(job_id: UUID, report: JobReport) -> None:
    """The log of a symbol that failed, by choice."""
    failed = [i.symbol for i in report.items if i.status in (ItemStatus.FAILED, ItemStatus.RETRY)]
    if not failed:
        return
    symbol = st.selectbox(
        "Log of", failed, None, key="job-log", placeholder="a symbol that failed", width=320
    )
    if symbol is not None:
        st.code(read_log(job_id, symbol) or "no line is kept", language=None, wrap_lines=True)


def retry_failed(job_id: UUID, error_class: str | None) -> None:
    run_command(
        lambda: commands().resume_failed(job_id, actor=actor(), error_class=error_class),
        "The failed symbols are queued again",
    )


def cancel(job_id: UUID, reason: str) -> None:
    run_command(
        lambda: commands().cancel(job_id, actor=actor(), reason=reason),
        "Cancelling: running symbols stop at their next step",
    )


def job_choices() -> list[tuple[UUID, str, int]]:
    """What the job controls depend on: the failures of open jobs are not counted, so that the
    controls do not rerun while these run.
    """
    page = filtered_history()
    return [
        (job.job_id, details.state, 0 if details.state in OPEN_JOB_STATES else job.failed)
        for job, details in zip(page.jobs, page.details, strict=True)
    ]


def job_controls() -> None:
    """Selecting a job, retrying its failed symbols, and cancelling it."""
    page = filtered_history()
    if not page.jobs:
        return
    jobs = {str(job_id): (state, failed) for job_id, state, failed in job_choices()}
    labels = {
        str(job.job_id): f"{format_time(details.created_at, '%Y-%m-%d %H:%M:%S')} · {details.kind}"
        f" · {label(details.state)} · {str(job.job_id)[:8]}"
        for job, details in zip(page.jobs, page.details, strict=True)
    }
    st.subheader("One job")
    job_id = select("Job", labels, key=JOB_ID)
    if st.session_state.pop(SHOWN_JOB, job_id) != job_id:
        st.rerun()  # the parts that show this job
    st.session_state[SHOWN_JOB] = job_id
    state, failed = jobs[job_id]
    is_open = state in OPEN_JOB_STATES
    with st.container(horizontal=True):
        action_button(
            "Retry failed" if is_open else f"Retry {failed} failed",
            icon=":material/replay:",
            key="retry",
            disabled=is_open or not failed,
            on_click=retry_failed,
            args=(UUID(job_id), None),
        )
        button_with_reason(
            "Cancel",
            "Waiting symbols are cancelled now, running ones at their next step. Data that is "
            "already stored is kept.",
            lambda reason: cancel(UUID(job_id), reason),
            key="cancel",
            disabled=not is_open,
        )


st.title("Jobs")
with st.container(horizontal=True):
    st.multiselect(
        "Kinds",
        [kind.value for kind in JobKind],
        key="kinds",
        placeholder="all kinds",
        bind="query-params",
        width=420,
    )
    st.toggle("Only with failures", key="failed-only", bind="query-params")
show(
    Section("history-section", history, history_inputs),
    Section("job-controls", job_controls, job_choices),
    Section("job-report", job_report, report_inputs),
)
