"""Whether the hours of the schedules fit a plan that has a day only after midnight in New York."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest

from enrichment.domain.model import AssetClass
from enrichment.domain.schedules import Schedule, nightly
from enrichment.sandbox.polygon_plan import PLANS
from enrichment.services.plan_hours import plan_advice, starts_before_midnight
from enrichment.vendors.registry import VENDORS

NEW_YORK = ZoneInfo("America/New_York")
MORNING = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)  # Wednesday, 07:00 in New York
EVENING = datetime(2026, 3, 5, 2, 0, tzinfo=UTC)  # the same Wednesday, 21:00 in New York
POLYGON = VENDORS["polygon"]


def us(hour: int, minute: int = 0, days: tuple[int, ...] = tuple(range(7))) -> Schedule:
    return Schedule("us", time(hour, minute), NEW_YORK, days=days, exchanges=("XNYS",))


def advice(
    *schedules: Schedule, rate: int = 5, now: datetime = MORNING, newest: date | None = None
) -> str | None:
    return plan_advice(POLYGON, rate, schedules, now, newest)


def test_the_free_plan_and_the_default_hour_do_not_fit() -> None:
    text = advice(nightly())
    assert text is not None
    assert "nightly (01:30 UTC) stores each session one run late" in text
    assert "POLYGON_RATE is 5" in text
    assert "ENRICHMENT_HOUR=6 fits" in text


def test_the_advised_settings_fit() -> None:
    for schedule in (nightly(6, 30), nightly(6, 0), nightly(6, 59), us(0, 45)):
        assert advice(schedule) is None


def test_a_larger_quota_is_another_plan() -> None:
    assert advice(nightly(), rate=100) is None


def test_what_the_vendor_has_just_sent_counts_more_than_the_quota() -> None:
    today, before = date(2026, 3, 4), date(2026, 3, 3)
    assert advice(nightly(), now=EVENING, newest=today) is None
    text = advice(nightly(), rate=100, now=EVENING, newest=before)
    assert text is not None
    assert "it has just sent nothing of 2026-03-04" in text


def test_past_midnight_a_complete_answer_proves_nothing() -> None:
    assert advice(nightly(), newest=date(2026, 3, 3)) is not None


@pytest.mark.parametrize(
    ("schedule", "late"),
    [
        (nightly(4, 30), True),  # 23:30 in New York in winter, 00:30 in summer
        (nightly(5, 0), False),
        (us(16), True),
        (us(15, 59), False),
        (us(20, days=(5, 6)), False),  # no session ends on these days
        (Schedule("c", time(1, 30), ZoneInfo("UTC"), asset_classes=(AssetClass.CRYPTO,)), False),
        (Schedule("l", time(18), ZoneInfo("Europe/London"), exchanges=("XLON",)), False),
    ],
)
def test_only_the_evening_of_a_session_in_new_york_is_too_early(
    schedule: Schedule, late: bool
) -> None:
    assert starts_before_midnight(schedule, MORNING) is late


@pytest.mark.parametrize("hour", range(24))
def test_the_advice_agrees_with_the_sandbox_of_the_free_plan(hour: int) -> None:
    """A year of nights: the plan withholds the newest session on one of them, or on none."""
    plan, schedule = PLANS["free"], nightly(hour, 30)
    missing = False
    for night in range(365):
        now = schedule.slot(date(2026, 1, 1) + timedelta(days=night)).at
        local = now.astimezone(NEW_YORK)
        if local.hour < 16 or local.weekday() > 4:
            continue  # its newest complete session is that of an earlier day
        day = int(datetime(local.year, local.month, local.day, tzinfo=NEW_YORK).timestamp() * 1000)
        missing |= plan.clipped(day, day, now) is None
    assert (advice(schedule) is not None) is missing
