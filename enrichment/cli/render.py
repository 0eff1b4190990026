"""Output of the command line: JSON, tables, progress, formats."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, is_dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson
from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from enrichment.cli.tables import Table
from enrichment.domain.durations import duration_text
from enrichment.domain.model import Timeframe
from enrichment.domain.plurals import counted
from enrichment.domain.schedules import DEFAULT_NAME, WEEKDAYS
from enrichment.domain.statuses import HealthStatus, ItemStatus, JobState, PauseScope, SeriesStatus
from enrichment.services import health
from enrichment.services.request_plan import RequestPlan
from enrichment.vendors.registry import VENDORS
from enrichment.warehouse.read_models import dto
from enrichment.warehouse.read_models.corporate_actions import ListedAction
from enrichment.warehouse.read_models.findings import Flag, MissingBar, RejectedBar
from enrichment.warehouse.read_models.night import NightState
from enrichment.warehouse.read_models.schedules import ScheduleStatus

HEALTH_STYLES = {
    HealthStatus.HEALTHY: "green",
    HealthStatus.WARNING: "yellow",
    HealthStatus.CRITICAL: "bold red",
}
RUNNING_SHOWN = 3  # symbols that a line names
STYLES: dict[str, str] = {
    SeriesStatus.HEALTHY: "green",
    SeriesStatus.WARNING: "yellow",
    SeriesStatus.STALE: "red",
    SeriesStatus.ERROR: "red",
    SeriesStatus.NOT_ENRICHED: "dim",
    ItemStatus.COMPLETED: "green",
    ItemStatus.RETRY: "yellow",
    ItemStatus.FAILED: "red",
    JobState.PARTIAL: "yellow",
    "closed": "green",
    "half_open": "yellow",
    "disabled": "yellow",
    "open": "red",
    "forced_open": "red",
}

WAITING = Text.assemble(("waiting", "yellow"), "    ")


def as_json(value: Any) -> str:
    """Indented JSON of read models; times as ISO-8601 UTC with 'Z'."""

    def encode(item: Any) -> Any:
        if is_dataclass(item) and not isinstance(item, type):
            return asdict(item)
        if isinstance(item, UUID):
            return str(item)
        raise TypeError(type(item).__name__)

    options = orjson.OPT_INDENT_2 | orjson.OPT_UTC_Z | orjson.OPT_PASSTHROUGH_SUBCLASS
    return orjson.dumps(value, default=encode, option=options).decode()


def print_json(console: Console, value: Any) -> None:
    """Print JSON; as ASCII where the terminal's encoding does not hold every text."""
    text = as_json(value)
    if not console.encoding.startswith("utf"):
        text = "".join(sign if sign.isascii() else json.dumps(sign)[1:-1] for sign in text)
    console.print(text, highlight=False)


def timestamp(at: datetime | None) -> str:
    return "–" if at is None else f"{at:%Y-%m-%d %H:%M:%S} UTC"


