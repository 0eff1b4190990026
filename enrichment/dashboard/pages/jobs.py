"""Jobs: where did the time go, what failed, and doing something about it."""

from __future__ import annotations

from uuid import UUID

import pandas as pd
import streamlit as st

from enrichment.dashboard.charts import jobs as job_charts
from enrichment.dashboard.components import (
    auto_refresh,
    empty_state,
    local,
    moment,
    refresh_on_change,
    refreshed_at,
    run_command,
    seconds,
    table,
    with_reason,
)
from enrichment.dashboard.data.cache import cached_read
from enrichment.dashboard.services import actor, commands, services
from enrichment.warehouse.read_models.dto import HistoryPage, Progress
from enrichment.warehouse.read_models.jobs import ErrorGroup, JobItem, JobRequest

SHOWN = 200
ITEMS = 500
GANTT_ITEMS = 200
OPEN = ("queued", "running")
KINDS = ("scheduled", "catchup", "manual", "backfill")


@cached_read
def fitting(kinds: tuple[str, ...], with_failures: bool) -> HistoryPage:
    return services().reader.history(SHOWN, kinds=kinds, with_failures=with_failures)


def history() -> HistoryPage:
    """The newest jobs that the filters let through."""
    state = st.session_state
    return fitting(tuple(state.get("kinds") or ()), bool(state.get("failed-only")))


@cached_read
def details(
    job_id: UUID,
) -> tuple[JobRequest | None, Progress | None, list[ErrorGroup], list[JobItem], list[JobItem]]:
    """What was asked for, how far it is, its errors, its first symbols, and the longest."""
    reader = services().reader
    return (
        reader.jobs.request(job_id),
        reader.progress(job_id),
        reader.jobs.error_groups(job_id),
        reader.jobs.items(job_id, ITEMS),
        reader.jobs.longest(job_id, GANTT_ITEMS),
    )


def frame(page: HistoryPage) -> pd.DataFrame:
    """The history's jobs, newest first."""
    rows = [
        {
            "job_id": str(job.job_id),
            "at": details.created_at,
            "kind": details.kind,
            "state": details.state,
            "requested by": details.requested_by,
            "symbols": details.total,
            "successful": job.successful,
            "failed": job.failed,
            "retried": job.retried,
            "seconds": job.duration_seconds,
            "inserted": job.total_records_inserted,
            "updated": job.total_records_updated,
        }
        for job, details in zip(page.jobs, page.details, strict=True)
    ]
    return pd.DataFrame(rows)


def overview() -> None:
    """The history: outcomes and durations of the jobs that the filters let through."""
    if st.session_state.pop("picked", False):
        st.rerun()  # the job that was picked is shown beside this part
    page = history()
    if not page.jobs:
        filtered = st.session_state.get("kinds") or st.session_state.get("failed-only")
        none = "No job yet. Trigger one on the overview, or wait for the nightly run."
        empty_state("No job fits these filters." if filtered else none)
        refreshed_at(page.timestamp)
        return
    found = frame(page)
    outcomes(found)
    table(found, key="history", on_pick=lambda row: pick(found["job_id"].iloc[row]))
    if page.next is not None:
        st.caption(f"the newest {SHOWN}; the API has all, page by page")
    refreshed_at(page.timestamp)


def outcomes(found: pd.DataFrame) -> None:
    """found: as `frame` makes it."""
    left, right = st.columns(2)
    with left:
        st.subheader("Symbols by day")
        by_day = found.assign(date=found["at"].dt.floor("D"))
        days = by_day.groupby("date", as_index=False)[["successful", "failed"]].sum()
        st.plotly_chart(job_charts.outcomes_by_day(days), key="days")
    with right:
        st.subheader("Duration, with p50 and p95")
        done = found[found["seconds"].notna()].iloc[::-1]
        if done.empty:
            empty_state("None of these jobs has ended yet.")
            return
        st.plotly_chart(
            job_charts.durations(local(done.rename(columns={"seconds": "duration_seconds"}))),
            key="durations",
        )


def pick(job_id: str) -> None:
    """Show the job of the row that was clicked."""
    st.session_state["job"] = job_id
    st.session_state["picked"] = True


def detail() -> None:
    """The chosen job: figures, its symbols on their threads, its errors."""
    job_id = chosen()
    if job_id is None:
        return
    asked, progress, groups, items, longest = details(job_id)
    if asked is None or progress is None:
        st.warning(f"There is no job {job_id}.", icon=":material/search_off:")
        return
    why = f" · {asked.reason}" if asked.reason else ""
    st.caption(f"{asked.kind} · requested by {asked.requested_by}{why}")
    rate = progress.symbols_per_second
    shown = [
        ("State", progress.state),
        ("Symbols done", f"{progress.done} of {progress.total}"),
        ("Failed", str(progress.counts.get("failed", 0))),
        ("Duration", seconds(progress.duration_seconds)),
        ("Symbols a second", "–" if rate is None else f"{rate:.1f}"),
    ]
    widths = (4, 3, 2, 3, 3)  # a state is a long word
    for column, (label, value) in zip(st.columns(widths), shown, strict=True):
        column.metric(label, value)
    timeline(longest)
    errors(job_id, groups, finished=progress.finished)
    listed(items)


