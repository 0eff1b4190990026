"""The HTTP client of the vendors: JSON in, errors of `domain.errors` out.

Every request, also for each page of a paginated answer, goes through one injected resilient call.
Messages name a request's path, never its query or headers, which may hold secrets.

>>> headers = {"Authorization": "Bearer secret"}
>>> HttpClient("https://vendor.test", call=lambda request: request(), headers=headers)
HttpClient('https://vendor.test:443', headers={'Authorization': '***'})
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from threading import Lock
from typing import Any, Literal, Self
from urllib.parse import SplitResult, urlencode, urlsplit

import orjson

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
from enrichment.vendors.base import ResilientCall
from enrichment.vendors.transport import (
    FAILURES,
    MAX_SECONDS,
    PooledTransport,
    StreamedResponse,
    Transport,
    seconds_for_answer,
    translated,
)

DEFAULT_TIMEOUTS = (5.0, 30.0)  # seconds to connect, seconds between two reads of the answer
MAX_BYTES = 64 * 1024 * 1024  # of a decompressed answer; the largest seen have 10
MAX_TOTAL_BYTES = 96 * 1024 * 1024  # of all answers that the process is reading or decoding
MAX_CONTAINERS = 150_000  # objects and arrays of an answer; a page has at most 50,000 bars
MAX_VALUES = 1_500_000
MAX_RETRY_AFTER = 3600.0  # seconds; an answer may name any number
_LARGE_BYTES = 1024 * 1024  # from which on an answer's structure is counted before it is decoded
Decode = Callable[[bytes], Any]
_DEFAULT_PORTS = {"http": 80, "https": 443}
_HEADERS = {"User-Agent": "market-enrichment", "Accept": "*/*", "Accept-Encoding": "gzip, deflate"}
_SECRET_WORDS = ("authorization", "key", "token", "secret", "cookie")
_QUOTA_STATUSES = (418, 429)  # Binance answers 418 to an address that has ignored its 429
_RETRYABLE_STATUSES = (408, 425)
_MAX_REASON = 200  # characters kept of a vendor's own message


@dataclass(frozen=True, slots=True)
class JsonResponse:
    """A successful response."""

    body: Any
    """The decoded JSON."""
    headers: Mapping[str, str]
    """Their names are case-insensitive."""


@dataclass(frozen=True, slots=True)
class TextResponse:
    """A response of a page that is no JSON."""

    status: int
    headers: Mapping[str, str]
    """Their names are case-insensitive; those that are set several times are joined by commas."""
    text: str


class HttpClient:
    """Sends requests to one vendor.

    Args:
        base_url: Requests go to this scheme, host and port only.
        call: Runs every request.
        headers: Sent with every request, secrets included.
        timeouts: Gives (connect, read) in seconds before each request.
        transport: Default: what `connect` makes of the address.
        connect: Makes the transport of an address.
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
        transport: Transport | None = None,
        connect: Callable[[str], Transport] = PooledTransport,
        key_setting: str = "the API key",
        address_setting: str = "the address in the settings",
        now: Callable[[], datetime] = utc_now,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        base = base_url.rstrip("/")
        parts = urlsplit(base)
        self._origin, self._prefix = _origin(parts), parts.path
        self._root = base.removesuffix(self._prefix)
        self._call, self._timeouts, self._timer = call, timeouts, timer
        self.now = now
        self._headers, self._key_setting = {**_HEADERS, **(headers or {})}, key_setting
        self._address_setting = address_setting
        self._connect = connect
        self._transport = transport or connect(base)

    def __repr__(self) -> str:
        shown = self._headers.items() - _HEADERS.items()
        masked = {n: "***" if _is_secret(n) else value for n, value in sorted(shown)}
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
        self._transport.close()

    def get_json(
        self,
        path_or_url: str,
        params: Mapping[str, str | int] | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        decode: Decode = orjson.loads,
    ) -> JsonResponse:
        """GET JSON from a path, or from the path and query of an absolute URL.

        The client's own host is asked, whatever host the URL names: a vendor links to its next page
        by its other name or by the address behind a proxy, and credentials go to nobody else.

        Args:
            path_or_url: Of the request.
            params: Its query.
            headers: Sent beside the client's own.
            decode: Makes the body from its bytes; a ValueError says that they are not JSON.

        Raises:
            ProviderError: Of the kind that fits the failure.
        """
        url, path = self._resolved(path_or_url)
        if params:
            url += f"{'&' if '?' in url else '?'}{urlencode(params)}"
        return self._call(lambda: self._get(url, path, headers, decode))

    def get_text(self, path: str, headers: Mapping[str, str] | None = None) -> TextResponse:
        """GET text; an answer 4xx other than 429 is a response, too.

        Raises:
            ProviderError: There is no answer, or one of another status.
        """
        url, label = self._resolved(path)
        return self._call(lambda: self._text(url, label or "/", headers))

    def at(self, base_url: str) -> HttpClient:
        """A client of the vendor's other address, with the same calls, headers and limits."""
        return HttpClient(
            base_url,
            call=self._call,
            headers=self._headers,
            timeouts=self._timeouts,
            connect=self._connect,
            key_setting=self._key_setting,
            address_setting=self._address_setting,
            now=self.now,
            timer=self._timer,
        )

    def post_json(
        self, url: str, body: Mapping[str, Any], *, headers: Mapping[str, str], label: str
    ) -> None:
        """POST JSON to the path and query of a URL on the client's host; any 2xx is success.

        Args:
            label: Stands for the URL in messages, since its path may be a secret.

        Raises:
            ProviderError: Of the kind that fits the failure.
        """
        address, content = self._resolved(url)[0], orjson.dumps(body)
        headers = {**headers, "Content-Type": "application/json"}
        self._call(lambda: self._send("POST", address, label, data=content, headers=headers))

    def _resolved(self, path_or_url: str) -> tuple[str, str]:
        """The address on the client's host, and its path."""
        try:
            parts = urlsplit(path_or_url)
        except ValueError:
            raise MalformedResponse("the vendor's answer links to a malformed address") from None
        path, query = parts.path.removeprefix(self._prefix).lstrip("/"), parts.query
        path = f"{self._prefix}/{path}" if path or query else self._prefix
        return self._root + path + (f"?{query}" if query else ""), path

    def _text(self, url: str, label: str, headers: Mapping[str, str] | None) -> TextResponse:
        response, content = self._send("GET", url, label, headers=headers, accepted=(2, 4))
        return TextResponse(response.status, response.headers, content.decode("utf-8", "replace"))

    def _get(
        self, url: str, path: str, headers: Mapping[str, str] | None, decode: Decode
    ) -> JsonResponse:
        response, content = self._send("GET", url, path, headers=headers)
        return JsonResponse(_decoded(response, content, path, decode), response.headers)

    def _send(
        self,
        method: Literal["GET", "POST"],
        url: str,
        label: str,
        *,
        data: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        accepted: tuple[int, ...] = (2,),
    ) -> tuple[StreamedResponse, bytes]:
        """The response and its body if it is accepted; messages call the address `label`.

        accepted: hundreds of the statuses that are no errors; a 429 always is one.
        """
        all_headers = {**self._headers, **headers} if headers else self._headers
        try:
            response = self._transport.send(
                method, url, body=data, headers=all_headers, timeouts=self._timeouts()
            )
            content = self._read(response, label)
        except FAILURES as exc:
            raise translated(exc, label, self._host, self._address_setting) from exc
        if response.status // 100 not in accepted or response.status in _QUOTA_STATUSES:
            raise self._error_of(response, content, label)
        return response, content

    def _read(self, response: StreamedResponse, label: str) -> bytes:
        """The whole body; one that is too large or too slow is given up."""
        seconds = seconds_for_answer(MAX_SECONDS)
        content, end = bytearray(), self._timer() + seconds
        with _reading.answer() as count, closing(response.parts) as parts:
            for part in parts:
                content += part
                if len(content) > MAX_BYTES:
                    raise MalformedResponse(f"{label} answered more than {MAX_BYTES:,} bytes")
                if not count(len(part)):
                    raise ProviderUnavailable(f"{label}: too much is being read at once")
                if self._timer() > end:
                    sent = f"{label} sent {len(content):,} bytes in {seconds:.0f} s"
                    raise ProviderUnavailable(f"{sent} and did not end")
        return bytes(content)

    def _error_of(self, response: StreamedResponse, content: bytes, label: str) -> ProviderError:
        status, body = response.status, _json_object(content)
        message = f"{label} answered {status}{self._reason(body)}"
        if status in _QUOTA_STATUSES:
            return QuotaExceeded(message, _retry_after(response.headers, self.now()))
        if status in (401, 403, 451):
            advice = f"check {self._key_setting} and the plan it belongs to"
            if status == 451:
                advice = "not served in this country, put another vendor first in PROVIDERS_…"
            word = body.get("status")
            word = word if isinstance(word, str) else None
            return AccessDenied(f"{message}: {advice}", word, status)
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


