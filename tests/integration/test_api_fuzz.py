"""Hostile inputs in every parameter: a documented status and no internals in the response."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from flask import Flask
from flask.testing import FlaskClient

from api import create_app, openapi
from enrichment.services.commands import Commands
from enrichment.warehouse.database import Database
from enrichment.warehouse.read_models.facade import ReadModels
from tests.helpers.api_client import api_client, run_open_items, track_symbols
from tests.helpers.fuzz_inputs import INPUTS
from tests.helpers.nightly_runs import NightlyRuns, quiet_bars

LEAKS = re.compile(
    r"Traceback|psycopg2|sqlalchemy|FROM (bars|enrichment_|tracked_)|/site-packages/|File \""
)
EXAMPLES = {
    "symbol": "AAPL",
    "job_id": "00000000-0000-0000-0000-000000000000",
    "name": "polygon_api",
    "action": "reset",
    "rule": "LongDuration",
}


def description() -> dict[str, Any]:
    """The OpenAPI document; it needs no database."""
    unreachable = Database("postgresql://nobody@127.0.0.1:1/none")
    reader = ReadModels(unreachable)
    app: Flask = create_app(reader, Commands(unreachable), ready=lambda: None)
    return openapi.document(app)


def parameters() -> Iterator[Any]:
    """(method, path, location, name, statuses) of every parameter of every operation."""
    document = description()
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            statuses = {int(status) for status in operation["responses"]}
            locations = [(p["in"], p["name"]) for p in operation["parameters"]]
            for media, content in operation.get("requestBody", {}).get("content", {}).items():
                if media == "text/csv":
                    locations.append(("text", "body"))
                    continue
                model = document["components"]["schemas"][
                    content["schema"]["$ref"].rsplit("/", 1)[1]
                ]
                locations += [("body", name) for name in model["properties"]]
            for location, name in locations:
                label = f"{method} {path} {location} {name}"
                yield pytest.param(method, path, location, name, statuses, id=label)


def send(client: FlaskClient, method: str, path: str, location: str, name: str, value: str) -> Any:
    path_values = {**EXAMPLES, **({name: value} if location == "path" else {})}
    address = re.sub(r"\{(\w+)\}", lambda part: quote(path_values[part[1]], safe=""), path)
    options: dict[str, Any] = {}
    if location == "query":
        address += f"?{name}={quote(value, safe='')}"
    elif location == "header":
        options["headers"] = {name: value}
    elif location == "body":
        new = {"symbol": "SIM7", "asset_class": "stock", "timeframes": ["1d"]}
        options["json"] = {**(new if method == "post" else {}), name: value}
    elif location == "text":
        options["data"] = value.encode("utf-8", "surrogatepass")
        options["content_type"] = "text/csv"
    return client.open(address, method=method.upper(), **options)


@pytest.fixture(scope="module")
def client(shared_db: Database) -> FlaskClient:
    NightlyRuns(shared_db, quiet_bars(30)).run_at(30)
    track_symbols(shared_db).trigger(actor="test")
    run_open_items(shared_db, failing="MSFT")
    return api_client(shared_db)


@pytest.mark.parametrize(("method", "path", "location", "name", "statuses"), list(parameters()))
def test_two_hundred_hostile_inputs(
    client: FlaskClient, method: str, path: str, location: str, name: str, statuses: set[int]
) -> None:
    assert len(INPUTS) == 200
    for value in INPUTS:
        if location == "header" and re.search(r"[\r\n\0]", value):
            continue  # HTTP clients refuse to send these
        response = send(client, method, path, location, name, value)
        details = (value[:60], response.status_code, response.text[:300])
        assert response.status_code in statuses | {404, 405, 308}, details
        assert response.status_code < 500, details
        assert not LEAKS.search(response.text), details
        if response.status_code >= 400 and response.status_code != 422:
            assert response.mimetype == "application/problem+json", details
