"""What the dashboard's server does beside Streamlit: the session's cookie, limits on requests."""

from __future__ import annotations

from collections.abc import Callable, Collection
from http.cookies import SimpleCookie
from typing import Any, Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from enrichment.dashboard.sessions import SIGNED_IN_SECONDS, Sessions

COOKIE: Final = "enrichment_session"
SESSION_PATH: Final = "/session"
MAX_UPLOAD_MEGABYTES = 2
_UPLOAD_PATH = "/_stcore/upload_file"
_MAX_UPLOAD_BYTES = (MAX_UPLOAD_MEGABYTES + 1) * 2**20  # with the form around the file
_MAX_TICKET_BYTES = 200
_HEADERS = {
    # No image of another site, which a vendor's text might name; nothing may frame the dashboard.
    "Content-Security-Policy": "img-src 'self' data: blob:; object-src 'none'; base-uri 'self'; "
    "frame-ancestors 'self'; form-action 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
}


def session_routes(sessions: Sessions) -> list[Route]:
    """POST exchanges a ticket for the cookie; DELETE ends the session."""

    async def start(request: Request) -> Response:
        cookie = None
        if _is_same_origin(request) and _length(request.headers) <= _MAX_TICKET_BYTES:
            cookie = sessions.redeem((await request.body()).decode("ascii", "replace"))
        if cookie is None:
            return PlainTextResponse("the ticket is not valid", 403)
        response = Response(status_code=204)
        response.set_cookie(
            COOKIE,
            cookie,
            max_age=SIGNED_IN_SECONDS,
            httponly=True,
            samesite="strict",
            secure=_is_https(request),
        )
        return response

    async def end(request: Request) -> Response:
        if not _is_same_origin(request):
            return PlainTextResponse("cross-site request", 403)
        sessions.revoke(request.cookies.get(COOKIE, ""))
        response = Response(status_code=204)
        response.delete_cookie(COOKIE, httponly=True, samesite="strict")
        return response

    return [
        Route(SESSION_PATH, start, methods=["POST"]),
        Route(SESSION_PATH, end, methods=["DELETE"]),
    ]


class RequestLimits:
    """ASGI middleware: checks hosts, limits uploads, and adds the security headers.

    Args:
        app: The application around which it is.
        hosts: Host names that requests may name, in lower case; empty for any.
        may_upload: Whether the bearer of this session cookie may upload files.
    """

    def __init__(
        self, app: ASGIApp, *, hosts: Collection[str], may_upload: Callable[[str], bool]
    ) -> None:
        self._app, self._hosts, self._may_upload = app, hosts, may_upload

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        refusal = self._refusal(scope, headers)
        if refusal is not None:
            await refusal(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                added = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    added.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope, headers: Headers) -> Response | None:
        if self._hosts and _host_name(headers.get("host", "")) not in self._hosts:
            return PlainTextResponse("this host name is not served: see the documentation", 400)
        if not scope["path"].startswith(_UPLOAD_PATH) or scope["method"] not in ("PUT", "POST"):
            return None
        if not self._may_upload(_session_cookie(headers)):
            return PlainTextResponse("sign in to upload files", 401)
        if "content-length" not in headers:
            return PlainTextResponse("send the file's length", 411)
        if _length(headers) > _MAX_UPLOAD_BYTES:
            return PlainTextResponse(f"at most {MAX_UPLOAD_MEGABYTES} MB", 413)
        return None


def _host_name(host: str) -> str:
    try:
        return (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return ""


def _session_cookie(headers: Headers) -> str:
    morsel: Any = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    return "" if morsel is None else str(morsel.value)


def _length(headers: Headers) -> int:
    text = headers.get("content-length", "")
    return int(text[:20]) if text.isascii() and text.isdigit() else 0


def _is_same_origin(request: Request) -> bool:
    origin = request.headers.get("origin")
    return origin is None or urlsplit(origin).netloc == request.headers.get("host")


def _is_https(request: Request) -> bool:
    return "https" in (request.url.scheme, request.headers.get("x-forwarded-proto"))
