"""Commands about jobs: trigger, status, history, pause, resume, cancel."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated
from uuid import UUID

import typer

from enrichment.cli.context import DryRun, Json, Plain, Reason, Wait, actor, err, out, services
from enrichment.domain.clock import utc_now
from enrichment.domain.durations import duration_text, parse_duration
from enrichment.domain.errors import InvalidRequest, NotTracked
from enrichment.domain.plurals import counted
from enrichment.domain.statuses import ItemStatus, PauseScope

AssetClass = Annotated[str | None, typer.Option(help="Only this asset class.")]
Symbol = Annotated[str | None, typer.Option(help="Only this symbol.")]
Provider = Annotated[str | None, typer.Option(help="Only this provider.")]


def trigger(
    symbol: Annotated[list[str] | None, typer.Argument(help="Symbols; none means all.")] = None,
    asset_class: Annotated[
        str | None, typer.Option(help="All symbols of a class: stock, etf or crypto.")
    ] = None,
    dry_run: DryRun = False,
    wait: Wait = False,
    as_json: Json = False,
) -> None:
    """Enrich symbols now. With --wait the exit code is 1 if a symbol failed."""
    from enrichment.cli import render

    with services() as (reader, commands):
        if dry_run:
            plan = commands.plan_trigger(symbol, asset_class)
            if as_json:
                render.print_json(out, render.plan_as_json(plan))
            else:
                render.print_plan(out, plan)
            return
        job = commands.trigger(symbols=symbol, asset_class=asset_class, actor=actor())
        if not wait:
            text = f"job {job.job_id}: {counted(job.symbols_to_process, 'symbol')} queued"
            if as_json:
                render.print_json(out, job)
            else:
                out.print(text, highlight=False)
            return
        if not as_json and not any(worker.alive for worker in reader.workers()):
            err.print("no worker is running: start one with 'enrichment worker'", style="yellow")
        progress = render.follow_job(err, lambda: reader.progress(job.job_id))
        failed = reader.failed_items(job.job_id)
    if as_json:
        render.print_json(out, progress)
    elif progress is not None:
        render.print_failures(out, job.job_id, failed)
        completed = progress.counts.get(ItemStatus.COMPLETED, 0)
        out.print(
            f"{completed} of {counted(progress.total, 'symbol')} completed in "
            f"{duration_text(progress.duration_seconds)}: "
            f"{counted(progress.inserted, 'bar')} inserted, "
            f"{progress.updated:,} updated",
            highlight=False,
        )
    if failed:
        raise typer.Exit(1)


def status(
    symbol: Annotated[str | None, typer.Argument(help="One symbol; none means all.")] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Show the running jobs until Ctrl-C.")
    ] = False,
    as_json: Json = False,
    plain: Plain = False,
) -> None:
    """Show the health, the workers and every series, or one symbol's latest run."""
    from enrichment.cli import render
    from enrichment.cli.tables import print_table
    from enrichment.services import health

    if symbol is not None and not watch:
        _print_symbol_status(symbol, as_json)
        return
    with services() as (reader, _):
        if watch:
            render.watch_jobs(out, reader.progress_of_open_jobs)
            return
        overview, series = reader.overview(), reader.series()
        workers, pauses = reader.workers(), reader.pauses()
        jobs, night = reader.progress_of_open_jobs(), reader.night()
    if as_json:
        content = {
            "health": health.assess(night),
            "overview": overview,
            "workers": workers,
            "pauses": pauses,
            "jobs": jobs,
            "series": series,
        }
        render.print_json(out, content)
        return
    if not plain:
        render.print_status(out, overview, workers, pauses, night)
        render.print_waiting(out, jobs)
    print_table(out, render.series_table(series), plain=plain)


