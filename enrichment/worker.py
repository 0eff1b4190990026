"""A worker: claims items, runs each through the pipeline on a thread, records what became of it.

It claims only as many items as it has free threads. A heartbeat on a connection of its own renews
the leases, publishes each item's step, and gives back what other workers lost. If the heartbeat
fails for a whole lease, the worker no longer owns anything and stops itself.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from enrichment.domain import Failure, Task, Written
from enrichment.errors import Cancelled, EnrichmentError, LeaseLost, Snooze, StepFailed

_log = logging.getLogger(__name__)
FIRST_RETRY_SECONDS = 2.0
TOGETHER_SECONDS = 0.002  # items that end this close together are replaced by one claim


class Queue(Protocol):
    """The queue as a worker sees it; `storage.jobs.JobQueue` is the real one."""

    def claim(self, worker_id: str, limit: int) -> list[Task]: ...

    def renew(self, tasks: Mapping[Task, str]) -> set[Task]: ...

    def drop(self, task: Task) -> None: ...

    def give_back(self, task: Task, seconds: float = 0.0, why: str | None = None) -> None: ...

    def fail(self, task: Task, failure: Failure, retry_after: float | None) -> None: ...

    def close_finished(self) -> list[UUID]: ...

    def reap(self, max_retries: int) -> int: ...


class Registry(Protocol):
    """This worker's entry among the workers."""

    worker_id: str

    def beat(self, *, busy: int, state: str) -> None: ...


Enrich = Callable[[Task, Callable[[str], None]], Written]


@dataclass(frozen=True, slots=True)
class Pace:
    """A worker's rhythm, in seconds."""

    poll: float = 1.0
    heartbeat: float = 10.0
    lease: float = 30.0
    drain: float = 10.0
    longest_item: float = 3600.0