class _BytesBeingRead:
    """The bytes of all answers that are being read, which are bounded together."""

    def __init__(self) -> None:
        self._total = 0
        self._lock = Lock()

    @contextmanager
    def answer(self) -> Iterator[Callable[[int], bool]]:
        """A function that counts further bytes of one answer; False if they are too many."""
        own = 0

        def count(size: int) -> bool:
            nonlocal own
            own += size
            with self._lock:
                self._total += size
                return self._total <= MAX_TOTAL_BYTES

        try:
            yield count
        finally:
            with self._lock:
                self._total -= own


_reading = _BytesBeingRead()


def _chart_error(body: Mapping[str, Any]) -> object:
    """The description in an error of Yahoo's."""
    chart = body.get("chart") or body.get("finance")
    error = chart.get("error") if isinstance(chart, dict) else None
    return error.get("description") if isinstance(error, dict) else None


def _json_object(content: bytes) -> Mapping[str, Any]:
    """The JSON object of a body; an empty one if it has none."""
    with suppress(orjson.JSONDecodeError):
        body = orjson.loads(content)
        if isinstance(body, dict):
            return body
    return {}


def _origin(parts: SplitResult) -> tuple[str, str | None, int | None]:
    return parts.scheme, parts.hostname, parts.port or _DEFAULT_PORTS.get(parts.scheme)