def history(
    limit: Annotated[int, typer.Option(min=1, max=500, help="Number of jobs.")] = 10,
    schedule: Annotated[str | None, typer.Option(help="Only the runs of this schedule.")] = None,
    as_json: Json = False,
    plain: Plain = False,
) -> None:
    """List the latest jobs."""
    from enrichment.cli import render
    from enrichment.cli.tables import print_table

    with services() as (reader, _):
        page = reader.history(limit, schedule=schedule)
    if as_json:
        render.print_json(out, page.jobs)
    else:
        print_table(out, render.history_table(page), plain=plain)
        if page.total > len(page.jobs) and not plain:
            out.print(f"{len(page.jobs)} of {page.total:,} jobs, the newest: --limit shows more")


def pause(
    asset_class: AssetClass = None,
    symbol: Symbol = None,
    provider: Provider = None,
    duration: Annotated[
        str | None,
        typer.Option("--for", help="Duration, e.g. 30m, 2h, 1d; none: until 'resume'."),
    ] = None,
    reason: Reason = None,
) -> None:
    """Start no more symbols, of all or of one scope, until 'resume'; running ones finish."""
    scope, key = _scope(asset_class, symbol, provider)
    until = None if duration is None else utc_now() + parse_duration(duration)
    with services() as (_, commands):
        commands.pause(actor=actor(), scope=scope, key=key, reason=reason, until=until)
    end = f"until {until:%Y-%m-%d %H:%M} UTC" if until else "until 'enrichment resume'"
    out.print(f"paused {_scope_text(scope, key)} {end}: running symbols finish", highlight=False)


def resume(
    asset_class: AssetClass = None,
    symbol: Symbol = None,
    provider: Provider = None,
    job: Annotated[
        UUID | None, typer.Option(help="Run this job's failed symbols again; no pause is changed.")
    ] = None,
    error_class: Annotated[
        str | None, typer.Option(help="With --job: only symbols that failed with this error.")
    ] = None,
    reason: Reason = None,
) -> None:
    """End a pause, or run a job's failed symbols again."""
    with services() as (_, commands):
        if job is not None:
            count = commands.resume_failed(
                job, actor=actor(), error_class=error_class, reason=reason
            )
            out.print(f"job {job}: {counted(count, 'symbol')} queued again", highlight=False)
            return
        scope, key = _scope(asset_class, symbol, provider)
        commands.resume(actor=actor(), scope=scope, key=key, reason=reason)
    out.print(f"resumed {_scope_text(scope, key)}", highlight=False)


def cancel(
    job: Annotated[UUID, typer.Argument(help="Job id, as shown by 'history'.")],
    reason: Reason = None,
) -> None:
    """Cancel a job: waiting symbols at once, running ones at their next step."""
    with services() as (_, commands):
        commands.cancel(job, actor=actor(), reason=reason)
    out.print(f"job {job} is being cancelled", highlight=False)


def register(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    for command in (trigger, status, history, pause, resume, cancel):
        app.command()(command)


def _print_symbol_status(symbol: str, as_json: bool) -> None:
    from enrichment.cli import render

    with services() as (reader, _):
        name = reader.symbols.stored_as(symbol)
        item, waiting = reader.job_status(name), reader.wait_of(name)
    if item is None:
        raise NotTracked.of(name)
    if as_json:
        render.print_json(out, {**asdict(item), "waiting": waiting})
    else:
        render.print_item(out, item, waiting)


def _scope_text(scope: PauseScope, key: str) -> str:
    return "everything" if scope == PauseScope.GLOBAL else f"{scope} {key}".replace("_", " ")


def _scope(
    asset_class: str | None, symbol: str | None, provider: str | None
) -> tuple[PauseScope, str]:
    scopes = [
        (scope, key)
        for scope, key in (
            (PauseScope.ASSET_CLASS, asset_class),
            (PauseScope.SYMBOL, symbol),
            (PauseScope.PROVIDER, provider),
        )
        if key is not None
    ]
    if len(scopes) > 1:
        raise InvalidRequest("give one of --asset-class, --symbol and --provider")
    return scopes[0] if scopes else (PauseScope.GLOBAL, "")
