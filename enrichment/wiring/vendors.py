"""Building the vendors: each with its client, guard and credentials."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from datetime import datetime
from time import monotonic

from enrichment.config import Settings
from enrichment.domain.clock import utc_now
from enrichment.domain.corporate_actions import Split
from enrichment.domain.model import AssetClass
from enrichment.vendors import browser
from enrichment.vendors.base import ActionSource, Provider
from enrichment.vendors.canonical import CanonicalProvider
from enrichment.vendors.failover import Failover
from enrichment.vendors.guard import VendorGuard, VendorProtection
from enrichment.vendors.http import HttpClient
from enrichment.vendors.market_days import MarketDaySource, ReadDays, WithMarketDays
from enrichment.vendors.registry import VENDORS, VendorSpec
from enrichment.vendors.shared_answers import SharedAnswers
from enrichment.vendors.transport import PooledTransport
from resilience import ResilienceManager, SharedLimiter

_UNPAGED_ROWS = 25_000  # of a vendor that sends everything at once; crypto by 5m has 17,280
SANDBOX_CREDENTIAL = "sandbox"  # in place of each; the sandbox accepts any


def build_providers(
    settings: Settings,
    manager: ResilienceManager,
    *,
    shared: SharedLimiter | None = None,
    protection: VendorProtection | None = None,
    paused: Callable[[], Container[str]] = tuple,
    now: Callable[[], datetime] = utc_now,
    splits: Callable[[str], Sequence[Split]] = lambda symbol: (),
    read_days: ReadDays | None = None,
    clock: Callable[[], float] = monotonic,
) -> Failover:
    """The providers in the order of the settings, each with its own client and guard.

    Args:
        shared: Where all workers keep a vendor's quota together.
        protection: Retries, breaker and time limits of every vendor.
        paused: The names of the providers that are paused now.
        now: The wall clock.
        splits: (symbol) → its known splits.
        read_days: Reads the days that jobs fetched of the whole market; None without them.
        clock: Monotonic seconds.
    """

    def build(spec: VendorSpec) -> Provider:
        provider: Provider = spec.build(
            _client(spec, settings, manager, shared, protection, now, clock),
            spec.source(sandbox=settings.uses_sandbox),
            *_options(spec, settings),
        )
        if read_days is not None and spec.build_market_days is not None:
            provider = WithMarketDays(provider, read_days)
        extended_hours = spec.extended_hours
        return CanonicalProvider(
            SharedAnswers(provider), now, splits, extended_hours=extended_hours
        )

    built = {spec.name: build(spec) for spec in settings.providers_in_use}
    order = {kind: settings.providers(kind) for kind in AssetClass}
    return Failover(built, order.__getitem__, paused=paused, failover_after=settings.failover_after)


def build_action_sources(
    settings: Settings,
    manager: ResilienceManager,
    *,
    shared: SharedLimiter | None = None,
    protection: VendorProtection | None = None,
    now: Callable[[], datetime] = utc_now,
) -> list[ActionSource]:
    """What lists corporate actions of many symbols, of the vendors in use."""
    return [
        spec.build_actions(
            _client(spec, settings, manager, shared, protection, now),
            spec.source(sandbox=settings.uses_sandbox),
        )
        for spec in settings.providers_in_use
        if spec.build_actions is not None
    ]


def build_market_days(
    settings: Settings,
    manager: ResilienceManager,
    *,
    shared: SharedLimiter | None = None,
    protection: VendorProtection | None = None,
    now: Callable[[], datetime] = utc_now,
    clock: Callable[[], float] = monotonic,
) -> MarketDaySource | None:
    """What sends whole days of the market; None if no stock's first vendor does, or has no quota.

    The sandbox in place of all vendors has none.
    """
    if settings.uses_sandbox or not (order := settings.providers(AssetClass.STOCK)):
        return None
    spec = VENDORS[order[0]]
    if spec.build_market_days is None:
        return None
    client = _client(
        spec,
        settings,
        manager,
        shared,
        protection,
        now,
        clock,
        breaker=f"{spec.name}_market_days",
    )
    return spec.build_market_days(client, spec.name)


def _client(
    spec: VendorSpec,
    settings: Settings,
    manager: ResilienceManager,
    shared: SharedLimiter | None,
    protection: VendorProtection | None,
    now: Callable[[], datetime],
    clock: Callable[[], float] = monotonic,
    breaker: str | None = None,
) -> HttpClient:
    sandbox = settings.uses_sandbox
    guard = VendorGuard(
        manager,
        spec.name,
        per_minute=None if sandbox else getattr(settings, spec.rate.name),
        burst=None if sandbox else spec.burst,
        shared=shared,
        protection=protection,
        blocks=spec.blocks,
        breaker=breaker,
        clock=clock,
    )
    return HttpClient(
        settings.sandbox_url if sandbox else getattr(settings, spec.base_url.name),
        call=guard,
        timeouts=guard.protection.timeouts,
        headers=_headers(spec, settings),
        connect=browser.connect if spec.blocks else PooledTransport,
        max_rows=spec.page_rows or _UNPAGED_ROWS,
        now=now,
        key_setting=(*spec.credentials, spec.base_url)[0].name.upper(),
        address_setting="ENRICHMENT_SANDBOX_PORT" if sandbox else spec.base_url.name.upper(),
    )


def _options(spec: VendorSpec, settings: Settings) -> list[str | int]:
    return [
        settings.sandbox_url
        if option.address and settings.uses_sandbox
        else getattr(settings, option.name)
        for option in spec.options
    ]


def _headers(spec: VendorSpec, settings: Settings) -> dict[str, str]:
    values = {
        setting.name: SANDBOX_CREDENTIAL
        if settings.uses_sandbox
        else getattr(settings, setting.name).get_secret_value()
        for setting in spec.credentials
    }
    return {name: template.format(**values) for name, template in spec.headers.items()}
