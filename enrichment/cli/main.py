"""The command line. Heavy imports happen inside the commands that need them."""

from __future__ import annotations

import signal
from typing import Annotated

import typer

from enrichment import __version__
from enrichment.cli import alerts, data, export
from enrichment.cli import jobs as steering
from enrichment.cli import symbols as symbol_commands
from enrichment.cli.context import Json, actor, err, log_to_stderr, out, services, settings
from enrichment.domain.errors import EnrichmentError, NotTracked

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Fills a market-data warehouse every night: fetch, validate, compute, score, store.",
)
db_app = typer.Typer(no_args_is_help=True, help="The database: its schema and its address.")
app.add_typer(symbol_commands.app, name="symbols")
steering.register(app)
data.register(app)
app.add_typer(alerts.app, name="alerts")
app.add_typer(export.app, name="export")
app.add_typer(db_app, name="db")

ApiPort = Annotated[int | None, typer.Option(help="Port of the API [ENRICHMENT_API_PORT].")]
DashboardPort = Annotated[
    int | None, typer.Option(help="Port of the dashboard [ENRICHMENT_DASHBOARD_PORT].")
]
SandboxPort = Annotated[
    int | None, typer.Option(help="Port of the sandbox vendor [ENRICHMENT_SANDBOX_PORT].")
]


OwnApiPort = Annotated[int | None, typer.Option("--port", "--api-port", help="Port.")]
OwnDashboardPort = Annotated[int | None, typer.Option("--port", "--dashboard-port", help="Port.")]
OwnSandboxPort = Annotated[int | None, typer.Option("--port", "--sandbox-port", help="Port.")]


@app.command()
def up(
    api_port: ApiPort = None, dashboard_port: DashboardPort = None, sandbox_port: SandboxPort = None
) -> None:
    """Start everything: database, worker, API, dashboard and, without a key, the sandbox vendor."""
    from enrichment.cli import up as stack

    stack.up(
        settings(
            enrichment_api_port=api_port,
            enrichment_dashboard_port=dashboard_port,
            enrichment_sandbox_port=sandbox_port,
        ),
        out,
    )


@app.command()
def demo(
    api_port: ApiPort = None,
    dashboard_port: DashboardPort = None,
    sandbox_port: SandboxPort = None,
) -> None:
    """Start everything on a new temporary data folder, with sample symbols and a first run."""
    from enrichment.cli import up as stack

    stack.demo(
        settings(
            enrichment_api_port=api_port,
            enrichment_dashboard_port=dashboard_port,
            enrichment_sandbox_port=sandbox_port,
        ),
        out,
    )


@app.command()
def worker() -> None:
    """Run a worker: the nightly clock and the threads that enrich symbols. Stops on Ctrl-C."""
    from enrichment.cli.supervisor import stop_with_parent
    from enrichment.engine.cpu_affinity import pinned_to_one_processor
    from enrichment.wiring.worker import open_worker_process

    log_to_stderr()
    chosen = settings()
    with open_worker_process(chosen) as process, pinned_to_one_processor(chosen.one_processor):
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: process.stop())
        stop_with_parent()
        clean = process.run()
    if not clean:
        import os

        os._exit(0)  # threads that hang in a vendor's answer can't be ended otherwise


@app.command()
def api(
    host: Annotated[str | None, typer.Option(help="Address [ENRICHMENT_API_HOST].")] = None,
    port: OwnApiPort = None,
) -> None:
    """Serve the JSON API."""
    from api.server import serve
    from enrichment.cli.supervisor import stop_with_parent

    stop_with_parent()
    serve(settings(enrichment_api_host=host, enrichment_api_port=port))


@app.command()
def dashboard(port: OwnDashboardPort = None) -> None:
    """Serve the dashboard."""
    from enrichment.cli.supervisor import stop_with_parent
    from enrichment.dashboard.server import serve

    stop_with_parent()
    serve(settings(enrichment_dashboard_port=port))


@app.command()
def sandbox(
    port: OwnSandboxPort = None,
    fault: Annotated[
        list[str] | None,
        typer.Option(
            help="Fault to inject, e.g. 'AAPL:server_error:times=3' or '*:latency:seconds=1'."
        ),
    ] = None,
    anchor: Annotated[
        str | None, typer.Option(help="Date on which the recorded bars end (default: today).")
    ] = None,
    unshifted: Annotated[
        bool, typer.Option("--unshifted", help="Replay the recorded bars on their original dates.")
    ] = False,
    quota: Annotated[
        int | None, typer.Option(help="Requests a minute before it answers 429.")
    ] = None,
) -> None:
    """Serve the sandbox vendor: real recorded bars, simulated symbols, faults on request."""
    from enrichment import sandbox as vendor
    from enrichment.cli.supervisor import stop_with_parent
    from enrichment.cli.up import parse_day
    from enrichment.engine.cpu_affinity import pinned_to_one_processor

    stop_with_parent()
    with pinned_to_one_processor():
        vendor.serve(
            "127.0.0.1",
            settings(enrichment_sandbox_port=port).enrichment_sandbox_port,
            anchor=parse_day(anchor) if anchor else None,
            shifted=not unshifted,
            quota_per_minute=quota,
            faults=[vendor.parse_fault(text) for text in fault or ()],
        )


