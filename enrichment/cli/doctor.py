"""`enrichment doctor`: checks of the installation, with advice on each problem."""

from __future__ import annotations

import http.client
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path

import psutil
from rich.console import Console
from rich.text import Text

from enrichment.cli import render
from enrichment.config import Settings
from enrichment.domain.clock import utc_now
from enrichment.domain.errors import ConfigurationError, EnrichmentError
from enrichment.domain.model import (
    AssetClass,
    FetchedBars,
    StockSession,
    Timeframe,
    TrackedSymbol,
    Window,
)
from enrichment.domain.plurals import counted
from enrichment.net import local_host, require_free
from enrichment.services import health
from enrichment.services.command_checks import unserved_reason
from enrichment.services.plan_hours import plan_advice
from enrichment.vendors.registry import VendorSpec
from enrichment.warehouse import reader_role
from enrichment.warehouse.database import Database, encoding_limit, parse_url
from enrichment.wiring.database import build_read_models, open_database, open_reader
from enrichment.wiring.vendors import build_providers


@dataclass(frozen=True, slots=True)
class CheckResult:
    check: str
    ok: bool
    detail: str
    """What was checked, or what is wrong and how to fix it."""
    advice: bool = False
    """Whether it works, but worse than it could: the detail says how to change that."""


@dataclass(frozen=True, slots=True)
class _Program:
    name: str
    pid: int
    command: str
    """Its command line, space-separated."""
    environment: Mapping[str, str]
    """As it was at its start."""


MAX_SYMBOLS = 100_000  # that are checked
READ_SECONDS = 10.0
_HEALTH_CHECKS = {  # path, and what the answer contains
    "API": ("/livez", b'"alive"'),
    "dashboard": ("/_stcore/health", b"ok"),
    "sandbox vendor": ("/_sandbox/health", b'"recorded"'),
}
_DASHBOARD_COMMAND = re.compile(r"enrichment(\.exe)? dashboard\b|\bapp\.py\b")


def run_checks(load: Callable[[], Settings]) -> list[CheckResult]:
    """Run every check; only those of the settings if these are invalid."""
    try:
        settings = load()
    except ConfigurationError as exc:
        return [CheckResult("configuration", False, str(exc)), *_misspelt(Settings)]
    return [
        CheckResult("configuration", True, _configuration(settings)),
        *_misspelt(type(settings)),
        *_run("database", lambda: _database(settings)),
        *_run("calendar", _calendar),
        *_uncovered(settings),
        *_unserved(settings),
        *_dask(settings),
        *(result for spec in settings.providers_in_use for result in _vendor(settings, spec)),
        *check_ports(settings),
    ]


def print_results(console: Console, results: Sequence[CheckResult], *, as_json: bool) -> None:
    if as_json:
        render.print_json(console, list(results))
        return
    for result in results:
        mark = ("!", "yellow") if result.advice else ("✓", "green") if result.ok else ("✗", "red")
        console.print(Text.assemble(mark, f" {result.check:<15}{result.detail}"))


def _run(name: str, check: Callable[[], str]) -> Iterator[CheckResult]:
    try:
        yield CheckResult(name, True, check())
    except EnrichmentError as exc:
        yield CheckResult(name, False, str(exc))


def _configuration(settings: Settings) -> str:
    names = ", ".join(spec.name for spec in settings.providers_in_use)
    vendors = f"the sandbox in place of {names}" if settings.uses_sandbox else f"bars from {names}"
    runs = ", ".join(f"{one.name} at {one.when}" for one in settings.run_schedules)
    runs = runs if settings.enable_daily_enrichment else "scheduled runs disabled"
    return f"{vendors}, {runs}, {counted(settings.max_concurrent_symbols, 'symbol')} at once"


def _misspelt(settings: type[Settings]) -> Iterator[CheckResult]:
    for name, meant in settings.misspelt().items():
        advice = f"did you mean {meant}?" if meant else "docs/configuration.md lists the settings"
        yield CheckResult("configuration", False, f"{name} is not a setting: {advice}")