def score(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def styled(status: str) -> Text:
    return Text(status, STYLES.get(status, ""))


def follow_job(
    console: Console,
    read: Callable[[], dto.Progress | None],
    *,
    interrupted: Callable[[float], bool] | None = None,
) -> dto.Progress | None:
    """Show a job's progress until it has finished.

    Args:
        read: Reads the progress; None if there is no such job.
        interrupted: Waits for so many seconds; True if it was interrupted meanwhile.

    Returns:
        The last progress that was read.
    """
    wait = interrupted or _sleep
    columns = (
        TextColumn("enriching", style="bold", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}", style="dim", markup=False),
    )
    printed = ""
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("job", total=None, note="waiting for a worker")
        while True:
            progress = read()
            if progress is None or progress.finished:
                return progress
            bar.update(task, total=progress.total, completed=progress.done, note=_note(progress))
            reason = _first_reason(progress)
            if reason and reason != printed and not console.is_terminal:
                console.print(reason, highlight=False)
                printed = reason
            if wait(0.2):
                return progress


def print_plan(console: Console, plan: RequestPlan) -> None:
    """What a job would ask of the vendors."""
    for sentence in plan.sentences:
        console.print(sentence, highlight=False)


def plan_as_json(plan: RequestPlan) -> dict[str, Any]:
    """The same for programs."""
    return {
        "symbols": plan.symbols,
        "requests": plan.requests,
        "minutes": plan.minutes,
        "total_requests": plan.total_requests,
        "total_minutes": plan.total_minutes,
        "market_days": plan.market_days,
        "symbols_by_market_days": len(plan.by_market_days),
        "in_other_jobs": plan.in_other_jobs,
        "skipped": plan.skipped,
    }


def watch_jobs(console: Console, read: Callable[[], Sequence[dto.Progress]]) -> None:
    """Show the running jobs, refreshed every second, until Ctrl-C."""
    with Live(console=console, auto_refresh=False) as live, suppress(KeyboardInterrupt):
        while True:
            live.update(progress_table(read()), refresh=True)
            time.sleep(1.0)


def progress_table(jobs: Sequence[dto.Progress]) -> Table:
    """Per job: items per status, throughput, time left, and the step of each running symbol."""
    result = Table(
        *("job", "done", "symbols/s", "left", "items"),
        optional=("items", "symbols/s"),
        prose="running",
    )
    for job in jobs:
        counts = ", ".join(f"{n} {status}" for status, n in sorted(job.counts.items()))
        rate = "–" if job.symbols_per_second is None else f"{job.symbols_per_second:.1f}"
        running = ", ".join(f"{symbol} ({step})" for symbol, step in job.at_work.items())
        done = f"{job.done} of {job.total}"
        result.add_row(
            str(job.job_id), done, rate, duration_text(job.eta_seconds), counts, running or "–"
        )
    if not jobs:
        result.add_row("no job is running", "", "", "", "", "")
    return result


def _schedule_line(schedule: ScheduleStatus) -> str:
    """What it covers, when it runs, and how its last run ended."""
    covered = " ".join(schedule.exchanges) or " ".join(schedule.asset_classes)
    days = "daily" if len(schedule.days) == len(WEEKDAYS) else " ".join(schedule.days)
    run = schedule.run
    last = f"{run.slot_date} {run.state}, {run.still_failing} failed" if run else "no run yet"
    return (
        f"{schedule.name}: {covered} ({counted(schedule.symbols, 'symbol')}), {schedule.time} "
        f"{schedule.zone} {days}; last {'running' if schedule.is_running else last}; "
        f"next {timestamp(schedule.next_run_time)}"
    )


def _sleep(seconds: float) -> bool:
    time.sleep(seconds)
    return False


def _note(progress: dto.Progress) -> str:
    steps = [f"{symbol} ({step})" for symbol, step in progress.at_work.items()]
    more = f" and {len(steps) - RUNNING_SHOWN} more" if len(steps) > RUNNING_SHOWN else ""
    running = ", ".join(steps[:RUNNING_SHOWN]) + more
    eta = "" if progress.eta_seconds is None else f" · {duration_text(progress.eta_seconds)} left"
    return (running or _first_reason(progress) or "waiting for a worker") + eta


def _first_reason(progress: dto.Progress) -> str:
    """What most of the symbols wait for."""
    if not progress.waiting:
        return ""
    first, others = progress.waiting[0], len(progress.waiting) - 1
    more = f" (and {counted(others, 'more reason')})" if others else ""
    return f"{_wait_reason(first)}{more}"


def _wait_reason(waiting: dto.WaitReason) -> str:
    return waiting.sentence(timestamp)


def print_waiting(console: Console, jobs: Sequence[dto.Progress]) -> None:
    """What the symbols of open jobs wait for, and when they will be done."""
    for job in jobs:
        for vendor in job.vendors:
            console.print(Text.assemble(("to do", "bold"), f"      {vendor.text}"))
        for reason in job.waiting:
            console.print(Text.assemble(WAITING, _wait_reason(reason)))


def series_table(series: Sequence[dto.TrackedSeries]) -> Table:
    result = Table(
        *("symbol", "bar", "bars", "first", "last, UTC", "quality", "status", "source"),
        right=("bars", "quality"),
        optional=("first", "source", "bars", "last, UTC"),
        prose="why",
    )
    for s in series:
        result.add_row(
            s.symbol,
            s.timeframe,
            f"{s.bars:,}",
            "–" if s.first_ts is None else f"{s.first_ts:%Y-%m-%d}",
            bar_start(s.last_ts, s.timeframe),
            score(s.quality_score),
            styled(s.status if s.active else "inactive"),
            VENDORS.source_text(s.symbol, s.source) if s.source else "–",
            s.cause,
        )
    return result


def actions_table(actions: Sequence[ListedAction]) -> Table:
    result = Table(
        *("symbol", "date", "kind", "value", "source", "applied"),
        right=("value",),
        optional=("source", "applied"),
        prose="note",
    )
    for action in actions:
        result.add_row(
            action.symbol,
            f"{action.effective_date}",
            action.kind,
            action.value,
            ", ".join(action.sources),
            "yes" if action.applies else "no",
            action.note,
        )
    return result


def bar_start(start: datetime | None, timeframe: str) -> str:
    """The start of a bar: a date for daily and weekly bars."""
    if start is None:
        return "–"
    return f"{start:%Y-%m-%d %H:%M}" if Timeframe(timeframe).intraday else f"{start:%Y-%m-%d}"


def findings_table(rows: Sequence[Flag | RejectedBar | MissingBar]) -> Table:
    result = Table(
        *("symbol", "bar", "start, UTC", "check or cause", "found"),
        optional=("found",),
        prose="why",
    )
    for row in rows:
        kind, why = (
            (row.cause, row.error or "") if isinstance(row, MissingBar) else (row.check, row.detail)
        )
        result.add_row(
            row.symbol,
            row.timeframe,
            bar_start(row.timestamp, row.timeframe),
            kind.replace("_", " "),
            f"{row.found_at:%Y-%m-%d}",
            why,
        )
    return result


def history_table(page: dto.HistoryPage) -> Table:
    numbers = ("duration", "ok", "failed", "retried", "inserted", "updated")
    figures = ("retried", "updated", "inserted", "duration", "ok")
    result = Table(
        *("started, UTC", "kind", "state", *numbers, "schedule", "job"),
        right=numbers,
        optional=(*figures, "schedule", "kind", "started, UTC"),
    )
    for job, details in zip(page.jobs, page.details, strict=True):
        result.add_row(
            "–" if job.started_at is None else f"{job.started_at:%Y-%m-%d %H:%M:%S}",
            details.kind,
            styled(details.state),
            duration_text(job.duration_seconds),
            str(job.successful),
            str(job.failed),
            str(job.retried),
            f"{job.total_records_inserted:,}",
            f"{job.total_records_updated:,}",
            details.schedule or "–",
            str(job.job_id),
        )
    return result


def resilience_table(patterns: Sequence[dto.PatternStatus]) -> Table:
    result = Table(
        *("name", "kind", "state", "age", "worker"),
        right=("age",),
        optional=("age", "worker"),
        prose="set by",
    )
    for p in patterns:
        state = "unknown (stale)" if p.stale else styled(p.shown_state or "–")
        override = f"{p.set_by}, {timestamp(p.since)}: {p.reason or '–'}" if p.set_by else ""
        age = duration_text(p.age_seconds)
        result.add_row(p.name, p.kind, state, age, p.worker_id, override)
    return result


def print_item(console: Console, item: dto.JobStatus, waiting: dto.WaitReason | None) -> None:
    """A symbol's latest run, and why it has not started."""
    retries = f", {counted(item.retry_count, 'retry', 'retries')}" if item.retry_count else ""
    console.print(Text.assemble(f"{item.symbol} ", styled(item.status), retries))
    if waiting is not None:
        console.print(f"waits for  {waiting.text(timestamp)}", highlight=False)
    console.print(f"started    {timestamp(item.started_at)}", highlight=False)
    console.print(f"completed  {timestamp(item.completed_at)}", highlight=False)
    if item.last_error:
        console.print(f"error      {item.last_error}", highlight=False)


def print_failures(
    console: Console, job_id: UUID, failed: Sequence[dto.FailedItem], limit: int = 10
) -> None:
    for item in failed[:limit]:
        console.print(Text.assemble(("✗", "red"), f" {item.symbol}: {item.last_error}"))
    if len(failed) > limit:
        console.print(
            f"  … and {len(failed) - limit:,} more: the page Jobs lists all, and "
            f"GET /api/v1/enrichment/jobs/{job_id}/items?status=failed",
            style="dim",
            highlight=False,
        )


def print_status(
    console: Console,
    overview: dto.Overview,
    workers: Sequence[dto.WorkerStatus],
    pauses: Sequence[dto.Pause],
    night: NightState,
) -> None:
    """Print the health, the scheduler, the pauses, the workers, the last run and the queue."""
    scheduler, job = overview.scheduler, overview.last_job
    assessment = health.assess(night)
    state = (assessment.status.value, HEALTH_STYLES[assessment.status])
    remark = "" if assessment.issues else f": {health.without_issues(night)}"
    console.print(Text.assemble("health     ", state, remark))
    for issue in assessment.issues:
        console.print(f"           - {issue}", highlight=False)
    running = ("running", "green") if scheduler.running else ("not running", "red")
    due = scheduler.next_enrichment_time
    next_run = f", next run {timestamp(due)}" if due else ", no runs are scheduled"
    next_run = next_run if scheduler.running else ""
    console.print(Text.assemble("scheduler  ", running, next_run))
    if [schedule.name for schedule in scheduler.schedules] != [DEFAULT_NAME]:
        for schedule in scheduler.schedules:
            console.print(f"           {_schedule_line(schedule)}", highlight=False)
    for pause in pauses:
        what = "everything" if pause.scope == PauseScope.GLOBAL else f"{pause.scope} {pause.key}"
        reason = pause.reason or "no reason given"
        until = f", until {timestamp(pause.until)}" if pause.until else ""
        by = f"     {what} by {pause.paused_by}{until}: {reason}"
        console.print(Text.assemble(("paused", "yellow"), by))
    alive = [w for w in workers if w.alive]
    busy, threads = sum(w.busy for w in alive), sum(w.threads for w in alive)
    console.print(f"workers    {len(alive)} alive, {busy} of {counted(threads, 'thread')} busy")
    for worker in alive:
        if worker.note:
            console.print(Text.assemble(WAITING, f"{worker.worker_id}: {worker.note}"))
    if job is not None:
        judged = f" · {night.run.name}" if night.run else ""
        console.print(
            f"last job   {timestamp(job.completed_at)}: {job.successful} ok, {job.failed} failed, "
            f"{job.retried} retried, {duration_text(job.duration_seconds)}{judged}",
            highlight=False,
        )
    for forecast in overview.forecasts:
        console.print(f"deadline   {health.forecast_text(forecast)}.", highlight=False)
    if overview.queued:
        console.print(f"queue      {counted(overview.queued, 'symbol')} waiting or running")
    console.print()
