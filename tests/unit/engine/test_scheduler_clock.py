"""Ticks follow the monotonic clock, whatever the local time does."""

from __future__ import annotations

import itertools
import time
from types import SimpleNamespace
from typing import Any, cast

import pytest

from enrichment.engine.scheduler import EnrichmentScheduler, ScheduleSettings


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin"])
def test_a_local_clock_that_goes_back_stops_no_tick(
    zone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    ticks: list[float] = []
    now = [1000.0]
    slots = SimpleNamespace(open_due_jobs=lambda: ticks.append(now[0]) or {}, maintain=lambda: None)
    nothing = cast(Any, None)
    scheduler = EnrichmentScheduler(
        ScheduleSettings(), cast(Any, slots), nothing, nothing, clock=lambda: now[0]
    )
    try:
        for _ in range(7201):  # two hours, in which only this clock goes on
            scheduler.run_due()
            now[0] += 1
    finally:
        monkeypatch.undo()
        time.tzset()
    assert len(ticks) == 241
    assert {later - earlier for earlier, later in itertools.pairwise(ticks)} == {30.0}
