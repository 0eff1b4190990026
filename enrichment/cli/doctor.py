"""`enrichment doctor`: checks of the installation, with advice on each problem."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from rich.console import Console

from enrichment.cli import render
from enrichment.config import Settings
from enrichment.domain.clock import utc_now
from enrichment.domain.errors import ConfigurationError, EnrichmentError
from enrichment.domain.model import AssetClass, Timeframe, Window
from enrichment.net import require_free
from enrichment.vendors.registry import VendorSpec
from enrichment.wiring.database import build_read_models, open_database
from enrichment.wiring.vendors import build_providers


@dataclass(frozen=True, slots=True)
class CheckResult:
    check: str
    ok: bool
    detail: str
    """What was checked, or what is wrong and how to fix it."""


def run_checks(load: Callable[[], Settings]) -> list[CheckResult]:
    """Run every check; invalid settings are the only result."""
    try:
        settings = load()
    except ConfigurationError as exc:
        return [CheckResult("configuration", False, str(exc))]
    return [
        CheckResult("configuration", True, _configuration(settings)),
        *_run("database", lambda: _database(settings)),
        *_run("calendar", _calendar),
        *_dask(settings),
        *(
            result
            for spec in settings.providers_in_use
            for result in _run(spec.name, partial(_vendor, settings, spec))
        ),
        *_run("ports", lambda: _ports(settings)),
    ]


def print_results(console: Console, results: Sequence[CheckResult], *, as_json: bool) -> None:
    if as_json:
        console.print(render.as_json(list(results)), highlight=False)
        return
    for result in results:
        mark = "[green]✓[/]" if result.ok else "[red]✗[/]"
        console.print(f"{mark} {result.check:<14}", end="")
        console.print(result.detail, markup=False, highlight=False)


def _run(name: str, check: Callable[[], str]) -> Iterator[CheckResult]:
    try:
        yield CheckResult(name, True, check())
    except EnrichmentError as exc:
        yield CheckResult(name, False, str(exc))


def _configuration(settings: Settings) -> str:
    names = ", ".join(spec.name for spec in settings.providers_in_use)
    vendors = f"the sandbox in place of {names}" if settings.uses_sandbox else f"bars from {names}"
    time = f"{settings.enrichment_hour:02}:{settings.enrichment_minute:02} UTC"
    nightly = f"nightly at {time}" if settings.enable_daily_enrichment else "nightly run disabled"
    return f"{vendors}, {nightly}, {settings.max_concurrent_symbols} symbols at once"


def _database(settings: Settings) -> str:
    with open_database(settings, application="enrichment-doctor") as db:
        reader = build_read_models(db, settings)
        tracked = reader.metrics().data_quality.symbols_tracked
        alive = [worker for worker in reader.workers() if worker.alive]
        summary = (
            f"{db.address}: schema current, {tracked} symbols tracked, {len(alive)} workers alive"
        )
        return "; ".join([summary, *(f"waiting: {worker.note}" for worker in alive if worker.note)])


def _dask(settings: Settings) -> Iterator[CheckResult]:
    address = settings.dask_scheduler
    if address is not None:
        from enrichment.wiring import execution

        yield from _run("dask", lambda: execution.check_cluster(settings, address))


def _calendar() -> str:
    from enrichment.domain import calendars

    newest = calendars.last_complete(AssetClass.STOCK, Timeframe.D1, utc_now())
    return f"newest complete XNYS session {newest.astype('datetime64[D]')}"


def _vendor(settings: Settings, spec: VendorSpec) -> str:
    """Fetch 14 daily bars of the vendor's test symbol, without failover."""
    from datetime import timedelta

    from enrichment.vendors.guard import VendorProtection
    from resilience import init_resilience_manager

    kind, symbol = spec.sandbox_test_symbol if settings.uses_sandbox else spec.test_symbol
    manager = init_resilience_manager()
    try:
        now = utc_now()
        providers = build_providers(settings, manager, protection=VendorProtection(max_retries=0))
        window = Window(now - timedelta(days=14), now)
        fetched = providers.named(spec.name).fetch(symbol, kind, Timeframe.D1, window)
    except EnrichmentError as exc:
        advice = " (start it with 'enrichment up' or 'enrichment sandbox')"
        raise ConfigurationError(f"{exc}{advice if settings.uses_sandbox else ''}") from exc
    finally:
        manager.close()
    return f"{fetched.source}: {len(fetched.bars)} daily bars of {symbol} in the last 14 days"


def _ports(settings: Settings) -> str:
    try:
        require_free("API", settings.enrichment_api_host, settings.enrichment_api_port)
        require_free("dashboard", "127.0.0.1", settings.enrichment_dashboard_port)
    except ConfigurationError as exc:
        return f"in use, as expected while this installation is running; otherwise: {exc}"
    api, dashboard = settings.enrichment_api_port, settings.enrichment_dashboard_port
    return f"{api} (API) and {dashboard} (dashboard) are free"
