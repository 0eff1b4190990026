"""The API itself: whether it is up, and what it can do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from flask import Blueprint, Response, current_app

from api import docs, openapi
from api.endpoint import endpoint
from api.responses import adapter, json_response, problem
from enrichment.domain.clock import utc_now
from enrichment.domain.errors import EnrichmentError

DOCS_POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"


@dataclass(frozen=True, slots=True)
class Probe:
    status: str
    timestamp: datetime


def blueprint(ready: Callable[[], None]) -> Blueprint:
    """ready: raises unless requests can be answered."""
    bp = Blueprint("service", __name__)

    @bp.get("/livez")
    @endpoint("service", Probe)
    def livez() -> Response:
        """The process answers. Asks nothing of the database."""
        return json_response(Probe("alive", utc_now()))

    @bp.get("/readyz")
    @endpoint("service", Probe)
    def readyz() -> Response:
        """The database answers and its schema is this version's."""
        try:
            ready()
        except EnrichmentError:
            return problem(
                503, "Not ready", "the database does not answer or its schema is not current"
            )
        return json_response(Probe("ready", utc_now()))

    @bp.get("/openapi.json")
    @endpoint("service", content={"application/json": {"schema": {"type": "object"}}})
    def openapi_json() -> Response:
        """This description, as an OpenAPI 3.1 document."""
        response = Response(adapter(dict).dump_json(_document()), mimetype="application/json")
        response.headers["Cache-Control"] = "no-cache"
        response.add_etag()
        return response

    @bp.get("/docs")
    @endpoint("service", content={"text/html": {"schema": {"type": "string"}}})
    def docs_() -> Response:
        """This description, to read."""
        response = Response(docs.page(_document()), mimetype="text/html")
        response.headers["Content-Security-Policy"] = DOCS_POLICY
        return response

    return bp


def _document() -> dict[str, Any]:
    """The application's description, made once."""
    made: dict[str, Any] = current_app.extensions
    if "openapi" not in made:
        made["openapi"] = openapi.document(current_app)
    found: dict[str, Any] = made["openapi"]
    return found