def timeline(ran: list[JobItem]) -> None:
    """Where the time went. ran: the symbols that took longest."""
    now = pd.Timestamp.now(tz="UTC")
    if not ran:
        empty_state("No symbol of this job has begun.")
        return
    rows = pd.DataFrame(
        {
            "symbol": [item.symbol for item in ran],
            "worker": [(item.worker_id or "–").split(":")[0] for item in ran],
            "status": [item.status for item in ran],
            "started_at": [item.started_at or now for item in ran],
            "completed_at": [item.completed_at or now for item in ran],
        }
    )
    st.plotly_chart(job_charts.gantt(local(rows)), key="gantt")
    if len(ran) == GANTT_ITEMS:
        st.caption(f"the {GANTT_ITEMS} symbols that took longest")


def errors(job_id: UUID, groups: list[ErrorGroup], *, finished: bool) -> None:
    for group in groups:
        with st.container(border=True):
            more = " …" if group.count > len(group.symbols) else ""
            st.markdown(
                f"**{group.error_class}** · {group.count} symbols: {', '.join(group.symbols)}{more}"
            )
            st.code(group.example, language=None, wrap_lines=True)
            st.button(
                f"Run these {group.count} again",
                icon=":material/replay:",
                key=f"again-{group.error_class}",
                disabled=not finished,
                on_click=run_again,
                args=(job_id, group.error_class),
            )


def listed(items: list[JobItem]) -> None:
    st.subheader("Symbols")
    rows = [
        {
            "symbol": item.symbol,
            "status": item.status.replace("_", " "),
            "step": item.step,
            "retries": item.retry_count,
            "inserted": item.inserted,
            "updated": item.updated,
            "started": item.started_at,
            "ended": item.completed_at,
            "last error": item.last_error,
        }
        for item in items
    ]
    table(rows, key="items")
    if len(items) == ITEMS:
        st.caption(f"the first {ITEMS} by name; the API has all, page by page")


def run_again(job_id: UUID, error_class: str | None) -> None:
    run_command(
        lambda: commands().resume_failed(job_id, actor=actor(), error_class=error_class),
        "Failed symbols are queued again",
    )


def cancel(job_id: UUID, reason: str) -> None:
    run_command(
        lambda: commands().cancel(job_id, actor=actor(), reason=reason),
        "Being cancelled: symbols at work end at their next step",
    )


def chosen() -> UUID | None:
    """The job that is looked at."""
    found = st.session_state.get("job")
    return UUID(found) if found else None


def offered() -> list[tuple[UUID, str, int]]:
    """What the choice of a job is made of: it stays as it is while an open job's symbols fail."""
    page = history()
    return [
        (job.job_id, details.state, 0 if details.state in OPEN else job.failed)
        for job, details in zip(page.jobs, page.details, strict=True)
    ]


def chooser() -> None:
    """Which job to look at, and what can be done to it."""
    page = history()
    jobs = {
        str(job.job_id): (details, job.failed)
        for job, details in zip(page.jobs, page.details, strict=True)
    }
    if not jobs:
        return

    def name(key: str) -> str:
        job, _ = jobs[key]
        return f"{moment(job.created_at, '%Y-%m-%d %H:%M:%S')} · {job.kind} · {job.state}"

    st.subheader("One job")
    st.selectbox("Job", list(jobs), format_func=name, key="job")
    job_id = chosen()
    if job_id is None:
        return
    shown, failed = jobs.get(str(job_id), (None, 0))
    running = shown is not None and shown.state in OPEN
    with st.container(horizontal=True):
        st.button(
            "Run failed again" if running else f"Run {failed} failed again",
            icon=":material/replay:",
            key="again",
            disabled=running or not failed,
            on_click=run_again,
            args=(job_id, None),
        )
        with_reason(
            "Cancel",
            "Waiting symbols are cancelled now, those at work at their next step. What is stored "
            "stays.",
            lambda reason: cancel(job_id, reason),
            key="cancel",
            disabled=not running,
        )


st.title("Jobs")
with st.container(horizontal=True):
    st.multiselect(
        "Kinds", KINDS, key="kinds", placeholder="all kinds", bind="query-params", width=420
    )
    st.toggle("Only with failures", key="failed-only", bind="query-params")
auto_refresh(overview)
refresh_on_change(chooser, of=offered)
auto_refresh(detail)
