"""Time that passes only while every thread of a test sleeps, as in a discrete-event simulation."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from typing import Any

START = datetime(2026, 3, 3, 6, 30, tzinfo=UTC)


class VirtualTime:
    """A clock for `threads` threads: it jumps to the earliest end of a sleep once all sleep."""

    def __init__(self, threads: int) -> None:
        self._now = 0.0
        self._awake = threads
        self._ends: list[float] = []
        self._changed = threading.Condition()

    def nanoseconds(self) -> int:
        return round(self._now * 1e9)

    def wall(self) -> datetime:
        return START + timedelta(seconds=self._now)

    def sleep(self, seconds: float) -> None:
        with self._changed:
            end = self._now + seconds
            self._ends.append(end)
            self._fall_asleep()
            self._changed.wait_for(lambda: self._now >= end)
            self._ends.remove(end)
            self._awake += 1

    def leave(self) -> None:
        """A thread that ends no longer keeps time from passing."""
        with self._changed:
            self._fall_asleep()

    def _fall_asleep(self) -> None:
        self._awake -= 1
        if self._awake == 0 and self._ends:
            self._now = max(self._now, min(self._ends))
            self._changed.notify_all()

    @property
    def injectables(self) -> dict[str, Any]:
        return {"clock": self.nanoseconds, "wall_clock": self.wall, "sleep": self.sleep}