class Worker:
    """Runs until `stop()`; `max_retries` counted failures per item, after 2, 4, 8 … seconds."""

    def __init__(
        self,
        enrich: Enrich,
        queue: Queue,
        registry: Registry,
        *,
        heartbeat_queue: Queue,
        threads: int,
        max_retries: int,
        pace: Pace | None = None,
    ) -> None:
        self._enrich = enrich
        self._queue = queue
        self._registry = registry
        self._heartbeat_queue = heartbeat_queue
        self._threads = threads
        self._max_retries = max_retries
        self._pace = pace or Pace()
        self._lock = threading.Lock()
        self._steps: dict[Task, str] = {}
        self._began: dict[Task, float] = {}
        self._cancelled: set[Task] = set()
        self._ended: set[UUID] = set()
        self._futures: set[Future[None]] = set()
        self._unrecorded: list[tuple[Task, Exception]] = []
        self._trouble = ""
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._stopped = threading.Event()

    def wake(self) -> None:
        """Look for work now."""
        self._wake.set()

    def stop(self) -> None:
        """Stop claiming; `run` returns once the items at hand are finished or given back."""
        self._stopping.set()
        self._wake.set()

    def run(self) -> bool:
        """Work until stopped. False if items were still hanging when they were given back."""
        heart = threading.Thread(target=self._beat_until_stopped, name="heartbeat", daemon=True)
        heart.start()
        pool = ThreadPoolExecutor(self._threads, thread_name_prefix="enrich")
        try:
            while not self._stopping.is_set():
                self._wake.clear()
                self._round(pool)
                self._wake.wait(self._pace.poll)
                if self._at_hand():
                    self._stopping.wait(TOGETHER_SECONDS)
            return self._drain()
        finally:
            self._stopped.set()
            pool.shutdown(wait=False, cancel_futures=True)
            heart.join(timeout=self._pace.drain)

    def _round(self, pool: ThreadPoolExecutor) -> None:
        """Claim as many items as there are free threads, and close jobs that have ended."""
        try:
            free = self._threads - len(self._at_hand())
            for task in self._queue.claim(self._registry.worker_id, free) if free else ():
                self._begin(pool, task)
            self._record_the_unrecorded()
            self._futures = {future for future in self._futures if not future.done()}
            if self._ended_a_job():
                self._queue.close_finished()
            if self._trouble:
                _log.info("claiming again")
            self._trouble = ""
        except EnrichmentError as exc:
            if str(exc) != self._trouble:  # said once, not at every poll
                _log.error("no new work for now: %s", exc)
            self._trouble = str(exc)

    def _begin(self, pool: ThreadPoolExecutor, task: Task) -> None:
        with self._lock:
            self._steps[task] = "claimed"
            self._began[task] = time.monotonic()
        self._futures.add(pool.submit(self._run_item, task))

    def _ended_a_job(self) -> bool:
        """Whether the last item at hand of some job has ended here since the last round."""
        with self._lock:
            ended = self._ended - {task.job_id for task in self._steps}
            self._ended.clear()
        return bool(ended)

    def _at_hand(self) -> dict[Task, str]:
        with self._lock:
            return dict(self._steps)

    def _run_item(self, task: Task) -> None:
        try:
            written = self._enrich(task, lambda step: self._note(task, step))
            _log.info(
                "%s completed: %d inserted, %d updated",
                task.symbol,
                written.inserted,
                written.updated,
            )
        except Exception as exc:  # the one broad catch: whatever an item does, it is recorded
            self._record(task, exc)
        finally:
            with self._lock:
                self._steps.pop(task, None)
                self._began.pop(task, None)
                self._cancelled.discard(task)
                self._ended.add(task.job_id)
            self._wake.set()

    def _note(self, task: Task, step: str) -> None:
        """Remember the step an item has reached; Cancelled if its job should end here."""
        with self._lock:
            if task in self._steps:
                self._steps[task] = step
            cancelled = task in self._cancelled
        if cancelled:
            raise Cancelled(f"{task.symbol}: the job was cancelled")

    def _record(self, task: Task, exc: Exception) -> None:
        """Snooze, retry or fail the item; what can't be written now is written before the next
        claim, unless the lease has run out by then.
        """
        cause = exc.__cause__ if isinstance(exc, StepFailed) and exc.__cause__ else exc
        try:
            if isinstance(cause, LeaseLost):
                _log.warning("%s: %s", task.symbol, cause)
            elif isinstance(cause, Cancelled):
                _log.info("%s", cause)
                self._queue.drop(task)
            elif isinstance(cause, Snooze):
                _log.info("%s waits %.0f s: %s", task.symbol, cause.seconds, cause)
                self._queue.give_back(task, cause.seconds, str(cause))
            else:
                self._fail(task, _failure(exc, cause), permanent=_is_permanent(cause))
        except LeaseLost as lost:
            _log.warning("%s: %s", task.symbol, lost)
        except EnrichmentError as error:
            _log.error("%s: outcome not recorded yet: %s", task.symbol, error)
            with self._lock:
                self._unrecorded.append((task, exc))

    def _record_the_unrecorded(self) -> None:
        with self._lock:
            waiting, self._unrecorded = self._unrecorded, []
        for task, exc in waiting:
            self._record(task, exc)

    def _fail(self, task: Task, failure: Failure, *, permanent: bool) -> None:
        last = permanent or task.retry_count >= self._max_retries
        delay = None if last else FIRST_RETRY_SECONDS * 2.0**task.retry_count
        _log.warning(
            "%s failed at %s (%s), %s",
            task.symbol,
            failure.step,
            failure.error,
            "for good" if delay is None else f"again in {delay:.0f} s",
        )
        self._queue.fail(task, failure, delay)

    def _beat_until_stopped(self) -> None:
        alive = time.monotonic()
        while not self._stopped.is_set():
            try:
                self._beat()
                alive = time.monotonic()
            except EnrichmentError as exc:
                _log.error("heartbeat failed: %s", exc)
                if time.monotonic() - alive > self._pace.lease:
                    _log.critical("no heartbeat for a whole lease: this worker stops itself")
                    self.stop()
            self._stopped.wait(self._pace.heartbeat)

    def _beat(self) -> None:
        at_hand = self._at_hand()
        now = time.monotonic()
        with self._lock:
            hung = {t for t, began in self._began.items() if now - began > self._pace.longest_item}
        cancelled = self._heartbeat_queue.renew(
            {task: step for task, step in at_hand.items() if task not in hung}
        )
        with self._lock:
            self._cancelled = cancelled & self._steps.keys()
        self._registry.beat(
            busy=len(at_hand), state="draining" if self._stopping.is_set() else "running"
        )
        if self._heartbeat_queue.reap(self._max_retries):
            self._wake.set()
        self._heartbeat_queue.close_finished()

    def _drain(self) -> bool:
        """Let the items at hand finish for a while, then give the rest back, attempts unchanged."""
        wait(self._futures, timeout=self._pace.drain)
        hanging = self._at_hand()
        try:
            for task in hanging:
                self._queue.give_back(task)
                _log.warning("%s given back unfinished", task.symbol)
            self._queue.close_finished()
            self._registry.beat(busy=0, state="stopped")
        except EnrichmentError as exc:
            _log.error("stopped without saying so, the leases at hand will run out: %s", exc)
        return not hanging


def _failure(exc: Exception, cause: BaseException) -> Failure:
    step = exc if isinstance(exc, StepFailed) else StepFailed("run", None, 0.0)
    message = " ".join(str(cause).split()) or type(cause).__name__
    return Failure(
        type(cause).__name__, message[:1000], step.step, step.timeframe, step.duration_ms
    )


def _is_permanent(cause: BaseException) -> bool:
    return isinstance(cause, EnrichmentError) and cause.permanent
