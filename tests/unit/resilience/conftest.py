"""A clock that advances only when told to, and when code sleeps on it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest


class FakeTime:
    start = datetime(2024, 1, 1, tzinfo=UTC)

    def __init__(self) -> None:
        self.ns = 0
        self.slept: list[float] = []
        self.on_sleep: Callable[[], object] = lambda: None

    def __call__(self) -> int:
        return self.ns

    def wall(self) -> datetime:
        return self.start + timedelta(microseconds=self.ns / 1000)

    def advance(self, seconds: float) -> None:
        self.ns += round(seconds * 1e9)

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.on_sleep()
        self.advance(seconds)

    async def async_sleep(self, seconds: float) -> None:
        self.sleep(seconds)

    @property
    def injectables(self) -> dict[str, object]:
        return {"clock": self, "wall_clock": self.wall}

    @property
    def sleeping_injectables(self) -> dict[str, object]:
        return {**self.injectables, "sleep": self.sleep, "async_sleep": self.async_sleep}


@pytest.fixture
def time() -> FakeTime:
    return FakeTime()


@pytest.fixture(scope="session")
def new_time() -> type[FakeTime]:
    return FakeTime


@pytest.fixture(scope="session")
def in_threads() -> Callable[..., list[object]]:
    """Runs a function in n threads that start together; returns results or exceptions."""

    def run(n: int, fn: Callable[[], object]) -> list[object]:
        start, results = threading.Barrier(n), []

        def body() -> None:
            start.wait()
            try:
                results.append(fn())
            except Exception as error:
                results.append(error)

        threads = [threading.Thread(target=body) for _ in range(n)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return results

    return run
