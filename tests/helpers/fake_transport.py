"""A transport that answers with given bodies, and a strategy for any JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import orjson
from hypothesis import strategies as st
from urllib3 import HTTPHeaderDict

from enrichment.vendors.http import HttpClient
from enrichment.vendors.transport import StreamedResponse

T = TypeVar("T")
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["1.5", "NaN", "1e400", "-Infinity"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)


def direct(request: Callable[[], T]) -> T:
    """A resilient call that only calls."""
    return request()


def streamed(status: int, headers: dict[str, str], *parts: bytes) -> StreamedResponse:
    """A response whose body arrives in these parts."""
    return StreamedResponse(status, HTTPHeaderDict(headers), (part for part in parts))


class FakeTransport:
    """Answers with the given bodies in turn."""

    def __init__(
        self, *bodies: Any, status: int = 200, headers: dict[str, str] | None = None
    ) -> None:
        self.bodies, self.status, self.headers = list(bodies), status, headers or {}
        self.urls: list[str] = []
        self.sent: list[Mapping[str, str]] = []

    def send(
        self,
        method: str,
        url: str,
        *,
        body: bytes | None,
        headers: Mapping[str, str],
        timeouts: tuple[float, float],
    ) -> StreamedResponse:
        self.urls.append(url)
        self.sent.append(headers)
        return streamed(self.status, self.headers, orjson.dumps(self.bodies.pop(0)))

    def close(self) -> None:
        pass


@contextmanager
def client_over(transport: FakeTransport) -> Iterator[HttpClient]:
    """An HTTP client of a vendor whose responses come from the transport."""
    with HttpClient("https://vendor.test", call=direct, transport=transport) as http:
        yield http
