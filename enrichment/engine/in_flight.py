"""What a worker has at hand: items that wait for a thread, are at work, or are being stored."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from uuid import UUID

from enrichment.domain.model import Task

AHEAD_SECONDS = 0.25  # how far ahead of its threads a worker claims
MOST_AHEAD = 100


class Hand:
    """The items of one worker with so many threads; any thread may call.

    clock: seconds, monotonic.
    """

    def __init__(self, threads: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._threads = threads
        self._clock = clock
        self._changed = threading.Condition()
        self._steps: dict[Task, str] = {}
        self._unbegun: dict[Task, float] = {}
        self._futures: dict[Task, Future[None]] = {}
        self._began: dict[Task, float] = {}
        self._on_threads: set[Task] = set()
        self._ended: set[UUID] = set()
        self._since, self._left, self._ahead = clock(), 0, 0

    @property
    def busy(self) -> int:
        """Threads at work."""
        return len(self._on_threads)

    def claim_capacity(self) -> int:
        """How many items to claim now: one for each idle thread, and as many ahead of the threads
        as they finished within AHEAD_SECONDS lately; 0 until half of these have begun.
        """
        with self._changed:
            self._look_back()
            claimed = len(self._on_threads) + len(self._unbegun)
            room = self._threads + self._ahead - claimed
            return max(0, room) if claimed < self._threads or 2 * room >= self._ahead else 0

    def _look_back(self) -> None:
        now = self._clock()
        if now - self._since >= AHEAD_SECONDS:
            pace = self._left / (now - self._since)
            self._ahead = min(MOST_AHEAD, int(pace * AHEAD_SECONDS))
            self._since, self._left = now, 0

    def take(self, tasks: Sequence[Task]) -> None:
        """These items are the worker's from now on."""
        with self._changed:
            now = self._clock()
            for task in tasks:
                self._steps[task] = "claimed"
                self._unbegun[task] = now

    def await_thread(self, task: Task, future: Future[None]) -> None:
        """The item runs once a thread is free, unless the future is cancelled before."""
        with self._changed:
            if task in self._unbegun:
                self._futures[task] = future

    def begin(self, task: Task) -> None:
        """A thread takes the item."""
        with self._changed:
            self._unbegun.pop(task, None)
            self._futures.pop(task, None)
            self._on_threads.add(task)
            self._began[task] = self._clock()

    def note(self, task: Task, step: str) -> None:
        """The item has reached a step."""
        with self._changed:
            if task in self._steps:
                self._steps[task] = step

    def leave(self, task: Task) -> None:
        """The item's thread is free again; the item itself is still being stored."""
        with self._changed:
            self._off_thread(task)

    def drop(self, task: Task) -> None:
        """The item is no longer this worker's."""
        with self._changed:
            self._off_thread(task)
            self._unbegun.pop(task, None)
            self._futures.pop(task, None)
            self._began.pop(task, None)
            self._steps.pop(task, None)
            self._ended.add(task.job_id)
            self._changed.notify_all()

    def _off_thread(self, task: Task) -> None:
        if task in self._on_threads:
            self._on_threads.remove(task)
            self._left += 1

    def steps(self, *, at_most: float = float("inf")) -> dict[Task, str]:
        """Item → its step, without those that have been at work for more seconds than this."""
        with self._changed:
            now = self._clock()
            hung = {task for task, began in self._began.items() if now - began > at_most}
            return {task: step for task, step in self._steps.items() if task not in hung}

    def unbegun(self, seconds: float) -> list[Task]:
        """Let go of the items that have waited for a thread for so long, and name them."""
        with self._changed:
            now = self._clock()
            late = [task for task, taken in self._unbegun.items() if now - taken >= seconds]
            free = [t for t in late if t in self._futures and self._futures[t].cancel()]
        for task in free:
            self.drop(task)
        return free

    def ended_a_job(self) -> bool:
        """Whether the last item at hand of some job has gone since this was last asked."""
        with self._changed:
            ended = self._ended - {task.job_id for task in self._steps}
            self._ended.clear()
        return bool(ended)

    def left_after(self, seconds: float) -> list[Task]:
        """Wait until no item is left, at most so long; the items that are."""
        with self._changed:
            self._changed.wait_for(lambda: not self._steps, timeout=seconds)
            return list(self._steps)
