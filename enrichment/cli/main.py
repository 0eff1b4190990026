"""The command line. Heavy imports happen inside the commands that need them."""

from __future__ import annotations

import sys
import threading
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from enrichment import __version__
from enrichment.cli import (
    actions,
    alerts,
    bars,
    calendar,
    data,
    export,
    jobs,
    logs,
    repair,
    symbols,
    units,
)
from enrichment.cli.context import (
    Json,
    Plain,
    Reason,
    actor,
    err,
    load_settings,
    out,
    parse_time,
    services,
    show_in_any_encoding,
)
from enrichment.domain.errors import EnrichmentError, InvalidRequest
from enrichment.domain.plurals import counted
from enrichment.domain.redact import redact_logs
from enrichment.domain.stop_signals import exit_on_stop_signals
from enrichment.net import authority

if TYPE_CHECKING:
    from enrichment.config import Settings

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Fills a market-data warehouse every night: fetch, validate, compute, score, store.",
)
db_app = typer.Typer(no_args_is_help=True, help="The database: its schema and its URL.")

ApiPort = Annotated[int | None, typer.Option(help="Port of the API [ENRICHMENT_API_PORT].")]
DashboardPort = Annotated[
    int | None, typer.Option(help="Port of the dashboard [ENRICHMENT_DASHBOARD_PORT].")
]
SandboxPort = Annotated[
    int | None, typer.Option(help="Port of the sandbox vendor [ENRICHMENT_SANDBOX_PORT].")
]
DumpFile = Annotated[Path, typer.Argument(help="The dump; its sums are beside it.")]
OwnApiPort = Annotated[int | None, typer.Option("--port", "--api-port", help="Port.")]
OwnDashboardPort = Annotated[int | None, typer.Option("--port", "--dashboard-port", help="Port.")]
OwnSandboxPort = Annotated[int | None, typer.Option("--port", "--sandbox-port", help="Port.")]


@app.command()
def up(
    api_port: ApiPort = None, dashboard_port: DashboardPort = None, sandbox_port: SandboxPort = None
) -> None:
    """Start everything: database, worker, API, dashboard and, without a key, the sandbox vendor."""
    from enrichment.cli.up import run_up

    run_up(_stack_settings(api_port, dashboard_port, sandbox_port), out)


@app.command()
def demo(
    api_port: ApiPort = None, dashboard_port: DashboardPort = None, sandbox_port: SandboxPort = None
) -> None:
    """Start everything in a temporary data folder, and enrich sample symbols."""
    from enrichment.cli.up import run_demo

    run_demo(_stack_settings(api_port, dashboard_port, sandbox_port), out)


def _stack_settings(
    api_port: int | None, dashboard_port: int | None, sandbox_port: int | None
) -> Settings:
    return load_settings(
        enrichment_api_port=api_port,
        enrichment_dashboard_port=dashboard_port,
        enrichment_sandbox_port=sandbox_port,
    )


@app.command()
def worker() -> None:
    """Run a worker: the nightly scheduler and the threads that enrich symbols."""
    from enrichment.cli.supervisor import stop_with_parent
    from enrichment.domain.stop_signals import call_on_stop_signal
    from enrichment.engine.cpu_affinity import pinned_to_one_processor
    from enrichment.wiring.database import wait_for_database
    from enrichment.wiring.worker import open_worker_process

    settings = load_settings()
    logs.log_to_stderr(settings)
    logs.log_start(settings, "worker")
    wait_for_database(settings)
    with open_worker_process(settings) as process, pinned_to_one_processor(settings.one_processor):
        call_on_stop_signal(process.stop)
        stop_with_parent()
        drained = process.run()
    if not drained:
        import os

        os._exit(0)  # threads that hang in a request to a vendor can't be stopped otherwise


@app.command()
def api(
    host: Annotated[str | None, typer.Option(help="Address [ENRICHMENT_API_HOST].")] = None,
    port: OwnApiPort = None,
) -> None:
    """Serve the JSON API."""
    from api.server import serve
    from enrichment.cli.supervisor import stop_with_parent
    from enrichment.engine.cpu_affinity import use_few_arenas

    use_few_arenas()  # each thread of a download would otherwise keep the memory of its largest
    stop_with_parent()
    settings = load_settings(enrichment_api_host=host, enrichment_api_port=port)
    logs.log_to_stderr(settings)
    address = authority(settings.enrichment_api_host, settings.enrichment_api_port)
    serve(settings, lambda: logs.log_start(settings, "api", address))


