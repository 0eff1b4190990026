"""What a reverse proxy says about a request is believed only from the proxies of the settings."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING

from werkzeug.middleware.proxy_fix import ProxyFix

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment


class TrustedProxies:
    """WSGI middleware: client, scheme, host and path prefix of requests that came by a proxy.

    Of `X-Forwarded-For`, `-Proto`, `-Host` and `-Prefix` the last value counts, which the proxy
    itself has set.

    Args:
        app: The application around which it is.
        proxies: Addresses or networks that are believed.
    """

    def __init__(self, app: WSGIApplication, proxies: Iterable[str]) -> None:
        self._app = app
        self._fixed = ProxyFix(app, x_for=1, x_proto=1, x_host=1, x_prefix=1)
        self._networks = [ip_network(network) for network in proxies]

    def answer(self, environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        """The WSGI application."""
        trusted = self._trusts(str(environ.get("REMOTE_ADDR", "")))
        return (self._fixed if trusted else self._app)(environ, start)

    def _trusts(self, address: str) -> bool:
        try:
            client = ip_address(address)
        except ValueError:  # a Unix socket has none
            return False
        return any(client in network for network in self._networks)
