"""How answers look: JSON of typed values, pages with a link to the next, RFC 9457 problems."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from flask import Response, request, url_for
from pydantic import TypeAdapter

from enrichment.clock import utc_now
from enrichment.errors import (
    Conflict,
    DatabaseUnavailable,
    EnrichmentError,
    InvalidRequest,
    NotTracked,
    UnknownBreaker,
    UnknownJob,
    UnknownRule,
)

_adapters: dict[type, TypeAdapter[Any]] = {}


@dataclass(frozen=True, slots=True)
class Complaint:
    """What is wrong with one parameter, and how to mend it."""

    parameter: str
    detail: str


@dataclass(frozen=True, slots=True)
class Problem:
    """RFC 9457; `errors` where parameters are at fault."""

    timestamp: datetime
    type: str
    title: str
    status: int
    detail: str
    errors: Sequence[Complaint]


def adapter(kind: Any) -> TypeAdapter[Any]:
    """pydantic's view of a type, made once."""
    if kind not in _adapters:
        _adapters[kind] = TypeAdapter(kind)
    return _adapters[kind]


def answer(value: Any, status: int = 200) -> Response:
    """A frozen dataclass as JSON; times as ISO-8601 UTC with 'Z'."""
    body = adapter(type(value)).dump_json(value)
    return Response(body, status, mimetype="application/json")


def unless_known(value: Any) -> Response:
    """The answer, or 304 where the reader has it already: only its `timestamp` is newer."""
    known = adapter(type(value))
    stable = known.dump_json(value, exclude={"timestamp"})
    response = answer(value)
    response.headers["Cache-Control"] = "no-cache"
    response.set_etag(hashlib.blake2s(stable, digest_size=12).hexdigest(), weak=True)
    response.make_conditional(request)
    return response


def with_next(response: Response, key: object | None) -> Response:
    """The response with a link to the page that begins after `key`; None: there is none."""
    if key is not None and request.endpoint is not None:
        values: dict[str, Any] = {**(request.view_args or {}), **request.args.to_dict(flat=False)}
        following = url_for(request.endpoint, **{**values, "cursor": str(key)})
        response.headers["Link"] = f'<{following}>; rel="next"'
    return response


def problem(status: int, title: str, detail: str, complaints: Sequence[Complaint] = ()) -> Response:
    """An RFC 9457 problem."""
    value = Problem(utc_now(), "about:blank", title, status, detail, list(complaints))
    body = adapter(Problem).dump_json(value)
    return Response(body, status, mimetype="application/problem+json")


def from_error(error: EnrichmentError) -> Response:
    """The problem that an error of ours stands for."""
    if isinstance(error, NotTracked):
        return problem(404, "Not tracked", str(error))
    if isinstance(error, UnknownJob):
        return problem(404, "Unknown job", str(error))
    if isinstance(error, UnknownBreaker):
        return problem(404, "Unknown breaker", str(error))
    if isinstance(error, UnknownRule):
        return problem(404, "Unknown rule", str(error))
    if isinstance(error, Conflict):
        return problem(409, "Conflict", str(error))
    if isinstance(error, InvalidRequest):
        return problem(400, "Invalid request", str(error))
    if isinstance(error, DatabaseUnavailable):
        response = problem(503, "Database unavailable", "the database does not answer: try again")
        response.headers["Retry-After"] = "5"
        return response
    return problem(500, "Internal error", "the request failed; see the server's log")
