"""HTTP as the providers see it: JSON in, our own errors out. The only importer of `requests`.

Every request, each page of a paginated answer included, goes through one injected resilient call.
Foreign errors are translated here, once. Messages hold a request's path, never its query or
headers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Literal, Self
from urllib.parse import SplitResult, urlsplit

import orjson
import requests
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase

from enrichment.domain.clock import utc_now
from enrichment.domain.errors import (
    AccessDenied,
    MalformedResponse,
    ProviderError,
    ProviderUnavailable,
    QuotaExceeded,
    RequestRefused,
    UnknownSymbol,
)
from enrichment.net import is_loopback
from enrichment.vendors.base import ResilientCall

TIMEOUTS = (5.0, 30.0)  # seconds to connect, seconds between two bytes of the answer
Decode = Callable[[bytes], Any]
_PORTS = {"http": 80, "https": 443}
_SECRET_WORDS = ("authorization", "key", "token", "secret", "cookie")
_QUOTA = (418, 429)  # Binance bans an address with 418 that does not heed its 429
_TRY_LATER = (408, 425)
_UNREADABLE = (requests.exceptions.ContentDecodingError, requests.exceptions.InvalidJSONError)
_UNASKABLE = (ValueError, TypeError, requests.TooManyRedirects, requests.URLRequired)
_SHOWN = 200  # characters of a vendor's own message


@dataclass(frozen=True, slots=True)
class JsonResponse:
    """A decoded JSON body and the headers, whose names are case-insensitive."""

    body: Any
    headers: Mapping[str, str]


class HttpClient:
    """Asks one vendor.

    call: runs every request. headers: sent with every request, secrets included.
    timeouts: (connect, read) in seconds, asked before each request.
    key_setting: the setting that an AccessDenied names. pool_size: connections kept open.
    now: the wall clock, for a Retry-After that is a date.
    """

    def __init__(
        self,
        base_url: str,
        *,
        call: ResilientCall,
        headers: Mapping[str, str] | None = None,
        timeouts: Callable[[], tuple[float, float]] = lambda: TIMEOUTS,
        session: requests.Session | None = None,
        key_setting: str = "the API key",
        pool_size: int = 16,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._base = base_url.rstrip("/")
        self._origin = _origin(urlsplit(self._base))
        self._call, self._timeouts, self._now = call, timeouts, now
        self._headers, self._key_setting = dict(headers or {}), key_setting
        self._session = session or _session(urlsplit(self._base).hostname, pool_size)

    def __repr__(self) -> str:
        shown = {name: _masked(name, value) for name, value in self._headers.items()}
        scheme, host, port = self._origin
        return f"HttpClient('{scheme}://{host}:{port}', headers={shown})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the pooled connections."""
        self._session.close()

    def get_json(
        self,
        path_or_url: str,
        params: Mapping[str, str | int] | None = None,
        *,
        decode: Decode = orjson.loads,
    ) -> JsonResponse:
        """The JSON behind a path, or behind an absolute URL on the same scheme, host and port.

        decode: makes the body of its bytes; a ValueError says that they are not JSON.
        """
        url = self._resolved(path_or_url)
        return self._call(lambda: self._get(url, params, decode))

    def post_json(
        self, url: str, body: Mapping[str, Any], *, headers: Mapping[str, str], label: str
    ) -> None:
        """Post JSON to an absolute URL on the same scheme, host and port; any 2xx will do.

        shown: what messages call the address, whose path may be a secret.
        """
        sent = {**headers, "Content-Type": "application/json"}
        address, content = self._resolved(url), orjson.dumps(body)
        self._call(lambda: self._send("POST", address, label, data=content, headers=sent))

    def _resolved(self, path_or_url: str) -> str:
        try:
            parts = urlsplit(path_or_url)
            if not parts.scheme and not parts.netloc:
                return f"{self._base}/{path_or_url.lstrip('/')}"
            same = _origin(parts) == self._origin and parts.username is None
        except ValueError:
            same = False
        if not same:
            raise MalformedResponse("the vendor's answer leads to an address that is not its own")
        base = urlsplit(self._base)
        return parts._replace(scheme=base.scheme, netloc=base.netloc, fragment="").geturl()

    def _get(
        self, url: str, params: Mapping[str, str | int] | None, decode: Decode
    ) -> JsonResponse:
        path = urlsplit(url).path
        response = self._send("GET", url, path, params=params)
        return JsonResponse(_decoded(response, path, decode), response.headers)

    def _send(
        self,
        method: Literal["GET", "POST"],
        url: str,
        label: str,
        *,
        params: Mapping[str, str | int] | None = None,
        data: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> requests.Response:
        """The response to one request if it is a 2xx; messages call the address `label`."""
        try:
            response = self._session.request(
                method,
                url,
                params=params,
                data=data,
                headers={**self._headers, **(headers or {})},
                timeout=self._timeouts(),
                allow_redirects=False,
            )
        except (OSError, UnicodeError) as exc:
            raise translated(exc, label) from exc
        if response.status_code // 100 != 2:
            raise self._refusal(response, label)
        return response

    def _refusal(self, response: requests.Response, path: str) -> ProviderError:
        status, body = response.status_code, _body(response)
        said = f"{path} answered {status}{self._reason(body)}"
        if status in _QUOTA:
            return QuotaExceeded(said, _retry_after(response.headers, self._now()))
        if status in (401, 403, 451):
            return AccessDenied(f"{said}: check {self._key_setting} and the plan it belongs to")
        if status == 404:
            return UnknownSymbol(said)
        if status >= 500 or status in _TRY_LATER:
            return ProviderUnavailable(said)
        code = body.get("code")
        return RequestRefused(said, code if isinstance(code, int) else None)

    def _reason(self, body: Mapping[str, Any]) -> str:
        """The vendor's own words, on one line, without what we sent in secret."""
        said = body.get("error") or body.get("message") or body.get("msg")
        if not isinstance(said, str):
            return ""
        for name, value in self._headers.items():
            if _is_secret(name):
                said = said.replace(value, "***").replace(value.rpartition(" ")[2], "***")
        return f" ({' '.join(said.split())[:_SHOWN]})"


def _body(response: requests.Response) -> Mapping[str, Any]:
    """A refusal's JSON object, or an empty one."""
    with suppress(orjson.JSONDecodeError):
        body = orjson.loads(response.content)
        if isinstance(body, dict):
            return body
    return {}


def translated(exc: Exception, path: str) -> ProviderError:
    """Our error for what `requests` raised: unavailable, unless the answer or the request is
    bad.
    """
    said = f"{path}: {type(exc).__name__}"
    if isinstance(exc, _UNREADABLE):
        return MalformedResponse(f"{said}, the answer can't be decoded")
    if isinstance(exc, requests.Timeout):
        return ProviderUnavailable(f"{said}, no answer in time")
    if isinstance(exc, _UNASKABLE):
        return RequestRefused(f"{said}, check the vendor's address and key in the settings")
    return ProviderUnavailable(f"{said}, the connection failed")


class _HeadersOnly(AuthBase):
    """Leaves our Authorization header alone, which `requests` would replace from a .netrc."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        return request


def _session(host: str | None, pool_size: int) -> requests.Session:
    session = requests.Session()
    adapter = HTTPAdapter(pool_connections=1, pool_maxsize=pool_size, max_retries=0)
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    session.auth = _HeadersOnly()
    # A proxy of the environment can't reach this machine's loopback.
    session.trust_env = not is_loopback(host)
    return session


def _origin(parts: SplitResult) -> tuple[str, str | None, int | None]:
    return parts.scheme, parts.hostname, parts.port or _PORTS.get(parts.scheme)


def _decoded(response: requests.Response, path: str, decode: Decode) -> Any:
    try:
        return decode(response.content)
    except ValueError as exc:
        kind = response.headers.get("Content-Type", "unknown type").partition(";")[0]
        size = len(response.content)
        raise MalformedResponse(
            f"{path} answered {size} bytes of {kind} that are not JSON"
        ) from exc


def _retry_after(headers: Mapping[str, str], now: datetime) -> float | None:
    """Seconds that Retry-After asks to wait, given as seconds or as an HTTP date."""
    text = headers.get("Retry-After", "")
    try:
        seconds = float(text)
    except ValueError:
        try:
            at = parsedate_to_datetime(text)
        except (TypeError, ValueError):
            return None
        seconds = ((at if at.tzinfo else at.replace(tzinfo=UTC)) - now).total_seconds()
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _is_secret(name: str) -> bool:
    return any(word in name.lower() for word in _SECRET_WORDS)


def _masked(name: str, value: str) -> str:
    return "***" if _is_secret(name) else value
