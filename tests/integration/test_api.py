"""The JSON API on real Postgres: exact fields and problems."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from flask.testing import FlaskClient

from enrichment.domain.errors import DatabaseUnavailable
from enrichment.services.commands import Commands
from enrichment.warehouse.database import Database
from enrichment.warehouse.queue.workers import WorkerRegistry
from enrichment.warehouse.read_models.facade import ReadModels
from enrichment.warehouse.resilience_state import ResilienceStore
from resilience import init_resilience_manager
from tests.helpers.api_client import (
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
def tracked(db: Database) -> Commands:
    return track_symbols(db)


def test_overview_of_an_empty_installation(client: FlaskClient) -> None:
    value = json_body(client.get(f"{ROOT}/dashboard/overview"))
    assert list(value) == [
        "timestamp",
        "scheduler",
        "last_job",
        "metrics",
        "job_queue",
        "queued",
        "forecasts",
    ]
    assert value["scheduler"]["running"] is False
    assert value["scheduler"]["last_enrichment_time"] is None
    assert value["scheduler"]["next_enrichment_time"].endswith("T01:30:00Z")
    assert value["last_job"] is None
    assert value["job_queue"] == []
    assert value["metrics"] == {
        "fetch_pipeline": {
            "total_fetches": 0,
            "successful": 0,
            "success_rate": None,
            "avg_response_time_ms": None,
            "api_quota_remaining": None,
        },
        "compute_pipeline": {
            "total_computations": 0,
            "successful": 0,
            "success_rate": None,
            "avg_computation_time_ms": None,
        },
        "data_quality": {
            "symbols_tracked": 0,
            "series": 0,
            "series_scored": 0,
            "avg_validation_rate": None,
            "avg_quality_score": None,
            "fallback_share": None,
        },
    }


def test_overview_after_a_job(db: Database, client: FlaskClient, tracked: Commands) -> None:
    tracked.trigger(actor="test")
    queued = json_body(client.get(f"{ROOT}/dashboard/overview"))["job_queue"]
    assert queued[0] == {"symbol": "AAPL", "status": "pending", "retry_count": 0}
    assert len(queued) == 3
    run_open_items(db, failing="MSFT")
    value = json_body(client.get(f"{ROOT}/dashboard/overview"))
    assert list(value["last_job"]) == [
        "started_at",
        "completed_at",
        "duration_seconds",
        "successful",
        "failed",
        "retried",
    ]
    assert (value["last_job"]["successful"], value["last_job"]["failed"]) == (2, 1)
    assert value["metrics"]["fetch_pipeline"]["total_fetches"] == 1
    assert value["metrics"]["fetch_pipeline"]["success_rate"] == 0.0
    assert value["metrics"]["data_quality"]["symbols_tracked"] == 3


def test_metrics_and_health(db: Database, client: FlaskClient, tracked: Commands) -> None:
    value = json_body(client.get(f"{ROOT}/dashboard/metrics"))
    assert list(value) == ["fetch_pipeline", "compute_pipeline", "data_quality", "timestamp"]
    value = json_body(client.get(f"{ROOT}/dashboard/health"))
    assert list(value) == [
        "timestamp",
        "health_status",
        "running",
        "scheduler_running",
        "last_enrichment_time",
        "issues",
        "config",
        "schedules",
        "uncovered",
    ]
    assert (value["health_status"], value["running"], value["scheduler_running"]) == (
        "critical",
        False,
        False,
    )
    assert value["config"] == {
        "enrichment_hour": 1,
        "enrichment_minute": 30,
        "max_concurrent_symbols": 5,
        "max_retries": 3,
    }
    registry = WorkerRegistry(db, "w")
    registry.register(host="here", pid=1, version="test", threads=5)
    registry.ticked(None)
    tracked.trigger(actor="test")
    run_open_items(db)
    value = json_body(client.get(f"{ROOT}/dashboard/health"))
    assert (value["health_status"], value["running"], value["issues"]) == ("healthy", True, [])


def test_trigger_responds_at_once(client: FlaskClient, tracked: Commands) -> None:
    response = client.post(f"{ROOT}/trigger?symbols=AAPL&symbols=msft")
    value = json_body(response, 202)
    assert response.headers["Location"] == f"{ROOT}/jobs/{value['job_id']}"
    assert {k: v for k, v in value.items() if k not in ("timestamp", "job_id")} == {
        "status": "triggered",
        "symbols_to_process": 2,
        "manual_trigger": True,
        "result_summary": None,
    }
    job = client.get(response.headers["Location"]).get_json()
    assert (job["state"], job["total"], job["counts"]) == ("queued", 2, {"pending": 2})
    assert (
        json_body(client.post(f"{ROOT}/trigger?asset_class=crypto"), 202)["symbols_to_process"] == 1
    )
    assert json_body(client.post(f"{ROOT}/trigger"), 202)["symbols_to_process"] == 3


@pytest.mark.parametrize("body", [{"json": {"symbols": ["AAPL"]}}, {"data": {"symbols": "AAPL"}}])
def test_a_body_that_would_be_ignored_is_refused(
    client: FlaskClient, tracked: Commands, body: dict[str, Any]
) -> None:
    refused = client.post(f"{ROOT}/trigger", **body)
    assert refused.status_code == 400
    assert "body: send none; of parameters in the query known are symbols" in refused.text
    assert json_body(client.get(f"{ROOT}/history"))["jobs"] == []
    assert client.post(f"{ROOT}/trigger", json={}).status_code == 202


def test_trigger_waits_no_longer_than_requested(client: FlaskClient, tracked: Commands) -> None:
    value = json_body(client.post(f"{ROOT}/trigger?symbols=AAPL&wait=0.2"), 202)
    assert value["result_summary"] is None


def test_trigger_with_an_idempotency_key(client: FlaskClient, tracked: Commands) -> None:
    headers = {"Idempotency-Key": "night-1"}
    first, second = (
        json_body(client.post(f"{ROOT}/trigger", headers=headers), 202)["job_id"] for _ in range(2)
    )
    assert first == second
    json_body(client.post(f"{ROOT}/trigger", headers={"Idempotency-Key": "k" * 201}), 400)


@pytest.mark.parametrize(
    ("query", "status", "detail"),
    [
        ("symbols=NOPE", 404, "symbols add NOPE"),
        ("symbols=%27%3B+DROP+TABLE", 400, "malformed symbol"),
        ("asset_class=bond", 400, "'stock', 'etf' or 'crypto'"),
        ("asset_class=etf", 409, "etf"),
        ("symbols=AAPL&asset_class=stock", 409, "symbols"),
        ("symbol=AAPL", 400, "'symbol'"),
        ("asset_class=stock&asset_class=etf", 400, "asset_class"),
        ("reason=%00", 400, "control characters"),
        ("wait=soon", 400, "wait='soon'"),
        ("wait=nan", 400, "wait='nan'"),
        ("wait=301", 400, "300"),
    ],
)
def test_trigger_with_bad_input(
    client: FlaskClient, tracked: Commands, query: str, status: int, detail: str
) -> None:
    assert detail in json_body(client.post(f"{ROOT}/trigger?{query}"), status)["detail"]


def test_job_status(db: Database, client: FlaskClient, tracked: Commands) -> None:
    value = json_body(client.get(f"{ROOT}/dashboard/job-status/aapl"))
    assert list(value) == [
        "symbol",
        "status",
        "retry_count",
        "last_error",
        "started_at",
        "completed_at",
        "timestamp",
    ]
    assert (value["symbol"], value["status"], value["started_at"]) == ("AAPL", "pending", None)
    tracked.trigger(actor="test")
    run_open_items(db, failing="MSFT")
    value = json_body(client.get(f"{ROOT}/dashboard/job-status/MSFT"))
    assert (value["status"], value["last_error"]) == ("failed", "answered 500")
    assert datetime.fromisoformat(value["completed_at"]).tzinfo == UTC
    assert json_body(client.get(f"{ROOT}/dashboard/job-status/X:BTCUSD"))["status"] == "completed"
    json_body(client.get(f"{ROOT}/dashboard/job-status/NOPE"), 404)
    json_body(client.get(f"{ROOT}/dashboard/job-status/no%20pe"), 400)


def test_history_is_paged_by_key(db: Database, client: FlaskClient, tracked: Commands) -> None:
    ids = []
    for _ in range(5):
        ids.append(str(tracked.trigger(actor="test", symbols=["AAPL"]).job_id))
        run_open_items(db)
    first = client.get(f"{ROOT}/history?limit=3")
    value = json_body(first)
    assert list(value) == ["timestamp", "count", "jobs"]
    assert (value["count"], [job["job_id"] for job in value["jobs"]]) == (3, ids[:1:-1])
    assert list(value["jobs"][0]) == [
        "job_id",
        "started_at",
        "completed_at",
        "duration_seconds",
        "successful",
        "failed",
        "retried",
        "total_records_inserted",
        "total_records_updated",
    ]
    assert value["jobs"][0]["total_records_inserted"] == 250
    next_url = next_page_url(first)
    assert next_url is not None
    second = client.get(next_url)
    assert [job["job_id"] for job in json_body(second)["jobs"]] == ids[1::-1]
    assert "Link" not in second.headers


@pytest.mark.parametrize("query", ["limit=0", "limit=501", "limit=ten", "limit=٣", "cursor=%00x"])
def test_history_with_bad_input(client: FlaskClient, query: str) -> None:
    json_body(client.get(f"{ROOT}/history?{query}"), 400)


@pytest.mark.parametrize("method", ["get", "post"])
def test_pause_and_resume_with_a_reason(
    db: Database, client: FlaskClient, tracked: Commands, method: str
) -> None:
    assert json_body(getattr(client, method)(f"{ROOT}/pause?reason=maintenance"))["paused"] is True
    (pause,) = ReadModels(db).pauses()
    assert (pause.scope, pause.reason) == ("global", "maintenance")
    assert json_body(getattr(client, method)(f"{ROOT}/resume"))["paused"] is False
    assert ReadModels(db).pauses() == []


def test_resilience_shows_every_pattern_with_its_age(db: Database, client: FlaskClient) -> None:
    assert json_body(client.get(f"{ROOT}/resilience"))["patterns"] == []
    store = ResilienceStore(db, "w1")
    manager = init_resilience_manager(publisher=store)
    manager.register_circuit_breaker("polygon_api")
    manager.register_bulkhead("polygon_api")
    manager.close()
    breaker, bulkhead = sorted(
        json_body(client.get(f"{ROOT}/resilience"))["patterns"],
        key=lambda p: str(p["kind"]),
        reverse=True,
    )
    assert (breaker["kind"], breaker["state"], breaker["stale"]) == (
        "circuit_breaker",
        "closed",
        False,
    )
    assert breaker["age_seconds"] < 15
    assert bulkhead["status"]["max_concurrent"] == 10
    assert bulkhead["status"]["available_slots"] == 10


def test_a_token_is_required_for_changes(db: Database, tracked: Commands) -> None:
    client = api_client(db, token="s3cret")
    for path in ("trigger", "pause", "resume"):
        rejected = client.post(f"{ROOT}/{path}")
        json_body(rejected, 401)
        assert rejected.headers["WWW-Authenticate"] == "Bearer"
    json_body(client.get(f"{ROOT}/pause", headers={"Authorization": "Bearer wrong"}), 401)
    json_body(client.post(f"{ROOT}/trigger", headers={"Authorization": "Bearer s3cret"}), 202)
    json_body(client.get(f"{ROOT}/dashboard/overview"))


def test_probes_and_unknown_paths(db: Database, client: FlaskClient) -> None:
    assert json_body(client.get("/livez"))["status"] == "alive"
    assert json_body(client.get("/readyz"))["status"] == "ready"
    json_body(client.get("/nowhere"), 404)
    json_body(client.delete(f"{ROOT}/history"), 405)


def test_without_a_database_requests_fail_with_503_and_the_process_lives() -> None:
    unreachable = Database("postgresql://nobody@127.0.0.1:1/none", pool_size=1)
    client = api_client(unreachable)
    json_body(client.get("/livez"))
    json_body(client.get("/readyz"), 503)
    response = client.get(f"{ROOT}/dashboard/overview")
    json_body(response, 503)
    assert response.headers["Retry-After"] == "5"
    with pytest.raises(DatabaseUnavailable, match="check DATABASE_URL"), unreachable.begin():
        pass
