"""Notification channels: a generic webhook, Slack, PagerDuty Events v2.

Sending a notification twice does no harm: webhooks get the event's id as `Idempotency-Key`,
PagerDuty gets the same `dedup_key` throughout an episode.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from enrichment.domain.statuses import AlertChange, AlertSeverity
from enrichment.vendors.http import HttpClient
from enrichment.warehouse.alerts import Delivery

Payload = Callable[[Delivery], Mapping[str, Any]]
SLACK_HOST: Final = "hooks.slack.com"
_COLOURS = {
    AlertSeverity.CRITICAL: "danger",
    AlertSeverity.WARNING: "warning",
    AlertSeverity.INFO: "#439FE0",
}


class Channel:
    """Posts payloads to one URL, which is never shown: it may contain a secret."""

    def __init__(self, client: HttpClient, url: str, payload: Payload) -> None:
        self._client, self._url, self._payload = client, url, payload

    def send(self, delivery: Delivery) -> None:
        """Post one notification; ProviderError or Snooze unless it was accepted."""
        self._client.post_json(
            self._url,
            self._payload(delivery),
            headers={"Idempotency-Key": str(delivery.event_id)},
            label=urlsplit(self._url).hostname or "the webhook",
        )


def generic(delivery: Delivery) -> Mapping[str, Any]:
    """The event as JSON, field by field."""
    return {
        "event_id": str(delivery.event_id),
        "episode": str(delivery.episode),
        "at": delivery.at.isoformat().replace("+00:00", "Z"),
        "rule": delivery.rule,
        "severity": delivery.severity,
        "state": delivery.state,
        "value": delivery.value,
        "condition": delivery.condition,
        "detail": delivery.detail,
    }


def slack(delivery: Delivery) -> Mapping[str, Any]:
    """A message with a coloured attachment: https://api.slack.com/messaging/webhooks."""
    resolved = delivery.state == AlertChange.RESOLVED
    emoji = ":white_check_mark:" if resolved else ":rotating_light:"
    return {
        "text": f"{emoji} *{delivery.rule}* {delivery.state} ({delivery.severity})",
        "attachments": [
            {
                "color": "good" if resolved else _COLOURS[AlertSeverity(delivery.severity)],
                "text": delivery.detail,
                "ts": int(delivery.at.timestamp()),
            }
        ],
    }


def pagerduty(routing_key: str) -> Payload:
    """An Events API v2 event: https://developer.pagerduty.com/docs/events-api-v2/trigger-events/."""

    def payload(delivery: Delivery) -> Mapping[str, Any]:
        resolved = delivery.state == AlertChange.RESOLVED
        event: dict[str, Any] = {
            "routing_key": routing_key,
            "event_action": "resolve" if resolved else "trigger",
            "dedup_key": f"market-enrichment/{delivery.rule}/{delivery.episode}",
        }
        if not resolved:
            event["payload"] = {
                "summary": f"{delivery.rule}: {delivery.detail}"[:1024],
                "source": socket.gethostname(),
                "severity": delivery.severity,
                "timestamp": delivery.at.isoformat(),
                "component": "market-enrichment",
                "class": delivery.rule,
                "custom_details": generic(delivery),
            }
        return event

    return payload
