"""How far a series can be relied on: a score in [0, 1] that explains each point it takes off.

    score = 0.40 completeness + 0.30 validation + 0.20 features + 0.10 freshness

Every component that is not whole gives one reason, and the points that the reasons name add up to
1 - score.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from math import fsum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from enrichment.domain import Quality
from enrichment.features import FEATURES

WEIGHTS: Mapping[str, float] = {
    "completeness": 0.40,
    "validation": 0.30,
    "features": 0.20,
    "freshness": 0.10,
}
HEALTHY_ABOVE = 0.90
STALE_BELOW = 0.85
STALE_SESSIONS = 4
_EXAMPLES = 3


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of a series.

    expected, missing: bars that should exist, and those of them that don't. checked, with_errors:
    bars that validation saw, and those with an error. feature_cells, feature_nulls: feature values
    past their warm-up, and those that are NULL. sessions_behind: sessions since the newest bar.
    missing_at, errors_at: examples for the reasons.
    """

    expected: int
    missing: int
    checked: int
    with_errors: int
    feature_cells: int
    feature_nulls: int
    sessions_behind: int
    missing_at: Sequence[datetime] = ()
    errors_at: Sequence[datetime] = ()


@dataclass(frozen=True, slots=True)
class Deduction:
    """Points that one component costs: its name, what was seen and what gives full marks."""

    component: str
    value: float
    observed: str
    threshold: str

    @property
    def points(self) -> float:
        return WEIGHTS[self.component] * (1.0 - self.value)

    def __str__(self) -> str:
        return (
            f"{self.component} -{self.points:.4g}: {self.observed} (full marks: {self.threshold})"
        )


def assess(evidence: Evidence) -> Quality:
    """The score, its components and its reasons.

    completeness = 1 - missing / expected; validation = 1 - with_errors / checked;
    features = 1 - nulls / cells; freshness = max(0, 1 - sessions_behind / 4).
    A series without a good bar has nothing to vouch for: its first three components are 0 wherever
    there is nothing to count. A series too young for any feature is not blamed for it.
    """
    found = deductions(evidence)
    values = {d.component: d.value for d in found}
    score = max(0.0, 1.0 - fsum(d.points for d in found))
    return Quality(
        score=score,
        completeness=values["completeness"],
        validation=values["validation"],
        features=values["features"],
        freshness=values["freshness"],
        status=_status(score, evidence.sessions_behind),
        reasons=tuple(str(d) for d in found if d.value < 1.0),
    )


def deductions(evidence: Evidence) -> tuple[Deduction, ...]:
    """One for each component, also where it costs nothing; their points add up to 1 - score."""
    e = evidence
    good = e.checked > e.with_errors
    return (
        Deduction(
            "completeness",
            _share(e.missing, e.expected, 0.0),
            _counted(e.missing, e.expected, "expected bars are missing", e.missing_at),
            "none missing",
        ),
        Deduction(
            "validation",
            _share(e.with_errors, e.checked, 0.0),
            _counted(e.with_errors, e.checked, "checked bars have an error", e.errors_at),
            "no errors",
        ),
        Deduction(
            "features",
            _share(e.feature_nulls, e.feature_cells, 1.0 if good else 0.0),
            _counted(e.feature_nulls, e.feature_cells, "feature values past warm-up are NULL", ()),
            "none NULL",
        ),
        Deduction(
            "freshness",
            min(1.0, max(0.0, 1.0 - e.sessions_behind / STALE_SESSIONS)),
            f"the newest bar is {e.sessions_behind} session{'s' * (e.sessions_behind != 1)} behind",
            f"0 behind, none left from {STALE_SESSIONS} on",
        ),
    )


def feature_coverage(bars_before: int, features: Mapping[str, NDArray[Any]]) -> tuple[int, int]:
    """Feature values past each feature's warm-up, and how many of them are NULL: (cells, nulls).

    Optional features, which are NULL wherever their inputs are not to be had, do not count.
    bars_before: bars of the series that precede the first row of the columns.
    """
    cells = nulls = 0
    for name, column in features.items():
        if FEATURES[name].optional:
            continue
        due = column[max(0, FEATURES[name].warmup - bars_before) :]
        null = due == np.array(None) if due.dtype == object else np.isnan(due)
        cells += len(due)
        nulls += int(np.count_nonzero(null))
    return cells, nulls


def _share(bad: int, total: int, of_nothing: float) -> float:
    """1 - bad / total within [0, 1]."""
    return min(1.0, max(0.0, 1.0 - bad / total)) if total > 0 else of_nothing


def _counted(bad: int, total: int, what: str, examples: Sequence[datetime]) -> str:
    if total <= 0:
        return f"nothing to count: 0 of 0 {what}"
    shown = ", ".join(f"{ts:%Y-%m-%d %H:%M}" for ts in examples[:_EXAMPLES])
    more = ", …" if bad > _EXAMPLES and shown else ""
    return f"{bad:,} of {total:,} {what}" + (f", at {shown}{more}" if shown else "")


def _status(score: float, sessions_behind: int) -> str:
    if score < STALE_BELOW or sessions_behind >= STALE_SESSIONS:
        return "stale"
    return "healthy" if score > HEALTHY_ABOVE and sessions_behind <= 0 else "warning"
