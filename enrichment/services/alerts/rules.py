"""Alert rules: the default ones, and the user's own from a TOML file.

    [[rule]]
    name = "QueueStuck"
    figure = "job_queue.oldest_age_seconds"
    operator = ">"
    threshold = 3600
    for = "10m"
    severity = "warning"

A rule with the name of a default one replaces it; `enabled = false` disables it. The key `figure`
names the metric.
"""

from __future__ import annotations

import math
import operator as op
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from enrichment.domain.durations import parse_duration
from enrichment.domain.errors import ConfigurationError, InvalidRequest
from enrichment.domain.statuses import AlertSeverity
from enrichment.domain.toml_tables import invalid_field, read_tables, read_text, require_known
from enrichment.services.alerts.metrics import METRICS
from enrichment.services.health import DURATION_TARGET_SECONDS

OPERATORS: Final[dict[str, Callable[[float, float], bool]]] = {
    ">": op.gt,
    ">=": op.ge,
    "<": op.lt,
    "<=": op.le,
    "==": op.eq,
    "!=": op.ne,
}
DEFAULT_DURATION = timedelta(0)
DEFAULT_KEEP_FIRING_FOR = timedelta(minutes=2)
_FIELDS = sorted(
    ("name", "figure", "operator", "threshold", "for", "keep_firing_for", "severity", "enabled")
)


@dataclass(frozen=True, slots=True)
class Rule:
    """An alert's condition, `metric operator threshold`, and how long it must hold."""

    name: str
    metric: str
    operator: str
    threshold: float | bool
    severity: AlertSeverity
    duration: timedelta = DEFAULT_DURATION
    """Fires once the condition has held for this time."""
    keep_firing_for: timedelta = DEFAULT_KEEP_FIRING_FOR
    """Resolved once the condition has not held for this time, so that flapping is one alert."""

    @property
    def condition(self) -> str:
        boolean = isinstance(self.threshold, bool)
        threshold = str(self.threshold).lower() if boolean else self.threshold
        return f"{self.metric} {self.operator} {threshold}"

    def holds(self, value: float | None) -> bool | None:
        """Whether the condition holds for the metric's value; None if the value is unknown."""
        return None if value is None else OPERATORS[self.operator](value, float(self.threshold))


DEFAULT_RULES: Final = (
    Rule("SchedulerNotRunning", "scheduler.running", "==", False, AlertSeverity.CRITICAL),
    Rule("EnrichmentJobFailed", "last_job.failed", ">", 5, AlertSeverity.WARNING),
    Rule("HighFailureRate", "last_job.failure_rate", ">", 0.1, AlertSeverity.WARNING),
    Rule(
        "LongDuration",
        "last_job.duration_seconds",
        ">",
        DURATION_TARGET_SECONDS,
        AlertSeverity.WARNING,
    ),
    Rule("LowDataQuality", "data_quality.avg_quality_score", "<", 0.85, AlertSeverity.WARNING),
    Rule(
        "EnrichmentOverdue",
        "scheduler.overdue_schedules",
        ">",
        0,
        AlertSeverity.WARNING,
        timedelta(minutes=10),
    ),
    Rule(
        "DeadlineAtRisk",
        "deadline.minutes_late",
        ">",
        0,
        AlertSeverity.WARNING,
        timedelta(minutes=5),
        timedelta(minutes=10),
    ),
)


def load(file: Path | None) -> tuple[Rule, ...]:
    """The default rules, replaced and extended by those of the file.

    Raises:
        ConfigurationError: It names the file, the rule and how to fix it.
    """
    rules = {rule.name: rule for rule in DEFAULT_RULES}
    for position, table in enumerate(_tables(file) if file else (), 1):
        name = table.get("name")
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z]\w{0,79}", name):
            raise _invalid(file, f"number {position}", "name", "letters, digits and '_'", name)
        if table.get("enabled", True) is False:
            rules.pop(name, None)
            continue
        rules[name] = _rule(file, name, table)
    return tuple(rules.values())


def _tables(file: Path) -> list[dict[str, Any]]:
    return read_tables(file, read_text(file, "alert rules", "ALERT_RULES_FILE"), "rule")


def _rule(file: Path | None, name: str, table: Mapping[str, Any]) -> Rule:
    require_known(file, f"rule {name}", table, _FIELDS)

    def choice(field: str, allowed: Any) -> str:
        value = table.get(field)
        if not isinstance(value, str) or value not in allowed:
            raise _invalid(file, name, field, f"one of {', '.join(allowed)}", value)
        return value

    def duration(field: str, default: timedelta) -> timedelta:
        value = table.get(field)
        if value is None:
            return default
        try:
            return parse_duration(value if isinstance(value, str) else "", zero=True)
        except InvalidRequest:
            expected = 'a number with s, m, h or d, such as "10m"'
            raise _invalid(file, name, field, expected, value) from None

    threshold = table.get("threshold")
    if not isinstance(threshold, int | float) or not math.isfinite(threshold):
        raise _invalid(file, name, "threshold", "a number, true or false", threshold)
    return Rule(
        name,
        choice("figure", METRICS),
        choice("operator", OPERATORS),
        threshold,
        AlertSeverity(choice("severity", list(AlertSeverity))),
        duration("for", DEFAULT_DURATION),
        duration("keep_firing_for", DEFAULT_KEEP_FIRING_FOR),
    )


def _invalid(
    file: Path | None, rule: str, field: str, expected: str, value: object
) -> ConfigurationError:
    return invalid_field(file, f"rule {rule}", field, expected, value)
