"""What the command line shows: progress, tables, times."""

from __future__ import annotations

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
from rich.table import Table

from enrichment.warehouse.read_models import dto

STYLES = {
    "healthy": "green",
    "completed": "green",
    "warning": "yellow",
    "retry": "yellow",
    "partial": "yellow",
    "stale": "red",
    "error": "red",
    "failed": "red",
    "not_enriched": "dim",
}


def as_json(value: Any) -> str:
    """Indented JSON of read models; times as ISO-8601 UTC with 'Z'."""

    def other(item: Any) -> Any:
        if is_dataclass(item) and not isinstance(item, type):
            return asdict(item)
        if isinstance(item, UUID):
            return str(item)
        raise TypeError(type(item).__name__)

    options = orjson.OPT_INDENT_2 | orjson.OPT_UTC_Z | orjson.OPT_PASSTHROUGH_SUBCLASS
    return orjson.dumps(value, default=other, option=options).decode()


def moment(at: datetime | None) -> str:
    return "–" if at is None else f"{at:%Y-%m-%d %H:%M:%S} UTC"


def duration(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def score(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def styled(status: str) -> str:
    style = STYLES.get(status)
    return f"[{style}]{status}[/]" if style else status


def follow(
    console: Console,
    read: Callable[[], dto.Progress | None],
    *,
    seconds: float | None = None,
    interrupted: Callable[[float], bool] | None = None,
) -> dto.Progress | None:
    """Show a job's progress until it has finished, or for at most `seconds`."""
    pause = interrupted or _pause
    until = None if seconds is None else time.monotonic() + seconds
    columns = (
        TextColumn("[bold]enriching"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}", style="dim"),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("job", total=None, note="waiting for a worker")
        while True:
            progress = read()
            if progress is None or progress.finished:
                return progress
            bar.update(task, total=progress.total, completed=progress.done, note=_note(progress))
            if (until is not None and time.monotonic() > until) or pause(0.2):
                return progress


def watch(console: Console, read: Callable[[], Sequence[dto.Progress]]) -> None:
    """The jobs at work, drawn anew every second until Ctrl-C."""
    with Live(console=console, auto_refresh=False) as live, suppress(KeyboardInterrupt):
        while True:
            live.update(progress_table(read()), refresh=True)
            time.sleep(1.0)


def progress_table(jobs: Sequence[dto.Progress]) -> Table:
    """Counts per status, throughput, time left, and the step of each symbol at work."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("job", "done", "items", "symbols/s", "left", "at work"):
        table.add_column(name)
    for job in jobs:
        counts = ", ".join(f"{n} {status}" for status, n in sorted(job.counts.items()))
        rate = "–" if job.symbols_per_second is None else f"{job.symbols_per_second:.1f}"
        work = ", ".join(f"{symbol} ({step})" for symbol, step in job.at_work.items())
        done = f"{job.done} of {job.total}"
        table.add_row(str(job.job_id), done, counts, rate, duration(job.eta_seconds), work or "–")
    if not jobs:
        table.add_row("no job is running", "", "", "", "", "")
    return table


def _pause(seconds: float) -> bool:
    time.sleep(seconds)
    return False


def _note(progress: dto.Progress) -> str:
    work = ", ".join(f"{symbol} ({step})" for symbol, step in list(progress.at_work.items())[:3])
    eta = "" if progress.eta_seconds is None else f" · {duration(progress.eta_seconds)} left"
    return (work or "waiting for a worker") + eta


def series_table(series: Sequence[dto.SeriesStatus]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("symbol", "bar"):
        table.add_column(name, no_wrap=True)
    table.add_column("bars", justify="right", no_wrap=True)
    table.add_column("first", no_wrap=True)
    table.add_column("last, UTC", no_wrap=True)
    table.add_column("quality", justify="right", no_wrap=True)
    table.add_column("status", no_wrap=True)
    table.add_column("source", no_wrap=True)
    for s in series:
        table.add_row(
            s.symbol,
            s.timeframe,
            f"{s.bars:,}",
            "–" if s.first_ts is None else f"{s.first_ts:%Y-%m-%d}",
            _last_bar(s),
            score(s.quality_score),
            styled(s.status if s.active else "inactive"),
            s.source or "–",
        )
    return table


def _last_bar(series: dto.SeriesStatus) -> str:
    if series.last_ts is None:
        return "–"
    intraday = series.timeframe not in ("1d", "1w")
    return f"{series.last_ts:%Y-%m-%d %H:%M}" if intraday else f"{series.last_ts:%Y-%m-%d}"


def history_table(page: dto.HistoryPage) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("started", "kind", "state"):
        table.add_column(name)
    for name in ("duration", "ok", "failed", "retried", "inserted", "updated"):
        table.add_column(name, justify="right")
    table.add_column("job")
    for job, details in zip(page.jobs, page.details, strict=True):
        table.add_row(
            moment(job.started_at),
            details.kind,
            styled(details.state),
            duration(job.duration_seconds),
            str(job.successful),
            str(job.failed),
            str(job.retried),
            f"{job.total_records_inserted:,}",
            f"{job.total_records_updated:,}",
            str(job.job_id),
        )
    return table


def resilience_table(patterns: Sequence[dto.PatternStatus]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("name", "kind", "state", "worker"):
        table.add_column(name)
    table.add_column("age", justify="right")
    for p in patterns:
        state = "unknown (stale)" if p.stale else p.state or "–"
        table.add_row(p.name, p.kind, state, p.worker_id, duration(p.age_seconds))
    return table


def print_item(console: Console, item: dto.JobStatus) -> None:
    """A symbol's newest run."""
    retries = f", {item.retry_count} retries" if item.retry_count else ""
    console.print(f"{item.symbol} {styled(item.status)}{retries}", highlight=False)
    console.print(f"started    {moment(item.started_at)}", highlight=False)
    console.print(f"completed  {moment(item.completed_at)}", highlight=False)
    if item.last_error:
        console.print("error      ", end="")
        console.print(item.last_error, markup=False, highlight=False)


def print_failures(console: Console, failed: Sequence[dto.FailedItem], limit: int = 10) -> None:
    for item in failed[:limit]:
        console.print(f"[red]✗[/] {item.symbol}: {item.last_error}", highlight=False)
    if len(failed) > limit:
        console.print(f"  … and {len(failed) - limit} more", style="dim")


def print_status(
    console: Console,
    overview: dto.Overview,
    workers: Sequence[dto.WorkerStatus],
    pauses: Sequence[dto.Pause],
) -> None:
    """The scheduler, the newest job, workers and pauses in a few lines."""
    scheduler, job = overview.scheduler, overview.last_job
    running = "[green]running[/]" if scheduler.running else "[red]not running[/]"
    console.print(f"scheduler  {running}, next run {moment(scheduler.next_enrichment_time)}")
    for pause in pauses:
        what = "everything" if pause.scope == "global" else f"{pause.scope} {pause.key}"
        why = pause.reason or "no reason given"
        console.print(f"[yellow]paused[/]     {what} by {pause.paused_by}: {why}")
    alive = [w for w in workers if w.alive]
    busy = sum(w.busy for w in alive)
    console.print(
        f"workers    {len(alive)} alive, {busy} of {sum(w.threads for w in alive)} threads busy"
    )
    for worker in alive:
        if worker.note:
            console.print("[yellow]waiting[/]    ", end="")
            console.print(f"{worker.worker_id}: {worker.note}", markup=False, highlight=False)
    if job is not None:
        console.print(
            f"last job   {moment(job.completed_at)}: {job.successful} ok, {job.failed} failed, "
            f"{job.retried} retried, {duration(job.duration_seconds)}",
            highlight=False,
        )
    if overview.job_queue:
        console.print(f"queue      {len(overview.job_queue)} symbols waiting or at work")
    console.print()
