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
MAX_BYTES = 32 * 1024 * 1024  # of a decompressed answer; the largest seen have 10
MAX_TOTAL_BYTES = 64 * 1024 * 1024  # of all answers that the process is reading or decoding
MAX_ROWS = 50_000  # of an answer
ROW_BYTES = 1_300  # in memory, at most; a page of Polygon's has 1,110 a row
MAX_RETRY_AFTER = 3600.0  # seconds; an answer may name any number
_LARGE_BYTES = 1024 * 1024  # from which on an answer's structure is counted before it is decoded
_MAX_TEXT_BYTES = 1024 * 1024  # of a page that is no JSON, and of an error's JSON that is read
Decode = Callable[[bytearray], Any]
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
        max_rows: Of an answer; one that takes the memory of more is refused before it is decoded.
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
        max_rows: int = MAX_ROWS,
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
        self._connect, self._max_rows = connect, max_rows
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
            max_rows=self._max_rows,
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
        self._call(lambda: self._post(address, label, content, headers))

    def _post(self, url: str, label: str, data: bytes, headers: Mapping[str, str]) -> None:
        with self._sent("POST", url, label, data=data, headers=headers):
            pass

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
        with self._sent("GET", url, label, headers=headers, accepted=(2, 4)) as (response, content):
            if len(content) > _MAX_TEXT_BYTES:
                raise MalformedResponse(f"{label} answered more than {_MAX_TEXT_BYTES:,} bytes")
            text = content.decode("utf-8", "replace")
        return TextResponse(response.status, response.headers, text)

    def _get(
        self, url: str, path: str, headers: Mapping[str, str] | None, decode: Decode
    ) -> JsonResponse:
        with self._sent("GET", url, path, headers=headers) as (response, content):
            if len(content) > _LARGE_BYTES and _decoded_bytes(content) > self._max_rows * ROW_BYTES:
                raise MalformedResponse(f"{path} answered more objects or values than a page has")
            return JsonResponse(_decoded(response, content, path, decode), response.headers)

    @contextmanager
    def _sent(
        self,
        method: Literal["GET", "POST"],
        url: str,
        label: str,
        *,
        data: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        accepted: tuple[int, ...] = (2,),
    ) -> Iterator[tuple[StreamedResponse, bytearray]]:
        """The response and its body if it is accepted; messages call the address `label`.

        The body counts among those that are being read until the end of the block.

        accepted: hundreds of the statuses that are no errors; a 429 always is one.
        """
        all_headers = {**self._headers, **headers} if headers else self._headers
        with _reading.body() as (content, add):
            try:
                response = self._transport.send(
                    method, url, body=data, headers=all_headers, timeouts=self._timeouts()
                )
                self._read(response, label, add)
            except FAILURES as exc:
                raise translated(exc, label, self._host, self._address_setting) from exc
            if response.status // 100 not in accepted or response.status in _QUOTA_STATUSES:
                raise self._error_of(response, content, label)
            yield response, content

    def _read(self, response: StreamedResponse, label: str, add: Callable[[bytes], bool]) -> None:
        """Add the whole body; one that is too large or too slow is given up."""
        seconds, size = seconds_for_answer(MAX_SECONDS), 0
        end = self._timer() + seconds
        with closing(response.parts) as parts:
            for part in parts:
                size += len(part)
                if size > MAX_BYTES:
                    raise MalformedResponse(f"{label} answered more than {MAX_BYTES:,} bytes")
                if not add(part):
                    raise ProviderUnavailable(f"{label}: too much is being read at once")
                if self._timer() > end:
                    sent = f"{label} sent {size:,} bytes in {seconds:.0f} s"
                    raise ProviderUnavailable(f"{sent} and did not end")

    def _error_of(
        self, response: StreamedResponse, content: bytearray, label: str
    ) -> ProviderError:
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
    def body(self) -> Iterator[tuple[bytearray, Callable[[bytes], bool]]]:
        """One body, empty, and a function that adds to it; False if all are too large together."""
        content = bytearray()

        def add(part: bytes) -> bool:
            content.extend(part)
            with self._lock:
                self._total += len(part)
                return self._total <= MAX_TOTAL_BYTES

        try:
            yield content, add
        finally:
            with self._lock:
                self._total -= len(content)
            content.clear()  # an error keeps the frames that it passed, with what they hold


_reading = _BytesBeingRead()


def _chart_error(body: Mapping[str, Any]) -> object:
    """The description in an error of Yahoo's."""
    chart = body.get("chart") or body.get("finance")
    error = chart.get("error") if isinstance(chart, dict) else None
    return error.get("description") if isinstance(error, dict) else None


def _json_object(content: bytearray) -> Mapping[str, Any]:
    """The JSON object of an error's body; an empty one if it has none, or is too large for one."""
    if len(content) > _MAX_TEXT_BYTES:
        return {}
    with suppress(orjson.JSONDecodeError):
        body = orjson.loads(content)
        if isinstance(body, dict):
            return body
    return {}


def _origin(parts: SplitResult) -> tuple[str, str | None, int | None]:
    return parts.scheme, parts.hostname, parts.port or _DEFAULT_PORTS.get(parts.scheme)


def _decoded(response: StreamedResponse, content: bytearray, path: str, decode: Decode) -> Any:
    """The body if it says that it is JSON, or says nothing, and is."""
    kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    message = f"{path} answered {len(content)} bytes of {kind or 'unknown type'} that are not JSON"
    if kind and not kind.endswith(("/json", "+json")):
        raise MalformedResponse(message)
    try:
        return decode(content)
    except ValueError as exc:
        raise MalformedResponse(message) from exc


def _decoded_bytes(content: bytearray) -> int:
    """The most memory that the JSON takes once it is decoded; counts within texts, too."""
    texts = len(content) if content.isascii() else 4 * len(content)  # 4 bytes for any character
    containers = content.count(b"{") + content.count(b"[")
    return texts + 300 * containers + 32 * content.count(b",") + 28 * content.count(b'"')


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
