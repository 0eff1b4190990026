"""Requests that look like Chrome's down to the TLS handshake, by the optional `curl_cffi`.

Some vendors turn clients away by their handshake, whatever headers they send. Where `curl_cffi` is
installed (the extra `yahoo`), such vendors are asked through it, with the same limits of size and
time and the same resilience as by urllib3; elsewhere by urllib3.

>>> type(connect("https://vendor.test")).__name__ in ("BrowserTransport", "PooledTransport")
True
"""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping
from importlib.util import find_spec
from typing import Any

from enrichment.vendors.transport import PooledTransport, StreamedResponse, Transport

_OF_THE_BROWSER = ("user-agent", "accept-encoding", "sec-ch-ua")  # as curl sends them


class BrowserTransport:
    """Connections of curl, in the guise of Chrome."""

    def __init__(self, base_url: str) -> None:
        from curl_cffi import requests

        bundle: Any = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE")
        self._session: Any = requests.Session(
            impersonate="chrome", verify=bundle or True, discard_cookies=True
        )
        self._timeout = requests.exceptions.Timeout

    def send(
        self,
        method: str,
        url: str,
        *,
        body: bytes | None,
        headers: Mapping[str, str],
        timeouts: tuple[float, float],
    ) -> StreamedResponse:
        """The response to the request; TimeoutError if there is none in time."""
        own = {n: v for n, v in headers.items() if not n.lower().startswith(_OF_THE_BROWSER)}
        try:
            response = self._session.request(
                method,
                url,
                data=body,
                headers=own,
                timeout=timeouts,
                allow_redirects=False,
                stream=True,
            )
        except self._timeout as exc:
            raise TimeoutError(str(exc)) from exc
        return StreamedResponse(response.status_code, response.headers, self._parts(response))

    def _parts(self, response: Any) -> Generator[bytes, None, None]:
        try:
            yield from response.iter_content()
        except self._timeout as exc:
            raise TimeoutError(str(exc)) from exc
        finally:
            response.close()

    def close(self) -> None:
        """Close the connections."""
        self._session.close()


def connect(base_url: str) -> Transport:
    """The transport of an address that prefers browsers."""
    installed = find_spec("curl_cffi") is not None
    return BrowserTransport(base_url) if installed else PooledTransport(base_url)
