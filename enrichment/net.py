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


def authority(host: str, port: int) -> str:
    """Host and port as in a URL.

    >>> authority("::1", 8000), authority("127.0.0.1", 8000)
    ('[::1]:8000', '127.0.0.1:8000')
    """
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def local_host(host: str) -> str:
    """Where this machine reaches a service that listens on this host."""
    return _ANY.get(host, host)


def local_url(host: str, port: int) -> str:
    """Where this machine reaches a service that listens on this address.

    >>> local_url("0.0.0.0", 8000), local_url("::", 8000)
    ('http://127.0.0.1:8000', 'http://[::1]:8000')
    """
    return f"http://{authority(local_host(host), port)}"


def require_free(name: str, host: str, port: int) -> None:
    """Check that a service can listen on the port.

    Raises:
        ConfigurationError: It can't; the message names the setting to change.
    """
    try:
        family, kind, *_, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as exc:
        raise ConfigurationError(
            f"{host!r} is no address for the {name} ({exc.strerror}): choose one of this machine"
        ) from None
    with socket.socket(family, kind) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
        except OSError as exc:
            raise ConfigurationError(
                f"port {port} of the {name} can't be used on {host} ({exc.strerror}): stop the "
                "other program (another 'enrichment up' or 'demo'?) or choose another port with "
                f"{_PORT_SETTINGS[name]}"
            ) from None


_ANY = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104 — addresses that are met
_PORT_SETTINGS = {
    "API": "--api-port or ENRICHMENT_API_PORT",
    "dashboard": "--dashboard-port or ENRICHMENT_DASHBOARD_PORT",
    "sandbox vendor": "--sandbox-port or ENRICHMENT_SANDBOX_PORT",
}
