"""Addresses of services, IPv6 ones included."""

from __future__ import annotations

import socket

import pytest

from enrichment.domain.errors import ConfigurationError
from enrichment.net import local_url, require_free

HOSTS = ["127.0.0.1", "::1", "localhost", "0.0.0.0", "::"]


@pytest.mark.parametrize("host", HOSTS)
def test_a_taken_port_is_found_on_every_kind_of_address(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    if family == socket.AF_INET6 and not socket.has_dualstack_ipv6():
        pytest.skip("no IPv6 here")
    with socket.create_server((host, 0), family=family) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigurationError, match=f"port {port}"):
            require_free("API", "127.0.0.1" if host == "localhost" else host, port)
    require_free("API", host, port)


def test_what_is_no_address_is_named() -> None:
    with pytest.raises(ConfigurationError, match="choose one of this machine"):
        require_free("API", "no address", 8000)


def test_services_on_every_address_are_asked_on_loopback() -> None:
    assert [local_url(host, 1) for host in ("0.0.0.0", "::", "::1", "192.0.2.1")] == [
        "http://127.0.0.1:1",
        "http://[::1]:1",
        "http://[::1]:1",
        "http://192.0.2.1:1",
    ]
