"""The rules: the default ones, the user's file, and errors in it."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from enrichment.domain.errors import ConfigurationError
from enrichment.services.alerts.rules import DEFAULT_RULES, load

GOOD = """
[[rule]]
name = "QueueStuck"
figure = "job_queue.oldest_age_seconds"
operator = ">"
threshold = 3600
for = "10m"
severity = "warning"
"""


def rules_file(folder: Path, content: str) -> Path:
    file = folder / "alerts.toml"
    file.write_text(content, encoding="utf-8")
    return file


def test_the_default_rules() -> None:
    assert [(rule.name, rule.condition, rule.severity) for rule in load(None)] == [
        ("SchedulerNotRunning", "scheduler.running == false", "critical"),
        ("EnrichmentJobFailed", "last_job.failed > 5", "warning"),
        ("HighFailureRate", "last_job.failure_rate > 0.1", "warning"),
        ("LongDuration", "last_job.duration_seconds > 1800", "warning"),
        ("LowDataQuality", "data_quality.avg_quality_score < 0.85", "warning"),
        ("EnrichmentOverdue", "scheduler.overdue_schedules > 0", "warning"),
        ("DeadlineAtRisk", "deadline.minutes_late > 0", "warning"),
    ]


@pytest.mark.parametrize(
    ("rule", "value", "holds"),
    [
        (0, 0.0, True),
        (0, 1.0, False),
        (1, 5, False),
        (1, 6, True),
        (2, 0.1, False),
        (2, 0.1001, True),
        (3, 1800, False),
        (3, 1800.5, True),
        (4, 0.85, False),
        (4, 0.8499, True),
        (4, None, None),
    ],
)
def test_thresholds_are_exact(rule: int, value: float | None, holds: bool | None) -> None:
    assert DEFAULT_RULES[rule].holds(value) is holds


def test_a_file_adds_replaces_and_disables_rules(tmp_path: Path) -> None:
    content = (
        GOOD
        + '[[rule]]\nname = "LongDuration"\nenabled = false\n'
        + GOOD.replace("QueueStuck", "LowDataQuality").replace('"10m"', '"0s"')
    )
    rules = {rule.name: rule for rule in load(rules_file(tmp_path, content))}
    assert set(rules) == {
        "SchedulerNotRunning",
        "EnrichmentJobFailed",
        "HighFailureRate",
        "LowDataQuality",
        "QueueStuck",
        "EnrichmentOverdue",
        "DeadlineAtRisk",
    }
    assert rules["QueueStuck"].duration == timedelta(minutes=10)
    assert rules["LowDataQuality"].condition == "job_queue.oldest_age_seconds > 3600"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("[[rule]", "not TOML"),
        ('[[alert]]\nname = "X"', r"alert .*\[\[rule\]\]"),
        ("[rule]\nname = 1", r"\[\[rule\]\]"),
        ("[[rule]]\nname = 3", "rule number 1: name "),
        (GOOD.replace('"job_queue.oldest_age_seconds"', '"import os"'), "figure .*scheduler.run"),
        (GOOD.replace('">"', '"=>"'), "rule QueueStuck: operator .*>, >=, <"),
        (GOOD.replace("3600", '"much"'), "threshold .*'much'"),
        (GOOD.replace("3600", "nan"), "threshold .*number"),
        (GOOD.replace("threshold = 3600", ""), "threshold .*missing"),
        (GOOD.replace("10m", "ten minutes"), 'for .*"10m"'),
        (GOOD.replace('"warning"', '"bad"'), "severity .*critical, warning, info"),
        (GOOD + "treshold = 1", "treshold.*threshold"),
    ],
)
def test_an_error_names_the_file_the_rule_and_the_fix(
    tmp_path: Path, content: str, expected: str
) -> None:
    file = rules_file(tmp_path, content)
    with pytest.raises(ConfigurationError, match=expected) as caught:
        load(file)
    assert str(caught.value).startswith(f"{file}: ")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="ALERT_RULES_FILE"):
        load(tmp_path / "none.toml")
