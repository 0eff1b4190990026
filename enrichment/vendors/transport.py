"""Sends one request and streams its answer, by urllib3 over pooled connections.

This is the only module that imports `urllib3`; the errors of it and of sockets are translated here.

>>> translated(TimeoutError(), "/bars", "vendor.test", "VENDOR_URL")
ProviderUnavailable('/bars: vendor.test gave no answer in time: check the network')
"""

from __future__ import annotations

import io
import os
import ssl
import time
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from http.client import HTTPResponse, InvalidURL
from typing import Any, Protocol
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

import certifi
from urllib3 import (
    BaseHTTPResponse,
    HTTPConnectionPool,
    HTTPSConnectionPool,
    PoolManager,
    ProxyManager,
    Retry,
    Timeout,
    exceptions,
    make_headers,
)
from urllib3.connection import HTTPConnection, HTTPSConnection

from enrichment.domain.errors import (
    ConfigurationError,
    MalformedResponse,
    ProviderError,
    ProviderUnavailable,
    RequestRefused,
)
from enrichment.net import is_loopback
from resilience import remaining

MAX_SECONDS = 120.0  # for one request and its answer, within what is left of its budget
_CHUNK_BYTES = 65_536
_NO_RETRIES = Retry(False)
_REQUEST_ERRORS = (ValueError, InvalidURL)
_CONNECTION_FAILURES: tuple[tuple[type[Exception], str, str], ...] = (  # the first that fits
    (exceptions.ProxyError, "the proxy failed", "HTTPS_PROXY, HTTP_PROXY, NO_PROXY"),
    (exceptions.SSLError, "TLS failed", "the clock, the CA certificates, the proxy"),
    (exceptions.NameResolutionError, "name resolution failed", "the network, DNS"),
    (ConnectionRefusedError, "connection refused", "that the server is running, a firewall"),
    (exceptions.NewConnectionError, "no connection", "the network, a firewall"),
    (exceptions.ConnectTimeoutError, "no connection in time", "the network, a firewall"),
)
FAILURES = (OSError, ValueError, exceptions.HTTPError, InvalidURL)
"""What sending a request and reading its answer may raise, for `translated`."""


@dataclass(frozen=True, slots=True)
class StreamedResponse:
    """A response whose body has not been read."""

    status: int
    headers: Mapping[str, str]
    """Their names are case-insensitive."""
    parts: Generator[bytes, None, None]
    """The body, decompressed, as it arrives; closed early, it drops the connection."""


class Transport(Protocol):
    """Sends one request as it is: it follows no redirect and retries nothing."""

    def send(
        self,
        method: str,
        url: str,
        *,
        body: bytes | None,
        headers: Mapping[str, str],
        timeouts: tuple[float, float],
    ) -> StreamedResponse:
        """The response to the request; timeouts: seconds to connect, and between two reads."""

    def close(self) -> None:
        """Close the pooled connections."""


class PooledTransport:
    """Connections of urllib3 to one host, through the environment's proxy for it.

    Args:
        base_url: Its address.
        pool_size: Connections that are kept.
        max_seconds: From a request to the last byte of its answer, also where a byte comes every
            few seconds.
    """

    def __init__(
        self, base_url: str, pool_size: int = 16, max_seconds: float = MAX_SECONDS
    ) -> None:
        parts = urlsplit(base_url)
        pools = _pools(parts, pool_size)
        pools.pool_classes_by_scheme = _pool_classes(max_seconds)
        self._pool = pools.connection_from_url(base_url)
        # A proxy without a tunnel is told the whole address.
        through_proxy = isinstance(pools, ProxyManager) and parts.scheme == "http"
        self._root = "" if through_proxy else f"{parts.scheme}://{parts.netloc}"

    def send(
        self,
        method: str,
        url: str,
        *,
        body: bytes | None,
        headers: Mapping[str, str],
        timeouts: tuple[float, float],
    ) -> StreamedResponse:
        connect, read = timeouts
        target = url.removeprefix(self._root)
        response = self._pool.urlopen(
            method,
            target if target.startswith("/") or not self._root else f"/{target}",
            body=body,
            headers=headers,
            timeout=Timeout(connect=connect, read=read),
            retries=_NO_RETRIES,
            redirect=False,
            assert_same_host=False,  # the host of a proxy is another one
            preload_content=False,
        )
        return StreamedResponse(response.status, response.headers, _parts(response))

    def close(self) -> None:
        self._pool.close()


