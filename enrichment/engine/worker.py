"""A worker: claims items from the queue and enriches each on a thread.

It claims one item per idle thread, plus as many as the threads will start within the next 0.25 s:
none where a symbol takes long, dozens where small ones are read and stored in batches. While the
threads are held by a night's items, which may wait for a vendor's quota, what a person asked for is
claimed for a few reserved threads.

The heartbeat thread has a database connection of its own. It renews the leases, publishes each
item's step and reclaims items whose leases have expired. While heartbeats fail for longer than a
lease, nothing is claimed: other workers may take over what this one has, and the fence discards its
results. It goes on with the first heartbeat that succeeds.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from itertools import count

from enrichment.domain.clock import utc_now
from enrichment.domain.errors import Cancelled, EnrichmentError, LeaseLost, Snooze, StepFailed
from enrichment.domain.escape import for_terminal
from enrichment.domain.log_context import logged_for
from enrichment.domain.model import Failure, RowCounts, Task, ThreadUse
from enrichment.domain.redact import redact
from enrichment.domain.statuses import WorkerState
from enrichment.engine.in_flight import InFlightItems
from enrichment.engine.item_logs import ItemLogs
from enrichment.engine.ports import BlockedReason, Enrich, ItemQueue, Prepare, Registry
from resilience.clock import interruptible
from resilience.supervised_thread import supervised_thread

_log = logging.getLogger(__name__)
FIRST_RETRY_SECONDS = 2.0
RESERVED_THREADS = 4
CANCELLED_SECONDS = 0.9
RETRY_HEARTBEAT_SECONDS = 2.0
BATCH_SECONDS = 0.002  # items that end within this time are replaced by a single claim
MAX_ERROR_CHARS = 1000


@dataclass(frozen=True, slots=True)
class WorkerTiming:
    """Intervals and timeouts of a worker, in seconds."""

    poll: float = 1.0
    """Between two looks at the queue when no notification comes."""
    heartbeat: float = 10.0
    """Between two heartbeats."""
    lease: float = 30.0
    """For which a claim is valid without a heartbeat."""
    drain: float = 10.0
    """For which running items may finish after `stop()`."""
    max_item: float = 3600.0
    """After which the lease of a hung item is no longer renewed."""


class Worker:
    """Runs items until `stop()`.

    Args:
        enrich: Enriches one item.
        queue: The job queue.
        registry: This worker's row among the workers.
        heartbeat_queue: The job queue on the heartbeat's own connection.
        threads: Items that run at the same time.
        reserved_threads: Further ones, for what a person asked for while other items hold threads.
        max_retries: Retries of an item that fails, after 2, 4, 8 … seconds.
        timing: Intervals and timeouts.
        prepare: Reads in one batch what items claimed together need; None: each reads its own.
        blocked_reason: Why nothing can be claimed now; None if items can be claimed.
        now: The clock by which it is recorded when a thread began an item.
    """

    def __init__(
        self,
        enrich: Enrich,
        queue: ItemQueue,
        registry: Registry,
        *,
        heartbeat_queue: ItemQueue,
        threads: int,
        reserved_threads: int = 0,
        max_retries: int,
        timing: WorkerTiming | None = None,
        prepare: Prepare | None = None,
        blocked_reason: BlockedReason = lambda: None,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._enrich = enrich
        self._blocked_reason = blocked_reason
        self._prepare = prepare
        self._queue = queue
        self._registry = registry
        self._heartbeat_queue = heartbeat_queue
        self._max_retries = max_retries
        self._timing = timing or WorkerTiming()
        self._now = now
        self._thread, self._numbers = threading.local(), count(1)
        self._pool = ThreadPoolExecutor(threads, "enrich", initializer=self._number_thread)
        self._reserved_pool = ThreadPoolExecutor(
            max(1, reserved_threads), "interactive", initializer=self._number_thread
        )
        self._in_flight = InFlightItems(threads, reserved_threads)
        self._cancelled: set[Task] = set()
        self._unrecorded: list[tuple[Task, Exception, tuple[str, ...]]] = []
        self._logs = ItemLogs()
        self._lock = threading.Lock()
        self._last_error = ""
        self._cancelled_due = self._interactive_due = 0.0
        self._overdue = False
        """Whether heartbeats have failed for longer than a lease."""
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._stopped = threading.Event()

    def wake(self) -> None:
        """Look for items now instead of at the next poll."""
        self._interactive_due = 0.0
        self._wake.set()

    def stop(self) -> None:
        """Stop claiming; `run` returns once the running items have finished or been released."""
        self._stopping.set()
        self._wake.set()

    def run(self) -> bool:
        """Work until stopped.

        Returns:
            False if items were still running when they were released.
        """
        heartbeat = supervised_thread("heartbeat", self._run_heartbeat, self._stopped)
        heartbeat.start()
        logging.getLogger().addHandler(self._logs)
        try:
            while not self._stopping.is_set():
                self._wake.clear()
                self._poll()
                self._wake.wait(self._timing.poll)
                if self._in_flight.steps():
                    self._stopping.wait(BATCH_SECONDS)
            return self._drain()
        finally:
            self._stopped.set()
            logging.getLogger().removeHandler(self._logs)
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._reserved_pool.shutdown(wait=False, cancel_futures=True)
            heartbeat.join(timeout=self._timing.drain)

    def _poll(self) -> None:
        """Claim and start items, record failures that could not be recorded, close jobs."""
        try:
            blocked = self._overdue or self._blocked_reason()
            if not blocked:
                self._claim()
            self._retry_unrecorded()
            self._look_for_cancelled()
            if self._in_flight.job_drained():
                self._queue.close_finished_jobs()
            if self._last_error:
                _log.info("claiming items again")
            self._last_error = ""
        except Exception as exc:  # the worker goes on with the next poll, whatever it is
            if str(exc) != self._last_error:  # logged once, not at every poll
                unexpected = not isinstance(exc, EnrichmentError)
                _log.error("can't claim items: %s", exc, exc_info=unexpected)
            self._last_error = str(exc)

    def _claim(self) -> None:
        """Claim and start what there are threads for."""
        worker_id = self._registry.worker_id
        if capacity := self._in_flight.claim_capacity():
            self._start(self._queue.claim(worker_id, capacity))
        elif time.monotonic() >= self._interactive_due and (
            reserved := self._in_flight.reserved_capacity()
        ):
            self._interactive_due = time.monotonic() + self._timing.poll
            self._start(self._queue.claim(worker_id, reserved, interactive=True))

    def _look_for_cancelled(self) -> None:
        """Note the items whose job was cancelled, once a second: heartbeats are rarer."""
        tasks = self._in_flight.steps().keys()
        if not tasks or time.monotonic() < self._cancelled_due:
            return
        self._cancelled_due = time.monotonic() + CANCELLED_SECONDS
        cancelled = self._queue.cancelled(tasks)
        with self._lock:
            self._cancelled |= cancelled & self._in_flight.steps().keys()

    def _start(self, tasks: Sequence[Task]) -> None:
        self._in_flight.add(tasks)
        for task, enrich in zip(tasks, self._prepared(tasks), strict=True):
            pool = self._reserved_pool if self._in_flight.reserve(task) else self._pool
            self._in_flight.attach_future(task, pool.submit(self._run_item, task, enrich))

    def _prepared(self, tasks: Sequence[Task]) -> Sequence[Enrich]:
        if self._prepare is not None and tasks:
            try:
                return self._prepare(tasks)
            except Exception as exc:  # the item at fault fails again by itself, and is recorded
                _log.warning("batch of %d symbols failed, reading each: %s", len(tasks), exc)
        return [self._enrich] * len(tasks)

    def _run_item(self, task: Task, enrich: Enrich) -> None:
        check = partial(self._require_not_cancelled, task)
        self._logs.begin(task)
        with logged_for(task.symbol, task.job_id), interruptible(check):
            self._enrich_item(task, enrich)

    def _enrich_item(self, task: Task, enrich: Enrich) -> None:
        try:
            task = self._begin(task)
            result = enrich(task, lambda step: self._on_step(task, step))
        except Exception as exc:  # the one broad catch: every failure of an item is recorded
            self._fail_item(task, exc)
            return
        if isinstance(result, Future):
            self._in_flight.release_thread(task)
            self._wake.set()
            result.add_done_callback(lambda stored: self._on_stored(task, stored))
        else:
            self._complete_item(task, result)

    def _begin(self, task: Task) -> Task:
        """The task with the thread that calls this, which begins it now."""
        task = replace(task, thread_use=ThreadUse(self._thread.number, self._now()))
        self._in_flight.start(task)
        return task

    def _number_thread(self) -> None:
        self._thread.number = next(self._numbers)

    def _on_stored(self, task: Task, stored: Future[RowCounts]) -> None:
        error = stored.exception()
        if error is None:
            with logged_for(task.symbol, task.job_id):
                self._complete_item(task, stored.result())
        elif isinstance(error, Exception):
            # The writer thread calls this and must not wait for the failure to be recorded.
            self._pool.submit(self._fail_item, task, error)

    def _complete_item(self, task: Task, rows: RowCounts) -> None:
        _log.info("%s completed: %d inserted, %d updated", task.symbol, rows.inserted, rows.updated)
        self._remove(task)

    def _fail_item(self, task: Task, exc: Exception) -> None:
        try:
            with logged_for(task.symbol, task.job_id):
                self._record(task, exc)
        finally:
            self._remove(task)

    def _remove(self, task: Task) -> None:
        self._in_flight.remove(task)
        self._logs.discard(task)
        with self._lock:
            self._cancelled.discard(task)
        self._wake.set()

    def _on_step(self, task: Task, step: str) -> None:
        """Note the step an item has reached. Raises Cancelled if its job was cancelled."""
        self._in_flight.set_step(task, step)
        self._require_not_cancelled(task)

    def _require_not_cancelled(self, task: Task) -> None:
        with self._lock:
            cancelled = task in self._cancelled
        if cancelled:
            raise Cancelled(f"{task.symbol}: the job was cancelled")

    def _record(self, task: Task, exc: Exception, log_lines: tuple[str, ...] = ()) -> None:
        """Snooze, retry or fail the item.

        If the database is unavailable, `_poll` tries again until the lease has expired.

        Args:
            log_lines: Of the attempt, if it has already been removed from those in flight.
        """
        cause = exc.__cause__ if isinstance(exc, StepFailed) and exc.__cause__ else exc
        try:
            if isinstance(cause, LeaseLost):
                _log.warning("%s: %s", task.symbol, cause)
            elif isinstance(cause, Cancelled):
                _log.info("%s", cause)
                self._queue.discard(task)
            elif isinstance(cause, Snooze):
                _log.info("%s snoozed for %.0f s: %s", task.symbol, cause.seconds, cause)
                self._queue.release(task, cause.seconds, str(cause))
            else:
                failure, delay = _failure(exc, cause), self._retry_delay(task, cause)
                foreseen = isinstance(cause, EnrichmentError)
                _log_failure(task, failure, delay, None if foreseen else exc)
                log_lines = log_lines or self._logs.of(task)
                self._queue.fail(task, replace(failure, log_lines=log_lines), delay)
        except LeaseLost as lost:
            _log.warning("%s: %s", task.symbol, lost)
        except EnrichmentError as error:
            _log.error("%s: failure not recorded yet: %s", task.symbol, error)
            with self._lock:
                self._unrecorded.append((task, exc, log_lines))

    def _retry_unrecorded(self) -> None:
        with self._lock:
            unrecorded, self._unrecorded = self._unrecorded, []
        for task, exc, log_lines in unrecorded:
            self._record(task, exc, log_lines)

    def _retry_delay(self, task: Task, cause: BaseException) -> float | None:
        """Seconds until the next attempt; None for none."""
        permanent = isinstance(cause, EnrichmentError) and cause.permanent
        if permanent or task.retry_count >= self._max_retries:
            return None
        return FIRST_RETRY_SECONDS * 2.0**task.retry_count

    def _run_heartbeat(self) -> None:
        last_success, last_error = time.monotonic(), ""
        while not self._stopped.is_set():
            try:
                self._beat()
                if last_error:
                    _log.info("heartbeats succeed again")
                last_success, last_error, self._overdue = time.monotonic(), "", False
            except EnrichmentError as exc:
                if str(exc) != last_error:  # logged once, not at every heartbeat
                    _log.error("heartbeat failed: %s", exc)
                last_error = str(exc)
                self._set_overdue(time.monotonic() - last_success > self._timing.lease)
            retry = min(RETRY_HEARTBEAT_SECONDS, self._timing.heartbeat)
            self._stopped.wait(retry if last_error else self._timing.heartbeat)

    def _set_overdue(self, overdue: bool) -> None:
        if overdue and not self._overdue:
            _log.critical("no heartbeat for longer than the lease: claiming nothing until one is")
        self._overdue = overdue

    def _beat(self) -> None:
        for task in self._in_flight.evict_unstarted(self._timing.heartbeat):
            self._heartbeat_queue.release(task)
        steps = self._in_flight.steps(max_seconds=self._timing.max_item)
        cancelled = self._heartbeat_queue.renew(steps)
        with self._lock:
            self._cancelled = cancelled & self._in_flight.steps().keys()
        blocked = self._blocked_reason()
        self._registry.beat(busy=self._in_flight.busy, state=self._state(blocked), note=blocked)
        if self._heartbeat_queue.reclaim_expired(self._max_retries):
            self._wake.set()
        self._heartbeat_queue.close_finished_jobs()

    def _state(self, blocked: str | None) -> WorkerState:
        if self._stopping.is_set():
            return WorkerState.DRAINING
        return WorkerState.WAITING if blocked else WorkerState.RUNNING

    def _drain(self) -> bool:
        """Release the items that have not started, wait for the running ones, release the rest.

        Released items keep their retry counts.
        """
        try:
            for task in self._in_flight.evict_unstarted(0.0):
                self._queue.release(task)
            for task in self._in_flight.wait_until_empty(self._timing.drain):
                self._queue.release(task)
                _log.warning("%s released unfinished", task.symbol)
            self._queue.close_finished_jobs()
            self._registry.beat(busy=0, state=WorkerState.STOPPED)
        except EnrichmentError as exc:
            _log.error("items not released, their leases will expire: %s", exc)
        return not self._in_flight.steps()


def _log_failure(
    task: Task, failure: Failure, delay: float | None, unforeseen: Exception | None
) -> None:
    """One line, with a traceback for what no step foresees."""
    _log.warning(
        "%s failed in step %s (%s), %s",
        task.symbol,
        failure.step,
        failure.error,
        "no more retries" if delay is None else f"retry in {delay:.0f} s",
        exc_info=unforeseen,
    )


def _failure(exc: Exception, cause: BaseException) -> Failure:
    step = exc if isinstance(exc, StepFailed) else StepFailed("run", None, 0.0)
    message = " ".join(for_terminal(redact(str(cause))).split()) or type(cause).__name__
    return Failure(
        type(cause).__name__, _shortened(message), step.step, step.timeframe, step.duration_ms
    )


def _shortened(message: str) -> str:
    """The message, or its beginning with the number of characters that are left out."""
    left_out = len(message) - MAX_ERROR_CHARS
    return (
        message if left_out <= 0 else f"{message[:MAX_ERROR_CHARS]} … ({left_out} more characters)"
    )
