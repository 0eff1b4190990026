"""How far a series can be relied on: a score in [0, 1] that explains each point it takes off.

    score = 0.40 completeness + 0.30 validation + 0.20 features + 0.10 freshness

Every point that is taken off has a reason with the check, what was observed and what gives full
marks; the points of all reasons add up to 1 - score.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from math import fsum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from enrichment.domain.model import Quality, Severity
from enrichment.domain.series import FlagCount, QualityInputs
from enrichment.domain.statuses import SeriesStatus
from enrichment.pipeline.features import FEATURES

WEIGHTS: Mapping[str, float] = {
    "completeness": 0.40,
    "validation": 0.30,
    "features": 0.20,
    "freshness": 0.10,
}
HEALTHY_ABOVE = 0.90
STALE_BELOW = 0.85
STALE_SESSIONS = 4
EXAMPLES = 4  # bars that a reason names
# Checks whose bars are stored, but not to be relied on before somebody has looked at them.
NEEDS_REVIEW = frozenset({"outlier", "split"})


def counts_against_score(check: str, severity: Severity) -> bool:
    """Whether a flag counts against the validation of its bar: every error, and doubtful prices
    until an analyst confirms them.
    """
    return severity is Severity.ERROR or check in NEEDS_REVIEW


def quarantines(check: str) -> bool:
    """Whether the bars of a check that counts are kept out of the series."""
    return check not in NEEDS_REVIEW


def flag_counts(objections: Iterable[tuple[datetime, str]]) -> dict[str, FlagCount]:
    """Check → its bars; a bar with several goes to the first of them by name."""
    first: dict[datetime, str] = {}
    for ts, check in sorted(objections):
        first.setdefault(ts, check)
    found: dict[str, list[datetime]] = {}
    for ts, check in first.items():
        found.setdefault(check, []).append(ts)
    return {check: FlagCount(len(at), tuple(at[-EXAMPLES:])) for check, at in sorted(found.items())}


def without_flag(evidence: QualityInputs, check: str, ts: datetime) -> QualityInputs:
    """The evidence after a bar that the check objected to has been confirmed."""
    objection = evidence.flag_counts.get(check)
    if objection is None:
        return evidence
    rest = FlagCount(objection.bars - 1, tuple(at for at in objection.at if at != ts))
    objections = {**evidence.flag_counts, check: rest}
    return replace(evidence, flag_counts={c: o for c, o in objections.items() if o.bars > 0})


@dataclass(frozen=True, slots=True)
class Deduction:
    """Points taken off: by which component and check, what was seen, what gives full marks."""

    component: str
    check: str
    points: float
    observed: str
    threshold: str
    bars: int = 0
    at: Sequence[datetime] = ()

    def __str__(self) -> str:
        shown = ", ".join(f"{ts:%Y-%m-%d %H:%M}" for ts in self.at)
        more = ", …" if self.at and self.bars > len(self.at) else ""
        where = f", at {shown}{more}" if shown else ""
        return (
            f"{self.component} -{self.points:.5f}: {self.observed}{where} "
            f"(full marks: {self.threshold})"
        )


def assess_quality(evidence: QualityInputs) -> Quality:
    """The score, its components and its reasons.

    completeness = 1 - missing / (expected - untraded); validation = 1 - with_errors / checked;
    features = 1 - nulls / cells; freshness = max(0, 1 - sessions_behind / 4).
    A series without a good bar has nothing to vouch for: its first three components are 0 wherever
    there is nothing to count. A series too young for any feature is not blamed for it.
    """
    found = deductions(evidence)
    lost = {c: fsum(d.points for d in found if d.component == c) for c in WEIGHTS}
    values = {c: min(1.0, max(0.0, 1.0 - lost[c] / weight)) for c, weight in WEIGHTS.items()}
    score = max(0.0, 1.0 - fsum(d.points for d in found))
    return Quality(
        score=score,
        completeness=values["completeness"],
        validation=values["validation"],
        features=values["features"],
        freshness=values["freshness"],
        status=_status(score, evidence.sessions_behind),
        reasons=tuple(str(d) for d in found),
    )


def deductions(evidence: QualityInputs) -> tuple[Deduction, ...]:
    """What is taken off, the largest first; the points add up to 1 - score."""
    found = [*_completeness(evidence), *_validation(evidence), *_features(evidence)]
    behind = evidence.sessions_behind
    if behind > 0:
        seen = f"the newest bar is {behind} session{'s' * (behind != 1)} behind"
        found.append(
            Deduction(
                "freshness",
                "sessions_behind",
                WEIGHTS["freshness"] * min(1.0, behind / STALE_SESSIONS),
                seen,
                f"0 behind, none left from {STALE_SESSIONS} on",
            )
        )
    return tuple(sorted(found, key=lambda d: -d.points))


def _completeness(e: QualityInputs) -> Iterator[Deduction]:
    base, threshold = e.expected - e.no_trades, "none missing"
    if base <= 0:
        seen = "nothing to count: no bar was expected"
        yield Deduction("completeness", "gaps", WEIGHTS["completeness"], seen, threshold)
    elif e.missing:
        seen = f"{e.missing:,} of {base:,} expected bars are missing"
        points = WEIGHTS["completeness"] * min(1.0, e.missing / base)
        yield Deduction(
            "completeness", "gaps", points, seen, threshold, e.missing, tuple(e.missing_at)
        )


def _validation(e: QualityInputs) -> Iterator[Deduction]:
    if e.checked <= 0:
        seen = "nothing to count: no bar was checked"
        yield Deduction("validation", "bars", WEIGHTS["validation"], seen, "no errors")
        return
    base = max(e.checked, e.flagged_bars)
    for check, objection in e.flag_counts.items():
        seen = f"{objection.bars:,} of {base:,} checked bars: {check}"
        points = WEIGHTS["validation"] * objection.bars / base
        yield Deduction(
            "validation", check, points, seen, "no errors", objection.bars, tuple(objection.at)
        )


def _features(e: QualityInputs) -> Iterator[Deduction]:
    threshold = "none NULL"
    if e.feature_cells > 0 and e.feature_nulls:
        share = min(1.0, e.feature_nulls / e.feature_cells)
        seen = f"{e.feature_nulls:,} of {e.feature_cells:,} feature values past warm-up are NULL"
        yield Deduction("features", "nulls", WEIGHTS["features"] * share, seen, threshold)
    elif e.feature_cells <= 0 and e.checked <= e.flagged_bars:
        seen = "nothing to count: no feature has a value"
        yield Deduction("features", "nulls", WEIGHTS["features"], seen, threshold)


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


def _status(score: float, sessions_behind: int) -> SeriesStatus:
    if score < STALE_BELOW or sessions_behind >= STALE_SESSIONS:
        return SeriesStatus.STALE
    if score > HEALTHY_ABOVE and sessions_behind <= 0:
        return SeriesStatus.HEALTHY
    return SeriesStatus.WARNING
