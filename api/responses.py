"""Responses: JSON of dataclasses, pages with a link to the next one, RFC 9457 problems."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from flask import Response, request, url_for
from pydantic import ConfigDict, TypeAdapter

from enrichment.domain.clock import utc_now
from enrichment.domain.errors import (
    Conflict,
    DatabaseUnavailable,
    EnrichmentError,
    InvalidRequest,
    NotTracked,
    UnknownAction,
    UnknownBreaker,
    UnknownJob,
    UnknownRule,
)

T = TypeVar("T")
FIELD_DOCS = ConfigDict(use_attribute_docstrings=True)
"""`__pydantic_config__` of a response whose fields have docstrings: OpenAPI shows them."""
_adapters: dict[type, TypeAdapter[Any]] = {}
_TITLES: dict[type[EnrichmentError], tuple[int, str]] = {  # subclasses before their base
    NotTracked: (404, "Not tracked"),
    UnknownJob: (404, "Unknown job"),
    UnknownBreaker: (404, "Unknown breaker"),
    UnknownAction: (404, "Unknown corporate action"),
    UnknownRule: (404, "Unknown rule"),
    Conflict: (409, "Conflict"),
    InvalidRequest: (400, "Invalid request"),
}


@dataclass(frozen=True, slots=True)
class FieldError:
    """What is wrong with one parameter, and how to fix it."""

    parameter: str
    detail: str


@dataclass(frozen=True, slots=True)
class Problem:
    """An RFC 9457 problem; `errors` names the invalid parameters."""

    timestamp: datetime
    type: str
    title: str
    status: int
    detail: str
    errors: Sequence[FieldError]


def adapter(kind: Any) -> TypeAdapter[Any]:
    """The type's TypeAdapter, built once."""
    if kind not in _adapters:
        _adapters[kind] = TypeAdapter(kind)
    return _adapters[kind]


def json_response(value: Any, status: int = 200) -> Response:
    """A dataclass as JSON; times as ISO-8601 UTC with 'Z'."""
    body = adapter(type(value)).dump_json(value)
    return Response(body, status, mimetype="application/json")


def conditional_response(value: Any) -> Response:
    """The value as JSON, or 304 if its ETag matches. The ETag does not depend on `timestamp`."""
    content = adapter(type(value)).dump_json(value, exclude={"timestamp"})
    response = json_response(value)
    response.headers["Cache-Control"] = "no-cache"
    response.set_etag(hashlib.blake2s(content, digest_size=12).hexdigest(), weak=True)
    response.make_conditional(request)
    return response


def page_response(
    rows: Sequence[T],
    limit: int,
    build: Callable[[Sequence[T]], Any],
    cursor: Callable[[T], object],
) -> Response:
    """A page of up to `limit` rows, with a link to the next one if there are more.

    Args:
        rows: The result of a query for `limit` + 1 rows.
        build: Builds the response's value from the page.
        cursor: The cursor of the page after this row.
    """
    page = rows[:limit]
    response = conditional_response(build(page))
    return with_next_link(response, cursor(page[-1])) if len(rows) > limit else response


def with_next_link(response: Response, cursor: object) -> Response:
    """Add the Link header of the page that begins after `cursor`."""
    values: dict[str, Any] = {**(request.view_args or {}), **request.args.to_dict(flat=False)}
    next_url = url_for(str(request.endpoint), **{**values, "cursor": str(cursor)})
    response.headers["Link"] = f'<{next_url}>; rel="next"'
    return response


def problem(status: int, title: str, detail: str, errors: Sequence[FieldError] = ()) -> Response:
    """An RFC 9457 problem."""
    value = Problem(utc_now(), "about:blank", title, status, detail, list(errors))
    body = adapter(Problem).dump_json(value)
    return Response(body, status, mimetype="application/problem+json")


def problem_of(error: EnrichmentError) -> Response:
    """The problem for an error of this program."""
    for kind, (status, title) in _TITLES.items():
        if isinstance(error, kind):
            return problem(status, title, str(error))
    if isinstance(error, DatabaseUnavailable):
        response = problem(503, "Database unavailable", "the database does not answer: try again")
        response.headers["Retry-After"] = "5"
        return response
    return problem(500, "Internal error", "the request failed; see the server's log")
