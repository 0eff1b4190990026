"""Jobs over HTTP: details, items, cancel, resume."""

from __future__ import annotations

import uuid

import pytest
from flask.testing import FlaskClient

from enrichment.services.commands import Commands
from enrichment.warehouse.database import Database
from tests.helpers.api_client import (
    LOG_LINES,
    ROOT,
    api_client,
    json_body,
    next_page_url,
    run_open_items,
    track_symbols,
)


@pytest.fixture
def client(db: Database) -> FlaskClient:
    return api_client(db)


@pytest.fixture
def commands(db: Database) -> Commands:
    return track_symbols(db)


def test_job_details(db: Database, client: FlaskClient, commands: Commands) -> None:
    job = commands.trigger(actor="cli:ada", reason="month end").job_id
    run_open_items(db, failing="MSFT")
    value = json_body(client.get(f"{ROOT}/jobs/{job}"))
    assert list(value) == [
        "timestamp",
        "job_id",
        "state",
        "kind",
        "schedule",
        "requested_by",
        "reason",
        "created_at",
        "started_at",
        "completed_at",
        "cancel_requested_at",
        "total",
        "counts",
        "at_work",
        "inserted",
        "updated",
        "duration_seconds",
        "symbols_per_second",
        "eta_seconds",
        "vendors",
        "waiting",
        "market_days",
        "error_groups",
    ]
    assert (value["state"], value["kind"], value["total"]) == ("partial", "manual", 3)
    assert (value["requested_by"], value["reason"]) == ("cli:ada", "month end")
    assert (value["counts"], value["at_work"]) == ({"completed": 2, "failed": 1}, {})
    assert (value["inserted"], value["updated"]) == (500, 2)
    assert value["error_groups"] == [
        {
            "error_class": "ProviderUnavailable",
            "count": 1,
            "still_failing": 1,
            "example": "answered 500",
            "symbols": ["MSFT"],
        }
    ]


def test_items_by_page_and_by_status(db: Database, client: FlaskClient, commands: Commands) -> None:
    job = commands.trigger(actor="test").job_id
    run_open_items(db, failing="MSFT")
    first = client.get(f"{ROOT}/jobs/{job}/items?limit=2")
    value = json_body(first)
    assert (value["count"], [item["symbol"] for item in value["items"]]) == (2, ["AAPL", "MSFT"])
    assert list(value["items"][1]) == [
        "symbol",
        "status",
        "step",
        "retry_count",
        "run_after",
        "worker_id",
        "error_class",
        "last_error",
        "inserted",
        "updated",
        "started_at",
        "completed_at",
        "thread",
        "begun_at",
        "finished_at",
        "enriched_since",
        "waiting",
    ]
    assert value["items"][0]["inserted"] == 250
    assert value["items"][1]["last_error"] == "answered 500"
    next_url = next_page_url(first)
    assert next_url is not None
    second = client.get(next_url)
    assert [item["symbol"] for item in json_body(second)["items"]] == ["X:BTCUSD"]
    assert next_page_url(second) is None
    failed = json_body(client.get(f"{ROOT}/jobs/{job}/items?status=failed"))["items"]
    assert [item["symbol"] for item in failed] == ["MSFT"]
    assert (
        "'pending', 'in_progress'"
        in json_body(client.get(f"{ROOT}/jobs/{job}/items?status=lost"), 400)["detail"]
    )


def test_cancel_and_resume(db: Database, client: FlaskClient, commands: Commands) -> None:
    job = commands.trigger(actor="test").job_id
    assert json_body(client.post(f"{ROOT}/jobs/{job}/cancel?reason=wrong+list"))["counts"] == {
        "cancelled": 3
    }
    json_body(client.post(f"{ROOT}/jobs/{job}/cancel"), 409)
    other = commands.trigger(actor="test").job_id
    json_body(client.post(f"{ROOT}/jobs/{other}/resume"), 409)
    run_open_items(db, failing="MSFT")
    json_body(client.post(f"{ROOT}/jobs/{other}/resume?error_class=Timeout"), 409)
    value = json_body(client.post(f"{ROOT}/jobs/{other}/resume?error_class=ProviderUnavailable"))
    assert (value["state"], value["counts"]["pending"]) == ("running", 1)
    actions = json_body(client.get(f"{ROOT}/audit?action=cancel"))["actions"]
    assert [(a["target"], a["reason"]) for a in actions] == [(str(job), "wrong list")]


@pytest.mark.parametrize("path", ["", "/items", "/cancel", "/resume"])
def test_an_unknown_job(client: FlaskClient, path: str) -> None:
    send = client.post if path in ("/cancel", "/resume") else client.get
    assert (
        "enrichment history" in json_body(send(f"{ROOT}/jobs/{uuid.uuid4()}{path}"), 404)["detail"]
    )


def test_the_log_of_a_symbol_that_failed(
    db: Database, client: FlaskClient, commands: Commands
) -> None:
    job = commands.trigger(actor="test").job_id
    run_open_items(db, failing="MSFT")
    value = json_body(client.get(f"{ROOT}/jobs/{job}/items/msft/log"))
    assert (value["symbol"], value["status"], value["lines"]) == ("MSFT", "failed", [*LOG_LINES])
    assert json_body(client.get(f"{ROOT}/jobs/{job}/items/AAPL/log"))["lines"] == []
    unknown = json_body(client.get(f"{ROOT}/jobs/{job}/items/IBM/log"), 404)
    assert "IBM" in unknown["detail"]
    json_body(client.get(f"{ROOT}/jobs/{uuid.uuid4()}/items/MSFT/log"), 404)