def seconds_for_answer(most: float) -> float:
    """What is left of the request's budget, which is that of its bulkhead."""
    budget = remaining()
    return most if budget is None else min(most, max(budget, 0.001))


def translated(exc: Exception, label: str, host: str, setting: str) -> ProviderError:
    """The error that stands for a foreign one: what failed, why, and what to check."""
    if isinstance(exc, exceptions.DecodeError):
        return MalformedResponse(f"{label}: {type(exc).__name__}, the answer can't be decoded")
    if isinstance(exc, _REQUEST_ERRORS) and not isinstance(exc, exceptions.ResponseNotChunked):
        return RequestRefused(
            f"{label}: {type(exc).__name__}, check the vendor's address and key in the settings"
        )
    timed_out = isinstance(exc, (exceptions.TimeoutError, TimeoutError))
    if timed_out and not isinstance(exc, exceptions.ConnectTimeoutError):
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


class _LimitedFile(io.RawIOBase):
    """What a socket receives, until an end; a single read waits no longer than that."""

    def __init__(self, sock: Any, received: io.RawIOBase, end: float) -> None:
        self._sock, self._received, self._end = sock, received, end

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError("the answer takes too long")
        timeout = self._sock.gettimeout()
        if timeout is None or timeout > left:
            self._sock.settimeout(left)
        return self._received.readinto(buffer)

    def close(self) -> None:
        self._received.close()
        super().close()


class _LimitedSocket:
    """The part of a socket that an HTTP response reads from."""

    def __init__(self, sock: Any, seconds: float) -> None:
        self._sock, self._end = sock, time.monotonic() + seconds_for_answer(seconds)

    def makefile(self, mode: str) -> io.BufferedReader:
        received = self._sock.makefile(mode, buffering=0)
        return io.BufferedReader(_LimitedFile(self._sock, received, self._end))


def _pool_classes(seconds: float) -> dict[str, type[HTTPConnectionPool]]:
    """urllib3's pools by scheme, with answers that are read for so long at most, headers too."""

    class Response(HTTPResponse):
        def __init__(self, sock: Any, *args: Any, **options: Any) -> None:
            super().__init__(_LimitedSocket(sock, seconds), *args, **options)  # type: ignore[arg-type]

    class Connection(HTTPConnection):
        response_class = Response

    class TlsConnection(HTTPSConnection):
        response_class = Response

    class Pool(HTTPConnectionPool):
        ConnectionCls = Connection

    class TlsPool(HTTPSConnectionPool):
        ConnectionCls = TlsConnection

    return {"http": Pool, "https": TlsPool}


def _parts(response: BaseHTTPResponse) -> Generator[bytes, None, None]:
    try:
        while part := response.read1(_CHUNK_BYTES, decode_content=True):
            yield part
    except BaseException:
        response.close()
        raise
    response.release_conn()


def _pools(parts: SplitResult, size: int) -> PoolManager:
    """Connections through the environment's proxy, verified by its certificates or certifi's."""
    tls = None
    if parts.scheme == "https":
        bundle = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE")
        tls = ssl.create_default_context(cafile=bundle or certifi.where())
    proxy = _proxy(parts)
    if proxy is None:
        return PoolManager(maxsize=size, ssl_context=tls)
    user = urlsplit(proxy)
    password = f"{unquote(user.username or '')}:{unquote(user.password or '')}"
    headers = make_headers(proxy_basic_auth=password) if user.username else None
    try:
        return ProxyManager(proxy, maxsize=size, ssl_context=tls, proxy_headers=headers)
    except exceptions.ProxySchemeUnknown:
        raise ConfigurationError(
            f"the proxy of the environment for {parts.scheme} is none of http:// or https://"
        ) from None


def _proxy(parts: SplitResult) -> str | None:
    """The environment's proxy for an address; none can reach this machine's loopback."""
    host = parts.hostname
    if host is None or is_loopback(host) or proxy_bypass(parts.netloc.rpartition("@")[2]):
        return None
    proxies = getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    return proxy if proxy is None or "://" in proxy else f"http://{proxy}"
