"""What a worker has at hand: items that wait for a thread, are at work, or are being stored."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from uuid import UUID

from enrichment.domain.model import Task

PREFETCH_SECONDS = 0.25  # how far ahead of its threads a worker claims
MAX_PREFETCH = 100


class InFlightItems:
    """The items of one worker with so many threads; any thread may call.

    clock: seconds, monotonic.
    """

    def __init__(self, threads: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._threads = threads
        self._clock = clock
        self._changed = threading.Condition()
        self._steps: dict[Task, str] = {}
        self._unstarted: dict[Task, float] = {}
        self._futures: dict[Task, Future[None]] = {}
        self._started_at: dict[Task, float] = {}
        self._on_threads: set[Task] = set()
        self._touched_jobs: set[UUID] = set()
        self._measured_from, self._finished, self._prefetch = clock(), 0, 0

    @property
    def busy(self) -> int:
        """Threads at work."""
        return len(self._on_threads)

    def claim_capacity(self) -> int:
        """How many items to claim now: one for each idle thread, and as many ahead of the threads
        as they finished within AHEAD_SECONDS lately; 0 until half of these have begun.
        """
        with self._changed:
            self._measure_prefetch()
            claimed = len(self._on_threads) + len(self._unstarted)
            room = self._threads + self._prefetch - claimed
            return max(0, room) if claimed < self._threads or 2 * room >= self._prefetch else 0

    def _measure_prefetch(self) -> None:
        now = self._clock()
        if now - self._measured_from >= PREFETCH_SECONDS:
            pace = self._finished / (now - self._measured_from)
            self._prefetch = min(MAX_PREFETCH, int(pace * PREFETCH_SECONDS))
            self._measured_from, self._finished = now, 0

    def add(self, tasks: Sequence[Task]) -> None:
        """These items are the worker's from now on."""
        with self._changed:
            now = self._clock()
            for task in tasks:
                self._steps[task] = "claimed"
                self._unstarted[task] = now

    def attach_future(self, task: Task, future: Future[None]) -> None:
        """The item runs once a thread is free, unless the future is cancelled before."""
        with self._changed:
            if task in self._unstarted:
                self._futures[task] = future

    def start(self, task: Task) -> None:
        """A thread takes the item."""
        with self._changed:
            self._unstarted.pop(task, None)
            self._futures.pop(task, None)
            self._on_threads.add(task)
            self._started_at[task] = self._clock()

    def set_step(self, task: Task, step: str) -> None:
        """The item has reached a step."""
        with self._changed:
            if task in self._steps:
                self._steps[task] = step

    def release_thread(self, task: Task) -> None:
        """The item's thread is free again; the item itself is still being stored."""
        with self._changed:
            self._free_thread(task)

    def remove(self, task: Task) -> None:
        """The item is no longer this worker's."""
        with self._changed:
            self._free_thread(task)
            self._unstarted.pop(task, None)
            self._futures.pop(task, None)
            self._started_at.pop(task, None)
            self._steps.pop(task, None)
            self._touched_jobs.add(task.job_id)
            self._changed.notify_all()

    def _free_thread(self, task: Task) -> None:
        if task in self._on_threads:
            self._on_threads.remove(task)
            self._finished += 1

    def steps(self, *, max_seconds: float = float("inf")) -> dict[Task, str]:
        """Item → its step, without those that have been at work for more seconds than this."""
        with self._changed:
            now = self._clock()
            hung = {task for task, began in self._started_at.items() if now - began > max_seconds}
            return {task: step for task, step in self._steps.items() if task not in hung}

    def evict_unstarted(self, seconds: float) -> list[Task]:
        """Let go of the items that have waited for a thread for so long, and name them."""
        with self._changed:
            now = self._clock()
            late = [task for task, taken in self._unstarted.items() if now - taken >= seconds]
            free = [t for t in late if t in self._futures and self._futures[t].cancel()]
        for task in free:
            self.remove(task)
        return free

    def job_drained(self) -> bool:
        """Whether the last item at hand of some job has gone since this was last asked."""
        with self._changed:
            ended = self._touched_jobs - {task.job_id for task in self._steps}
            self._touched_jobs.clear()
        return bool(ended)

    def wait_until_empty(self, seconds: float) -> list[Task]:
        """Wait until no item is left, at most so long; the items that are."""
        with self._changed:
            self._changed.wait_for(lambda: not self._steps, timeout=seconds)
            return list(self._steps)
