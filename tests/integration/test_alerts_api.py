"""Alerts over the API and on the command line."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from enrichment.cli.main import app
from enrichment.domain.errors import ConfigurationError
from enrichment.domain.statuses import AlertSeverity
from enrichment.services.alerts.rules import DEFAULT_RULES, Rule
from enrichment.services.alerts.service import AlertService
from enrichment.warehouse.alerts import AlertStore
from enrichment.warehouse.database import Database
from enrichment.warehouse.read_models.alerts import AlertReports
from enrichment.warehouse.read_models.facade import ReadModels
from enrichment.wiring.alerts import read_inputs
from tests.helpers.api_client import api_client, json_body, next_page_url
from tests.helpers.webhook_receiver import webhook_receiver

ROOT = "/api/v1/enrichment/alerts"


def reader_of(db: Database) -> ReadModels:
    return ReadModels(db)


@pytest.fixture
def evaluated(db: Database) -> Database:
    """A database whose rules were evaluated once: no worker runs, so SchedulerNotRunning fires."""
    inputs = read_inputs(reader_of(db))
    service = AlertService(
        AlertStore(db), inputs, DEFAULT_RULES, {}, evaluator="test", interval=0.0
    )
    assert service.evaluate()
    return db


def test_before_the_first_evaluation_there_are_no_alerts(db: Database) -> None:
    value = json_body(api_client(db).get(ROOT))
    assert (value["evaluated_at"], value["alerts"]) == (None, [])
    assert json_body(api_client(db).get(f"{ROOT}/history")) | {"timestamp": ""} == {
        "timestamp": "",
        "count": 0,
        "events": [],
    }


def test_alerts_are_listed_by_severity(evaluated: Database) -> None:
    value = json_body(api_client(evaluated).get(ROOT))
    assert value["evaluator"] == "test"
    assert [(a["rule"], a["state"]) for a in value["alerts"]] == [
        ("SchedulerNotRunning", "firing"),
        ("DeadlineAtRisk", "ok"),
        ("EnrichmentJobFailed", "ok"),
        ("EnrichmentOverdue", "ok"),
        ("HighFailureRate", "ok"),
        ("LongDuration", "ok"),
        ("LowDataQuality", "ok"),
    ]
    assert value["alerts"][0]["condition"] == "scheduler.running == false"
    (event,) = json_body(api_client(evaluated).get(f"{ROOT}/history"))["events"]
    assert (event["rule"], event["state"], event["deliveries"]) == (
        "SchedulerNotRunning",
        "firing",
        [],
    )


def test_history_is_paged_by_key(db: Database) -> None:
    store = AlertStore(db)
    inputs = read_inputs(reader_of(db))
    for n in range(3):
        rule = Rule(f"R{n}", "workers.alive", "==", 0, AlertSeverity.INFO)
        AlertService(store, inputs, (rule,), {}, evaluator="test", interval=0.0).evaluate()
    client = api_client(db)
    first = client.get(f"{ROOT}/history?limit=2")
    assert [e["rule"] for e in json_body(first)["events"]] == ["R2", "R1"]
    next_url = next_page_url(first)
    assert next_url is not None
    second = client.get(next_url)
    assert [e["rule"] for e in json_body(second)["events"]] == ["R0"]
    assert "Link" not in second.headers
    json_body(client.get(f"{ROOT}/history?limit=0"), 400)
    json_body(client.get(f"{ROOT}/history?cursor=x"), 400)


def test_silence_and_its_end(evaluated: Database) -> None:
    client = api_client(evaluated)
    value = json_body(client.post(f"{ROOT}/SchedulerNotRunning/silence?minutes=180&reason=moving"))
    until = datetime.fromisoformat(value["silenced_until"])
    assert timedelta(hours=2.9) < until - datetime.now(UTC) <= timedelta(hours=3)
    alert = json_body(client.get(ROOT))["alerts"][0]
    assert (alert["silenced_until"], alert["silence_reason"]) == (
        value["silenced_until"],
        "moving",
    )
    json_body(client.post(f"{ROOT}/SchedulerNotRunning/unsilence"))
    assert json_body(client.get(ROOT))["alerts"][0]["silenced_until"] is None
    json_body(client.post(f"{ROOT}/LongDuration/unsilence"), 409)
    json_body(client.post(f"{ROOT}/LongDuration/silence?minutes=43201"), 400)
    assert "LongDuration" in json_body(client.post(f"{ROOT}/Nonsense/silence"), 404)["detail"]


def test_a_token_is_required_for_silences_but_not_for_reading(db: Database) -> None:
    client = api_client(db, token="s3cret")
    json_body(client.post(f"{ROOT}/LongDuration/silence"), 401)
    json_body(client.post(f"{ROOT}/LongDuration/unsilence"), 401)
    json_body(client.get(ROOT))
    headers = {"Authorization": "Bearer s3cret"}
    json_body(client.post(f"{ROOT}/LongDuration/silence", headers=headers))


def run(db: Database, home: Path, *arguments: str, **environment: str) -> Result:
    url = db.url.render_as_string(hide_password=False)
    variables = {"DATABASE_URL": url, "ENRICHMENT_HOME": str(home), "COLUMNS": "200"}
    return CliRunner(env={**variables, **environment}).invoke(app, ["alerts", *arguments])


def test_list_shows_rules_state_and_history(evaluated: Database, tmp_path: Path) -> None:
    (tmp_path / "alerts.toml").write_text(
        '[[rule]]\nname = "Idle"\nfigure = "workers.alive"\noperator = "<"\nthreshold = 1\n'
        'severity = "info"\n'
    )
    output = run(evaluated, tmp_path, "list").output
    assert "SchedulerNotRunning firing" in " ".join(output.split())
    assert "Idle not evaluated" in " ".join(output.split())
    value = json.loads(run(evaluated, tmp_path, "list", "--json").output)
    assert value["events"][0]["rule"] == "SchedulerNotRunning"


def test_a_bad_rules_file_is_named(evaluated: Database, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("[[rule]]\nname = 1")
    result = run(evaluated, tmp_path, "list", ALERT_RULES_FILE=str(file))
    assert isinstance(result.exception, ConfigurationError)
    assert str(file) in str(result.exception)


def test_silencing_from_the_command_line(evaluated: Database, tmp_path: Path) -> None:
    result = run(evaluated, tmp_path, "silence", "LongDuration", "--for", "1d", "--reason", "known")
    assert result.exit_code == 0
    alerts = {alert.rule: alert for alert in AlertReports(evaluated).report().alerts}
    assert alerts["LongDuration"].silence_reason == "known"
    assert run(evaluated, tmp_path, "unsilence", "LongDuration").exit_code == 0


def test_the_test_alert_is_sent_to_every_channel(db: Database, tmp_path: Path) -> None:
    unconfigured = run(db, tmp_path, "test")
    assert isinstance(unconfigured.exception, ConfigurationError)
    assert "ALERT_WEBHOOK_URL" in str(unconfigured.exception)
    with webhook_receiver() as receiver:
        channels = {
            "ALERT_WEBHOOK_URL": f"{receiver.url}/hook",
            "PAGERDUTY_ROUTING_KEY": "R0",
            "PAGERDUTY_BASE_URL": receiver.url,
        }
        result = run(db, tmp_path, "test", **channels)
        assert result.exit_code == 0, result.output
        assert "webhook: delivered" in result.output
        paths = [r.path for r in receiver.delivered]
        assert paths == ["/hook", "/hook", "/v2/enqueue", "/v2/enqueue"]
    with webhook_receiver(403) as receiver:
        result = run(db, tmp_path, "test", ALERT_WEBHOOK_URL=receiver.url)
        assert result.exit_code == 1