@app.command()
def dashboard(port: OwnDashboardPort = None) -> None:
    """Serve the dashboard."""
    from enrichment.cli.supervisor import stop_with_parent
    from enrichment.dashboard.server import serve

    stop_with_parent()
    settings = load_settings(enrichment_dashboard_port=port)
    logs.log_to_stderr(settings)
    address = authority(settings.enrichment_dashboard_host, settings.enrichment_dashboard_port)
    serve(settings, lambda: logs.log_start(settings, "dashboard", address))


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
    plan: Annotated[str, typer.Option(help="Plan of Polygon: paid or free.")] = "paid",
    listed: Annotated[
        int, typer.Option(min=0, help="Simulated stocks in whole-market answers.")
    ] = 100,
) -> None:
    """Serve the sandbox vendor: real recorded bars, simulated symbols, injected faults."""
    from enrichment import sandbox as sandbox_vendor
    from enrichment.cli.supervisor import stop_with_parent
    from enrichment.domain.stop_signals import call_on_stop_signal
    from enrichment.engine.cpu_affinity import pinned_to_one_processor

    stop = threading.Event()
    call_on_stop_signal(stop.set)
    stop_with_parent()
    with pinned_to_one_processor():
        sandbox_vendor.serve(
            "127.0.0.1",
            load_settings(enrichment_sandbox_port=port).enrichment_sandbox_port,
            stop,
            anchor=parse_time(anchor) if anchor else None,
            shifted=not unshifted,
            quota_per_minute=quota,
            plan=plan,
            listed=listed,
            faults=[sandbox_vendor.parse_fault(text) for text in fault or ()],
        )


@app.command()
def breakers(as_json: Json = False, plain: Plain = False) -> None:
    """Show the circuit breakers, rate limiters, retry policies and bulkheads of every worker."""
    from enrichment.cli import render
    from enrichment.cli.tables import print_table

    with services() as (reader, _):
        patterns = reader.resilience()
    if as_json:
        render.print_json(out, patterns)
    elif not patterns and not plain:
        out.print("no worker has published any within a day: is one running?")
    else:
        print_table(out, render.resilience_table(patterns), plain=plain)


@app.command()
def breaker(
    name: Annotated[str, typer.Argument(help="Name, as shown by 'enrichment breakers'.")],
    action: Annotated[str, typer.Argument(help="force-open, disable or reset.")],
    reason: Reason = None,
) -> None:
    """Override a breaker in every worker, until a reset and across restarts."""
    with services() as (_, commands):
        commands.override_breaker(name, action.replace("-", "_"), actor=actor(), reason=reason)
    out.print(f"{name}: {action} takes effect in every worker within 2 s", highlight=False)


@app.command()
def limiter(
    name: Annotated[str, typer.Argument(help="Name, as shown by 'enrichment breakers'.")],
    action: Annotated[str, typer.Argument(help="reset: end its pause after a 429.")],
    reason: Reason = None,
) -> None:
    """End the pause of a vendor's rate limiter in every worker."""
    if action != "reset":
        raise InvalidRequest(f"unknown action {action!r}: 'reset' is the only one")
    with services() as (_, commands):
        commands.reset_limiter(name, actor=actor(), reason=reason)
    out.print(f"{name}: its pause ends in every worker within 2 s", highlight=False)


@db_app.command("upgrade")
def db_upgrade() -> None:
    """Upgrade the database's schema to this version."""
    from contextlib import closing

    from enrichment.warehouse import reader_role
    from enrichment.warehouse.database import Database
    from enrichment.wiring.database import direct_database_url, upgrade_schema

    with direct_database_url(load_settings()) as url, closing(Database(url)) as db:
        upgrade_schema(db)
        out.print(f"{db.address} is up to date", highlight=False)
        if problem := reader_role.missing(db):
            out.print(problem, highlight=False)


@db_app.command("dump")
def db_dump(file: DumpFile) -> None:
    """Write the whole database to a file, with the number and checksum of every table's rows."""
    from contextlib import closing

    from enrichment.warehouse.database import Database
    from enrichment.warehouse.dump import dump
    from enrichment.wiring.database import direct_database_url

    with direct_database_url(load_settings()) as url, closing(Database(url)) as db:
        _print_sums("dumped", dump(db, file), file)


