"""The templates use existing metrics, and their alert rules fire when they should."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from enrichment.cli.export import GRAFANA, PROMETHEUS_RULES, template
from enrichment.cli.main import app
from enrichment.services import health
from enrichment.services.alerts.rules import DEFAULT_RULES, Rule
from enrichment.warehouse.database import Database
from tests.helpers.api_client import api_client
from tests.helpers.promtool import needs_promtool, promtool
from tests.helpers.seeded_warehouse import seed

MINUTES = 30
SERIES = '{asset_class="stock",timeframe="1d"}'
HOUR = 3600

# Rule → series for which it fires, series for which it does not.
CASES: dict[str, tuple[dict[str, float | None], dict[str, float | None]]] = {
    "EnrichmentMetricsAbsent": ({}, {'enrichment_build_info{version="1"}': 1}),
    "SchedulerNotRunning": (
        {"enrichment_scheduler_running": 0},
        {"enrichment_scheduler_running": 1},
    ),
    "EnrichmentJobFailed": (
        {'enrichment_last_job_symbols{outcome="failed"}': 6},
        {'enrichment_last_job_symbols{outcome="failed"}': 5},
    ),
    "HighFailureRate": (
        {
            'enrichment_last_job_symbols{outcome="failed"}': 2,
            'enrichment_last_job_symbols{outcome="successful"}': 17,
        },
        {
            'enrichment_last_job_symbols{outcome="failed"}': 2,
            'enrichment_last_job_symbols{outcome="successful"}': 18,
        },
    ),
    "LongDuration": (
        {"enrichment_last_job_duration_seconds": 1801},
        {"enrichment_last_job_duration_seconds": 1800},
    ),
    "LowDataQuality": (
        {f"enrichment_quality_score_ratio{SERIES}": 0.84, f"enrichment_scored_series{SERIES}": 3},
        {f"enrichment_quality_score_ratio{SERIES}": 0.86, f"enrichment_scored_series{SERIES}": 3},
    ),
    "EnrichmentOverdue": (
        {'enrichment_schedule_overdue{schedule="us"}': 1},
        {'enrichment_schedule_overdue{schedule="us"}': 0},
    ),
    "DeadlineAtRisk": (
        {'enrichment_deadline_minutes_late{schedule="us"}': 1.5},
        {'enrichment_deadline_minutes_late{schedule="us"}': -3},
    ),
    "QueueStuck": (
        {"enrichment_queue_oldest_age_seconds": 3601, 'enrichment_pauses{scope="global"}': 0},
        {"enrichment_queue_oldest_age_seconds": 3601, 'enrichment_pauses{scope="global"}': 1},
    ),
    "CircuitBreakerOpen": (
        {'enrichment_circuit_breaker_state{name="polygon",state="open",worker="w"}': 1},
        {'enrichment_circuit_breaker_state{name="polygon",state="open",worker="w"}': 0},
    ),
    "WorkerHeartbeatLate": (
        {'enrichment_worker_heartbeat_age_seconds{worker="w"}': 61},
        {'enrichment_worker_heartbeat_age_seconds{worker="w"}': 5},
    ),
    "AlertsNotDelivered": (
        {'enrichment_alert_deliveries_oldest_age_seconds{channel="slack"}': 601},
        {'enrichment_alert_deliveries_oldest_age_seconds{channel="slack"}': 30},
    ),
}


def existing(db: Database) -> set[str]:
    """The names of all metrics and samples of a filled installation."""
    seed(db)
    text = api_client(db).get("/metrics").text
    return set(re.findall(r"^(?:# TYPE )?(enrichment_\w+)", text, re.MULTILINE))


@pytest.mark.parametrize("name", [GRAFANA, PROMETHEUS_RULES])
def test_every_metric_that_a_template_uses_exists(db: Database, name: str) -> None:
    used = set(re.findall(r"\benrichment_\w+", template(name)))
    assert used
    assert used <= existing(db)


def test_the_grafana_dashboard_is_importable() -> None:
    board = json.loads(template(GRAFANA))
    panels = board["panels"]
    assert board["uid"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        if panel["type"] == "row":
            continue
        assert panel["title"]
        assert panel["targets"], panel["title"]
        assert panel["datasource"]["uid"] == "${datasource}"
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24


def test_the_dashboard_shows_the_targets_of_the_health_assessment() -> None:
    thresholds = {
        panel["title"]: panel["fieldConfig"]["defaults"]["thresholds"]["steps"][1]["value"]
        for panel in json.loads(template(GRAFANA))["panels"]
        if "Target" in panel.get("description", "")
    }
    assert thresholds == {
        "Since the last job": health.LAST_JOB_MAX_AGE.total_seconds(),
        "Symbols successful": health.SUCCESS_TARGET / 100,
        "Duration": health.DURATION_TARGET_SECONDS,
        "Quality score": health.QUALITY_TARGET,
        "Validation rate": health.VALIDATION_TARGET / 100,
    }


@pytest.mark.parametrize("rule", DEFAULT_RULES, ids=lambda rule: rule.name)
def test_the_prometheus_rules_have_the_thresholds_of_the_built_in_rules(rule: Rule) -> None:
    _, _, definition = template(PROMETHEUS_RULES).partition(f"- alert: {rule.name}\n")
    expression, _, _ = definition.partition("labels:")
    assert expression.rstrip().endswith(f"{rule.operator} {float(rule.threshold):g}")


@needs_promtool
def test_every_expression_of_the_grafana_dashboard_is_valid_promql(tmp_path: Path) -> None:
    board = json.loads(template(GRAFANA))
    expressions = [
        target["expr"] for panel in board["panels"] for target in panel.get("targets", [])
    ]
    rules = [
        {"record": f"panel:{n}", "expr": re.sub(r"\$__\w+", "5m", expression)}
        for n, expression in enumerate(expressions)
    ]
    file = tmp_path / "panels.json"
    file.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))
    code, output = promtool("check", "rules", file)
    assert code == 0, output


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    """The alert rules as `enrichment export` writes them."""
    file = tmp_path / "rules.yml"
    result = CliRunner().invoke(app, ["export", "prometheus-rules", "--output", str(file)])
    assert result.exit_code == 0, result.output
    return file


@needs_promtool
def test_the_rules_are_well_formed(rules: Path) -> None:
    code, output = promtool("check", "rules", rules)
    assert code == 0, output
    names = re.findall(r"- alert: (\w+)", rules.read_text())
    assert sorted(names) == sorted(CASES)


def case(rule: str, series: dict[str, float | None], *, fires: bool) -> dict[str, Any]:
    """promtool's test of one rule: whether it fires after half an hour of these series.

    Its time begins at 1970-01-01, so negative timestamps are in the past.
    """
    return {
        "interval": "1m",
        "input_series": [
            {"series": name, "values": f"{value}+0x{2 * MINUTES}"} for name, value in series.items()
        ],
        "promql_expr_test": [
            {
                "expr": f'count(ALERTS{{alertname="{rule}",alertstate="firing"}}) or vector(0)',
                "eval_time": f"{MINUTES}m",
                "exp_samples": [{"value": 1 if fires else 0}],
            }
        ],
    }


@needs_promtool
@pytest.mark.parametrize("rule", CASES)
def test_each_rule_fires_when_it_should_and_only_then(
    rules: Path, tmp_path: Path, rule: str
) -> None:
    firing, normal = CASES[rule]
    tests = [case(rule, firing, fires=True), case(rule, normal, fires=False)]
    file = tmp_path / "cases.json"
    file.write_text(
        json.dumps({"rule_files": [str(rules)], "evaluation_interval": "1m", "tests": tests})
    )
    code, output = promtool("test", "rules", file)
    assert code == 0, output


def test_an_unwritable_file_is_an_error(tmp_path: Path) -> None:
    target = tmp_path / "no" / "such"
    result = CliRunner().invoke(app, ["export", "grafana", "--output", str(target)])
    assert result.exit_code != 0
    assert "--output" in str(result.exception)


def test_without_a_file_it_is_written_to_standard_output() -> None:
    result = CliRunner().invoke(app, ["export", "grafana"])
    assert json.loads(result.output)["title"] == "Market enrichment"
