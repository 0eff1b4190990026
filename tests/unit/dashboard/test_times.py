"""Daily and weekly bars are dates: no time zone moves them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from enrichment.dashboard.times import bar_time

FRIDAY = datetime(2024, 1, 5, tzinfo=UTC)


@pytest.mark.parametrize("timeframe", ["1d", "1w"])
@pytest.mark.parametrize("hours", [-11, -5, 0, 9, 14])
def test_a_daily_bar_keeps_its_date_in_every_zone(timeframe: str, hours: int) -> None:
    local = FRIDAY.astimezone(timezone(timedelta(hours=hours)))
    assert bar_time(local, timeframe) == "2024-01-05"


def test_no_bar_has_no_time() -> None:
    assert bar_time(None, "1d") == "–"
