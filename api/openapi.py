"""The OpenAPI 3.1 document, generated from the endpoints' descriptions."""

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
_SECURITY_SCHEMES = {"token": {"type": "http", "scheme": "bearer"}}
PROBLEMS = {
    400: "A parameter is invalid; `errors` names it.",
    401: "The bearer token is missing or wrong.",
    403: "A cross-site request for a change.",
    404: "Not found.",
    409: "In conflict with the current state, or with another parameter.",
    413: "The body is too large.",
    429: "Too many requests; retry after `Retry-After` seconds.",
    500: "Internal error; see the server's log.",
    503: "The database is unavailable.",
}
TAGS = {
    "dashboard": "State of the scheduler, the last job and the last 24 hours.",
    "jobs": "Jobs: trigger, history, progress, cancel, resume.",
    "symbols": "Tracked symbols.",
    "data": "Bars with their features, data quality, and corrections by vendors.",
    "resilience": "Circuit breakers, rate limiters, retry policies and bulkheads.",
    "operations": "Workers, pauses and the audit log.",
    "alerts": "Alert rules, their state and history, silences.",
    "service": "Probes, metrics and the description of the API.",
}


def document(app: Flask) -> dict[str, Any]:
    """The OpenAPI document of the application's endpoints."""
    secured = "token" in app.extensions
    endpoints = list(_endpoints(app))
    schemas = _Schemas(endpoint for _, _, endpoint in endpoints)
    paths: dict[str, Any] = {}
    for path, method, endpoint in endpoints:
        paths.setdefault(path, {})[method] = _operation(endpoint, path, method, schemas)
        if secured and endpoint.changes_state:
            paths[path][method]["security"] = [{"token": []}]
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "market-enrichment",
            "version": __version__,
            "summary": "Monitoring and controlling the enrichment of market data.",
            "description": "All times are ISO-8601 in UTC. Errors are RFC 9457 problems. Lists are "
            "paginated: the `Link` header of a response names the next page.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": name, "description": text} for name, text in TAGS.items()],
        "paths": paths,
        "components": {
            "schemas": schemas.components,
            **({"securitySchemes": _SECURITY_SCHEMES} if secured else {}),
        },
    }


def _endpoints(app: Flask) -> Iterator[tuple[str, str, Endpoint]]:
    """Path, method and description of each endpoint that is described."""
    for rule in sorted(app.url_map.iter_rules(), key=lambda rule: rule.rule):
        endpoint = endpoint_of(app.view_functions[rule.endpoint])
        if endpoint is None:
            continue
        path = re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule)
        for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}):
            yield path, method.lower(), endpoint


class _Schemas:
    """The JSON schemas of all types, with shared definitions."""

    def __init__(self, endpoints: Iterator[Endpoint]) -> None:
        inputs: dict[tuple[int, str], tuple[_Key, JsonSchemaMode, TypeAdapter[Any]]] = {}
        for kind, mode in _types(endpoints):
            inputs[id(kind), mode] = ((id(kind), mode), mode, adapter(kind))
        self._by_type, definitions = TypeAdapter.json_schemas(
            list(inputs.values()), ref_template=_REF
        )
        self._definitions: dict[str, Any] = definitions.get("$defs", {})

    def of(self, kind: Any, mode: JsonSchemaMode) -> dict[str, Any]:
        return dict(self._by_type[(id(kind), mode), mode])

    def fields(self, kind: Any) -> Mapping[str, Any]:
        """Schema of each field of a query model; `x-required` marks the required ones."""
        schema = self._resolved(self.of(kind, "validation"))
        required = schema.get("required", [])
        return {
            name: {**value, "x-required": name in required}
            for name, value in schema.get("properties", {}).items()
        }

    @property
    def components(self) -> dict[str, Any]:
        """The named schemas, without those of queries, whose fields are parameters."""
        return {
            name: schema for name, schema in self._definitions.items() if not name.endswith("Query")
        }

    def _resolved(self, schema: Mapping[str, Any]) -> Mapping[str, Any]:
        reference = schema.get("$ref")
        return self._definitions[reference.rsplit("/", 1)[1]] if reference else schema


