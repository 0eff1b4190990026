"""Probes and the description of the API."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from flask import Blueprint, Response, current_app

from api import docs, openapi
from api.endpoint import Endpoint
from api.responses import adapter, json_response, problem
from enrichment.domain.clock import utc_now
from enrichment.domain.errors import EnrichmentError

DOCS_POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"


@dataclass(frozen=True, slots=True)
class Probe:
    status: str
    timestamp: datetime


def blueprint(ready: Callable[[], None]) -> Blueprint:
    """Build the blueprint; `ready` raises an EnrichmentError if requests can't be answered."""
    bp = Blueprint("service", __name__)

    @bp.get("/livez")
    @Endpoint("service", Probe)
    def livez() -> Response:
        """Liveness: the process responds; the database is not used."""
        return json_response(Probe("alive", utc_now()))

    @bp.get("/readyz")
    @Endpoint("service", Probe)
    def readyz() -> Response:
        """Readiness: the database responds and its schema is current."""
        try:
            ready()
        except EnrichmentError:
            return problem(
                503, "Not ready", "the database does not answer or its schema is not current"
            )
        return json_response(Probe("ready", utc_now()))

    @bp.get("/openapi.json")
    @Endpoint("service", content={"application/json": {"schema": {"type": "object"}}})
    def openapi_json() -> Response:
        """The OpenAPI 3.1 document."""
        response = Response(adapter(dict).dump_json(_document()), mimetype="application/json")
        response.headers["Cache-Control"] = "no-cache"
        response.add_etag()
        return response

    @bp.get("/docs")
    @Endpoint("service", content={"text/html": {"schema": {"type": "string"}}})
    def html_docs() -> Response:
        """The OpenAPI document as an HTML page."""
        response = Response(docs.page(_document()), mimetype="text/html")
        response.headers["Content-Security-Policy"] = DOCS_POLICY
        return response

    return bp


def _document() -> dict[str, Any]:
    """The application's OpenAPI document, built once."""
    extensions: dict[str, Any] = current_app.extensions
    if "openapi" not in extensions:
        extensions["openapi"] = openapi.document(current_app)
    document: dict[str, Any] = extensions["openapi"]
    return document
