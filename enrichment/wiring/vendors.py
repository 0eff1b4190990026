"""Building the vendors: each with its client, guard and credentials."""

from __future__ import annotations

from collections.abc import Callable, Container

from enrichment.config import SANDBOX_KEY, Settings
from enrichment.vendors import binance, polygon, yahoo
from enrichment.vendors.base import Provider
from enrichment.vendors.failover import Failover
from enrichment.vendors.guard import VendorGuard, VendorProtection
from enrichment.vendors.http import HttpClient
from resilience import ResilienceManager, SharedLimiter


def build_providers(
    settings: Settings,
    manager: ResilienceManager,
    *,
    shared: SharedLimiter | None = None,
    protection: VendorProtection | None = None,
    paused: Callable[[], Container[str]] = tuple,
) -> Failover:
    """The providers in their order, each with a guard of its own; without a key of Polygon's the
    sandbox vendor takes the place of all.

    shared: where all workers keep a vendor's quota together. protection: how vendors are protected.
    paused: names of the paused providers.
    """
    from enrichment.vendors.failover import Failover
    from enrichment.vendors.http import HttpClient

    def client(
        name: str, url: str, per_minute: int, headers: dict[str, str], key_setting: str
    ) -> HttpClient:
        guard = VendorGuard(
            manager,
            name,
            per_minute=None if settings.uses_sandbox else per_minute,
            shared=shared,
            protection=protection,
        )
        return HttpClient(
            settings.sandbox_url if settings.uses_sandbox else url,
            call=guard,
            timeouts=guard.protection.timeouts,
            headers=headers,
            key_setting=key_setting,
        )

    built = {name: _provider(name, settings, client) for name in settings.providers_in_use}
    return Failover(built, settings.providers, paused=paused)


def _provider(name: str, settings: Settings, client: Callable[..., HttpClient]) -> Provider:
    """client: (name, address, requests a minute, headers, setting of the key) → its client."""

    source = f"sandbox:{name}" if settings.uses_sandbox else name
    if name == "binance":
        rate = settings.binance_rate
        http = client(name, settings.binance_base_url, rate, {}, "BINANCE_BASE_URL")
        return binance.BinanceProvider(http, source=source)
    if name == "yahoo":
        headers = {"User-Agent": yahoo.USER_AGENT}
        http = client(name, settings.yahoo_base_url, settings.yahoo_rate, headers, "YAHOO_BASE_URL")
        return yahoo.YahooProvider(http, source=source)
    key = settings.polygon_api_key
    secret = SANDBOX_KEY if key is None else key.get_secret_value()
    headers = {"Authorization": f"Bearer {secret}"}
    rate = settings.polygon_rate
    http = client(name, settings.polygon_base_url, rate, headers, "POLYGON_API_KEY")
    return polygon.PolygonProvider(http, source="sandbox" if settings.uses_sandbox else name)
