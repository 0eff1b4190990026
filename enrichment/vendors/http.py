"""The HTTP client of the vendors: JSON in, errors of `domain.errors` out.

This is the only module that imports `requests`. Every request, also for each page of a paginated
answer, goes through one injected resilient call, and every foreign error is translated here.
Messages name a request's path, never its query or headers, which may hold secrets.

>>> headers = {"Authorization": "Bearer secret", "Accept": "*/*"}
>>> HttpClient("https://vendor.test", call=lambda request: request(), headers=headers)
HttpClient('https://vendor.test:443', headers={'Authorization': '***', 'Accept': '*/*'})
"""

from __future__ import annotations

import math
import socket
import time
from collections.abc import Callable, Iterator, Mapping
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
from urllib3.exceptions import DecodeError, HTTPError, ReadTimeoutError

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

DEFAULT_TIMEOUTS = (5.0, 30.0)  # seconds to connect, seconds between two reads of the answer
MAX_BYTES = 64 * 1024 * 1024  # of a decompressed answer; the largest seen have 10
MAX_SECONDS = 120.0  # for reading one answer
_CHUNK_BYTES = 65_536
Decode = Callable[[bytes], Any]
_DEFAULT_PORTS = {"http": 80, "https": 443}
_SECRET_WORDS = ("authorization", "key", "token", "secret", "cookie")
_QUOTA_STATUSES = (418, 429)  # Binance answers 418 to an address that has ignored its 429
_RETRYABLE_STATUSES = (408, 425)
_DECODING_ERRORS = (
    requests.exceptions.ContentDecodingError,
    requests.exceptions.InvalidJSONError,
    DecodeError,
)
_REQUEST_ERRORS = (ValueError, TypeError, requests.TooManyRedirects, requests.URLRequired)
_CONNECTION_FAILURES: tuple[tuple[type[Exception], str, str], ...] = (  # the first that fits
    (requests.exceptions.ProxyError, "the proxy failed", "HTTPS_PROXY, HTTP_PROXY, NO_PROXY"),
    (requests.exceptions.SSLError, "TLS failed", "the clock, the CA certificates, the proxy"),
    (requests.ConnectTimeout, "no connection in time", "the network, a firewall"),
    (socket.gaierror, "name resolution failed", "the network, DNS"),
    (ConnectionRefusedError, "connection refused", "that the server is running, a firewall"),
)
_MAX_REASON = 200  # characters kept of a vendor's own message


@dataclass(frozen=True, slots=True)
class JsonResponse:
    """A successful response."""

    body: Any
    """The decoded JSON."""
    headers: Mapping[str, str]
    """Their names are case-insensitive."""


