"""`/alerts` over the API, and `enrichment alerts` on the command line."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from enrichment.cli.main import app
from enrichment.domain.errors import ConfigurationError
from enrichment.services.alerts.rules import DEFAULT_RULES
from enrichment.services.alerts.service import AlertService
from enrichment.warehouse.alerts import AlertStore
from enrichment.warehouse.database import Database
from enrichment.warehouse.read_models.alerts import AlertReports
from enrichment.warehouse.read_models.facade import ReadModels
from enrichment.wiring import alerts as alerting
from tests.helpers.api_client import api_client, json_body
from tests.helpers.webhook_receiver import webhook_receiver

ROOT = "/api/v1/enrichment/alerts"


def reader_of(db: Database) -> ReadModels:
    return ReadModels(db, hour=1, minute=30, enabled=True)


@pytest.fixture
def evaluated(db: Database) -> Database:
    """A database whose rules were judged once: no worker runs, so one of them fires."""
    readings = alerting.read_inputs(reader_of(db))
    service = AlertService(
        AlertStore(db), readings, DEFAULT_RULES, {}, evaluator="test", interval=0.0
    )
    assert service.evaluate()
    return db


def test_before_the_first_evaluation_there_is_nothing(db: Database) -> None:
    value = json_body(api_client(db).get(ROOT))
    assert (value["evaluated_at"], value["alerts"]) == (None, [])
    assert json_body(api_client(db).get(f"{ROOT}/history")) | {"timestamp": ""} == {
        "timestamp": "",
        "count": 0,
        "events": [],
    }


def test_alerts_show_the_gravest_first(evaluated: Database) -> None:
    value = json_body(api_client(evaluated).get(ROOT))
    assert value["evaluator"] == "test"
    assert [(a["rule"], a["state"]) for a in value["alerts"]] == [
        ("SchedulerNotRunning", "firing"),
        ("EnrichmentJobFailed", "ok"),
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
    readings = alerting.read_inputs(reader_of(db))
    for n in range(3):
        rule = DEFAULT_RULES[0].__class__(f"R{n}", "workers.alive", "==", 0, "info")
        AlertService(store, readings, (rule,), {}, evaluator="test", interval=0.0).evaluate()
    client = api_client(db)
    first = client.get(f"{ROOT}/history?limit=2")
    assert [e["rule"] for e in json_body(first)["events"]] == ["R2", "R1"]
    following = first.headers["Link"].partition(">")[0].removeprefix("<")
    second = client.get(following)
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
    assert "not silenced" in json_body(client.post(f"{ROOT}/LongDuration/unsilence"), 409)["detail"]
    json_body(client.post(f"{ROOT}/LongDuration/silence?minutes=43201"), 400)
    assert "known are" in json_body(client.post(f"{ROOT}/Nonsense/silence"), 404)["detail"]


def test_with_a_token_silences_need_it_and_reading_does_not(db: Database) -> None:
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
    shown = run(evaluated, tmp_path, "list").output
    assert "SchedulerNotRunning firing" in " ".join(shown.split())
    assert "Idle not evaluated" in " ".join(shown.split())
    value = json.loads(run(evaluated, tmp_path, "list", "--json").output)
    assert value["events"][0]["rule"] == "SchedulerNotRunning"


def test_a_bad_rules_file_is_named(evaluated: Database, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("[[rule]]\nname = 1")
    done = run(evaluated, tmp_path, "list", ALERT_RULES_FILE=str(file))
    assert isinstance(done.exception, ConfigurationError)
    assert str(file) in str(done.exception)


def test_silencing_from_the_command_line(evaluated: Database, tmp_path: Path) -> None:
    done = run(evaluated, tmp_path, "silence", "LongDuration", "--for", "1d", "--reason", "known")
    assert done.exit_code == 0
    assert AlertReports(evaluated).report().alerts[3].silence_reason == "known"
    assert run(evaluated, tmp_path, "unsilence", "LongDuration").exit_code == 0


def test_the_test_goes_through_every_channel(db: Database, tmp_path: Path) -> None:
    none = run(db, tmp_path, "test")
    assert isinstance(none.exception, ConfigurationError)
    assert "ALERT_WEBHOOK_URL" in str(none.exception)
    with webhook_receiver() as receiver:
        channels = {
            "ALERT_WEBHOOK_URL": f"{receiver.url}/hook",
            "PAGERDUTY_ROUTING_KEY": "R0",
            "PAGERDUTY_BASE_URL": receiver.url,
        }
        done = run(db, tmp_path, "test", **channels)
        assert done.exit_code == 0, done.output
        assert "webhook took it" in done.output
        paths = [r.path for r in receiver.delivered]
        assert paths == ["/hook", "/hook", "/v2/enqueue", "/v2/enqueue"]
    with webhook_receiver(403) as receiver:
        done = run(db, tmp_path, "test", ALERT_WEBHOOK_URL=receiver.url)
        assert done.exit_code == 1
