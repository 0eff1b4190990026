"""What the vendors' wire formats share: quotas, faults, and answers that go wrong on request."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from flask import Blueprint, Response, request
from numpy.typing import NDArray

from enrichment.domain.bars import Bars, Timestamps
from enrichment.sandbox.connection import client_left, reset
from enrichment.sandbox.faults import DAMAGES, DELAYS, Fault
from enrichment.sandbox.vendor import SandboxVendor

Milliseconds = NDArray[np.int64]
Page = Callable[[Sequence[Fault]], bytes]
_HTML = "<html><head><title>502 Bad Gateway</title></head><body><hr>nginx</body></html>"


class WireFormat(ABC):
    """Answers requests in one vendor's words. `name`: as faults may name the vendor."""

    name: ClassVar[str]

    def __init__(self, vendor: SandboxVendor) -> None:
        self._vendor = vendor

    @abstractmethod
    def blueprint(self) -> Blueprint:
        """The vendor's routes."""

    @abstractmethod
    def _error_body(self, outcome: str) -> bytes:
        """The body that goes with a refusal."""

    def _over_quota(self, ticker: str, key: str) -> Response | None:
        """The refusal of a request that is over its key's quota."""
        wait = self._vendor.seconds_to_wait(key)
        return None if wait is None else self._too_many(ticker, "quota", wait)

    def _serve(self, ticker: str, page: Page, nothing: Callable[[], bytes]) -> Response:
        """The page with the faults that strike it; nothing: the vendor's answer without a bar."""
        struck, let_go = self._vendor.faults.draw(ticker, self.name)
        for fault in struck:
            if fault.kind in DELAYS:
                self._vendor.wait(fault.seconds, let_go, lambda: client_left(request.environ))
        damages = [fault for fault in struck if fault.kind in DAMAGES]
        last = struck[-1] if struck else None
        if last is None or last.kind in (*DELAYS, *DAMAGES):
            self._vendor.requests.count(ticker, last.kind if last else "ok")
            return json_response(page(damages))
        return self._failure(ticker, last, page, damages, nothing)

    def _failure(
        self,
        ticker: str,
        fault: Fault,
        page: Page,
        damages: Sequence[Fault],
        nothing: Callable[[], bytes],
    ) -> Response:
        """The answer of a fault that answers by itself."""
        kind = fault.kind
        if kind == "rate_limit":
            return self._too_many(ticker, kind, fault.seconds)
        if kind in ("unauthorized", "forbidden"):
            return self._refusal(ticker, kind, 401 if kind == "unauthorized" else 403)
        if kind == "server_error":
            return self._refusal(ticker, kind, fault.status)
        self._vendor.requests.count(ticker, kind)
        if kind == "reset":
            reset(request.environ)
            return Response(status=500)
        if kind == "html":
            return Response(_HTML, fault.status)
        if kind == "empty":
            return json_response(nothing())
        whole = page(damages)
        return json_response(whole[: len(whole) // 2])

    def _refusal(self, ticker: str, outcome: str, code: int) -> Response:
        self._vendor.requests.count(ticker, outcome)
        return json_response(self._error_body(outcome), code)

    def _too_many(self, ticker: str, outcome: str, seconds: float) -> Response:
        response = self._refusal(ticker, outcome, 429)
        response.headers["Retry-After"] = str(math.ceil(seconds))
        return response


def milliseconds(ts: Timestamps) -> Milliseconds:
    return ts.astype("datetime64[ms]").astype(np.int64)


def json_response(body: bytes, status: int = 200) -> Response:
    return Response(body, status, mimetype="application/json")


def with_literals(packed: bytes, texts: Sequence[str]) -> bytes:
    """The JSON with what is not JSON in place of the values that `marked` has left in it."""
    for text in set(texts):
        packed = packed.replace(b'"' + marked(text).encode() + b'"', text.encode())
    return packed


def closes_with_marks(bars: Bars, closes: list[Any], texts: Mapping[int, str]) -> list[Any]:
    """The closes as they are sent, with a mark where text that is not JSON is to stand.

    texts: bar start in microseconds → that text.
    """
    keys = bars.ts.astype("datetime64[us]").astype(np.int64).tolist()
    return [
        marked(texts[key]) if key in texts else close
        for key, close in zip(keys, closes, strict=True)
    ]


def marked(text: str) -> str:
    """A placeholder for text that is not JSON; no vendor's answer holds the like."""
    return "literal:" + text.encode().hex()
