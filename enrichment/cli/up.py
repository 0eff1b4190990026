"""`up` and `demo`: an embedded database, everything else in child processes, until Ctrl-C."""

from __future__ import annotations

import json
import shlex
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from uuid import UUID

from rich.console import Console
from rich.text import Text

from enrichment.cli import render
from enrichment.cli.doctor import advice_on_plan
from enrichment.cli.supervisor import Child, Supervisor, is_healthy
from enrichment.config import Settings
from enrichment.domain.clock import utc_now
from enrichment.domain.durations import duration_text
from enrichment.domain.errors import DatabaseUnavailable, EnrichmentError
from enrichment.domain.plurals import counted
from enrichment.domain.stop_signals import call_on_stop_signal, stop_signals_deferred
from enrichment.domain.symbol_csv import parse_tracked
from enrichment.net import local_url, require_free
from enrichment.warehouse.database import Database
from enrichment.warehouse.embedded import EmbeddedPostgres, temporary_home
from enrichment.warehouse.read_models.facade import ReadModels
from enrichment.wiring.database import (
    build_commands,
    build_read_models,
    embedded_server,
    open_database,
)
from enrichment.wiring.vendors import build_action_sources
from enrichment.wiring.worker import build_action_refresh
from resilience import init_resilience_manager

SAMPLE_SYMBOLS = (
    *((symbol, "stock", "1d") for symbol in ("AAPL", "FB", "GOOG", "IBM", "MSFT")),
    ("SIM1", "stock", "1h,1d"),
    ("SIM2", "stock", "15m,1d,1w"),
    ("SIM3", "etf", "4h,1d"),
    ("X:SIM1USD", "crypto", "1h,1d"),
    ("X:SIM2USD", "crypto", "4h,1d,1w"),
)


def run_up(settings: Settings, console: Console) -> None:
    """Run everything on the persistent data folder until Ctrl-C or SIGTERM."""
    with _running_stack(settings, console, log=partial(_print_line, console)) as stack:
        if stack.interrupted.is_set():
            return
        _print_urls(console, settings)
        _print_advice(console, settings)
        with suppress(DatabaseUnavailable):  # a server that crashes now is restarted below
            _print_next_step(console, stack.reader, settings)
        stack.watch(console)


def run_demo(settings: Settings, console: Console) -> None:
    """Run everything on a temporary data folder, and enrich the sample symbols at once."""
    started, home = time.monotonic(), None
    try:
        with stop_signals_deferred():
            home = temporary_home("enrichment-demo-")
        settings = settings.model_copy(update={"enrichment_home": home, "database_url": None})
        with _running_stack(settings, console, log=partial(_print_problem, console)) as stack:
            job_id = _enrich_samples(stack, console)
            if job_id is None:
                return
            _print_result(console, stack.reader, job_id, time.monotonic() - started)
            _print_urls(console, settings)
            console.print(
                f"from another terminal: ENRICHMENT_HOME={home} enrichment status",
                style="dim",
                highlight=False,
            )
            stack.watch(console)
    finally:
        with stop_signals_deferred():
            if home is not None:
                shutil.rmtree(home, ignore_errors=True)


class Stack:
    """The running child processes, and the services on their database."""

    def __init__(
        self,
        supervisor: Supervisor,
        server: EmbeddedPostgres | None,
        db: Database,
        settings: Settings,
    ) -> None:
        self.supervisor = supervisor
        self._server = server
        self._last_error = ""
        self.commands = build_commands(db, settings)
        self.reader: ReadModels = build_read_models(db, settings)
        sources = build_action_sources(settings, init_resilience_manager())
        self.actions = build_action_refresh(settings, db, sources)
        self.interrupted = threading.Event()

    def watch(self, console: Console) -> None:
        """Restart children and the embedded server that exit, until interrupted."""
        self.supervisor.watch(lambda: self._restart_server(console))

    def worker_responds(self, pid: int) -> bool:
        """Whether the worker with this process id has a recent heartbeat, as far as is known."""
        try:
            workers = self.reader.workers()
        except EnrichmentError:
            return True
        return any(w.alive for w in workers if (w.host, w.pid) == (socket.gethostname(), pid))

    def _restart_server(self, console: Console) -> None:
        try:
            if self._server is not None and self._server.revive():
                _print_line(console, "postgres", "WARNING exited, restarted")
            self._last_error = ""
        except DatabaseUnavailable as exc:
            if str(exc) != self._last_error:  # not the same error at every poll
                _print_line(console, "postgres", f"ERROR {exc}")
            self._last_error = str(exc)


@contextmanager
def _running_stack(
    settings: Settings, console: Console, *, log: Callable[[str, str], None]
) -> Iterator[Stack]:
    """Everything, started in order, and stopped in reverse order at the end of the block."""
    _require_free_ports(settings)
    with (
        embedded_server(settings) as server,
        open_database(settings, pool_size=3, application="enrichment-up") as db,
        _supervisor(settings, db, log) as supervisor,
    ):
        stack = Stack(supervisor, server, db, settings)

        def interrupt() -> None:
            stack.interrupted.set()
            supervisor.interrupt()

        call_on_stop_signal(interrupt)
        children = _children(settings, stack.worker_responds)
        with console.status("starting", spinner="line"):
            for child in children:
                supervisor.start(child)
            for child in children:
                supervisor.wait_healthy(child)
        yield stack
        with suppress(OSError):  # of a terminal that was closed
            console.print("stopping …")


