"""Runs in the processes of Dask workers: one pipeline for each enrichment worker.

Each enrichment worker registers a `PipelinePlugin` in every Dask worker, with its own connections
and circuit breakers, opened for the first task and closed when that worker leaves the Dask
scheduler or dies. Dask reruns a task whose process died and may run a task twice; the fence of a
claim lets only one run write.
"""

from __future__ import annotations

import asyncio
import pickle
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from distributed import (
    Scheduler,
    SchedulerPlugin,
    Worker,
    WorkerPlugin,
    get_worker,
    rejoin,
    secede,
)
from tornado.ioloop import PeriodicCallback

from enrichment.domain.errors import Cancelled, EnrichmentError, Snooze, StepFailed
from enrichment.domain.model import RowCounts, Task
from enrichment.engine.ports import Enrich, OpenPipeline
from resilience.clock import sleeping_in

SNOOZE_SECONDS = 30.0  # of a task that a Dask worker can't run
STEPS_SECONDS = 0.25  # interval at which a process publishes the steps of its tasks
CLOSE_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class TaskFailed:
    """An item's error as a value: Dask would log a raised exception with its arguments."""

    error: Exception


@contextmanager
def _without_thread(of_task: int) -> Iterator[None]:
    """In the block the Dask worker runs another task in place of this one, which only waits.

    of_task: the id of the task's thread; its other threads are none of Dask's.
    """
    if threading.get_ident() != of_task:
        yield
        return
    secede()
    try:
        yield
    finally:
        rejoin()


def enrich(task: Task, client_id: str) -> RowCounts | TaskFailed | None:
    """Run a task in the client's pipeline; None if no such plugin is registered here."""
    plugin = get_worker().plugins.get(client_id)
    return plugin.enrich(task) if isinstance(plugin, PipelinePlugin) else None


def dask_key(task: Task) -> str:
    """The cluster-wide key of a claim's run; Dask groups keys by what precedes `-`."""
    return f"enrich-{task.fence}:{task.symbol}:{task.job_id}"


class PipelinePlugin(WorkerPlugin):
    """The pipeline of one enrichment worker in a Dask worker's process.

    Steps are published periodically, since most tasks end before their steps are of use. Row counts
    are published at once: for many small tasks, gathering results costs Dask more than running
    them.

    Args:
        client_id: Id of the enrichment worker's Dask client, also the topic of its events.
        open_pipeline: Opens the pipeline in this process.
    """

    def __init__(self, client_id: str, open_pipeline: OpenPipeline) -> None:
        self._client_id = client_id
        self._open_pipeline = open_pipeline

    def setup(self, worker: Worker) -> None:
        """Called by Dask. Nothing that can't be pickled exists before this."""
        self._worker = worker
        self._open_lock = threading.Lock()
        self._enrich: Enrich | None = None
        self._pipeline = ExitStack()
        self._changed = threading.Condition()
        self._running: set[str] = set()
        self._released: set[str] = set()
        self._closing = False
        self._unsent_steps: dict[str, str] = {}
        self._step_sender = PeriodicCallback(self._send_steps, 1000.0 * STEPS_SECONDS)
        self._step_sender.start()

    def transition(self, key: Any, start: str, finish: str, **kwargs: Any) -> None:
        """Called by Dask. A running task that is released has been cancelled."""
        if finish == "released" and key in self._running:
            self._released.add(key)

    async def teardown(self, worker: Worker) -> None:
        """Called by Dask when the plugin is unregistered."""
        self._step_sender.stop()
        await asyncio.to_thread(self._close)

    def enrich(self, task: Task) -> RowCounts | TaskFailed:
        """Run the task; called through `dask_client.DaskExecutor.enrich`."""
        key, waiting = dask_key(task), partial(_without_thread, threading.get_ident())
        try:
            with self._marked_running(key), sleeping_in(waiting):
                result = self._opened()(task, partial(self._on_step, key))
                rows = result.result() if isinstance(result, Future) else result
        except Exception as exc:  # the enrichment worker records every failure of an item
            return TaskFailed(to_portable(exc))
        self._worker.log_event(self._client_id, {"key": key, "rows": asdict(rows)})
        return rows

    def _opened(self) -> Enrich:
        with self._open_lock:
            if self._enrich is None:
                try:
                    threads = self._worker.state.nthreads
                    self._enrich = self._pipeline.enter_context(self._open_pipeline(threads))
                except (EnrichmentError, ImportError) as exc:
                    raise Snooze(
                        f"the Dask worker {self._worker.address} can't open the pipeline: {exc}",
                        SNOOZE_SECONDS,
                    ) from exc
            return self._enrich

    def _on_step(self, key: str, step: str) -> None:
        if key in self._released:
            raise Cancelled("the task was released")
        with self._changed:
            self._unsent_steps[key] = step

    def _send_steps(self) -> None:
        with self._changed:
            steps, self._unsent_steps = self._unsent_steps, {}
        if steps:
            self._worker.log_event(self._client_id, {"steps": steps})

    @contextmanager
    def _marked_running(self, key: str) -> Iterator[None]:
        with self._changed:
            if self._closing:
                raise Snooze("its enrichment worker has left the Dask cluster", 0.0)
            self._running.add(key)
        try:
            yield
        finally:
            with self._changed:
                self._running.discard(key)
                self._unsent_steps.pop(key, None)
                self._released.discard(key)
                self._close_if_idle()
                self._changed.notify_all()

    def _close(self) -> None:
        """Close the pipeline after the last task; a task that outlives the timeout closes it."""
        with self._changed:
            self._closing = True
            self._changed.wait_for(lambda: not self._running, timeout=CLOSE_SECONDS)
            self._close_if_idle()

    def _close_if_idle(self) -> None:
        if self._closing and not self._running:
            self._pipeline.close()


def parse_event(event: dict[str, Any]) -> Iterator[tuple[str, str | RowCounts]]:
    """The updates in a plugin's event: pairs of a task's key and its step or row counts."""
    yield from event.get("steps", {}).items()
    if "rows" in event:
        yield event["key"], RowCounts(**event["rows"])


class ClientCleanupPlugin(SchedulerPlugin):
    """Unregisters the pipelines of an enrichment worker that has left or died."""

    name = "enrichment-client-cleanup"
    idempotent = True

    async def start(self, scheduler: Scheduler) -> None:
        """Called by Dask."""
        self._removals: set[asyncio.Task[Any]] = set()

    def remove_client(self, scheduler: Scheduler, client: str) -> None:
        """Called by Dask when a client has disconnected."""
        if client in scheduler.worker_plugins:
            removal = asyncio.ensure_future(self._remove(scheduler, client))
            self._removals.add(removal)
            removal.add_done_callback(self._removals.discard)

    async def _remove(self, scheduler: Scheduler, client: str) -> None:
        with suppress(OSError):  # a Dask worker has left, too
            await scheduler.unregister_worker_plugin(None, name=client)


def to_portable(exc: Exception) -> Exception:
    """The error in a form that can be pickled.

    Only the cause of a StepFailed is kept: deeper causes hold requests with their API keys.
    """
    cause = exc.__cause__ if isinstance(exc, StepFailed) else None
    exc.__cause__ = to_portable(cause) if isinstance(cause, Exception) else None
    if isinstance(exc, EnrichmentError):
        return exc
    try:
        pickle.loads(pickle.dumps(exc))  # noqa: S301 — our own
    except Exception:
        return EnrichmentError(f"{type(exc).__name__}: {exc}")
    return exc
