"""Timeframes that are built from the same bars share one request."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
from pydantic import SecretStr

from enrichment.config import Settings
from enrichment.domain.model import AssetClass, Timeframe, Window
from enrichment.warehouse.database import Database
from enrichment.warehouse.read_models.quality_symbol import QualityReports
from enrichment.wiring.vendors import build_providers
from resilience import init_resilience_manager
from tests.helpers.free_plan import free_plan_nights

DAYS, HALF_HOURS = 1, 5  # pages of a year


def test_days_and_half_hours_are_asked_for_once(db: Database) -> None:
    with free_plan_nights(
        db, ["SIM1"], threads=1, plan="paid", timeframes="30m,1h,4h,1d,1w"
    ) as nights:
        assert nights.run() == {"ok": DAYS + HALF_HOURS}
        nights.next_night()
        assert nights.run() == {"ok": 2}
        logged = nights.rows(
            "SELECT timeframe, sum(requests) FROM enrichment_fetch_log GROUP BY timeframe"
        )
        assert dict(logged) == {"30m": 0, "1h": 0, "4h": HALF_HOURS + 1, "1d": 0, "1w": DAYS + 1}
        settings = Settings(
            polygon_api_key=SecretStr("key"), polygon_base_url=nights.url, polygon_rate=100_000
        )
        now = nights.time.wall()
        alone = build_providers(settings, init_resilience_manager(), now=lambda: now)
        window = Window((now - timedelta(days=366)).replace(hour=0, minute=0), now)
        for timeframe in (Timeframe.M30, Timeframe.H1, Timeframe.H4, Timeframe.D1, Timeframe.W1):
            stored = QualityReports(db).bars("SIM1", timeframe)
            fetched = alone.fetch("SIM1", AssetClass.STOCK, timeframe, window).bars
            by_start = dict(zip(fetched.ts.tolist(), fetched.close.tolist(), strict=True))
            assert len(stored.ts) > 50
            expected = [by_start[ts] for ts in stored.ts.tolist()]
            np.testing.assert_array_equal(stored.close, expected, err_msg=timeframe)


def test_an_item_of_one_timeframe_is_asked_for_as_before(db: Database) -> None:
    with free_plan_nights(db, ["SIM1"], threads=1, plan="paid", timeframes="1w") as nights:
        assert nights.run() == {"ok": DAYS}
        (row,) = nights.rows("SELECT count(*), max(ts) FROM bars")
        assert row == (52, datetime(2026, 2, 23, tzinfo=UTC))
