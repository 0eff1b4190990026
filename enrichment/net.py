"""Checks of hosts and ports: loopback addresses and free ports."""

from __future__ import annotations

import socket
from ipaddress import ip_address

from enrichment.domain.errors import ConfigurationError


def is_loopback(host: str | None) -> bool:
    """Whether the host name or address is this machine's loopback interface."""
    try:
        return host == "localhost" or ip_address(host or "").is_loopback
    except ValueError:
        return False


def require_free(name: str, host: str, port: int) -> None:
    """Check that a service can listen on the port.

    Raises:
        ConfigurationError: It can't; the message names the setting to change.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as exc:
            raise ConfigurationError(
                f"port {port} of the {name} can't be used on {host} ({exc.strerror}): stop the "
                "other program (another 'enrichment up' or 'demo'?) or choose another port with "
                f"{_PORT_SETTINGS[name]}"
            ) from None


_PORT_SETTINGS = {
    "API": "--api-port or ENRICHMENT_API_PORT",
    "dashboard": "--dashboard-port or ENRICHMENT_DASHBOARD_PORT",
    "sandbox vendor": "--sandbox-port or ENRICHMENT_SANDBOX_PORT",
}