def _types(endpoints: Iterator[Endpoint]) -> Iterator[tuple[Any, JsonSchemaMode]]:
    yield Problem, "serialization"
    for endpoint in endpoints:
        for kind in (endpoint.response_model, *endpoint.responses.values()):
            if kind is not None:
                yield kind, "serialization"
        for kind in (endpoint.query, endpoint.body, *endpoint.path.values()):
            if kind is not None:
                yield kind, "validation"


def _operation(endpoint: Endpoint, path: str, method: str, schemas: _Schemas) -> dict[str, Any]:
    name = re.sub(r"\W+", "_", path.removeprefix("/api/v1/").removeprefix("enrichment/"))
    value: dict[str, Any] = {
        "tags": [endpoint.tag],
        "operationId": f"{method}_{name.strip('_')}",
        "summary": endpoint.summary,
        "parameters": list(_parameters(endpoint, schemas)),
        "responses": _responses(endpoint, schemas),
    }
    if endpoint.details:
        value["description"] = endpoint.details
    if endpoint.body is not None:
        value["requestBody"] = _request_body(
            "application/json", schemas.of(endpoint.body, "validation")
        )
    if endpoint.text_type is not None:
        schema = {"type": "string", "pattern": endpoint.text_pattern or ""}
        value["requestBody"] = _request_body(endpoint.text_type, schema)
    return value


def _request_body(media: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"required": True, "content": {media: {"schema": schema}}}


def _parameters(endpoint: Endpoint, schemas: _Schemas) -> Iterator[dict[str, Any]]:
    for name, kind in endpoint.path.items():
        yield _parameter(name, "path", schemas.of(kind, "validation"), required=True)
    if endpoint.query is not None:
        for name, schema in schemas.fields(endpoint.query).items():
            yield _parameter(name, "query", schema, required=schema["x-required"])
    for name, text in endpoint.headers.items():
        schema = {"type": "string", "minLength": 1, "maxLength": 200, "pattern": "^[!-~]+$"}
        yield _parameter(name, "header", {**schema, "description": text}, required=False)


def _parameter(name: str, location: str, schema: Mapping[str, Any], *, required: bool) -> Any:
    value = {k: v for k, v in schema.items() if k not in ("x-required", "title", "description")}
    options = [option for option in value.get("anyOf", ()) if option.get("type") != "null"]
    if options and len(options) < len(value["anyOf"]):  # a query parameter is absent, never null
        value.pop("anyOf")
        value.pop("default", None)
        value |= options[0] if len(options) == 1 else {"anyOf": options}
    description = schema.get("description") or value.get("description", "")
    value.pop("description", None)
    parameter = {"name": name, "in": location, "required": required, "schema": value}
    return {**parameter, "description": description} if description else parameter


def _responses(endpoint: Endpoint, schemas: _Schemas) -> dict[str, Any]:
    success: dict[str, Any] = {"description": "Success."}
    content = dict(endpoint.content)
    if endpoint.response_model is not None:
        schema = schemas.of(endpoint.response_model, "serialization")
        content = {"application/json": {"schema": schema}} | content
    if content:
        success["content"] = content
    responses = {str(endpoint.status): success}
    for status, kind in endpoint.responses.items():
        if kind is None:
            responses[str(status)] = {"description": "Not modified."}
            continue
        schema = schemas.of(kind, "serialization")
        body = {"application/json": {"schema": schema}}
        responses[str(status)] = {"description": "Unprocessable content.", "content": body}
    problem = {"application/problem+json": {"schema": schemas.of(Problem, "serialization")}}
    for status in _error_statuses(endpoint):
        responses[str(status)] = {"description": PROBLEMS[status], "content": problem}
    responses["414"] = {
        "description": "The URI is too long.",
        "content": {"text/html": {"schema": {"type": "string"}}},
    }
    return dict(sorted(responses.items()))


def _error_statuses(endpoint: Endpoint) -> list[int]:
    statuses = {400, 429, 500, 503, *endpoint.error_statuses}
    if endpoint.changes_state:
        statuses |= {401, 403}
    if endpoint.body is not None or endpoint.text_type:
        statuses.add(413)
    if endpoint.path:
        statuses.add(404)
    return sorted(statuses)
