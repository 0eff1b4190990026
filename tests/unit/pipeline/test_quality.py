"""The score, its status and the reasons that add up to it."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from enrichment.domain.model import Severity
from enrichment.domain.series import FlagCount, HistoryReach, QualityInputs
from enrichment.domain.statuses import HistoryLimit
from enrichment.pipeline import features
from enrichment.pipeline.features import FEATURES
from enrichment.pipeline.quality import (
    assess_quality,
    counts_against_score,
    deductions,
    flag_counts,
    without_flag,
)

WHOLE = QualityInputs(
    expected=1_000,
    missing=0,
    checked=1_000,
    feature_cells=10_000,
    feature_nulls=0,
    sessions_behind=0,
)
EMPTY = QualityInputs(0, 0, 0, 0, 0, sessions_behind=40)
MONDAY = datetime(2024, 1, 1, tzinfo=UTC)
SERVED = datetime(2024, 1, 1, tzinfo=UTC)


def test_a_flawless_series() -> None:
    quality = assess_quality(WHOLE)
    assert (quality.score, quality.status, quality.reasons) == (1.0, "healthy", ())


@pytest.mark.parametrize(
    ("inputs", "score"),
    [
        (replace(WHOLE, missing=100), 1 - 0.40 * 0.1),
        (replace(WHOLE, flag_counts={"ohlc": FlagCount(100)}), 1 - 0.30 * 0.1),
        (replace(WHOLE, flag_counts={"a": FlagCount(60), "b": FlagCount(40)}), 1 - 0.30 * 0.1),
        (replace(WHOLE, missing=50, no_trades=500), 1 - 0.40 * 0.1),
        (replace(WHOLE, feature_nulls=1_000), 1 - 0.20 * 0.1),
        (replace(WHOLE, sessions_behind=1), 1 - 0.10 * 0.25),
        (replace(WHOLE, missing=1_000), 0.6),
        (EMPTY, 0.0),
    ],
)
def test_the_weights(inputs: QualityInputs, score: float) -> None:
    assert assess_quality(inputs).score == pytest.approx(score, abs=1e-12)


@pytest.mark.parametrize(
    ("missing", "sessions_behind", "status"),
    [
        (0, 0, "healthy"),
        (20, 0, "healthy"),
        (21, 0, "warning"),
        (374, 0, "warning"),
        (376, 0, "stale"),
        (0, 1, "warning"),
        (0, 3, "warning"),
        (0, 4, "stale"),
        (0, 400, "stale"),
    ],
)
def test_status(missing: int, sessions_behind: int, status: str) -> None:
    inputs = replace(WHOLE, missing=missing, sessions_behind=sessions_behind)
    assert assess_quality(inputs).status == status


@pytest.mark.parametrize(
    "poorer",
    [
        replace(WHOLE, missing=21),
        replace(WHOLE, flag_counts={"ohlc": FlagCount(21)}),
        replace(WHOLE, feature_nulls=201),
        replace(WHOLE, sessions_behind=1),
    ],
)
def test_one_poor_component_is_enough_for_a_warning(poorer: QualityInputs) -> None:
    quality = assess_quality(poorer)
    assert quality.score > 0.97
    assert quality.status == "warning"


def test_a_feed_without_a_sign_of_life_is_as_stale_as_one_that_ended() -> None:
    stale = {"stale_feed": FlagCount(56)}
    ended = assess_quality(replace(WHOLE, sessions_behind=60))
    dead = replace(WHOLE, flag_counts=stale, lifeless_sessions=60)
    quality = assess_quality(dead)
    assert (quality.freshness, quality.status) == (ended.freshness, ended.status) == (0, "stale")
    assert quality.reasons[0].startswith("freshness -0.10000: the feed has shown no sign of life")
    alive_again = assess_quality(replace(dead, checked=100_000, lifeless_sessions=0))
    assert (alive_again.score > 0.999, alive_again.status) == (True, "warning")
    assert assess_quality(replace(dead, flag_counts={})).status == "healthy"  # confirmed


@pytest.mark.parametrize(
    ("limit", "points", "said"),
    [
        (None, 0.40 * 0.25, "unknown"),
        (HistoryLimit.LISTED, 0, "listed then"),
        (HistoryLimit.PLAN, 0, "the plan's reach"),
        (HistoryLimit.VENDOR, 0, "the vendor's reach"),
    ],
)
def test_a_history_that_begins_late_says_why_and_counts_if_nobody_knows(
    limit: HistoryLimit | None, points: float, said: str
) -> None:
    reach = HistoryReach(SERVED - timedelta(days=300), SERVED, limit, missing_share=0.25)
    [deduction] = deductions(replace(WHOLE, history=reach))
    assert (deduction.check, deduction.points) == ("history", pytest.approx(points))
    assert "25.0% less: " + said in deduction.observed
    quality = assess_quality(replace(WHOLE, history=reach))
    assert quality.score == pytest.approx(1 - points)
    assert quality.status == ("warning" if points else "healthy")


def test_reasons_name_check_observation_threshold_and_points() -> None:
    at = tuple(datetime(2024, 1, day, tzinfo=UTC) for day in (2, 3, 4, 5))
    quality = assess_quality(replace(WHOLE, missing=4, missing_at=at, sessions_behind=1))
    assert quality.reasons == (
        "freshness -0.02500: the newest bar is 1 session behind "
        "(full marks: 0 behind, none left from 4 on)",
        "completeness -0.00160: 4 of 1,000 expected bars are missing, on 2024-01-02, "
        "2024-01-03, 2024-01-04, 2024-01-05 (full marks: none missing)",
    )


def test_a_bar_with_flags_of_several_checks_counts_once() -> None:
    days = [MONDAY + timedelta(days=n) for n in range(6)]
    counts = flag_counts([(day, "split") for day in days] + [(days[0], "outlier")])
    assert counts == {"outlier": FlagCount(1, (days[0],)), "split": FlagCount(5, tuple(days[2:]))}


def test_the_score_follows_a_confirmed_bar() -> None:
    inputs = replace(WHOLE, flag_counts=flag_counts([(MONDAY, "outlier")]))
    assert assess_quality(inputs).score == pytest.approx(1 - 0.30 / 1000)
    assert without_flag(inputs, "outlier", MONDAY) == replace(WHOLE, flag_counts={})
    assert without_flag(inputs, "split", MONDAY) == inputs


@pytest.mark.parametrize(
    ("check", "severity", "counted"),
    [("ohlc", "error", True), ("outlier", "warning", True), ("zero_volume", "info", False)],
)
def test_errors_and_flags_that_need_review_count(check: str, severity: str, counted: bool) -> None:
    assert counts_against_score(check, Severity(severity)) is counted


def test_an_empty_series_scores_0() -> None:
    quality = assess_quality(EMPTY)
    assert (quality.score, quality.status, len(quality.reasons)) == (0.0, "stale", 4)


def test_a_series_of_bad_bars_only() -> None:
    quality = assess_quality(replace(EMPTY, checked=5, flag_counts={"ohlc": FlagCount(5)}))
    assert quality.score == 0.0


def test_a_young_series_loses_nothing_for_warm_up() -> None:
    young = QualityInputs(1, 0, 1, 0, 0, sessions_behind=0)
    assert assess_quality(young).score == pytest.approx(1.0)


def _counts(limit: int) -> st.SearchStrategy[int]:
    return st.integers(0, limit)


@given(
    st.builds(
        QualityInputs,
        expected=_counts(10**6),
        missing=_counts(10**6),
        checked=_counts(10**6),
        no_trades=_counts(10**6),
        flag_counts=st.dictionaries(
            st.sampled_from(["ohlc", "outlier", "split", "stale_feed"]),
            st.builds(FlagCount, st.integers(1, 10**6)),
        ),
        lifeless_sessions=_counts(100),
        history=st.none()
        | st.builds(
            HistoryReach,
            wanted_from=st.just(MONDAY - timedelta(days=100)),
            served_from=st.just(MONDAY),
            limit=st.sampled_from([None, *HistoryLimit]),
            fallback=st.sampled_from([None, "yahoo"]),
            missing_share=st.floats(0, 1),
        ),
        feature_cells=_counts(10**8),
        feature_nulls=_counts(10**8),
        sessions_behind=_counts(100),
    )
)
def test_deductions_add_up(inputs: QualityInputs) -> None:
    quality, reasons = assess_quality(inputs), deductions(inputs)
    assert sum(d.points for d in reasons) == pytest.approx(1 - quality.score, abs=1e-12)
    parts = (quality.completeness, quality.validation, quality.features, quality.freshness)
    assert all(0 <= part <= 1 for part in (*parts, quality.score))
    assert quality.reasons == tuple(map(str, reasons))
    named = [
        float(points) for points in re.findall(r"^\w+ -(\S+):", "\n".join(quality.reasons), re.M)
    ]
    assert sum(named) == pytest.approx(1 - quality.score, abs=2e-4)


def _columns(rows: int) -> dict[str, np.ndarray]:
    return {
        name: np.full(rows, 1.0) if f.kind == "number" else np.full(rows, "up", dtype=object)
        for name, f in FEATURES.items()
    }


def test_cells_are_counted_past_the_warm_up() -> None:
    columns = _columns(300)
    due = [f for f in FEATURES.values() if not f.optional]
    expected = sum(300 - f.warmup for f in due if f.warmup < 300)
    assert features.coverage(0, columns) == (expected, 0)
    assert features.coverage(10_000, columns) == (300 * len(due), 0)
    assert features.coverage(0, _columns(0)) == (0, 0)


@pytest.mark.parametrize(("before", "nulls"), [(0, 1), (198, 1), (199, 2), (10_000, 2)])
def test_nulls_are_counted_past_the_warm_up(before: int, nulls: int) -> None:
    column = np.ones(300)
    column[[0, 299]] = np.nan
    cells = 300 - max(0, 199 - before)
    assert features.coverage(before, {"sma_200": column}) == (cells, nulls)


def test_labels_count_as_well() -> None:
    column = np.array(["up", None, "down"], dtype=object)
    assert features.coverage(1_000, {"trend_direction": column}) == (3, 1)


def test_optional_features_do_not_count() -> None:
    assert features.coverage(1_000, {"delta": np.full(300, np.nan)}) == (0, 0)


@pytest.mark.parametrize(
    ("reach", "substitution", "points"),
    [
        (HistoryReach(SERVED, SERVED), None, {}),
        (HistoryReach(SERVED, SERVED, fallback="yahoo"), None, {"fallback": 0.01}),
        (
            HistoryReach(SERVED, SERVED, fallback="binance"),
            "USDT for USD",
            {"fallback": 0.01, "currency": 0.02},
        ),
        (
            HistoryReach(SERVED - timedelta(days=300), SERVED, fallback="yahoo"),
            None,
            {"fallback": 0.01, "history": 0.02},
        ),
        (
            HistoryReach(SERVED - timedelta(days=300), SERVED, HistoryLimit.PLAN),
            None,
            {"history": 0.0},
        ),
    ],
)
def test_a_fallback_costs_points(
    reach: HistoryReach, substitution: str | None, points: dict[str, float]
) -> None:
    inputs = replace(WHOLE, history=reach, substitution=substitution)
    assert {d.check: d.points for d in deductions(inputs)} == points
    quality = assess_quality(inputs)
    assert quality.score == pytest.approx(1 - sum(points.values()), abs=1e-12)
    assert quality.status == ("warning" if sum(points.values()) else "healthy")
    reasons = " ".join(quality.reasons)
    assert not substitution or f"binance served {substitution}" in reasons


def test_no_component_loses_more_than_its_weight() -> None:
    worst = replace(
        WHOLE,
        missing=1_000,
        flag_counts={"ohlc": FlagCount(1_000)},
        feature_nulls=10_000,
        sessions_behind=9,
        history=HistoryReach(SERVED - timedelta(days=300), SERVED, fallback="binance"),
        substitution="USDT for USD",
    )
    quality = assess_quality(worst)
    assert quality.score == pytest.approx(0.0, abs=1e-12)
    assert sum(d.points for d in deductions(worst)) == pytest.approx(1.0, abs=1e-12)
    assert (quality.completeness, quality.validation) == (0.0, 0.0)
