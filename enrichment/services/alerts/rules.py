"""Rules: the five that every installation has, and the user's own from a TOML file.

    [[rule]]
    name = "QueueStuck"
    figure = "job_queue.oldest_age_seconds"
    operator = ">"
    threshold = 3600
    for = "10m"
    severity = "warning"

A rule with the name of a default one takes its place; `enabled = false` leaves it out.
"""

from __future__ import annotations

import math
import operator as op
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from enrichment.domain.durations import parse_duration
from enrichment.domain.errors import ConfigurationError, InvalidRequest
from enrichment.services.alerts.metrics import FIGURES

OPERATORS: Final[dict[str, Callable[[float, float], bool]]] = {
    ">": op.gt,
    ">=": op.ge,
    "<": op.lt,
    "<=": op.le,
    "==": op.eq,
    "!=": op.ne,
}
SEVERITIES: Final = ("critical", "warning", "info")
NO_TIME = timedelta(0)
HOLD = timedelta(minutes=2)
_FIELDS = frozenset(
    ("name", "figure", "operator", "threshold", "for", "keep_firing_for", "severity", "enabled")
)


@dataclass(frozen=True, slots=True)
class Rule:
    """Fires once `figure operator threshold` has held for `duration`; resolved once it has not
    held for `keep_firing_for`, so that a flapping figure is one alert and not many.
    """

    name: str
    figure: str
    operator: str
    threshold: float | bool
    severity: str
    duration: timedelta = NO_TIME
    keep_firing_for: timedelta = HOLD

    @property
    def condition(self) -> str:
        shown = str(self.threshold).lower() if isinstance(self.threshold, bool) else self.threshold
        return f"{self.figure} {self.operator} {shown}"

    def holds(self, value: float | None) -> bool | None:
        """Whether the condition holds of the figure's value; None where that is unknown."""
        return None if value is None else OPERATORS[self.operator](value, float(self.threshold))


DEFAULT_RULES: Final = (
    Rule("SchedulerNotRunning", "scheduler.running", "==", False, "critical"),
    Rule("EnrichmentJobFailed", "last_job.failed", ">", 5, "warning"),
    Rule("HighFailureRate", "last_job.failure_rate", ">", 0.1, "warning"),
    Rule("LongDuration", "last_job.duration_seconds", ">", 1800, "warning"),
    Rule("LowDataQuality", "data_quality.avg_quality_score", "<", 0.85, "warning"),
)


def load(file: Path | None) -> tuple[Rule, ...]:
    """The rules in force: the default ones, changed and joined by those of the file.

    ConfigurationError names the file, the rule and how to mend it.
    """
    rules = {rule.name: rule for rule in DEFAULT_RULES}
    for position, table in enumerate(_tables(file) if file else (), 1):
        name = table.get("name")
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z]\w{0,79}", name):
            raise _wrong(file, f"number {position}", "name", "letters, digits and '_'", name)
        if table.get("enabled", True) is False:
            rules.pop(name, None)
            continue
        rules[name] = _rule(file, name, table)
    return tuple(rules.values())


def _tables(file: Path) -> list[dict[str, Any]]:
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as exc:
        raise ConfigurationError(
            f"{file}: the alert rules can't be read ({exc.strerror}): "
            "mend ALERT_RULES_FILE or leave it out"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise ConfigurationError(f"{file}: not TOML: {exc}") from None
    tables = content.pop("rule", [])
    if content or not (isinstance(tables, list) and all(isinstance(t, dict) for t in tables)):
        odd = ", ".join(sorted(content)) or "rule"
        raise ConfigurationError(f"{file}: {odd} is not understood: write each rule as [[rule]]")
    return tables


def _rule(file: Path | None, name: str, table: Mapping[str, Any]) -> Rule:
    unknown = sorted(set(table) - _FIELDS)
    if unknown:
        raise _wrong(file, name, unknown[0], f"one of {', '.join(sorted(_FIELDS))}", "this field")

    def choice(field: str, allowed: Any) -> str:
        value = table.get(field)
        if not isinstance(value, str) or value not in allowed:
            raise _wrong(file, name, field, f"one of {', '.join(allowed)}", value)
        return value

    def length(field: str, default: timedelta) -> timedelta:
        value = table.get(field)
        if value is None:
            return default
        try:
            return parse_duration(value if isinstance(value, str) else "", zero=True)
        except InvalidRequest:
            wanted = 'a number with s, m, h or d, such as "10m"'
            raise _wrong(file, name, field, wanted, value) from None

    threshold = table.get("threshold")
    if not isinstance(threshold, int | float) or not math.isfinite(threshold):
        raise _wrong(file, name, "threshold", "a number, true or false", threshold)
    return Rule(
        name,
        choice("figure", FIGURES),
        choice("operator", OPERATORS),
        threshold,
        choice("severity", SEVERITIES),
        length("for", NO_TIME),
        length("keep_firing_for", HOLD),
    )


def _wrong(
    file: Path | None, rule: str, field: str, wanted: str, got: object
) -> ConfigurationError:
    shown = "nothing" if got is None else got if got == "this field" else repr(got)
    return ConfigurationError(f"{file}: rule {rule}: {field} must be {wanted}, not {shown}")
