"""Time that passes only while every thread of a test sleeps, as in a discrete-event simulation."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

START = datetime(2026, 3, 3, 6, 30, tzinfo=UTC)


class VirtualTime:
    """A clock for `threads` threads: it jumps to the earliest end of a sleep once all sleep.

    Args:
        threads: That are awake in the beginning. Others `join`.
        start: The wall clock in the beginning.
    """

    def __init__(self, threads: int, start: datetime = START) -> None:
        self._now, self._start = 0.0, start
        self._awake = threads
        self._ends: list[float] = []
        self._appointments: list[tuple[float, Callable[[], bool]]] = []
        self.lock = threading.RLock()
        self._changed = threading.Condition(self.lock)

    def nanoseconds(self) -> int:
        return round(self._now * 1e9)

    def wall(self) -> datetime:
        return self._start + timedelta(seconds=self._now)

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

    def join(self) -> None:
        """One more thread keeps time from passing until it sleeps or leaves."""
        with self._changed:
            self._awake += 1

    def call_in(self, seconds: float, action: Callable[[], bool]) -> None:
        """Run the action then; True: a thread that it starts is counted from there on."""
        with self._changed:
            self._appointments.append((self._now + seconds, action))

    def advance(self, by: timedelta) -> None:
        """Let time pass while no thread is awake."""
        with self._changed:
            self._now += by.total_seconds()

    def _fall_asleep(self) -> None:
        self._awake -= 1
        while self._awake == 0 and (self._ends or self._appointments):
            self._now = max(self._now, min([*self._ends, *(at for at, _ in self._appointments)]))
            reached = [action for at, action in self._appointments if at <= self._now]
            self._appointments = [one for one in self._appointments if one[0] > self._now]
            self._awake += sum([action() for action in reached])
            self._changed.notify_all()
            if min(self._ends, default=self._now + 1) <= self._now:
                return  # one of the sleeping threads wakes up

    @property
    def injectables(self) -> dict[str, Any]:
        return {"clock": self.nanoseconds, "wall_clock": self.wall, "sleep": self.sleep}