def _database(settings: Settings) -> str:
    with (
        open_database(settings, application="enrichment-doctor") as db,
        open_reader(
            db, pool_size=1, application="enrichment-doctor", timeout_seconds=READ_SECONDS
        ) as reader_db,
    ):
        reader = build_read_models(reader_db, settings)
        tracked = reader.metrics().data_quality.symbols_tracked
        alive = [worker for worker in reader.workers() if worker.alive]
        summary = (
            f"{db.address}: schema current, {counted(tracked, 'symbol')} tracked, "
            f"{counted(len(alive), 'worker')} alive"
        )
        waiting = (f"waiting: {worker.note}" for worker in alive if worker.note)
        return "; ".join([summary, *waiting, *_limits(db)])


def _limits(db: Database) -> list[str]:
    """What works, but worse than it could."""
    return [limit for limit in (reader_role.missing(db), encoding_limit(db)) if limit]


def _uncovered(settings: Settings) -> Iterator[CheckResult]:
    """A piece of advice for each market whose tracked symbols are in no schedule."""
    if not settings.enable_daily_enrichment:
        return
    with suppress(EnrichmentError), open_database(settings, application="enrichment-doctor") as db:
        for left_out in build_read_models(db, settings).night().uncovered:
            yield CheckResult("schedules", True, health.uncovered_issue(left_out), advice=True)


def _unserved(settings: Settings) -> Iterator[CheckResult]:
    """A problem for each tracked symbol of which no vendor in use serves a series."""
    with suppress(EnrichmentError), open_database(settings, application="enrichment-doctor") as db:
        for details in build_read_models(db, settings).symbols.page(MAX_SYMBOLS, active=True):
            asset_class = AssetClass(details.asset_class)
            timeframes = tuple(Timeframe(series.timeframe) for series in details.timeframes)
            session = details.session and StockSession(details.session)
            tracked = TrackedSymbol(
                details.symbol, asset_class, timeframes, session=session or None
            )
            reason = unserved_reason(tracked, settings.providers(asset_class))
            if reason is not None:
                yield CheckResult("symbols", False, reason)


def _dask(settings: Settings) -> Iterator[CheckResult]:
    address = settings.dask_scheduler
    if address is not None:
        from enrichment.wiring import execution

        yield from _run("dask", lambda: execution.check_cluster(settings, address))


def _calendar() -> str:
    from enrichment.domain import calendars

    newest = calendars.last_complete(AssetClass.STOCK, Timeframe.D1, utc_now())
    return f"newest complete XNYS session {newest.astype('datetime64[D]')}"


def _vendor(settings: Settings, spec: VendorSpec) -> Iterator[CheckResult]:
    """Whether the vendor serves its test symbol, and on a plan that fits the schedules."""
    newest: date | None = None
    try:
        fetched = _fetch(settings, spec)
        if len(fetched.bars):
            newest = fetched.bars.ts.max().astype("datetime64[D]").item()
        bars = counted(len(fetched.bars), "daily bar")
        symbol = _test_symbol(settings, spec)[1]
        detail = f"{fetched.source}: {bars} of {symbol} in the last 14 days"
        yield CheckResult(spec.name, True, detail)
    except EnrichmentError as exc:
        yield CheckResult(spec.name, False, str(exc))
    if advice := advice_on_plan(settings, spec, newest):
        yield CheckResult("schedules", True, advice, advice=True)


def advice_on_plan(settings: Settings, spec: VendorSpec, newest: date | None = None) -> str | None:
    """`plan_advice` about a real vendor that is the first one of stocks or ETFs."""
    first = {settings.providers(kind)[0] for kind in (AssetClass.STOCK, AssetClass.ETF)}
    if settings.uses_sandbox or not settings.enable_daily_enrichment or spec.name not in first:
        return None
    rate = getattr(settings, spec.rate.name)
    return plan_advice(spec, rate, settings.run_schedules, utc_now(), newest)


