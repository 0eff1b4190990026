"""Quality of a series: a score in [0, 1], and a reason for each deduction.

    score = 0.40 completeness + 0.30 validation + 0.20 features + 0.10 freshness

A fallback that is poorer than the vendor whose turn it was costs fixed points of a component.

Each reason names the check, the observation and the threshold for full marks; the points of all
reasons add up to 1 - score.

>>> inputs = QualityInputs(
...     expected=100, missing=5, checked=95, feature_cells=900, feature_nulls=0, sessions_behind=0
... )
>>> quality = assess_quality(inputs)
>>> round(quality.score, 4), quality.status.value
(0.98, 'warning')
>>> quality.reasons
('completeness -0.02000: 5 of 100 expected bars are missing (full marks: none missing)',)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, time
from itertools import chain
from math import fsum

from enrichment.domain.model import Quality, Severity
from enrichment.domain.series import FlagCount, QualityInputs
from enrichment.domain.statuses import HistoryLimit, SeriesStatus

WEIGHTS: Mapping[str, float] = {
    "completeness": 0.40,
    "validation": 0.30,
    "features": 0.20,
    "freshness": 0.10,
}
HEALTHY_ABOVE = 0.90  # mean of all series
HEALTHY_COMPONENT = 0.98  # of each component of a series
STALE_BELOW = 0.85
STALE_SESSIONS = 4
# Points of the score that a fallback costs: for itself, and for what it lacks.
FALLBACK = 0.01
FALLBACK_CURRENCY = 0.02
FALLBACK_HISTORY = 0.02
EXAMPLES = 4  # bars that a reason names
# Checks whose bars are stored, but lower the score until an analyst confirms them.
NEEDS_REVIEW = frozenset({"outlier", "repeated_bar", "spike", "split"})
STALE_FEED = "stale_feed"  # an error of bars that are stored for want of better ones
_HISTORY_CAUSES = {
    HistoryLimit.LISTED: "listed then",
    HistoryLimit.PLAN: "the plan's reach",
    HistoryLimit.VENDOR: "the vendor's reach",
    None: "unknown, to be asked for again",
}


def counts_against_score(check: str, severity: Severity) -> bool:
    """Whether an unconfirmed flag lowers the validation component."""
    return severity is Severity.ERROR or check in NEEDS_REVIEW


def quarantines(check: str) -> bool:
    """Whether a check that counts against the score keeps its bars out of the series."""
    return check not in NEEDS_REVIEW and check != STALE_FEED


def flag_counts(flagged: Iterable[tuple[datetime, str]]) -> dict[str, FlagCount]:
    """Check → its bars. A bar with several checks counts for the first of them by name.

    flagged: (ts, check) of the flags.
    """
    check_of: dict[datetime, str] = {}
    for ts, check in sorted(flagged):
        check_of.setdefault(ts, check)
    bars: dict[str, list[datetime]] = {}
    for ts, check in check_of.items():
        bars.setdefault(check, []).append(ts)
    return {check: FlagCount(len(at), tuple(at[-EXAMPLES:])) for check, at in sorted(bars.items())}


def without_flag(inputs: QualityInputs, check: str, ts: datetime) -> QualityInputs:
    """The inputs after an analyst confirmed the bar at `ts`, which the check had flagged."""
    count = inputs.flag_counts.get(check)
    if count is None:
        return inputs
    rest = FlagCount(count.bars - 1, tuple(at for at in count.at if at != ts))
    counts = {**inputs.flag_counts, check: rest}
    return replace(inputs, flag_counts={c: n for c, n in counts.items() if n.bars > 0})


def with_flag(inputs: QualityInputs, check: str, ts: datetime) -> QualityInputs:
    """The inverse of `without_flag`, of a check that counts against the score."""
    count = inputs.flag_counts.get(check, FlagCount(0))
    more = FlagCount(count.bars + 1, tuple(sorted([*count.at, ts])[-EXAMPLES:]))
    return replace(inputs, flag_counts=dict(sorted({**inputs.flag_counts, check: more}.items())))


@dataclass(frozen=True, slots=True)
class Deduction:
    """A reason why the score is below 1."""

    component: str
    check: str
    points: float  # of the score
    observed: str
    threshold: str  # for full marks
    bars: int = 0  # concerned
    at: Sequence[datetime] = ()  # the newest of them, as examples

    def __str__(self) -> str:
        points = f" -{self.points:.5f}" if self.points else ""
        more = ", …" if self.at and self.bars > len(self.at) else ""
        where = f", {_times_text(self.at)}{more}" if self.at else ""
        return f"{self.component}{points}: {self.observed}{where} (full marks: {self.threshold})"


def _times_text(times: Sequence[datetime]) -> str:
    """The starts of bars: days where all begin with the day, as daily bars do."""
    if all(ts.time() == time.min for ts in times):
        return "on " + ", ".join(f"{ts:%Y-%m-%d}" for ts in times)
    return "at " + ", ".join(f"{ts:%Y-%m-%d %H:%M}" for ts in times) + " UTC"


def assess_quality(inputs: QualityInputs) -> Quality:
    """The score with its components, status and reasons.

    completeness = 1 - missing / (expected - no_trades); validation = 1 - flagged / checked;
    features = 1 - nulls / cells; freshness = max(0, 1 - sessions_behind / 4).
    Healthy is a series of which each component is at least 0.98 and no stale feed is unreviewed.
    A series without a good bar gets 0 for each of the first three that has nothing to count. A
    series too young for any feature gets 1 for its features.
    """
    reasons = deductions(inputs)
    lost = {c: fsum(d.points for d in reasons if d.component == c) for c in WEIGHTS}
    components = {c: min(1.0, max(0.0, 1.0 - lost[c] / weight)) for c, weight in WEIGHTS.items()}
    score = max(0.0, 1.0 - fsum(d.points for d in reasons))
    status = _status(score, components, inputs)
    return Quality(score=score, **components, status=status, reasons=tuple(map(str, reasons)))


def deductions(inputs: QualityInputs) -> tuple[Deduction, ...]:
    """All deductions, the largest first; their points add up to 1 - score."""
    components = (_completeness, _validation, _features, _freshness, _history, _fallback)
    left, capped = dict(WEIGHTS), []
    for deduction in chain.from_iterable(component(inputs) for component in components):
        points = min(deduction.points, max(0.0, left[deduction.component]))
        left[deduction.component] -= points
        capped.append(replace(deduction, points=points))
    return tuple(sorted(capped, key=lambda d: -d.points))


def _completeness(inputs: QualityInputs) -> Iterator[Deduction]:
    base, threshold = inputs.expected - inputs.no_trades, "none missing"
    if base <= 0:
        observed = "nothing to count: no bar was expected"
        yield Deduction("completeness", "gaps", WEIGHTS["completeness"], observed, threshold)
    elif inputs.missing:
        observed = f"{inputs.missing:,} of {base:,} expected bars are missing"
        points = WEIGHTS["completeness"] * min(1.0, inputs.missing / base)
        examples = tuple(inputs.missing_at)
        yield Deduction(
            "completeness", "gaps", points, observed, threshold, inputs.missing, examples
        )


def _history(inputs: QualityInputs) -> Iterator[Deduction]:
    """Missing history is stated; it costs its share if nobody knows why it is missing, and a fixed
    number of points if a fallback is the cause.
    """
    reach = inputs.history
    if reach is not None and reach.is_short:
        instead = f", {reach.fallback} served as a fallback" if reach.fallback else ""
        cause = _HISTORY_CAUSES[reach.limit] + ("" if reach.limit else instead)
        observed = (
            f"asked from {reach.wanted_from:%Y-%m-%d}, served from {reach.served_from:%Y-%m-%d},"
            f" {reach.missing_share:.1%} less: {cause}"
        )
        unknown = FALLBACK_HISTORY if reach.fallback else WEIGHTS["completeness"]
        share = 1.0 if reach.fallback else reach.missing_share
        points = 0.0 if reach.limit else unknown * share
        yield Deduction("completeness", "history", points, observed, "all of it served")


def _fallback(inputs: QualityInputs) -> Iterator[Deduction]:
    source = inputs.history.fallback if inputs.history else None
    if source is not None:
        observed = f"{source} served in place of a vendor that could not be asked"
        yield Deduction("validation", "fallback", FALLBACK, observed, "no fallback")
    if source is not None and inputs.substitution:
        observed = f"{source} served {inputs.substitution}"
        yield Deduction(
            "validation", "currency", FALLBACK_CURRENCY, observed, "the currency asked for"
        )


def _validation(inputs: QualityInputs) -> Iterator[Deduction]:
    if inputs.checked <= 0:
        observed = "nothing to count: no bar was checked"
        yield Deduction("validation", "bars", WEIGHTS["validation"], observed, "no errors")
        return
    if not inputs.flag_counts:
        return
    base = max(inputs.checked, inputs.flagged_bars)
    for check, count in inputs.flag_counts.items():
        observed = f"{count.bars:,} of {base:,} checked bars: {check}"
        points = WEIGHTS["validation"] * count.bars / base
        examples = tuple(count.at)
        yield Deduction("validation", check, points, observed, "no errors", count.bars, examples)


def _features(inputs: QualityInputs) -> Iterator[Deduction]:
    cells, nulls = inputs.feature_cells, inputs.feature_nulls
    if cells > 0 and nulls:
        observed = f"{nulls:,} of {cells:,} feature values past warm-up are NULL"
        points = WEIGHTS["features"] * min(1.0, nulls / cells)
        yield Deduction("features", "nulls", points, observed, "none NULL")
    elif cells <= 0 and inputs.checked <= inputs.flagged_bars:
        observed = "nothing to count: no feature has a value"
        yield Deduction("features", "nulls", WEIGHTS["features"], observed, "none NULL")


def _freshness(inputs: QualityInputs) -> Iterator[Deduction]:
    lifeless = inputs.lifeless_sessions if STALE_FEED in inputs.flag_counts else 0
    behind, check = inputs.sessions_behind, "sessions_behind"
    observed = f"the newest bar is {behind} session{'s' * (behind != 1)} behind"
    if lifeless > behind:
        behind, check = lifeless, STALE_FEED
        observed = f"the feed has shown no sign of life for {behind} session{'s' * (behind != 1)}"
    if behind > 0:
        points = WEIGHTS["freshness"] * min(1.0, behind / STALE_SESSIONS)
        threshold = f"0 behind, none left from {STALE_SESSIONS} on"
        yield Deduction("freshness", check, points, observed, threshold)


def _status(score: float, components: Mapping[str, float], inputs: QualityInputs) -> SeriesStatus:
    if score < STALE_BELOW or components["freshness"] <= 0:
        return SeriesStatus.STALE
    whole = all(value >= HEALTHY_COMPONENT - 1e-9 for value in components.values())
    if whole and STALE_FEED not in inputs.flag_counts:
        return SeriesStatus.HEALTHY
    return SeriesStatus.WARNING
