"""The first night of a free plan: 5 requests a minute, more threads than that, no fallback."""

from __future__ import annotations

import threading
from collections import Counter, deque
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import pytest
from pydantic import SecretStr

from enrichment.config import Settings
from enrichment.domain.errors import Snooze, StepFailed
from enrichment.domain.model import AssetClass, Task, Timeframe
from enrichment.pipeline.enrich import EnrichmentPipeline
from enrichment.sandbox import create_app, running
from enrichment.wiring.vendors import build_providers
from resilience import init_resilience_manager
from tests.helpers.fakes import EmptyStore
from tests.helpers.virtual_time import VirtualTime

NIGHT_SECONDS = 3600.0
TIMEFRAMES = (Timeframe.H1, Timeframe.D1)


class Night:
    """Runs items on threads; what is snoozed returns to the end of the queue when it is due."""

    def __init__(self, pipeline: EnrichmentPipeline[None], time: VirtualTime, symbols: int) -> None:
        self._pipeline, self._time, self._lock = pipeline, time, threading.Lock()
        self._queue = deque(
            (0.0, Task(UUID(int=n), f"SIM{n}", AssetClass.STOCK, TIMEFRAMES, "w", 1))
            for n in range(1, symbols + 1)
        )
        self._running = 0

    def run(self, threads: int) -> None:
        with ThreadPoolExecutor(threads) as pool:
            for finished in [pool.submit(self._work) for _ in range(threads)]:
                finished.result()

    def _work(self) -> None:
        try:
            while (task := self._claim()) is not None:
                self._enrich(task)
        finally:
            self._time.leave()

    def _claim(self) -> Task | None:
        while True:
            with self._lock:
                now = self._time.nanoseconds() / 1e9
                assert now < NIGHT_SECONDS, "the night does not end"
                for item in self._queue:
                    if item[0] <= now:
                        self._queue.remove(item)
                        self._running += 1
                        return item[1]
                if not self._queue and not self._running:
                    return None
            self._time.sleep(1.0)

    def _enrich(self, task: Task) -> None:
        again = None
        try:
            self._pipeline.enrich(task)
        except StepFailed as failure:
            if not isinstance(failure.__cause__, Snooze):
                raise
            again = self._time.nanoseconds() / 1e9 + failure.__cause__.seconds
        finally:
            with self._lock:
                self._running -= 1
                if again is not None:
                    self._queue.append((again, task))


@pytest.mark.parametrize("threads", [5, 10])
def test_every_series_is_complete_from_the_first_vendor(threads: int) -> None:
    time, store = VirtualTime(threads), EmptyStore()
    app = create_app(clock=time.wall, plan="free")
    vendor = app.extensions["sandbox"]
    with running(app) as url:
        settings = Settings(
            polygon_api_key=SecretStr("free"), polygon_base_url=url, yahoo_base_url=url
        )
        manager = init_resilience_manager(**time.injectables)
        pipeline = EnrichmentPipeline(
            build_providers(settings, manager), store, history_days=365, now=time.wall
        )
        Night(pipeline, time, symbols=12).run(threads)
    assert len(store.updates) == 24
    fetches = [fetch for update in store.updates.values() for fetch in update.fetches]
    assert {fetch.source for fetch in fetches} == {"polygon"}
    bars = Counter((tf, len(update.bars)) for (_, tf), update in store.updates.items())
    assert sorted(bars.values()) == [12, 12]
    assert all(update.quality.completeness == 1.0 for update in store.updates.values())
    assert {update.bars.ts[0].astype("M8[M]").item().year for update in store.updates.values()} == {
        2025
    }
    assert set(vendor.requests.describe()["by_outcome"]) == {"ok"}
    answered = sum(fetch.fetched.requests for fetch in fetches if fetch.fetched)
    assert vendor.requests.describe()["total"] == answered  # none was asked twice