@app.command()
def trigger(
    symbol: Annotated[list[str] | None, typer.Argument(help="Symbols; none means all.")] = None,
    asset_class: Annotated[
        str | None, typer.Option(help="All symbols of a class: stock, etf or crypto.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Show progress until it is done.")] = False,
    as_json: Json = False,
) -> None:
    """Enrich symbols now. With --wait the exit code is 1 if a symbol failed."""
    from enrichment.cli import render

    with services(settings()) as (reader, commands):
        job = commands.trigger(symbols=symbol, asset_class=asset_class, actor=actor())
        if not wait:
            out.print(
                render.as_json(job)
                if as_json
                else f"job {job.job_id}: {job.symbols_to_process} symbols queued",
                highlight=False,
            )
            return
        if not as_json and not any(w.alive for w in reader.workers()):
            err.print("no worker is running: start one with 'enrichment worker'", style="yellow")
        progress = render.follow(err, lambda: reader.progress(job.job_id))
        failed = reader.failed_items(job.job_id)
    if as_json:
        out.print(render.as_json(progress), highlight=False)
    elif progress is not None:
        render.print_failures(out, failed)
        out.print(
            f"{progress.counts.get('completed', 0)} of {progress.total} symbols completed in "
            f"{render.duration(progress.duration_seconds)}: {progress.inserted:,} bars inserted, "
            f"{progress.updated:,} updated",
            highlight=False,
        )
    if failed:
        raise typer.Exit(1)


@app.command()
def status(
    symbol: Annotated[str | None, typer.Argument(help="One symbol; none means all.")] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Show the jobs at work until Ctrl-C.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show the scheduler, the workers and every series, or one symbol's newest run."""
    from enrichment.cli import render
    from enrichment.domain.model import parse_symbol

    with services(settings()) as (reader, _):
        if watch:
            render.watch(out, reader.progress_of_open_jobs)
            return
        if symbol is not None:
            name = parse_symbol(symbol)
            found = reader.job_status(name)
            if found is None:
                raise NotTracked.of(name)
            if as_json:
                out.print(render.as_json(found), highlight=False)
            else:
                render.print_item(out, found)
            return
        overview, series = reader.overview(), reader.series()
        workers, pauses = reader.workers(), reader.pauses()
    if as_json:
        everything = {"overview": overview, "workers": workers, "pauses": pauses, "series": series}
        out.print(render.as_json(everything), highlight=False)
        return
    render.print_status(out, overview, workers, pauses)
    out.print(render.series_table(series))


@app.command()
def history(
    limit: Annotated[int, typer.Option(min=1, max=500, help="How many jobs.")] = 10,
    as_json: Json = False,
) -> None:
    """List the newest jobs."""
    from enrichment.cli import render

    with services(settings()) as (reader, _):
        page = reader.history(limit)
    if as_json:
        out.print(render.as_json(page.jobs), highlight=False)
    else:
        out.print(render.history_table(page))


@app.command()
def breakers(as_json: Json = False) -> None:
    """Show the breakers, limiters, retries and bulkheads of every worker."""
    from enrichment.cli import render

    with services(settings()) as (reader, _):
        patterns = reader.resilience()
    if as_json:
        out.print(render.as_json(patterns), highlight=False)
    elif not patterns:
        out.print("nothing published within a day: is a worker running?")
    else:
        out.print(render.resilience_table(patterns))


@app.command()
def breaker(
    name: Annotated[str, typer.Argument(help="As 'enrichment breakers' shows it.")],
    action: Annotated[str, typer.Argument(help="force-open, disable or reset.")],
    reason: Annotated[str | None, typer.Option(help="Why, for the audit.")] = None,
) -> None:
    """Override a breaker in every worker; forced states outlive restarts, until a reset."""
    with services(settings()) as (_, commands):
        commands.override_breaker(name, action.replace("-", "_"), actor=actor(), reason=reason)
    out.print(f"{name}: {action} reaches every worker within 2 s", highlight=False)


@db_app.command("upgrade")
def db_upgrade() -> None:
    """Bring the database's schema to this version."""
    from enrichment.warehouse.database import Database
    from enrichment.wiring.database import database_url, upgrade_schema

    with database_url(settings()) as url:
        db = Database(url)
        upgrade_schema(db)
        out.print(f"{db.address} is up to date", highlight=False)
        db.close()


@db_app.command("prune")
def db_prune(
    log_months: Annotated[int, typer.Option(min=1, help="Months of logs to keep.")] = 13,
    job_days: Annotated[int, typer.Option(min=1, help="Days of finished jobs to keep.")] = 400,
) -> None:
    """Drop old logs and jobs; bars, corrections, quality and the audit stay."""
    from enrichment.warehouse.retention import prune
    from enrichment.wiring.database import open_database

    with open_database(settings(), application="enrichment-cli") as db:
        pruned = prune(db, log_months=log_months, job_days=job_days)
    out.print(
        f"dropped {pruned.log_partitions} months of logs, {pruned.jobs} jobs, "
        f"{pruned.workers} workers, {pruned.transitions} transitions",
        highlight=False,
    )


@db_app.command("url")
def db_url() -> None:
    """Print the address of the database in use (the embedded server runs while something uses
    it).
    """
    from enrichment.wiring.database import database_url

    with database_url(settings()) as url:
        typer.echo(url)


@app.command()
def doctor(as_json: Json = False) -> None:
    """Check configuration, database, vendor, calendar and ports; say how to mend each."""
    from enrichment.cli import doctor as checks

    findings = checks.examine(settings)
    checks.show(findings, out, as_json=as_json)
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"market-enrichment {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None: ...


def main() -> None:
    """Run a command; an error is one line on stderr and exit code 1."""
    try:
        app()
    except EnrichmentError as exc:
        err.print("error:", style="bold red", end=" ")
        err.print(str(exc), markup=False, highlight=False)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
