"""Where alerts go: a generic webhook, Slack, PagerDuty Events v2. Sending one twice does no harm:
the webhook gets the change's id as `Idempotency-Key`, PagerDuty one `dedup_key` per firing.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from enrichment.vendors.http import HttpClient
from enrichment.warehouse.alert_rows import Delivery

Payload = Callable[[Delivery], Mapping[str, Any]]
SLACK_HOST: Final = "hooks.slack.com"
_COLOURS = {"critical": "danger", "warning": "warning", "info": "#439FE0"}


class Channel:
    """Posts a payload to one address, which is not shown anywhere: it may hold a secret."""

    def __init__(self, client: HttpClient, url: str, payload: Payload) -> None:
        self._client, self._url, self._payload = client, url, payload

    def send(self, delivery: Delivery) -> None:
        """ProviderError or Snooze unless the other side has taken it."""
        self._client.post_json(
            self._url,
            self._payload(delivery),
            headers={"Idempotency-Key": str(delivery.event_id)},
            label=urlsplit(self._url).hostname or "the address",
        )


def generic(delivery: Delivery) -> Mapping[str, Any]:
    """The change of state, field by field."""
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
    resolved = delivery.state == "resolved"
    sign = ":white_check_mark:" if resolved else ":rotating_light:"
    return {
        "text": f"{sign} *{delivery.rule}* {delivery.state} ({delivery.severity})",
        "attachments": [
            {
                "color": "good" if resolved else _COLOURS[delivery.severity],
                "text": delivery.detail,
                "ts": int(delivery.at.timestamp()),
            }
        ],
    }


def pagerduty(routing_key: str) -> Payload:
    """An Events API v2 event: https://developer.pagerduty.com/docs/events-api-v2/trigger-events/."""

    def payload(delivery: Delivery) -> Mapping[str, Any]:
        event: dict[str, Any] = {
            "routing_key": routing_key,
            "event_action": "resolve" if delivery.state == "resolved" else "trigger",
            "dedup_key": f"market-enrichment/{delivery.rule}/{delivery.episode}",
        }
        if delivery.state != "resolved":
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
