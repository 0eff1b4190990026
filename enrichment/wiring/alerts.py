"""Builds the alert service and its channels, for the workers and the API."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
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
from enrichment.vendors.transport import PooledTransport
from enrichment.warehouse.alerts import AlertStore
from enrichment.warehouse.database import Database
from enrichment.warehouse.read_models.facade import ReadModels
from enrichment.wiring.database import build_read_models

if TYPE_CHECKING:
    from resilience import ResilienceManager

PROTECTION = VendorProtection(
    max_retries=2, deadline=30.0, budget=60.0, max_concurrent=2, max_wait=5.0, read_timeout=10.0
)


def load_rules(settings: Settings) -> tuple[Rule, ...]:
    """The default rules, and those of ALERT_RULES_FILE or of `alerts.toml` in ENRICHMENT_HOME."""
    return rules.load(rules_file(settings))


def rules_file(settings: Settings) -> Path | None:
    """The file with the user's rules, or None."""
    if settings.alert_rules_file is not None:
        return settings.alert_rules_file
    default = settings.enrichment_home / "alerts.toml"
    return default if default.exists() else None


def build_channels(
    settings: Settings, manager: ResilienceManager, *, protection: VendorProtection = PROTECTION
) -> dict[str, Channel]:
    """The configured channels by name, each with its own resilience patterns."""
    built: dict[str, Channel] = {}

    protection = replace(protection, first_pause=0.0)  # deliveries have delays of their own

    def add(
        name: str, url: str, payload: Payload, setting: str, address_setting: str | None = None
    ) -> None:
        guard = VendorGuard(manager, name, per_minute=None, protection=protection)
        parts = urlsplit(url)
        client = HttpClient(
            f"{parts.scheme}://{parts.netloc}",
            call=guard,
            timeouts=guard.protection.timeouts,
            key_setting=setting,
            address_setting=address_setting or setting,
            connect=partial(PooledTransport, pool_size=2),
        )
        built[name] = Channel(client, url, payload)

    if settings.alert_webhook_url is not None:
        url = settings.alert_webhook_url.get_secret_value()
        if _is_slack(settings.alert_webhook_format, url):
            add("slack", url, channels.slack, "ALERT_WEBHOOK_URL")
        else:
            add("webhook", url, channels.generic, "ALERT_WEBHOOK_URL")
    if settings.pagerduty_routing_key is not None:
        add(
            "pagerduty",
            f"{settings.pagerduty_base_url.rstrip('/')}/v2/enqueue",
            channels.pagerduty(settings.pagerduty_routing_key.get_secret_value()),
            "PAGERDUTY_ROUTING_KEY",
            "PAGERDUTY_BASE_URL",
        )
    return built


def read_inputs(reader: ReadModels) -> Callable[[], AlertInputs]:
    """A function that reads what the rules are evaluated on."""

    def read() -> AlertInputs:
        sample = reader.monitoring.sample()
        status = health.assess(sample.night, with_alerts=False)
        return AlertInputs(reader.overview(), status, sample)

    return read


def build_alert_service(
    settings: Settings,
    db: Database,
    manager: ResilienceManager,
    *,
    evaluator: str,
    interval: float,
    rules: tuple[Rule, ...] | None = None,
    protection: VendorProtection = PROTECTION,
) -> AlertService:
    """The service that evaluates rules and delivers alerts.

    Args:
        settings: Settings of the channels and the rules file.
        db: What the rules are evaluated on, and where alerts are stored.
        manager: Holds the channels' resilience patterns.
        evaluator: Name under which this process claims evaluations.
        interval: Seconds since the last evaluation by any process before this one evaluates.
        rules: None to load them.
        protection: Retries and timeouts of the channels.
    """
    return AlertService(
        AlertStore(db),
        read_inputs(build_read_models(db, settings)),
        load_rules(settings) if rules is None else rules,
        build_channels(settings, manager, protection=protection),
        evaluator=evaluator,
        interval=interval,
    )


def _is_slack(payload_format: str, url: str) -> bool:
    if payload_format == "auto":
        return urlsplit(url).hostname == channels.SLACK_HOST
    return payload_format == "slack"