@db_app.command("restore")
def db_restore(file: DumpFile) -> None:
    """Restore a dump into an empty database, and compare every table with it."""
    from contextlib import closing

    from enrichment.warehouse.database import Database
    from enrichment.warehouse.dump import restore
    from enrichment.wiring.database import direct_database_url

    with direct_database_url(load_settings()) as url, closing(Database(url)) as db:
        _print_sums("restored and compared", restore(db, file), file)
    out.print("run 'enrichment db upgrade' if an older version wrote it", highlight=False)


def _print_sums(done: str, sums: Mapping[str, tuple[int, str]], file: Path) -> None:
    rows = sum(count for count, _ in sums.values())
    out.print(f"{file}: {len(sums)} tables with {rows:,} rows {done}", highlight=False)


@db_app.command("prune")
def db_prune(
    log_months: Annotated[int, typer.Option(min=1, help="Months of logs to keep.")] = 13,
    job_days: Annotated[int, typer.Option(min=1, help="Days of finished jobs to keep.")] = 400,
) -> None:
    """Delete old logs and jobs; bars, corrections, quality and the audit log are kept."""
    from enrichment.warehouse.retention import prune
    from enrichment.wiring.database import open_database

    with open_database(load_settings(), application="enrichment-cli") as db:
        pruned = prune(db, log_months=log_months, job_days=job_days)
    out.print(
        f"deleted {counted(pruned.log_partitions, 'month')} of logs, "
        f"{counted(pruned.jobs, 'job')}, "
        f"{counted(pruned.workers, 'worker')}, {counted(pruned.transitions, 'transition')}",
        highlight=False,
    )


@db_app.command("url")
def db_url() -> None:
    """Print the database's URL; an embedded server runs only while a command uses it."""
    from enrichment.wiring.database import database_url

    with database_url(load_settings()) as url:
        typer.echo(url.replace("+psycopg2", "", 1))  # as psql reads it, too


@app.command()
def doctor(
    stored_data: Annotated[
        bool,
        typer.Option("--data", help="Check the stored series instead, for 'enrichment repair'."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Check configuration, database, vendors, calendar and ports, with advice on problems.

    With --data: find series that an older version damaged. The exit code is 1 if a check failed.
    """
    if stored_data:
        repair.print_damage(as_json)
        return
    from enrichment.cli.doctor import print_results, run_checks

    results = run_checks(load_settings)
    print_results(out, results, as_json=as_json)
    if not all(result.ok for result in results):
        raise typer.Exit(1)


def _version(requested: bool) -> None:
    if requested:
        typer.echo(f"market-enrichment {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show where in the program an unexpected error arose.")
    ] = False,
) -> None: ...


for module in (jobs, data, repair, bars, units, logs):
    module.register(app)
for name, group in (
    ("symbols", symbols),
    ("actions", actions),
    ("calendar", calendar),
    ("alerts", alerts),
    ("export", export),
):
    app.add_typer(group.app, name=name)
app.add_typer(db_app, name="db")


_UsageError = typer.BadParameter.__mro__[1]  # Typer exports only its subclasses


def main() -> None:
    """Run a command. Errors are printed in one line, with exit code 1, of usage 2."""
    exit_on_stop_signals()
    redact_logs()
    show_in_any_encoding()
    try:
        code = app(standalone_mode=False)
    except EnrichmentError as exc:
        _print_error(str(exc))
        raise SystemExit(1) from None
    except typer.Abort:
        _print_error("nothing was done")
        raise SystemExit(1) from None
    except Exception as exc:
        if isinstance(exc, _UsageError):
            _print_usage_error(exc)
            raise SystemExit(2) from None
        if "--debug" in sys.argv[1:]:
            err.print("".join(traceback.format_exception(exc)), highlight=False)
        else:
            reason = (str(exc).strip().splitlines() or [""])[0]
            err.print(
                f"error: {type(exc).__name__}: {reason}; 'enrichment --debug …' shows where, for a "
                "report of this fault",
                highlight=False,
            )
        raise SystemExit(1) from None
    raise SystemExit(code if isinstance(code, int) else 0)


def _print_error(message: str) -> None:
    err.print("error:", style="bold red", end=" ")
    err.print(message, highlight=False)


def _print_usage_error(error: Any) -> None:
    """What is wrong with the arguments; a group without a command shows its help."""
    context = error.ctx
    if type(error).__name__ == "NoArgsIsHelpError":
        typer.echo(context.get_help(), err=True)
        return
    message = " ".join(error.format_message().split()).rstrip(".")
    command = context.command_path if context else "enrichment"
    _print_error(f"{message}; see '{command} --help'")


if __name__ == "__main__":
    main()
