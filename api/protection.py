"""What stands before every endpoint: the readers' own rate limit, the token, and who may ask for a
change at all.
"""

from __future__ import annotations

import hmac
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from flask import Flask, Request, Response, request

from api.endpoint import parsed_request
from api.responses import problem
from enrichment.net import is_loopback
from resilience import RateLimiter

MAX_CLIENTS = 4096
MAX_BODY_BYTES = 2_000_000
UNLIMITED = ("service.livez", "service.readyz", "metrics.metrics")
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
}


class ClientRates:
    """A rate limit for each client's address; those not seen for longest are forgotten.

    per_minute: requests, None for no limit. limiter: makes the limit of a client.
    """

    def __init__(
        self, per_minute: int | None, limiter: Callable[..., RateLimiter] = RateLimiter
    ) -> None:
        self._rate = per_minute
        self._limiter = limiter
        self._known: OrderedDict[str, RateLimiter] = OrderedDict()
        self._lock = threading.Lock()

    def allow(self, address: str) -> bool:
        return self._rate is None or self._of(address, self._rate).allow_request()

    def seconds(self) -> int:
        """After how long one more request passes."""
        return 1 if self._rate is None else max(1, -(-60 // self._rate))

    def _of(self, address: str, rate: int) -> RateLimiter:
        with self._lock:
            limiter = self._known.get(address)
            if limiter is None:
                limiter = self._limiter("api_client", rate=rate, interval=60, burst=rate)
                self._known[address] = limiter
                if len(self._known) > MAX_CLIENTS:
                    self._known.popitem(last=False)
            self._known.move_to_end(address)
            return limiter


@dataclass(frozen=True, slots=True)
class ApiProtection:
    """token: what changes state asks for it, if given. clients: how often each may ask."""

    token: str | None
    clients: ClientRates

    def refuse(self) -> Response | None:
        """The answer to a request that may not pass."""
        if request.endpoint not in UNLIMITED and not self.clients.allow(_address(request)):
            response = problem(429, "Too many requests", "slow down: see Retry-After")
            response.headers["Retry-After"] = str(self.clients.seconds())
            return response
        if self.token is None and not is_loopback(_host(request)):
            return problem(
                400, "Unknown host", "without ENRICHMENT_API_TOKEN ask by 127.0.0.1 or localhost"
            )
        operation = parsed_request()
        if operation is None or not operation.changes:
            return None
        if self.token is None:
            return _is_cross_site(request)
        if _has_token(request, self.token):
            return None
        response = problem(401, "Unauthorized", "send the header 'Authorization: Bearer <token>'")
        response.headers["WWW-Authenticate"] = "Bearer"
        return response


def protect(app: Flask, protection: ApiProtection) -> None:
    """Put the application behind this protection.

    Without a token only this machine's own names are answered to, so that a page of another site
    can't reach the API under a name that it made up.
    """
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES
    app.config["MAX_FORM_MEMORY_SIZE"] = MAX_BODY_BYTES
    if protection.token is not None:
        app.extensions["token"] = True  # the description says so

    app.before_request(protection.refuse)

    @app.after_request
    def finish(response: Response) -> Response:
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        response.headers.setdefault("Cache-Control", "no-store")
        return response


def _host(received: Request) -> str:
    """The name that the request asks for, without the port."""
    try:
        return urlsplit(f"//{received.headers.get('Host', '')}").hostname or ""
    except ValueError:
        return ""


def _has_token(received: Request, token: str) -> bool:
    given = received.headers.get("Authorization", "")
    scheme, _, secret = given.partition(" ")
    return scheme.lower() == "bearer" and hmac.compare_digest(secret.encode(), token.encode())


def _is_cross_site(received: Request) -> Response | None:
    """A browser says which site a request comes from; programs say nothing and pass."""
    if received.headers.get("Sec-Fetch-Site", "none") in ("none", "same-origin"):
        return None
    return problem(
        403, "Forbidden", "a page of another site asked for this: set ENRICHMENT_API_TOKEN"
    )


def _address(received: Request) -> str:
    return received.remote_addr or "local"