@contextmanager
def _supervisor(
    settings: Settings, db: Database, log: Callable[[str, str], None]
) -> Iterator[Supervisor]:
    environment = {
        "ENRICHMENT_HOME": str(settings.enrichment_home),
        "DATABASE_URL": db.url.render_as_string(hide_password=False),
        "ENRICHMENT_API_PORT": str(settings.enrichment_api_port),
        "ENRICHMENT_DASHBOARD_PORT": str(settings.enrichment_dashboard_port),
        "ENRICHMENT_SANDBOX_PORT": str(settings.enrichment_sandbox_port),
        "LOG_FORMAT": settings.log_format,
    }
    supervisor = Supervisor(environment, settings.enrichment_home / "enrichment.log", log)
    try:
        yield supervisor
    finally:
        supervisor.stop()


def _children(settings: Settings, worker_responds: Callable[[int], bool]) -> list[Child]:
    api, dashboard = _urls(settings)
    children = [
        Child("worker", ["worker"], responds=worker_responds),
        Child("api", ["api"], f"{api}/readyz", lambda _: is_healthy(f"{api}/livez")),
        Child("dashboard", ["dashboard"], f"{dashboard}/_stcore/health"),
    ]
    if settings.uses_sandbox:
        anchor = _anchor(settings.enrichment_home)
        health = f"{settings.sandbox_url}/_sandbox/health"
        children.insert(0, Child("sandbox", ["sandbox", "--anchor", anchor], health))
    return children


def _urls(settings: Settings) -> tuple[str, str]:
    """Of API and dashboard."""
    return (
        local_url(settings.enrichment_api_host, settings.enrichment_api_port),
        local_url(settings.enrichment_dashboard_host, settings.enrichment_dashboard_port),
    )


def _anchor(home: Path) -> str:
    """When the sandbox's recorded bars end: fixed per data folder, for the bars are stored."""
    file = home / "sandbox.json"
    if not file.exists():
        file.write_text(json.dumps({"anchor": utc_now().isoformat()}))
    anchor: str = json.loads(file.read_text())["anchor"]
    return anchor


def _require_free_ports(settings: Settings) -> None:
    require_free("API", settings.enrichment_api_host, settings.enrichment_api_port)
    require_free(
        "dashboard", settings.enrichment_dashboard_host, settings.enrichment_dashboard_port
    )
    if settings.uses_sandbox:
        require_free("sandbox vendor", "127.0.0.1", settings.enrichment_sandbox_port)


def _enrich_samples(stack: Stack, console: Console) -> UUID | None:
    """Track and enrich the sample symbols; their job, or None if interrupted."""
    if stack.interrupted.is_set():
        return None
    stack.commands.track([parse_tracked(*sample) for sample in SAMPLE_SYMBOLS], actor="demo")
    stack.actions.refresh_all()  # else the worker asks for them while it enriches
    job = stack.commands.trigger(actor="demo")
    progress = render.follow_job(
        console, lambda: stack.reader.progress(job.job_id), interrupted=stack.interrupted.wait
    )
    return job.job_id if progress is not None and progress.finished else None


def _print_result(console: Console, reader: ReadModels, job_id: UUID, seconds: float) -> None:
    series, progress = reader.series(), reader.progress(job_id)
    console.print(render.series_table(series))
    render.print_failures(console, job_id, reader.failed_items(job_id))
    scores = [s.quality_score for s in series if s.quality_score is not None]
    mean = render.score(sum(scores) / len(scores) if scores else None)
    mean += f" of {len(scores)} of {counted(len(series), 'series', 'series')}"
    duration = duration_text(progress.duration_seconds if progress else None)
    figures = (
        f" {counted(len({s.symbol for s in series}), 'symbol')}, "
        f"{sum(s.bars for s in series):,} bars, {reader.feature_values(job_id):,} feature values, "
        f"mean quality {mean} · enriched in {duration}, {seconds:.1f} s after the start"
    )
    console.print(Text.assemble(("\nstored", "bold"), figures))


def _print_urls(console: Console, settings: Settings) -> None:
    api, dashboard = _urls(settings)
    console.print()
    overview = f"{api}/api/v1/enrichment/dashboard/overview"
    console.print(Text.assemble("dashboard  ", (dashboard, "bold")))
    console.print(Text.assemble("API        ", (overview, "bold")))
    if settings.uses_sandbox:
        console.print(
            f"vendor     {settings.sandbox_url} (sandbox; set POLYGON_API_KEY for real bars)",
            highlight=False,
        )
    console.print(f"log        {settings.enrichment_home / 'enrichment.log'}", highlight=False)
    console.print("Ctrl-C stops everything\n")


def _print_advice(console: Console, settings: Settings) -> None:
    """Where plan and hour do not fit, which hour does."""
    for spec in settings.providers_in_use:
        if advice := advice_on_plan(settings, spec):
            console.print(Text.assemble(("advice     ", "yellow"), advice, "\n"))


def _print_next_step(console: Console, reader: ReadModels, settings: Settings) -> None:
    """What to do with an empty warehouse, from another terminal."""
    if reader.series():
        return
    console.print("nothing is tracked yet; next, from another terminal:", style="bold")
    home = shlex.quote(str(settings.enrichment_home))
    for command in ("symbols add AAPL MSFT", "trigger --wait", "status"):
        console.print(f"  ENRICHMENT_HOME={home} enrichment {command}", highlight=False)
    if settings.enable_daily_enrichment:
        runs = ", ".join(f"{one.name} at {one.when}" for one in settings.run_schedules)
        console.print(f"from then on by themselves: {runs}\n", highlight=False)


def _print_line(console: Console, name: str, line: str) -> None:
    console.print(Text.assemble((f"{name:<9} ", "dim"), line))


def _print_problem(console: Console, name: str, line: str) -> None:
    if any(level in line for level in ("WARNING", "ERROR", "CRITICAL")):
        _print_line(console, name, line)
