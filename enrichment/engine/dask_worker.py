"""The far side of a Dask cluster: what runs in the processes of its workers.

Each enrichment worker has a `Line` of its own in every one of them, with its own pool and its own
breakers, opened for the first item and closed once that worker has left the scheduler, in whatever
way. Dask runs an item again whose process died, and may run it twice: its writes are fenced.
"""

from __future__ import annotations

import asyncio
import pickle
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from distributed import Scheduler, SchedulerPlugin, Worker, WorkerPlugin, get_worker
from tornado.ioloop import PeriodicCallback

from enrichment.domain.errors import Cancelled, EnrichmentError, Snooze, StepFailed
from enrichment.domain.model import RowCounts, Task
from enrichment.engine.worker import Enrich

UNFIT_SECONDS = 30.0
STEPS_SECONDS = 0.25  # between two messages with the steps that the runs of a process have reached
CLOSING_SECONDS = 10.0

# Opens all that enriches, for so many threads.
OpenPipeline = Callable[[int], AbstractContextManager[Enrich]]


@dataclass(frozen=True, slots=True)
class TaskFailed:
    """Why an item failed. As a value: an exception would be Dask's to log, arguments and all."""

    error: Exception


def enrich(task: Task, owner: str) -> RowCounts | TaskFailed | None:
    """Run a task on its owner's line in this process; None: the cluster knows no such owner."""
    line = get_worker().plugins.get(owner)
    return line.enrich(task) if isinstance(line, PipelinePlugin) else None


def key_of(task: Task) -> str:
    """The name of a claim's run among all of a cluster; Dask groups keys by what precedes `-`."""
    return f"enrich-{task.fence}:{task.symbol}:{task.job_id}"


class PipelinePlugin(WorkerPlugin):
    """What one enrichment worker runs in a Dask worker's process.

    owner: its client's id, which is the topic of what is told of the runs, too. Most runs are over
    before their steps are told; what they wrote is told at once, since to gather the results of
    many small tasks costs Dask more than the tasks.
    """

    def __init__(self, owner: str, open_pipeline: OpenPipeline) -> None:
        self._owner = owner
        self._open_line = open_pipeline

    def setup(self, worker: Worker) -> None:
        self._worker = worker
        self._opening = threading.Lock()
        self._opened: Enrich | None = None
        self._ending = ExitStack()
        self._changed = threading.Condition()
        self._running: set[str] = set()
        self._unwanted: set[str] = set()
        self._closing = False
        self._untold: dict[str, str] = {}
        self._telling = PeriodicCallback(self._send_steps, 1000.0 * STEPS_SECONDS)
        self._telling.start()

    def transition(self, key: Any, start: str, finish: str, **kwargs: Any) -> None:
        """Note that nobody waits for a running task any more."""
        if finish == "released" and key in self._running:
            self._unwanted.add(key)

    async def teardown(self, worker: Worker) -> None:
        self._telling.stop()
        await asyncio.to_thread(self._close)

    def enrich(self, task: Task) -> RowCounts | TaskFailed:
        """Run the task; the remote end of `cluster.Cluster.enrich`."""
        key = key_of(task)
        try:
            with self._is_running(key):
                outcome = self._enricher()(task, partial(self._report, key))
                written = outcome.result() if isinstance(outcome, Future) else outcome
        except Exception as exc:  # whatever an item does, its worker records it
            return TaskFailed(to_portable(exc))
        self._worker.log_event(self._owner, {"run": key, "written": asdict(written)})
        return written

    def _enricher(self) -> Enrich:
        with self._opening:
            if self._opened is None:
                try:
                    threads = self._worker.state.nthreads
                    self._opened = self._ending.enter_context(self._open_line(threads))
                except (EnrichmentError, ImportError) as exc:
                    where = f"the Dask worker {self._worker.address}"
                    raise Snooze(f"{where} can't work: {exc}", UNFIT_SECONDS) from exc
            return self._opened

    def _report(self, key: str, step: str) -> None:
        if key in self._unwanted:
            raise Cancelled("nobody waits for it any more")
        with self._changed:
            self._untold[key] = step

    def _send_steps(self) -> None:
        with self._changed:
            steps, self._untold = self._untold, {}
        if steps:
            self._worker.log_event(self._owner, {"steps": steps})

    @contextmanager
    def _is_running(self, key: str) -> Iterator[None]:
        with self._changed:
            if self._closing:
                raise Snooze("its worker has left the Dask cluster", 0.0)
            self._running.add(key)
        try:
            yield
        finally:
            with self._changed:
                self._running.discard(key)
                self._untold.pop(key, None)
                self._unwanted.discard(key)
                self._exit_if_orphaned()
                self._changed.notify_all()

    def _close(self) -> None:
        """Close once no run is left; one that hangs closes behind itself."""
        with self._changed:
            self._closing = True
            self._changed.wait_for(lambda: not self._running, timeout=CLOSING_SECONDS)
            self._exit_if_orphaned()

    def _exit_if_orphaned(self) -> None:
        if self._closing and not self._running:
            self._ending.close()


def read(message: dict[str, Any]) -> Iterator[tuple[str, str | RowCounts]]:
    """What a line has told: run → the step that it has reached, or what it has written."""
    yield from message.get("steps", {}).items()
    if "run" in message:
        yield message["run"], RowCounts(**message["written"])


class ClientCleanupPlugin(SchedulerPlugin):
    """Closes the lines of an enrichment worker that has left, or died."""

    name = "enrichment-departures"
    idempotent = True

    async def start(self, scheduler: Scheduler) -> None:
        self._removals: set[asyncio.Task[Any]] = set()

    def remove_client(self, scheduler: Scheduler, client: str) -> None:
        if client in scheduler.worker_plugins:
            removal = asyncio.ensure_future(self._remove(scheduler, client))
            self._removals.add(removal)
            removal.add_done_callback(self._removals.discard)

    async def _remove(self, scheduler: Scheduler, client: str) -> None:
        with suppress(OSError):  # a Dask worker that is leaving, too
            await scheduler.unregister_worker_plugin(None, name=client)


def to_portable(exc: Exception) -> Exception:
    """The error as it can travel, with the cause of a step's failure and no more: deeper causes
    hold requests with their keys.
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
