"""What all wire formats share: quotas and the injection of faults into responses."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from flask import Blueprint, Response, request
from numpy.typing import NDArray

from enrichment.domain.bars import Bars, Timestamps
from enrichment.sandbox.connection import client_disconnected, reset
from enrichment.sandbox.faults import DATA_KINDS, DELAY_KINDS, Fault
from enrichment.sandbox.vendor import SandboxVendor

Milliseconds = NDArray[np.int64]
Page = Callable[[Sequence[Fault]], bytes]  # data faults → the response's body
_CONSENT = "https://consent.yahoo.com/v2/collectConsent?sessionId=1"
_HTML = "<html><head><title>502 Bad Gateway</title></head><body><hr>nginx</body></html>"


class WireFormat(ABC):
    """Answers requests in one vendor's wire format."""

    name: ClassVar[str]
    """The vendor's."""

    def __init__(self, vendor: SandboxVendor) -> None:
        self._vendor = vendor

    @abstractmethod
    def blueprint(self) -> Blueprint:
        """The vendor's routes."""

    @abstractmethod
    def _error_body(self, outcome: str) -> bytes:
        """The body of an error response."""

    def _over_quota(self, ticker: str, key: str) -> Response | None:
        """A 429 if the request exceeds its key's quota."""
        wait = self._vendor.consume_quota(key)
        return None if wait is None else self._too_many_requests(ticker, "quota", wait)

    def _serve(self, ticker: str, page: Page, empty: Callable[[], bytes]) -> Response:
        """The response with the ticker's faults.

        Args:
            page: Makes the body.
            empty: Makes the body of a response without bars.
        """
        faults, cancelled = self._vendor.faults.draw(ticker, self.name)
        for fault in faults:
            if fault.kind in DELAY_KINDS:
                self._vendor.delay(
                    fault.seconds, cancelled, lambda: client_disconnected(request.environ)
                )
        data_faults = [fault for fault in faults if fault.kind in DATA_KINDS]
        last = faults[-1] if faults else None
        if last is None or last.kind in (*DELAY_KINDS, *DATA_KINDS):
            self._vendor.requests.count(ticker, last.kind if last else "ok")
            return json_response(page(data_faults))
        return self._failure(ticker, last, page, data_faults, empty)

    def _failure(
        self,
        ticker: str,
        fault: Fault,
        page: Page,
        data_faults: Sequence[Fault],
        empty: Callable[[], bytes],
    ) -> Response:
        """The response to a request whose last fault determines all of it."""
        kind = fault.kind
        if kind == "rate_limit":
            return self._too_many_requests(ticker, kind, fault.seconds)
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
        if kind == "redirect":
            return Response(_HTML, 302, {"Location": _CONSENT})
        if kind == "empty":
            return json_response(empty())
        body = page(data_faults)
        return json_response(body[: len(body) // 2])

    def _refusal(self, ticker: str, outcome: str, code: int) -> Response:
        self._vendor.requests.count(ticker, outcome)
        return json_response(self._error_body(outcome), code)

    def _too_many_requests(self, ticker: str, outcome: str, seconds: float) -> Response:
        response = self._refusal(ticker, outcome, 429)
        response.headers["Retry-After"] = str(math.ceil(seconds))
        return response


def milliseconds(ts: Timestamps) -> Milliseconds:
    return ts.astype("datetime64[ms]").astype(np.int64)


def json_response(body: bytes, status: int = 200) -> Response:
    return Response(body, status, mimetype="application/json")


def insert_literals(body: bytes, literals: Sequence[str]) -> bytes:
    """The JSON with its placeholders replaced by literals, which need not be valid JSON."""
    for literal in set(literals):
        body = body.replace(b'"' + placeholder(literal).encode() + b'"', literal.encode())
    return body


def closes_with_placeholders(
    bars: Bars, closes: list[Any], literals: Mapping[int, str]
) -> list[Any]:
    """The closes, with placeholders for those that literals will replace.

    literals: bar start in microseconds → literal.
    """
    keys = bars.ts.astype("datetime64[us]").astype(np.int64).tolist()
    return [
        placeholder(literals[key]) if key in literals else close
        for key, close in zip(keys, closes, strict=True)
    ]


def placeholder(literal: str) -> str:
    """A string that stands for a literal and occurs in no response otherwise."""
    return "literal:" + literal.encode().hex()
