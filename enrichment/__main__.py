"""The command line. Heavy imports happen inside the commands that need them."""

from __future__ import annotations

import getpass
import logging
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from enrichment import __version__
from enrichment.errors import EnrichmentError, InvalidRequest

if TYPE_CHECKING:
    from enrichment.commands import Commands
    from enrichment.config import Settings
    from enrichment.storage.read_models import ReadModels

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Fills a market-data warehouse every night: fetch, validate, compute, score, store.",
)
symbols_app = typer.Typer(
    no_args_is_help=True, help="List, add, remove and import tracked symbols."
)
db_app = typer.Typer(no_args_is_help=True, help="The database: its schema and its address.")
app.add_typer(symbols_app, name="symbols")
app.add_typer(db_app, name="db")

out = Console(soft_wrap=True)
err = Console(stderr=True, soft_wrap=True)

Json = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]


@contextmanager
def _services(settings: Settings) -> Iterator[tuple[ReadModels, Commands]]:
    from enrichment import bootstrap
    from enrichment.commands import Commands

    with bootstrap.database(settings, application="enrichment-cli") as db:
        yield bootstrap.read_models(db, settings), Commands(db)


def _settings(**overrides: Any) -> Settings:
    from enrichment.config import Settings

    return Settings.load(**{name: v for name, v in overrides.items() if v is not None})


def _actor() -> str:
    return f"cli:{getpass.getuser()}"


def _log_to_stderr() -> None:
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s %(levelname)-7s %(message)s",
        datefmt="%H:%M:%S",
        stream=sys.stderr,
    )


ApiPort = Annotated[int | None, typer.Option(help="Port of the API [ENRICHMENT_API_PORT].")]
DashboardPort = Annotated[
    int | None, typer.Option(help="Port of the dashboard [ENRICHMENT_DASHBOARD_PORT].")
]
SandboxPort = Annotated[
    int | None, typer.Option(help="Port of the sandbox vendor [ENRICHMENT_SANDBOX_PORT].")
]


