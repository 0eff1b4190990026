"""A worker: claims items, runs each through the pipeline on a thread, records what became of it.

It claims as many items as it has free threads, and ahead of them what its threads will begin within
a quarter of a second: nothing where a symbol takes long, dozens where many small ones are read and
stored together. A heartbeat on a connection of its own renews
the leases, publishes each item's step, and gives back what other workers lost. If the heartbeat
fails for a whole lease, and again when asked anew, the worker stops itself. Once does not count: a
machine that was asleep finds its connection ended, has lost its items, and may go on with others.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from enrichment.domain.errors import Cancelled, EnrichmentError, LeaseLost, Snooze, StepFailed
from enrichment.domain.model import Failure, RowCounts, Task
from enrichment.engine.in_flight import InFlightItems

_log = logging.getLogger(__name__)
FIRST_RETRY_SECONDS = 2.0
BATCH_SECONDS = 0.002  # items that end this close together are replaced by one claim


class ItemQueue(Protocol):
    """The queue as a worker sees it; `storage.jobs.JobQueue` is the real one."""

    def claim(self, worker_id: str, limit: int) -> list[Task]: ...

    def renew(self, tasks: Mapping[Task, str]) -> set[Task]: ...

    def discard(self, task: Task) -> None: ...

    def release(self, task: Task, seconds: float = 0.0, why: str | None = None) -> None: ...

    def fail(self, task: Task, failure: Failure, retry_after: float | None) -> None: ...

    def close_finished_jobs(self) -> list[UUID]: ...

    def reclaim_expired(self, max_retries: int) -> int: ...


class Registry(Protocol):
    """This worker's entry among the workers."""

    worker_id: str

    def beat(self, *, busy: int, state: str, note: str | None = None) -> None: ...


# What is promised is stored by somebody else: the item stays at hand, its thread does not.
Enrich = Callable[[Task, Callable[[str], None]], RowCounts | Future[RowCounts]]
Prepare = Callable[[Sequence[Task]], Sequence[Enrich]]
BlockedReason = Callable[[], str | None]


@dataclass(frozen=True, slots=True)
class WorkerTiming:
    """A worker's rhythm, in seconds."""

    poll: float = 1.0
    heartbeat: float = 10.0
    lease: float = 30.0
    drain: float = 10.0
    max_item: float = 3600.0