def _decoded(response: StreamedResponse, content: bytes, path: str, decode: Decode) -> Any:
    """The body if it says that it is JSON, or says nothing, and is."""
    kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    message = f"{path} answered {len(content)} bytes of {kind or 'unknown type'} that are not JSON"
    if kind and not kind.endswith(("/json", "+json")):
        raise MalformedResponse(message)
    if len(content) > _LARGE_BYTES and _is_too_complex(content):
        raise MalformedResponse(f"{path} answered more objects or values than a page has")
    try:
        return decode(content)
    except ValueError as exc:
        raise MalformedResponse(message) from exc


def _is_too_complex(content: bytes) -> bool:
    """Whether decoding would take many times the memory of the bytes. Counts within texts, too."""
    containers = content.count(b"{") + content.count(b"[")
    return containers > MAX_CONTAINERS or content.count(b",") > MAX_VALUES


def _retry_after(headers: Mapping[str, str], now: datetime) -> float | None:
    """The Retry-After header in seconds, at most an hour; it holds seconds or an HTTP date."""
    text = headers.get("Retry-After", "")
    try:
        seconds = float(text)
    except ValueError:
        try:
            at = parsedate_to_datetime(text)
        except (TypeError, ValueError):
            return None
        seconds = ((at if at.tzinfo else at.replace(tzinfo=UTC)) - now).total_seconds()
    return min(max(0.0, seconds), MAX_RETRY_AFTER) if math.isfinite(seconds) else None


def _is_secret(name: str) -> bool:
    return any(word in name.lower() for word in _SECRET_WORDS)
