"""What an endpoint takes and answers, said once: requests are checked by it, and the OpenAPI
document is made of it.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from flask import Response, current_app, request
from pydantic import BaseModel, ValidationError

from api.parameters import QueryModel
from api.responses import FieldError, adapter, problem
from enrichment.domain.errors import InvalidRequest

View = TypeVar("View", bound=Callable[..., Response])
MAX_VALUE_CHARS = 40


@dataclass(frozen=True)
class Endpoint:
    """An endpoint's description.

    answer: type of the JSON body; content: media type → JSON schema of other bodies.
    path: parameter → type; query, body: models; takes: media type of a body of text, which the
    regular expression `pattern` describes in its plainest form.
    """

    tag: str
    summary: str
    details: str
    answer: Any
    status: int
    changes: bool
    problems: tuple[int, ...]
    path: Mapping[str, Any]
    query: type[QueryModel] | None
    body: type[BaseModel] | None
    takes: str | None
    pattern: str | None
    content: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    responses: Mapping[int, Any] = field(default_factory=dict)


class RequestInvalid(InvalidRequest):
    """A request whose parameters are not what the operation takes."""

    def __init__(self, complaints: list[FieldError]) -> None:
        super().__init__("; ".join(complaint.detail for complaint in complaints[:5]))
        self.complaints = complaints

    def as_problem(self) -> Response:
        return problem(400, "Invalid request", str(self), self.complaints)


def endpoint(
    tag: str,
    answer: Any = None,
    *,
    status: int = 200,
    changes: bool = False,
    problems: tuple[int, ...] = (),
    takes: str | None = None,
    pattern: str | None = None,
    content: Mapping[str, Mapping[str, Any]] | None = None,
    headers: Mapping[str, str] | None = None,
    responses: Mapping[int, Any] | None = None,
) -> Callable[[View], Callable[..., Response]]:
    """Describe a view, and give it its parameters checked and typed.

    The view's arguments say what it takes: `query` a Query, `body` a model of a JSON body (or the
    text of a body of type `takes`), any other a part of the path. Its docstring is the summary.
    changes: whether it changes state; then it asks for the token. problems: further statuses.
    headers: header that the view reads → what it is for. responses: further status → answer.
    """

    def decorate(view: View) -> Callable[..., Response]:
        hints = get_type_hints(view, include_extras=True)
        hints.pop("return", None)
        query, body = hints.pop("query", None), hints.pop("body", None)
        path = {name: adapter(kind) for name, kind in hints.items()}
        summary, _, details = (inspect.getdoc(view) or "").partition("\n")

        @functools.wraps(view)
        def checked(**given: Any) -> Response:
            values = {name: _part(name, kind, given[name]) for name, kind in path.items()}
            if query is not None:
                values["query"] = _query(query)
            else:
                _query(QueryModel)
            if takes is not None:
                values["body"] = _text(takes)
            elif body is not None:
                values["body"] = _body(body)
            return view(**values)

        checked.operation = Endpoint(  # type: ignore[attr-defined]  # read by `described`
            tag=tag,
            summary=summary,
            details=details.strip(),
            answer=answer,
            status=status,
            changes=changes,
            problems=problems,
            path=hints,
            query=query,
            body=None if takes else body,
            takes=takes,
            pattern=pattern,
            content=content or {},
            headers=headers or {},
            responses=responses or {},
        )
        return checked

    return decorate


def endpoint_of(view: Any) -> Endpoint | None:
    """A view's description, if it has one."""
    return getattr(view, "operation", None)


def parsed_request() -> Endpoint | None:
    """The operation that the present request is for, if it is for one."""
    return endpoint_of(current_app.view_functions.get(request.endpoint or ""))


def _part(name: str, kind: Any, value: Any) -> Any:
    try:
        return kind.validate_python(value)
    except ValidationError as exc:
        raise RequestInvalid(_field_errors(exc, name)) from None


def _query(model: type[QueryModel]) -> QueryModel:
    several = {
        info.alias or name for name, info in model.model_fields.items() if _is_list(info.annotation)
    }
    values: dict[str, Any] = {}
    for name, given in request.args.lists():
        if len(given) > 1 and name not in several:
            raise RequestInvalid(
                [FieldError(name[:MAX_VALUE_CHARS], f"{name[:MAX_VALUE_CHARS]}: give it once")]
            )
        values[name] = given if name in several else given[0]
    try:
        return model.model_validate(values)
    except ValidationError as exc:
        raise RequestInvalid(_field_errors(exc, known=_names(model))) from None


def _is_list(annotation: Any) -> bool:
    """Whether a field takes several values, or None."""
    return any(get_origin(kind) is list for kind in (annotation, *get_args(annotation)))


def _body(model: type[BaseModel]) -> BaseModel:
    if request.mimetype != "application/json":
        raise RequestInvalid(
            [FieldError("body", "body: send JSON, with Content-Type: application/json")]
        )
    try:
        return model.model_validate_json(request.get_data())
    except ValidationError as exc:
        raise RequestInvalid(_field_errors(exc, "body", known=_names(model))) from None


def _text(media: str) -> str:
    if request.mimetype != media:
        raise RequestInvalid([FieldError("body", f"body: send text, with Content-Type: {media}")])
    try:
        return request.get_data().decode("utf-8")
    except UnicodeDecodeError:
        raise RequestInvalid([FieldError("body", "body: encode the text as UTF-8")]) from None


def _names(model: type[BaseModel]) -> str:
    names = [info.alias or name for name, info in model.model_fields.items()]
    return f"known are {', '.join(names)}" if names else "there are none here"


def _field_errors(exc: ValidationError, whole: str = "", known: str = "") -> list[FieldError]:
    found = []
    for error in exc.errors(include_url=False, include_context=False):
        name = ".".join(str(part)[:MAX_VALUE_CHARS] for part in error["loc"][:4]) or whole
        if error["type"] == "extra_forbidden":
            found.append(FieldError(name, f"unknown parameter {name!r}: {known}"))
            continue
        message = error["msg"].removeprefix("Value error, ")
        message = message.replace("Input should be", "it should be")
        given = error["input"] if error["type"] != "missing" else None
        told = "malformed" in message  # it names the text itself
        shown = f"={given[:MAX_VALUE_CHARS]!r}" if isinstance(given, str) and not told else ""
        found.append(FieldError(name, f"{name}{shown}: {message}"))
    return found
