"""A preview says what then happens: requests, and minutes at the vendor's quota."""

from __future__ import annotations

from datetime import timedelta

import pytest

from enrichment.services.request_plan import RequestPlan, RequestSettings, plan_requests
from enrichment.warehouse.database import Database
from enrichment.warehouse.queue import symbols as tracked_symbols
from tests.helpers.free_plan import FreePlanNights, free_plan_nights

SETTINGS = RequestSettings(
    {"stock": ("polygon", "yahoo")}, {"polygon": 5, "yahoo": 60}, 365, whole_days=()
)
SYMBOLS = [f"SIM{n}" for n in range(1, 13)]


def preview(nights: FreePlanNights, symbols: list[str]) -> RequestPlan:
    with nights.db.begin() as conn:
        items = tracked_symbols.select(conn, symbols)
        return plan_requests(conn, items, now=nights.time.wall(), settings=SETTINGS)


@pytest.mark.parametrize("timeframes", ["1d", "1h,4h,1d,1w"])
def test_the_preview_is_what_the_job_then_takes(db: Database, timeframes: str) -> None:
    with free_plan_nights(db, SYMBOLS, threads=5, timeframes=timeframes) as nights:
        for chosen in (SYMBOLS[:5], SYMBOLS, SYMBOLS[3:]):  # first runs, both, then updates
            planned = preview(nights, chosen)
            began = nights.time.wall()
            asked = nights.run(chosen)
            minutes = (nights.time.wall() - began) / timedelta(minutes=1)
            assert asked == {"ok": planned.total_requests}
            assert minutes == pytest.approx(planned.minutes["polygon"], rel=0.2, abs=0.1)
            nights.next_night()
