"""How answers look: JSON of typed values, pages with a link to the next, RFC 9457 problems."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from flask import Response, request, url_for
from pydantic import TypeAdapter

from enrichment.domain.clock import utc_now
from enrichment.domain.errors import (
    Conflict,
    DatabaseUnavailable,
    EnrichmentError,
    InvalidRequest,
    NotTracked,
    UnknownBreaker,
    UnknownJob,
    UnknownRule,
)

T = TypeVar("T")
_adapters: dict[type, TypeAdapter[Any]] = {}
_TITLES: dict[type[EnrichmentError], tuple[int, str]] = {  # the general one last
    NotTracked: (404, "Not tracked"),
    UnknownJob: (404, "Unknown job"),
    UnknownBreaker: (404, "Unknown breaker"),
    UnknownRule: (404, "Unknown rule"),
    Conflict: (409, "Conflict"),
    InvalidRequest: (400, "Invalid request"),
}


@dataclass(frozen=True, slots=True)
class FieldError:
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
    errors: Sequence[FieldError]


def adapter(kind: Any) -> TypeAdapter[Any]:
    """pydantic's view of a type, made once."""
    if kind not in _adapters:
        _adapters[kind] = TypeAdapter(kind)
    return _adapters[kind]


def json_response(value: Any, status: int = 200) -> Response:
    """A frozen dataclass as JSON; times as ISO-8601 UTC with 'Z'."""
    body = adapter(type(value)).dump_json(value)
    return Response(body, status, mimetype="application/json")


def conditional_response(value: Any) -> Response:
    """The answer, or 304 where the reader has it already: only its `timestamp` is newer."""
    known = adapter(type(value))
    stable = known.dump_json(value, exclude={"timestamp"})
    response = json_response(value)
    response.headers["Cache-Control"] = "no-cache"
    response.set_etag(hashlib.blake2s(stable, digest_size=12).hexdigest(), weak=True)
    response.make_conditional(request)
    return response


def page_response(
    found: Sequence[T], limit: int, made: Callable[[Sequence[T]], Any], key: Callable[[T], object]
) -> Response:
    """A page of up to `limit`, with a link to the next one if more was found.

    found: what was asked for with one more than `limit`. made: a page's answer. key: what the
    page after an entry begins behind.
    """
    page = found[:limit]
    response = conditional_response(made(page))
    return with_next_link(response, key(page[-1])) if len(found) > limit else response


def with_next_link(response: Response, key: object) -> Response:
    """The response with a link to the page that begins after `key`."""
    values: dict[str, Any] = {**(request.view_args or {}), **request.args.to_dict(flat=False)}
    following = url_for(str(request.endpoint), **{**values, "cursor": str(key)})
    response.headers["Link"] = f'<{following}>; rel="next"'
    return response


def problem(
    status: int, title: str, detail: str, complaints: Sequence[FieldError] = ()
) -> Response:
    """An RFC 9457 problem."""
    value = Problem(utc_now(), "about:blank", title, status, detail, list(complaints))
    body = adapter(Problem).dump_json(value)
    return Response(body, status, mimetype="application/problem+json")


def problem_of(error: EnrichmentError) -> Response:
    """The problem that an error of ours stands for."""
    for kind, (status, title) in _TITLES.items():
        if isinstance(error, kind):
            return problem(status, title, str(error))
    if isinstance(error, DatabaseUnavailable):
        response = problem(503, "Database unavailable", "the database does not answer: try again")
        response.headers["Retry-After"] = "5"
        return response
    return problem(500, "Internal error", "the request failed; see the server's log")