class Worker:
    """Runs until `stop()`; `max_retries` counted failures per item, after 2, 4, 8 … seconds.

    ready: what to run for each of the items that were claimed together; default: `enrich` for all.
    waits: for what; nothing is claimed meanwhile. None: for nothing.
    """

    def __init__(
        self,
        enrich: Enrich,
        queue: ItemQueue,
        registry: Registry,
        *,
        heartbeat_queue: ItemQueue,
        threads: int,
        max_retries: int,
        timing: WorkerTiming | None = None,
        prepare: Prepare | None = None,
        blocked_reason: BlockedReason = lambda: None,
    ) -> None:
        self._enrich = enrich
        self._blocked_reason = blocked_reason
        self._prepare = prepare
        self._queue = queue
        self._registry = registry
        self._heartbeat_queue = heartbeat_queue
        self._max_retries = max_retries
        self._timing = timing or WorkerTiming()
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="enrich")
        self._in_flight = InFlightItems(threads)
        self._cancelled: set[Task] = set()
        self._pending_outcomes: list[tuple[Task, Exception]] = []
        self._lock = threading.Lock()
        self._last_error = ""
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
        try:
            while not self._stopping.is_set():
                self._wake.clear()
                self._claim_and_start()
                self._wake.wait(self._timing.poll)
                if self._in_flight.steps():
                    self._stopping.wait(BATCH_SECONDS)
            return self._drain()
        finally:
            self._stopped.set()
            self._pool.shutdown(wait=False, cancel_futures=True)
            heart.join(timeout=self._timing.drain)

    def _claim_and_start(self) -> None:
        """Claim what the threads will take next, and close jobs that have ended."""
        try:
            room = 0 if self._blocked_reason() else self._in_flight.claim_capacity()
            if room:
                self._start(self._queue.claim(self._registry.worker_id, room))
            self._record_pending()
            if self._in_flight.job_drained():
                self._queue.close_finished_jobs()
            if self._last_error:
                _log.info("claiming again")
            self._last_error = ""
        except EnrichmentError as exc:
            if str(exc) != self._last_error:  # said once, not at every poll
                _log.error("no new work for now: %s", exc)
            self._last_error = str(exc)

    def _start(self, tasks: Sequence[Task]) -> None:
        self._in_flight.add(tasks)
        for task, enrich in zip(tasks, self._prepared(tasks), strict=True):
            self._in_flight.attach_future(task, self._pool.submit(self._run_item, task, enrich))

    def _prepared(self, tasks: Sequence[Task]) -> Sequence[Enrich]:
        if self._prepare is not None and tasks:
            try:
                return self._prepare(tasks)
            except Exception as exc:  # what fails for one of them fails again with it, recorded
                _log.warning("%d symbols are read one by one: %s", len(tasks), exc)
        return [self._enrich] * len(tasks)

    def _run_item(self, task: Task, enrich: Enrich) -> None:
        self._in_flight.start(task)
        try:
            outcome = enrich(task, lambda step: self._on_step(task, step))
        except Exception as exc:  # the one broad catch: whatever an item does, it is recorded
            self._fail_item(task, exc)
            return
        if isinstance(outcome, Future):
            self._in_flight.release_thread(task)
            self._wake.set()
            outcome.add_done_callback(lambda kept: self._on_stored(task, kept))
        else:
            self._complete_item(task, outcome)

    def _on_stored(self, task: Task, promise: Future[RowCounts]) -> None:
        failure = promise.exception()
        if failure is None:
            self._complete_item(task, promise.result())
        elif isinstance(failure, Exception):
            # Whoever keeps promises does not wait for what became of them to be recorded.
            self._pool.submit(self._fail_item, task, failure)

    def _complete_item(self, task: Task, written: RowCounts) -> None:
        _log.info(
            "%s completed: %d inserted, %d updated",
            task.symbol,
            written.inserted,
            written.updated,
        )
        self._end(task)

    def _fail_item(self, task: Task, exc: Exception) -> None:
        try:
            self._record(task, exc)
        finally:
            self._end(task)

    def _end(self, task: Task) -> None:
        self._in_flight.remove(task)
        with self._lock:
            self._cancelled.discard(task)
        self._wake.set()

    def _on_step(self, task: Task, step: str) -> None:
        """Remember the step an item has reached; Cancelled if its job should end here."""
        self._in_flight.set_step(task, step)
        with self._lock:
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
                self._queue.discard(task)
            elif isinstance(cause, Snooze):
                _log.info("%s waits %.0f s: %s", task.symbol, cause.seconds, cause)
                self._queue.release(task, cause.seconds, str(cause))
            else:
                self._fail(task, _failure(exc, cause), permanent=_is_permanent(cause))
        except LeaseLost as lost:
            _log.warning("%s: %s", task.symbol, lost)
        except EnrichmentError as error:
            _log.error("%s: outcome not recorded yet: %s", task.symbol, error)
            with self._lock:
                self._pending_outcomes.append((task, exc))

    def _record_pending(self) -> None:
        with self._lock:
            waiting, self._pending_outcomes = self._pending_outcomes, []
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
        alive, failed = time.monotonic(), 0
        while not self._stopped.is_set():
            try:
                self._beat()
                alive, failed = time.monotonic(), 0
            except EnrichmentError as exc:
                _log.error("heartbeat failed: %s", exc)
                failed += 1
                if failed > 1 and time.monotonic() - alive > self._timing.lease:
                    _log.critical("no heartbeat for a whole lease: this worker stops itself")
                    self.stop()
            self._stopped.wait(self._timing.heartbeat)

    def _beat(self) -> None:
        for task in self._in_flight.evict_unstarted(self._timing.heartbeat):
            self._heartbeat_queue.release(task)
        steps = self._in_flight.steps(max_seconds=self._timing.max_item)
        cancelled = self._heartbeat_queue.renew(steps)
        with self._lock:
            self._cancelled = cancelled & self._in_flight.steps().keys()
        self._publish_heartbeat()
        if self._heartbeat_queue.reclaim_expired(self._max_retries):
            self._wake.set()
        self._heartbeat_queue.close_finished_jobs()

    def _publish_heartbeat(self) -> None:
        note = self._blocked_reason()
        state = "draining" if self._stopping.is_set() else "waiting" if note else "running"
        self._registry.beat(busy=self._in_flight.busy, state=state, note=note)

    def _drain(self) -> bool:
        """Give back what has not begun, let the rest finish for a while, then give that back too,
        attempts unchanged.
        """
        try:
            for task in self._in_flight.evict_unstarted(0.0):
                self._queue.release(task)
            hanging = self._in_flight.wait_until_empty(self._timing.drain)
            for task in hanging:
                self._queue.release(task)
                _log.warning("%s given back unfinished", task.symbol)
            self._queue.close_finished_jobs()
            self._registry.beat(busy=0, state="stopped")
        except EnrichmentError as exc:
            _log.error("stopped without saying so, the leases at hand will run out: %s", exc)
        return not self._in_flight.steps()


def _failure(exc: Exception, cause: BaseException) -> Failure:
    step = exc if isinstance(exc, StepFailed) else StepFailed("run", None, 0.0)
    message = " ".join(str(cause).split()) or type(cause).__name__
    return Failure(
        type(cause).__name__, message[:1000], step.step, step.timeframe, step.duration_ms
    )


def _is_permanent(cause: BaseException) -> bool:
    return isinstance(cause, EnrichmentError) and cause.permanent
