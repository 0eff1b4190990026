"""A transport for `requests` that answers with given bodies, and a strategy for any JSON."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import orjson
import requests
from hypothesis import strategies as st
from requests.adapters import BaseAdapter
from urllib3 import HTTPResponse

from enrichment.vendors.http import HttpClient

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


class FakeTransport(BaseAdapter):
    """Answers with the given bodies in turn."""

    def __init__(
        self, *bodies: Any, status: int = 200, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__()
        self.bodies, self.status, self.headers = list(bodies), status, headers or {}
        self.urls: list[str] = []
        self.sent: list[dict[str, str]] = []

    def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:  # type: ignore[override]
        self.urls.append(str(request.url))
        self.sent.append(dict(request.headers))
        response = requests.Response()
        response.status_code = self.status
        content = io.BytesIO(orjson.dumps(self.bodies.pop(0)))
        response.raw = HTTPResponse(content, preload_content=False)
        response.headers.update(self.headers)
        return response

    def close(self) -> None:
        pass


@contextmanager
def client_over(transport: FakeTransport) -> Iterator[HttpClient]:
    """An HTTP client of a vendor whose responses come from the transport."""
    session = requests.Session()
    session.mount("https://", transport)
    with HttpClient("https://vendor.test", call=direct, session=session) as http:
        yield http
