"""How long vendors' quotas will keep a job waiting."""

from __future__ import annotations

from datetime import datetime, time

import pytest

from enrichment.domain.forecast import VendorWork, deadline_after, longest


def test_a_quota_is_the_pace_of_a_job_that_has_just_begun() -> None:
    work = VendorWork("polygon", 100, recent_requests=5, recent_seconds=1.0, per_minute=5)
    assert (work.pace, work.seconds_left()) == (5.0, 1200.0)


def test_a_vendor_that_is_slower_than_its_quota_is_believed_in_time() -> None:
    paces = [
        VendorWork(
            "p", 1, recent_requests=minutes, recent_seconds=60.0 * minutes, per_minute=5
        ).pace
        for minutes in (1, 5, 15)
    ]
    assert paces == pytest.approx([4.0, 2.5, 1.67], abs=0.01)  # of one request a minute


def test_a_vendor_without_a_quota_has_the_pace_that_was_seen() -> None:
    work = VendorWork("binance", 600, recent_requests=300, recent_seconds=60.0)
    assert work.seconds_left() == 120.0
    assert VendorWork("binance", 600, 0, 60.0).seconds_left() == 0.0


def test_a_pause_is_waited_for() -> None:
    paused = VendorWork("p", 5, 0, 60.0, per_minute=5, blocked_seconds=600.0)
    assert paused.seconds_left() == pytest.approx(600.0 + 60 * 5 / 3.75)
    assert VendorWork("p", 5, 0, 60.0, blocked_seconds=None).seconds_left() is None
    assert VendorWork("p", 0, 0, 60.0, blocked_seconds=None).seconds_left() == 0.0


def test_a_job_takes_as_long_as_its_slowest_vendor() -> None:
    assert longest([1.0, 3.0, 2.0]) == 3.0
    assert longest([1.0, None]) is None
    assert longest([]) is None


@pytest.mark.parametrize(
    ("moment", "expected"),
    [
        ("2024-03-01T01:30Z", "2024-03-01T04:00Z"),
        ("2024-03-01T04:00Z", "2024-03-01T04:00Z"),
        ("2024-03-01T04:00:01Z", "2024-03-02T04:00Z"),
        ("2024-02-29T22:00Z", "2024-03-01T04:00Z"),
    ],
)
def test_the_deadline_of_a_run_is_the_next_one(moment: str, expected: str) -> None:
    found = deadline_after(datetime.fromisoformat(moment), time(4))
    assert found == datetime.fromisoformat(expected)
