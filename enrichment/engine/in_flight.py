"""The items that a worker has claimed: waiting for a thread, running, or being stored."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from uuid import UUID

from enrichment.domain.model import Task

PREFETCH_SECONDS = 0.25  # a worker claims what its threads start within this time
MAX_PREFETCH = 100


class InFlightItems:
    """Thread-safe set of a worker's claimed items.

    Args:
        threads: Number of the worker's threads.
        reserved: Number of further threads, for what a person asked for while other items hold
            the threads.
        clock: Monotonic seconds.
    """

    def __init__(
        self, threads: int, reserved: int = 0, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._threads, self._reserved_threads = threads, reserved
        self._reserved: set[Task] = set()
        self._clock = clock
        self._changed = threading.Condition()  # of an RLock: methods call each other
        self._steps: dict[Task, str] = {}
        self._unstarted: dict[Task, float] = {}
        self._futures: dict[Task, Future[None]] = {}
        self._started_at: dict[Task, float] = {}
        self._on_threads: set[Task] = set()
        self._touched_jobs: set[UUID] = set()
        self._measured_from, self._finished, self._prefetch = clock(), 0, 0

    @property
    def busy(self) -> int:
        """Number of threads that run an item."""
        return len(self._on_threads)

    def claim_capacity(self) -> int:
        """Number of items to claim now.

        One per idle thread, plus as many as the threads recently finished in PREFETCH_SECONDS. 0
        while each thread has an item and more than half of the prefetched items are left.
        """
        with self._changed:
            self._measure_prefetch()
            claimed = len((self._on_threads | self._unstarted.keys()) - self._reserved)
            capacity = self._threads + self._prefetch - claimed
            enough = claimed >= self._threads and 2 * capacity < self._prefetch
            return 0 if enough else max(0, capacity)

    def reserved_capacity(self) -> int:
        """Number of reserved threads that can take an item: at most as many as other items hold."""
        with self._changed:
            claimed = self._on_threads | self._unstarted.keys()
            others = sum(not task.interactive for task in claimed)
            return max(0, min(self._reserved_threads, others) - len(self._reserved))

    def _measure_prefetch(self) -> None:
        now = self._clock()
        if now - self._measured_from >= PREFETCH_SECONDS:
            per_second = self._finished / (now - self._measured_from)
            self._prefetch = min(MAX_PREFETCH, int(per_second * PREFETCH_SECONDS))
            self._measured_from, self._finished = now, 0

    def add(self, tasks: Sequence[Task]) -> None:
        """Add items that have just been claimed."""
        with self._changed:
            now = self._clock()
            for task in tasks:
                self._steps[task] = "claimed"
                self._unstarted[task] = now

    def reserve(self, task: Task) -> bool:
        """Give an added item a reserved thread, if it may have one and one is free."""
        with self._changed:
            if not task.interactive or self.reserved_capacity() == 0:
                return False
            self._reserved.add(task)
            return True

    def attach_future(self, task: Task, future: Future[None]) -> None:
        """Store the future of an item that waits for a thread, by which it can be evicted."""
        with self._changed:
            if task in self._unstarted:
                self._futures[task] = future

    def start(self, task: Task) -> None:
        """Mark an item as running on its thread."""
        with self._changed:
            self._steps[task] = self._steps.pop(task)  # the key names the thread from now on
            self._unstarted.pop(task, None)
            self._futures.pop(task, None)
            self._on_threads.add(task)
            self._started_at[task] = self._clock()

    def set_step(self, task: Task, step: str) -> None:
        """Set the step that an item has reached."""
        with self._changed:
            if task in self._steps:
                self._steps[task] = step

    def release_thread(self, task: Task) -> None:
        """Free the thread of an item whose rows are still being stored."""
        with self._changed:
            self._free_thread(task)

    def remove(self, task: Task) -> None:
        """Remove an item that has finished, failed or been released."""
        with self._changed:
            self._free_thread(task)
            self._reserved.discard(task)
            self._unstarted.pop(task, None)
            self._futures.pop(task, None)
            self._started_at.pop(task, None)
            self._steps.pop(task, None)
            self._touched_jobs.add(task.job_id)
            self._changed.notify_all()

    def _free_thread(self, task: Task) -> None:
        if task in self._on_threads:
            self._on_threads.remove(task)
            self._reserved.discard(task)
            self._finished += 1

    def steps(self, *, max_seconds: float = float("inf")) -> dict[Task, str]:
        """Step by item, without the items that have been running for more than `max_seconds`."""
        with self._changed:
            now = self._clock()
            hung = {task for task, start in self._started_at.items() if now - start > max_seconds}
            return {task: step for task, step in self._steps.items() if task not in hung}

    def evict_unstarted(self, seconds: float) -> list[Task]:
        """Remove and return the items that have waited for a thread for at least `seconds`."""
        with self._changed:
            now = self._clock()
            late = [task for task, added in self._unstarted.items() if now - added >= seconds]
            evicted = [t for t in late if t in self._futures and self._futures[t].cancel()]
        for task in evicted:
            self.remove(task)
        return evicted

    def job_drained(self) -> bool:
        """Whether the last in-flight item of some job was removed since the previous call."""
        with self._changed:
            drained = self._touched_jobs - {task.job_id for task in self._steps}
            self._touched_jobs.clear()
        return bool(drained)

    def wait_until_empty(self, seconds: float) -> list[Task]:
        """Wait at most `seconds` until no item is left; returns those that are."""
        with self._changed:
            self._changed.wait_for(lambda: not self._steps, timeout=seconds)
            return list(self._steps)
