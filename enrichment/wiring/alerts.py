"""Building what judges and delivers alerts, for the workers and the API."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from enrichment.config import Settings
from enrichment.services import health
from enrichment.services.alerts import channels, rules
from enrichment.services.alerts.channels import Channel, Payload
from enrichment.services.alerts.metrics import AlertInputs
from enrichment.services.alerts.rules import Rule
from enrichment.services.alerts.service import AlertService
from enrichment.vendors.guard import VendorGuard, VendorProtection
from enrichment.vendors.http import HttpClient
from enrichment.warehouse.read_models.facade import ReadModels

if TYPE_CHECKING:
    from resilience import ResilienceManager

PROTECTION = VendorProtection(
    max_retries=2, deadline=30.0, budget=60.0, max_concurrent=2, max_wait=5.0, read_timeout=10.0
)


def load_rules(settings: Settings) -> tuple[Rule, ...]:
    """The default rules and those of ALERT_RULES_FILE, or of `alerts.toml` in ENRICHMENT_HOME."""
    return rules.load(rules_file(settings))


def rules_file(settings: Settings) -> Path | None:
    """The file of the user's own rules; None where there is none."""
    if settings.alert_rules_file is not None:
        return settings.alert_rules_file
    usual = settings.enrichment_home / "alerts.toml"
    return usual if usual.exists() else None


def build_channels(
    settings: Settings, manager: ResilienceManager, *, protection: VendorProtection = PROTECTION
) -> dict[str, Channel]:
    """The channels that are set up, by name, each behind its own resilience patterns."""
    found: dict[str, Channel] = {}

    def add(name: str, url: str, payload: Payload, setting: str) -> None:
        guard = VendorGuard(manager, name, per_minute=None, protection=protection)
        client = HttpClient(
            url, call=guard, timeouts=guard.protection.timeouts, key_setting=setting, pool_size=2
        )
        found[name] = Channel(client, url, payload)

    if settings.alert_webhook_url is not None:
        url = settings.alert_webhook_url.get_secret_value()
        if _speaks_slack(settings.alert_webhook_format, url):
            add("slack", url, channels.slack, "ALERT_WEBHOOK_URL")
        else:
            add("webhook", url, channels.generic, "ALERT_WEBHOOK_URL")
    if settings.pagerduty_routing_key is not None:
        add(
            "pagerduty",
            f"{settings.pagerduty_base_url.rstrip('/')}/v2/enqueue",
            channels.pagerduty(settings.pagerduty_routing_key.get_secret_value()),
            "PAGERDUTY_ROUTING_KEY",
        )
    return found


def read_inputs(reader: ReadModels) -> Callable[[], AlertInputs]:
    """What reads the figures that rules speak of."""

    def read() -> AlertInputs:
        night = reader.night()
        judged = health.assess(night, with_alerts=False)
        return AlertInputs(reader.overview(), night, judged, reader.monitoring.sample())

    return read


def build_alert_service(
    settings: Settings,
    reader: ReadModels,
    manager: ResilienceManager,
    *,
    evaluator: str,
    interval: float,
    rules: tuple[Rule, ...] | None = None,
    protection: VendorProtection = PROTECTION,
) -> AlertService:
    """What evaluates and delivers; rules: those in force, if they have been read already."""
    chosen: Mapping[str, Channel] = build_channels(settings, manager, protection=protection)
    return AlertService(
        reader.alerts,
        read_inputs(reader),
        load_rules(settings) if rules is None else rules,
        chosen,
        evaluator=evaluator,
        interval=interval,
    )


def _speaks_slack(wanted: str, url: str) -> bool:
    if wanted == "auto":
        return urlsplit(url).hostname == channels.SLACK_HOST
    return wanted == "slack"
