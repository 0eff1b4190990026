"""How answers look: JSON of typed values, and RFC 9457 problems."""

from __future__ import annotations

from typing import Any

from flask import Response
from pydantic import TypeAdapter

from enrichment.errors import (
    DatabaseUnavailable,
    EnrichmentError,
    InvalidRequest,
    NotTracked,
    UnknownJob,
    UnknownRule,
)

_adapters: dict[type, TypeAdapter[Any]] = {}


def _adapter(kind: type) -> TypeAdapter[Any]:
    if kind not in _adapters:
        _adapters[kind] = TypeAdapter(kind)
    return _adapters[kind]


def answer(value: Any, status: int = 200) -> Response:
    """A frozen dataclass as JSON; times as ISO-8601 UTC with 'Z'."""
    body = _adapter(type(value)).dump_json(value)
    return Response(body, status, mimetype="application/json")


def problem(status: int, title: str, detail: str) -> Response:
    """An RFC 9457 problem."""
    value = {"type": "about:blank", "title": title, "status": status, "detail": detail}
    body = _adapter(dict).dump_json(value)
    return Response(body, status, mimetype="application/problem+json")


def from_error(error: EnrichmentError) -> Response:
    """The problem that an error of ours stands for."""
    if isinstance(error, NotTracked):
        return problem(404, "Not tracked", str(error))
    if isinstance(error, UnknownJob):
        return problem(404, "Unknown job", str(error))
    if isinstance(error, UnknownRule):
        return problem(404, "Unknown rule", str(error))
    if isinstance(error, InvalidRequest):
        return problem(400, "Invalid request", str(error))
    if isinstance(error, DatabaseUnavailable):
        response = problem(503, "Database unavailable", "the database does not answer: try again")
        response.headers["Retry-After"] = "5"
        return response
    return problem(500, "Internal error", "the request failed; see the server's log")
