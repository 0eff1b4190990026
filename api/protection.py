"""Protection of every endpoint: rate limit per client, bearer token, checks of host and origin."""

from __future__ import annotations

import hmac
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from flask import Flask, Request, Response, request

from api.endpoint import current_endpoint
from api.responses import problem
from enrichment.net import is_loopback
from resilience import RateLimiter

MAX_CLIENTS = 4096
MAX_BODY_BYTES = 2_000_000
NOT_RATE_LIMITED = ("service.livez", "service.readyz", "metrics.metrics")
ALLOWED_HEADERS = "Authorization, Content-Type, Idempotency-Key, If-None-Match"
"""Headers that pages of other origins may send."""
EXPOSED_HEADERS = "ETag, Link, Location, Retry-After, Content-Disposition, X-Row-Count, X-Adjust"
"""Headers that they may read."""
SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
}


class ClientRates:
    """One rate limiter per client address, for the most recently seen MAX_CLIENTS addresses.

    Args:
        per_minute: Requests allowed per minute; None for no limit.
        limiter: Builds the limiter of one client.
    """

    def __init__(
        self, per_minute: int | None, limiter: Callable[..., RateLimiter] = RateLimiter
    ) -> None:
        self._rate = per_minute
        self._limiter = limiter
        self._limiters: OrderedDict[str, RateLimiter] = OrderedDict()
        self._lock = threading.Lock()

    def allow(self, address: str) -> bool:
        return self._rate is None or self._of(address, self._rate).allow_request()

    def retry_after(self) -> int:
        """Seconds until one more request is allowed."""
        return 1 if self._rate is None else max(1, -(-60 // self._rate))

    def _of(self, address: str, rate: int) -> RateLimiter:
        with self._lock:
            limiter = self._limiters.get(address)
            if limiter is None:
                limiter = self._limiter("api_client", rate=rate, interval=60, burst=rate)
                self._limiters[address] = limiter
                if len(self._limiters) > MAX_CLIENTS:
                    self._limiters.popitem(last=False)
            self._limiters.move_to_end(address)
            return limiter


@dataclass(frozen=True, slots=True)
class ApiProtection:
    """What a request must satisfy before its endpoint is called."""

    token: str | None
    """Required for every change of state, if given."""
    clients: ClientRates
    origins: frozenset[str] = frozenset()
    """Of pages in browsers that may use the API, such as https://app.example.com."""

    def reject(self) -> Response | None:
        """The problem to answer with; None if the request is allowed."""
        if request.method == "OPTIONS" and self.allows_origin():
            return Response(status=204)
        if request.endpoint not in NOT_RATE_LIMITED and not self.clients.allow(_address(request)):
            response = problem(429, "Too many requests", "send fewer requests: see Retry-After")
            response.headers["Retry-After"] = str(self.clients.retry_after())
            return response
        if self.token is None and not is_loopback(_host(request)):
            return problem(
                400, "Unknown host", "without ENRICHMENT_API_TOKEN use 127.0.0.1 or localhost"
            )
        endpoint = current_endpoint()
        if endpoint is None or not endpoint.changes_state:
            return None
        if request.method == "HEAD":
            response = problem(405, "Method not allowed", "HEAD changes nothing: use POST")
            response.headers["Allow"] = "POST"
            return response
        if self.token is None:
            return None if self.allows_origin() else _reject_cross_site(request)
        if _has_token(request, self.token):
            return None
        response = problem(401, "Unauthorized", "send the header 'Authorization: Bearer <token>'")
        response.headers["WWW-Authenticate"] = "Bearer"
        return response

    def allows_origin(self) -> bool:
        """Whether a page of an allowed origin sends the request."""
        return request.headers.get("Origin") in self.origins

    def add_cors_headers(self, response: Response) -> None:
        """Let the browser show the answer to the page that asked, if its origin is allowed."""
        if self.origins:
            response.vary.add("Origin")
        if self.allows_origin():
            response.headers["Access-Control-Allow-Origin"] = request.headers["Origin"]
            response.headers["Access-Control-Expose-Headers"] = EXPOSED_HEADERS
            response.headers["Cross-Origin-Resource-Policy"] = "cross-origin"
        if request.method == "OPTIONS" and self.allows_origin():
            response.headers["Access-Control-Allow-Methods"] = "GET, POST, PATCH"
            response.headers["Access-Control-Allow-Headers"] = ALLOWED_HEADERS
            response.headers["Access-Control-Max-Age"] = "600"


def protect(app: Flask, protection: ApiProtection) -> None:
    """Check every request, and add the security headers to every response.

    Without a token only loopback host names are accepted, against DNS rebinding.
    """
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES
    app.config["MAX_FORM_MEMORY_SIZE"] = MAX_BODY_BYTES
    if protection.token is not None:
        app.extensions["token"] = True  # read by `openapi.document`

    app.before_request(protection.reject)

    @app.after_request
    def add_headers(response: Response) -> Response:
        protection.add_cors_headers(response)
        for name, value in SECURITY_HEADERS.items():
            response.headers.setdefault(name, value)
        response.headers.setdefault("Cache-Control", "no-store")
        return response


def _host(received: Request) -> str:
    """The Host header without the port."""
    try:
        return urlsplit(f"//{received.headers.get('Host', '')}").hostname or ""
    except ValueError:
        return ""


def _has_token(received: Request, token: str) -> bool:
    scheme, _, secret = received.headers.get("Authorization", "").partition(" ")
    return scheme.lower() == "bearer" and hmac.compare_digest(secret.encode(), token.encode())


def _reject_cross_site(received: Request) -> Response | None:
    """Browsers send Sec-Fetch-Site or Origin; other programs send neither and are allowed."""
    origin = received.headers.get("Origin")
    same_origin = origin is None or urlsplit(origin).netloc == received.headers.get("Host")
    if same_origin and received.headers.get("Sec-Fetch-Site", "none") in ("none", "same-origin"):
        return None
    return problem(
        403, "Forbidden", "cross-site request: set ENRICHMENT_API_TOKEN to allow such requests"
    )


def _address(received: Request) -> str:
    return received.remote_addr or "local"