def _test_symbol(settings: Settings, spec: VendorSpec) -> tuple[AssetClass, str]:
    return spec.sandbox_test_symbol if settings.uses_sandbox else spec.test_symbol


def _fetch(settings: Settings, spec: VendorSpec) -> FetchedBars:
    """14 daily bars of the vendor's test symbol, without failover."""
    from datetime import timedelta

    from enrichment.vendors.guard import VendorProtection
    from resilience import init_resilience_manager

    kind, symbol = _test_symbol(settings, spec)
    manager = init_resilience_manager()
    try:
        now = utc_now()
        providers = build_providers(settings, manager, protection=VendorProtection(max_retries=0))
        window = Window(now - timedelta(days=14), now)
        return providers.named(spec.name).fetch(symbol, kind, Timeframe.D1, window)
    except EnrichmentError as exc:
        advice = " (start it with 'enrichment up' or 'enrichment sandbox')"
        raise ConfigurationError(f"{exc}{advice if settings.uses_sandbox else ''}") from exc
    finally:
        manager.close()


def check_ports(settings: Settings) -> Iterator[CheckResult]:
    """Each port is free or answers as the service of this installation that listens on it."""
    api, dashboard = settings.enrichment_api_host, settings.enrichment_dashboard_host
    services = [
        ("API port", "API", api, settings.enrichment_api_port),
        ("dashboard port", "dashboard", dashboard, settings.enrichment_dashboard_port),
    ]
    if settings.uses_sandbox:
        port = settings.enrichment_sandbox_port
        services.append(("sandbox port", "sandbox vendor", "127.0.0.1", port))
    for check, name, host, port in services:
        yield from _run(check, partial(_port, settings, name, host, port))


def _port(settings: Settings, name: str, host: str, port: int) -> str:
    try:
        require_free(name, host, port)
    except ConfigurationError as exc:
        program = _listening_program(port)
        answers = _answers(name, local_host(host), port, program)
        other = program is not None and _is_of_other_installation(program, settings)
        if answers and not other:
            return f"{port}: the {name} is running"
        used = f"; {program.name} (process {program.pid}) listens on it" if program else ""
        used += f", the {name} of another installation" if answers else ""
        raise ConfigurationError(f"{exc}{used}") from None
    return f"{port} is free"


def _answers(name: str, host: str, port: int, program: _Program | None) -> bool:
    """Whether the port answers to the health check of our service as it does."""
    path, expected = _HEALTH_CHECKS[name]
    connection = http.client.HTTPConnection(host, port, timeout=2)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        healthy = response.status == 200 and expected in response.read(10_000)
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
    # Every Streamlit program answers alike; the command line says whether it is the dashboard.
    command = program.command if program and name == "dashboard" else ""
    return healthy and (not command or bool(_DASHBOARD_COMMAND.search(command)))


def _is_of_other_installation(program: _Program, settings: Settings) -> bool:
    """Whether the program was started with another database, or another home without one."""
    if settings.database_url is not None:
        own = settings.database_url.get_secret_value()
        return parse_url(program.environment.get("DATABASE_URL") or own) != parse_url(own)
    home = Path(program.environment.get("ENRICHMENT_HOME") or settings.enrichment_home)
    return home.resolve() != settings.enrichment_home.resolve()


def _listening_program(port: int) -> _Program | None:
    """The program that listens on a TCP port, if this user may see it."""
    with suppress(psutil.Error):
        for connection in psutil.net_connections("tcp"):
            listens = connection.status == psutil.CONN_LISTEN and connection.laddr[1:2] == (port,)
            if listens and connection.pid is not None:
                process = psutil.Process(connection.pid)
                command, environment = " ".join(process.cmdline()), process.environ()
                return _Program(process.name(), process.pid, command, environment)
    return None