@app.command()
def up(
    api_port: ApiPort = None, dashboard_port: DashboardPort = None, sandbox_port: SandboxPort = None
) -> None:
    """Start everything: database, worker, API, dashboard and, without a key, the sandbox vendor."""
    from enrichment import stack

    stack.up(
        _settings(
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
    from enrichment import stack

    stack.demo(
        _settings(
            enrichment_api_port=api_port,
            enrichment_dashboard_port=dashboard_port,
            enrichment_sandbox_port=sandbox_port,
        ),
        out,
    )


@app.command()
def worker() -> None:
    """Run a worker: the nightly clock and the threads that enrich symbols. Stops on Ctrl-C."""
    from enrichment import bootstrap
    from enrichment.supervisor import stop_with_parent

    _log_to_stderr()
    with bootstrap.worker_process(_settings()) as process:
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
    port: ApiPort = None,
) -> None:
    """Serve the JSON API."""
    from api.server import serve
    from enrichment.supervisor import stop_with_parent

    stop_with_parent()
    serve(_settings(enrichment_api_host=host, enrichment_api_port=port))


@app.command()
def dashboard(port: DashboardPort = None) -> None:
    """Serve the dashboard."""
    from enrichment.dashboard.server import serve
    from enrichment.supervisor import stop_with_parent

    stop_with_parent()
    serve(_settings(enrichment_dashboard_port=port))


@app.command()
def sandbox(
    port: SandboxPort = None,
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
    from enrichment.stack import parse_day
    from enrichment.supervisor import stop_with_parent

    stop_with_parent()
    vendor.serve(
        "127.0.0.1",
        _settings(enrichment_sandbox_port=port).enrichment_sandbox_port,
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
    from enrichment import terminal

    with _services(_settings()) as (reader, commands):
        job = commands.trigger(symbols=symbol, asset_class=asset_class, actor=_actor())
        if not wait:
            out.print(
                terminal.as_json(job)
                if as_json
                else f"job {job.job_id}: {job.symbols_to_process} symbols queued",
                highlight=False,
            )
            return
        if not as_json and not any(w.alive for w in reader.workers()):
            err.print("no worker is running: start one with 'enrichment worker'", style="yellow")
        progress = terminal.follow(err, lambda: reader.progress(job.job_id))
        failed = reader.failed_items(job.job_id)
    if as_json:
        out.print(terminal.as_json(progress), highlight=False)
    elif progress is not None:
        terminal.print_failures(out, failed)
        out.print(
            f"{progress.counts.get('completed', 0)} of {progress.total} symbols completed in "
            f"{terminal.duration(progress.duration_seconds)}: {progress.inserted:,} bars inserted, "
            f"{progress.updated:,} updated",
            highlight=False,
        )
    if failed:
        raise typer.Exit(1)


@app.command()
def status(
    symbol: Annotated[str | None, typer.Argument(help="One symbol; none means all.")] = None,
    as_json: Json = False,
) -> None:
    """Show the scheduler, the workers and every series, or one symbol's newest run."""
    from enrichment import terminal
    from enrichment.domain import parse_symbol

    with _services(_settings()) as (reader, _):
        if symbol is not None:
            name = parse_symbol(symbol)
            found = reader.job_status(name)
            if found is None:
                raise InvalidRequest(f"{name} is not tracked: see 'enrichment symbols list'")
            out.print(terminal.as_json(found), highlight=False)
            return
        overview, series = reader.overview(), reader.series()
        workers, pauses = reader.workers(), reader.pauses()
    if as_json:
        everything = {"overview": overview, "workers": workers, "pauses": pauses, "series": series}
        out.print(terminal.as_json(everything), highlight=False)
        return
    terminal.print_status(out, overview, workers, pauses)
    out.print(terminal.series_table(series))


@app.command()
def history(
    limit: Annotated[int, typer.Option(min=1, max=500, help="How many jobs.")] = 10,
    as_json: Json = False,
) -> None:
    """List the newest jobs."""
    from enrichment import terminal

    with _services(_settings()) as (reader, _):
        page = reader.history(limit)
    if as_json:
        out.print(terminal.as_json(page.jobs), highlight=False)
    else:
        out.print(terminal.history_table(page))


@app.command()
def pause(reason: Annotated[str | None, typer.Option(help="Why, for the audit.")] = None) -> None:
    """Start nothing new until 'resume'; survives restarts."""
    with _services(_settings()) as (_, commands):
        commands.pause(actor=_actor(), reason=reason)
    out.print("paused: running symbols finish, nothing new starts until 'enrichment resume'")


@app.command()
def resume() -> None:
    """Lift the pause."""
    with _services(_settings()) as (_, commands):
        commands.resume(actor=_actor())
    out.print("resumed")


@symbols_app.command("list")
def symbols_list(as_json: Json = False) -> None:
    """List tracked symbols and the state of their series."""
    from enrichment import terminal

    with _services(_settings()) as (reader, _):
        series = reader.series()
    if as_json:
        out.print(terminal.as_json(series), highlight=False)
    elif not series:
        out.print("no symbols yet: enrichment symbols add AAPL --asset-class stock")
    else:
        out.print(terminal.series_table(series))


@symbols_app.command("add")
def symbols_add(
    symbol: Annotated[list[str], typer.Argument(help="One or more symbols.")],
    asset_class: Annotated[str, typer.Option(help="stock, etf or crypto.")] = "stock",
    timeframes: Annotated[str, typer.Option(help="5m 15m 30m 1h 4h 1d 1w, by commas.")] = "1d",
) -> None:
    """Track symbols, or change how they are tracked."""
    from enrichment.commands import parse_tracked

    tracked = [parse_tracked(name, asset_class, timeframes) for name in symbol]
    with _services(_settings()) as (_, commands):
        commands.track(tracked, actor=_actor())
    out.print(f"tracking {', '.join(t.symbol for t in tracked)}", highlight=False)


@symbols_app.command("remove")
def symbols_remove(symbol: str) -> None:
    """Stop enriching a symbol; its stored bars stay."""
    with _services(_settings()) as (_, commands):
        commands.untrack(symbol, actor=_actor())
    out.print(f"{symbol.upper()} is no longer enriched; its bars stay", highlight=False)


@symbols_app.command("import")
def symbols_import(file: Annotated[Path, typer.Argument(exists=True, dir_okay=False)]) -> None:
    """Track the symbols of a CSV file: symbol,asset_class,timeframes (timeframes by '|')."""
    from enrichment.commands import parse_csv

    tracked = parse_csv(file.read_text(encoding="utf-8"))
    with _services(_settings()) as (_, commands):
        commands.track(tracked, actor=_actor())
    out.print(f"tracking {len(tracked)} symbols from {file.name}", highlight=False)


@db_app.command("upgrade")
def db_upgrade() -> None:
    """Bring the database's schema to this version."""
    from enrichment import bootstrap
    from enrichment.storage.database import Database

    with bootstrap.database_url(_settings()) as url:
        db = Database(url)
        bootstrap.upgrade(db)
        out.print(f"{db.address} is up to date", highlight=False)
        db.close()


@db_app.command("url")
def db_url() -> None:
    """Print the address of the database in use (the embedded server runs while something uses
    it).
    """
    from enrichment import bootstrap

    with bootstrap.database_url(_settings()) as url:
        typer.echo(url)


@app.command()
def doctor(as_json: Json = False) -> None:
    """Check configuration, database, vendor, calendar and ports; say how to mend each."""
    from enrichment import doctor as checks

    findings = checks.examine(_settings)
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
