"""Who may change state, and in whose name it is done."""

from __future__ import annotations

import hmac

from flask import Request, Response

from api.envelope import problem


def refusal(received: Request, token: str | None) -> Response | None:
    """A 401 unless the request bears the token; None where it may go on."""
    given = received.headers.get("Authorization", "")
    if token is None or hmac.compare_digest(given.encode(), f"Bearer {token}".encode()):
        return None
    refused = problem(401, "Unauthorized", "send the header 'Authorization: Bearer <token>'")
    refused.headers["WWW-Authenticate"] = "Bearer"
    return refused


def actor(received: Request) -> str:
    """How the audit names whoever sent the request."""
    return f"api:{received.remote_addr or 'local'}"
