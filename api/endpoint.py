"""The description of an endpoint: requests are validated by it and the OpenAPI document is made
of it.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Any, get_args, get_origin, get_type_hints

from flask import Response, current_app, request
from pydantic import BaseModel, ValidationError

from api.parameters import QueryModel
from api.responses import FieldError, adapter, problem
from enrichment.domain.errors import InvalidRequest

MAX_VALUE_CHARS = 40  # of a value that an error message quotes


@dataclass(frozen=True)
class Endpoint:
    """Decorates a view with its description, and calls it with validated and typed parameters.

    The view's annotations are its parameters: `query` is a QueryModel, `body` a model of the JSON
    body (or a string if `text_type` is given), every other one a path parameter. The first line of
    its docstring is the summary, the rest the details.
    """

    tag: str
    response_model: Any = None
    """Type of the JSON response; None if `content` describes it."""
    _: KW_ONLY
    status: int = 200
    changes_state: bool = False
    """Whether the bearer token is required, where the API has one."""
    error_statuses: tuple[int, ...] = ()
    """Besides those that every endpoint may respond with."""
    text_type: str | None = None
    """Media type of a text body."""
    text_pattern: str | None = None
    """Regular expression of a text body, for the description only."""
    content: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Media type → JSON schema of responses other than the JSON one."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Request header → description."""
    responses: Mapping[int, Any] = field(default_factory=dict)
    """Further status → type of its JSON response, or None without a body."""
    summary: str = ""
    """This and the following fields are taken from the view."""
    details: str = ""
    path: Mapping[str, Any] = field(default_factory=dict)
    """Path parameter → type."""
    query: type[QueryModel] | None = None
    body: type[BaseModel] | None = None

    def __call__(self, view: Callable[..., Response]) -> Callable[..., Response]:
        hints = get_type_hints(view, include_extras=True)
        hints.pop("return", None)
        query, body = hints.pop("query", None), hints.pop("body", None)
        path = {name: adapter(kind) for name, kind in hints.items()}
        summary, _, details = (inspect.getdoc(view) or "").partition("\n")

        @functools.wraps(view)
        def validated(**arguments: Any) -> Response:
            values = {n: _parse_path(n, kind, arguments[n]) for n, kind in path.items()}
            parsed_query = _parse_query(query or QueryModel)
            if query is not None:
                values["query"] = parsed_query
            if self.text_type is not None:
                values["body"] = _parse_text(self.text_type)
            elif body is not None:
                values["body"] = _parse_json(body)
            else:
                _require_no_body(query or QueryModel)
            return view(**values)

        validated.endpoint = replace(  # type: ignore[attr-defined]  # read by `endpoint_of`
            self,
            summary=summary,
            details=details.strip(),
            path=hints,
            query=query,
            body=None if self.text_type else body,
        )
        return validated


class RequestInvalid(InvalidRequest):
    """A request with invalid parameters or an invalid body."""

    def __init__(self, errors: list[FieldError]) -> None:
        super().__init__("; ".join(error.detail for error in errors[:5]))
        self.errors = errors

    def as_problem(self) -> Response:
        return problem(400, "Invalid request", str(self), self.errors)


def endpoint_of(view: Any) -> Endpoint | None:
    """A view's description, if it has one."""
    return getattr(view, "endpoint", None)


def current_endpoint() -> Endpoint | None:
    """The description of the requested endpoint, if it has one."""
    return endpoint_of(current_app.view_functions.get(request.endpoint or ""))


def _parse_path(name: str, kind: Any, value: Any) -> Any:
    try:
        return kind.validate_python(value)
    except ValidationError as exc:
        raise RequestInvalid(_field_errors(exc, name)) from None


def _parse_query(model: type[QueryModel]) -> QueryModel:
    lists = {
        info.alias or name for name, info in model.model_fields.items() if _is_list(info.annotation)
    }
    parameters: dict[str, Any] = {}
    for name, values in request.args.lists():
        if len(values) > 1 and name not in lists:
            raise RequestInvalid(
                [FieldError(name[:MAX_VALUE_CHARS], f"{name[:MAX_VALUE_CHARS]}: give it once")]
            )
        parameters[name] = values if name in lists else values[0]
    try:
        return model.model_validate(parameters)
    except ValidationError as exc:
        raise RequestInvalid(_field_errors(exc, allowed=_field_names(model))) from None


def _require_no_body(model: type[QueryModel]) -> None:
    """Refuse a body that would be ignored: what it asks for might not be what is done."""
    if request.get_data().strip() not in (b"", b"{}"):
        raise _invalid_body(f"send none; of parameters in the query {_field_names(model)}")


def _is_list(annotation: Any) -> bool:
    """Whether the annotation is a list, or a list or None."""
    return any(get_origin(kind) is list for kind in (annotation, *get_args(annotation)))


def _parse_json(model: type[BaseModel]) -> BaseModel:
    if request.mimetype != "application/json":
        raise _invalid_body("send JSON, with Content-Type: application/json")
    try:
        return model.model_validate_json(request.get_data())
    except ValidationError as exc:
        raise RequestInvalid(_field_errors(exc, "body", _field_names(model))) from None


def _parse_text(media_type: str) -> str:
    if request.mimetype != media_type:
        raise _invalid_body(f"send text, with Content-Type: {media_type}")
    try:
        return request.get_data().decode("utf-8")
    except UnicodeDecodeError:
        raise _invalid_body("encode the text as UTF-8") from None


def _invalid_body(detail: str) -> RequestInvalid:
    return RequestInvalid([FieldError("body", f"body: {detail}")])


def _field_names(model: type[BaseModel]) -> str:
    names = [info.alias or name for name, info in model.model_fields.items()]
    return f"known are {', '.join(names)}" if names else "there are none here"


def _field_errors(exc: ValidationError, parameter: str = "", allowed: str = "") -> list[FieldError]:
    """pydantic's errors in our words.

    Args:
        parameter: The name for errors that concern the value as a whole.
        allowed: What to answer to an unknown parameter.
    """
    errors = []
    for error in exc.errors(include_url=False, include_context=False):
        name = ".".join(str(part)[:MAX_VALUE_CHARS] for part in error["loc"][:4]) or parameter
        if error["type"] == "extra_forbidden":
            errors.append(FieldError(name, f"unknown parameter {name!r}: {allowed}"))
            continue
        message = error["msg"].removeprefix("Value error, ")
        message = message.replace("Input should be", "it should be")
        value = error["input"] if error["type"] != "missing" else None
        suffix = ""
        if isinstance(value, str) and "malformed" not in message:  # that message quotes it
            suffix = f"={value[:MAX_VALUE_CHARS]!r}"
        errors.append(FieldError(name, f"{name}{suffix}: {message}"))
    return errors
