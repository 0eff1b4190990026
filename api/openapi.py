"""The OpenAPI 3.1 document, made of the operations' own types."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from flask import Flask
from pydantic import TypeAdapter
from pydantic.json_schema import JsonSchemaMode

from api.endpoint import Endpoint, endpoint_of
from api.responses import Problem, adapter
from enrichment import __version__

_REF = "#/components/schemas/{model}"
_Key = tuple[Any, JsonSchemaMode]
_TOKEN = {"token": {"type": "http", "scheme": "bearer"}}
PROBLEMS = {
    400: "A parameter is wrong; `errors` names it.",
    401: "The bearer token is missing or wrong.",
    403: "A page of another site asked for a change.",
    404: "There is no such thing.",
    409: "Not possible together, or as things stand.",
    413: "The body is too long.",
    429: "Too many requests; `Retry-After` says when to come again.",
    500: "The request failed; the server's log has the reason.",
    503: "The database does not answer.",
}
TAGS = {
    "dashboard": "How the engine and last night's run are.",
    "jobs": "Runs: their history, their symbols, and steering them.",
    "symbols": "What is tracked.",
    "data": "Bars with their features, their quality, and what vendors corrected.",
    "resilience": "How vendors are protected, and by what means.",
    "operations": "Workers, pauses, and who changed what.",
    "alerts": "What is wrong, who was told, and silencing it.",
    "service": "The API itself.",
}


def document(app: Flask) -> dict[str, Any]:
    """The description of every operation of the application; what changes state names the token
    where the application asks for it.
    """
    secured = "token" in app.extensions
    found = list(_operations(app))
    schemas = _Schemas(operation for _, _, operation in found)
    paths: dict[str, Any] = {}
    for path, method, operation in found:
        paths.setdefault(path, {})[method] = _operation(operation, path, method, schemas)
        if secured and operation.changes:
            paths[path][method]["security"] = [{"token": []}]
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "market-enrichment",
            "version": __version__,
            "summary": "What the engine does, what it stored, and steering it.",
            "description": "All times are ISO-8601 in UTC. Errors are RFC 9457 problems. Lists are "
            "paged: the `Link` header of an answer names the next page.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": name, "description": text} for name, text in TAGS.items()],
        "paths": paths,
        "components": {
            "schemas": schemas.components,
            **({"securitySchemes": _TOKEN} if secured else {}),
        },
    }


def _operations(app: Flask) -> Iterator[tuple[str, str, Endpoint]]:
    for rule in sorted(app.url_map.iter_rules(), key=lambda rule: rule.rule):
        operation = endpoint_of(app.view_functions[rule.endpoint])
        if operation is None:
            continue
        path = re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule)
        for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}):
            yield path, method.lower(), operation


class _Schemas:
    """The JSON schemas of all types, shared by name."""

    def __init__(self, operations: Iterator[Endpoint]) -> None:
        wanted: dict[tuple[int, str], tuple[_Key, JsonSchemaMode, TypeAdapter[Any]]] = {}
        for kind, mode in _types(operations):
            wanted[id(kind), mode] = ((id(kind), mode), mode, adapter(kind))
        self._by_type, definitions = TypeAdapter.json_schemas(
            list(wanted.values()), ref_template=_REF
        )
        self._definitions: dict[str, Any] = definitions.get("$defs", {})

    def of(self, kind: Any, mode: JsonSchemaMode) -> dict[str, Any]:
        return dict(self._by_type[(id(kind), mode), mode])

    def fields(self, kind: Any) -> Mapping[str, Any]:
        """The fields of a query, each with its schema; the required ones marked so."""
        schema = self._resolved(self.of(kind, "validation"))
        required = schema.get("required", [])
        return {
            name: {**value, "x-required": name in required}
            for name, value in schema.get("properties", {}).items()
        }

    @property
    def components(self) -> dict[str, Any]:
        """The named schemas, but for those of queries, whose fields are parameters."""
        return {
            name: schema for name, schema in self._definitions.items() if not name.endswith("Query")
        }

    def _resolved(self, schema: Mapping[str, Any]) -> Mapping[str, Any]:
        reference = schema.get("$ref")
        return self._definitions[reference.rsplit("/", 1)[1]] if reference else schema


def _types(operations: Iterator[Endpoint]) -> Iterator[tuple[Any, JsonSchemaMode]]:
    yield Problem, "serialization"
    for operation in operations:
        for kind in (operation.answer, *operation.responses.values()):
            if kind is not None:
                yield kind, "serialization"
        for kind in (operation.query, operation.body, *operation.path.values()):
            if kind is not None:
                yield kind, "validation"


def _operation(operation: Endpoint, path: str, method: str, schemas: _Schemas) -> dict[str, Any]:
    name = re.sub(r"\W+", "_", path.removeprefix("/api/v1/").removeprefix("enrichment/"))
    value: dict[str, Any] = {
        "tags": [operation.tag],
        "operationId": f"{method}_{name.strip('_')}",
        "summary": operation.summary,
        "parameters": list(_parameters(operation, schemas)),
        "responses": _responses(operation, schemas),
    }
    if operation.details:
        value["description"] = operation.details
    if operation.body is not None:
        value["requestBody"] = _request_body(
            "application/json", schemas.of(operation.body, "validation")
        )
    if operation.takes is not None:
        schema = {"type": "string", "pattern": operation.pattern or ""}
        value["requestBody"] = _request_body(operation.takes, schema)
    return value


def _request_body(media: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"required": True, "content": {media: {"schema": schema}}}


def _parameters(operation: Endpoint, schemas: _Schemas) -> Iterator[dict[str, Any]]:
    for name, kind in operation.path.items():
        yield _parameter(name, "path", schemas.of(kind, "validation"), required=True)
    if operation.query is not None:
        for name, schema in schemas.fields(operation.query).items():
            yield _parameter(name, "query", schema, required=schema["x-required"])
    for name, text in operation.headers.items():
        schema = {"type": "string", "minLength": 1, "maxLength": 200, "pattern": "^[!-~]+$"}
        yield _parameter(name, "header", {**schema, "description": text}, required=False)


def _parameter(name: str, place: str, schema: Mapping[str, Any], *, required: bool) -> Any:
    left = {k: v for k, v in schema.items() if k not in ("x-required", "title", "description")}
    options = [option for option in left.get("anyOf", ()) if option.get("type") != "null"]
    if options and len(options) < len(left["anyOf"]):  # absent, not null: a query has no null
        left.pop("anyOf")
        left.pop("default", None)
        left |= options[0] if len(options) == 1 else {"anyOf": options}
    description = schema.get("description") or left.pop("description", "")
    left.pop("description", None)
    value = {"name": name, "in": place, "required": required, "schema": left}
    return {**value, "description": description} if description else value


def _responses(operation: Endpoint, schemas: _Schemas) -> dict[str, Any]:
    good: dict[str, Any] = {"description": "The answer."}
    content = dict(operation.content)
    if operation.answer is not None:
        schema = schemas.of(operation.answer, "serialization")
        content = {"application/json": {"schema": schema}} | content
    if content:
        good["content"] = content
    responses = {str(operation.status): good}
    for status, kind in operation.responses.items():
        if kind is None:
            responses[str(status)] = {"description": "The reader has the answer already."}
            continue
        schema = schemas.of(kind, "serialization")
        body = {"application/json": {"schema": schema}}
        responses[str(status)] = {"description": "As the answer says.", "content": body}
    problem = {"application/problem+json": {"schema": schemas.of(Problem, "serialization")}}
    for status in _statuses(operation):
        responses[str(status)] = {"description": PROBLEMS[status], "content": problem}
    responses["414"] = {
        "description": "The address is too long; the server says so in its own words.",
        "content": {"text/html": {"schema": {"type": "string"}}},
    }
    return dict(sorted(responses.items()))


def _statuses(operation: Endpoint) -> list[int]:
    statuses = {400, 429, 500, 503, *operation.problems}
    if operation.changes:
        statuses |= {401, 403}
    if operation.body is not None or operation.takes:
        statuses.add(413)
    if operation.path:
        statuses.add(404)
    return sorted(statuses)