class HttpClient:
    """Sends requests to one vendor.

    Args:
        base_url: Requests go to this scheme, host and port only.
        call: Runs every request.
        headers: Sent with every request, secrets included.
        timeouts: Gives (connect, read) in seconds before each request.
        session: Default: a new one with `pool_size` kept-alive connections.
        key_setting: The setting that an AccessDenied tells the user to check.
        address_setting: The setting that a failed connection tells the user to check.
        now: The wall clock, for a Retry-After that is a date and for the vendor's provider.
        timer: Monotonic seconds; an answer is read for MAX_SECONDS and MAX_BYTES at most.
    """

    def __init__(
        self,
        base_url: str,
        *,
        call: ResilientCall,
        headers: Mapping[str, str] | None = None,
        timeouts: Callable[[], tuple[float, float]] = lambda: DEFAULT_TIMEOUTS,
        session: requests.Session | None = None,
        key_setting: str = "the API key",
        address_setting: str = "the address in the settings",
        pool_size: int = 16,
        now: Callable[[], datetime] = utc_now,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self._base = base_url.rstrip("/")
        self._origin = _origin(urlsplit(self._base))
        self._call, self._timeouts, self._timer = call, timeouts, timer
        self.now = now
        self._headers, self._key_setting = dict(headers or {}), key_setting
        self._address_setting = address_setting
        self._session = session or _session(urlsplit(self._base).hostname, pool_size)

    def __repr__(self) -> str:
        masked = {n: "***" if _is_secret(n) else value for n, value in self._headers.items()}
        scheme, host, port = self._origin
        return f"HttpClient('{scheme}://{host}:{port}', headers={masked})"

    @property
    def _host(self) -> str:
        """The host, with its port if that is not the scheme's own."""
        scheme, host, port = self._origin
        return str(host) if port == _DEFAULT_PORTS.get(scheme) else f"{host}:{port}"

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
        """GET JSON from a path, or from the path and query of an absolute URL.

        The client's own host is asked, whatever host the URL names: a vendor links to its next page
        by its other name or by the address behind a proxy, and credentials go to nobody else.

        Args:
            decode: Makes the body from its bytes; a ValueError says that they are not JSON.

        Raises:
            ProviderError: Of the kind that fits the failure.
        """
        url = self._resolved(path_or_url)
        return self._call(lambda: self._get(url, params, decode))

    def post_json(
        self, url: str, body: Mapping[str, Any], *, headers: Mapping[str, str], label: str
    ) -> None:
        """POST JSON to the path and query of a URL on the client's host; any 2xx is success.

        Args:
            label: Stands for the URL in messages, since its path may be a secret.

        Raises:
            ProviderError: Of the kind that fits the failure.
        """
        address, content = self._resolved(url), orjson.dumps(body)
        headers = {**headers, "Content-Type": "application/json"}
        self._call(lambda: self._send("POST", address, label, data=content, headers=headers))

    def _resolved(self, path_or_url: str) -> str:
        try:
            parts = urlsplit(path_or_url)
        except ValueError:
            raise MalformedResponse("the vendor's answer links to a malformed address") from None
        base = urlsplit(self._base)
        path = parts.path.removeprefix(base.path).lstrip("/")
        query = f"?{parts.query}" if parts.query else ""
        return f"{self._base}/{path}{query}" if path or query else self._base

    def _get(
        self, url: str, params: Mapping[str, str | int] | None, decode: Decode
    ) -> JsonResponse:
        path = urlsplit(url).path
        response, content = self._send("GET", url, path, params=params)
        return JsonResponse(_decoded(response, content, path, decode), response.headers)

    def _send(
        self,
        method: Literal["GET", "POST"],
        url: str,
        label: str,
        *,
        params: Mapping[str, str | int] | None = None,
        data: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[requests.Response, bytes]:
        """The response and its body if it is a 2xx; messages call the address `label`."""
        try:
            response = self._session.request(
                method,
                url,
                params=params,
                data=data,
                headers={**self._headers, **(headers or {})},
                timeout=self._timeouts(),
                allow_redirects=False,
                stream=True,
            )
            content = self._read(response, label)
        except (OSError, UnicodeError, HTTPError) as exc:
            raise _translated(exc, label, self._host, self._address_setting) from exc
        if response.status_code // 100 != 2:
            raise self._error_of(response, content, label)
        return response, content

    def _read(self, response: requests.Response, label: str) -> bytes:
        """The whole body, decompressed, as it arrives, so that a slow one can be given up."""
        parts, size, end = [], 0, self._timer() + MAX_SECONDS
        while part := response.raw.read1(_CHUNK_BYTES, decode_content=True):
            parts.append(part)
            size += len(part)
            if size > MAX_BYTES:
                response.close()
                raise MalformedResponse(f"{label} answered more than {MAX_BYTES:,} bytes")
            if self._timer() > end:
                response.close()
                raise ProviderUnavailable(
                    f"{label} sent {size:,} bytes in {MAX_SECONDS:.0f} s and did not end"
                )
        response.raw.release_conn()
        return b"".join(parts)

    def _error_of(self, response: requests.Response, content: bytes, label: str) -> ProviderError:
        status, body = response.status_code, _json_object(content)
        message = f"{label} answered {status}{self._reason(body)}"
        if status in _QUOTA_STATUSES:
            return QuotaExceeded(message, _retry_after(response.headers, self.now()))
        if status in (401, 403, 451):
            advice = f"check {self._key_setting} and the plan it belongs to"
            if status == 451:
                advice = "not served in this country, put another vendor first in PROVIDERS_…"
            word = body.get("status")
            return AccessDenied(f"{message}: {advice}", word if isinstance(word, str) else None)
        if status == 404:
            return UnknownSymbol(message)
        if status >= 500 or status in _RETRYABLE_STATUSES:
            return ProviderUnavailable(message)
        code = body.get("code")
        return RequestRefused(message, code if isinstance(code, int) else None)

    def _reason(self, body: Mapping[str, Any]) -> str:
        """The vendor's own message on one line, with our secrets masked."""
        text = body.get("error") or body.get("message") or body.get("msg") or _chart_error(body)
        if not isinstance(text, str):
            return ""
        for name, value in self._headers.items():
            if _is_secret(name):
                text = text.replace(value, "***").replace(value.rpartition(" ")[2], "***")
        return f" ({' '.join(text.split())[:_MAX_REASON]})"


def _chart_error(body: Mapping[str, Any]) -> object:
    """The description in an error of Yahoo's."""
    chart = body.get("chart")
    error = chart.get("error") if isinstance(chart, dict) else None
    return error.get("description") if isinstance(error, dict) else None


def _json_object(content: bytes) -> Mapping[str, Any]:
    """The JSON object of a body; an empty one if it has none."""
    with suppress(orjson.JSONDecodeError):
        body = orjson.loads(content)
        if isinstance(body, dict):
            return body
    return {}


def _translated(exc: Exception, label: str, host: str, setting: str) -> ProviderError:
    """The error that stands for one of `requests`: what failed, why, and what to check."""
    if isinstance(exc, _DECODING_ERRORS):
        return MalformedResponse(f"{label}: {type(exc).__name__}, the answer can't be decoded")
    if isinstance(exc, _REQUEST_ERRORS):
        return RequestRefused(
            f"{label}: {type(exc).__name__}, check the vendor's address and key in the settings"
        )
    timed_out = isinstance(exc, (requests.Timeout, ReadTimeoutError))
    if timed_out and not isinstance(exc, requests.ConnectTimeout):
        return ProviderUnavailable(f"{label}: {host} gave no answer in time: check the network")
    cause, remedy = _connection_failure(exc)
    return ProviderUnavailable(
        f"{label}: can't reach {host} ({cause}): check {remedy} or {setting}"
    )


def _connection_failure(exc: Exception) -> tuple[str, str]:
    """Why no connection was made or kept, and what to check beside the vendor's address."""
    causes = tuple(_causes(exc))
    for kind, cause, remedy in _CONNECTION_FAILURES:
        if any(isinstance(error, kind) for error in causes):
            return cause, remedy
    return f"the connection failed, {type(exc).__name__}", "the network"


def _causes(exc: BaseException | None) -> Iterator[BaseException]:
    """The error, the one that caused it, and so on."""
    while exc is not None:
        yield exc
        exc = exc.__cause__ or exc.__context__


class _HeadersOnly(AuthBase):
    """Keeps `requests` from replacing our Authorization header by one from a .netrc file."""

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
    return parts.scheme, parts.hostname, parts.port or _DEFAULT_PORTS.get(parts.scheme)


def _decoded(response: requests.Response, content: bytes, path: str, decode: Decode) -> Any:
    """The body if it says that it is JSON, or says nothing, and is."""
    kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    message = f"{path} answered {len(content)} bytes of {kind or 'unknown type'} that are not JSON"
    if kind and not kind.endswith(("/json", "+json")):
        raise MalformedResponse(message)
    try:
        return decode(content)
    except ValueError as exc:
        raise MalformedResponse(message) from exc


def _retry_after(headers: Mapping[str, str], now: datetime) -> float | None:
    """The Retry-After header in seconds; it holds seconds or an HTTP date."""
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
