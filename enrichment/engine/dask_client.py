"""Runs tasks on a Dask cluster and receives their steps and results.

The enrichment worker keeps the claims: it renews the leases and records the results, and each of
its threads waits here for one task. If a job is cancelled or this process ends, Dask releases the
task, which then stops at its next step. While the Dask scheduler or all Dask workers are
unavailable, the worker claims nothing and publishes the reason.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from typing import Any, Self
from urllib.parse import urlsplit

from distributed import Client, KilledWorker
from distributed import Future as DaskFuture

from enrichment.domain.errors import (
    ConfigurationError,
    EnrichmentError,
    Snooze,
    StepFailed,
    WorkerLost,
)
from enrichment.domain.model import RowCounts, Task
from enrichment.engine import dask_worker
from enrichment.engine.dask_worker import TaskFailed
from enrichment.engine.ports import OpenPipeline
from enrichment.pipeline.fetch import OnStep
from resilience.supervised_thread import supervised_thread

_log = logging.getLogger(__name__)
CONNECT_SECONDS = 5.0
POLL_SECONDS = 1.0
CANCEL_SECONDS = 1.0
DROPPED_SNOOZE_SECONDS = 2.0

# The steps of a task, then its row counts, or None if it ended without them.
TaskUpdates = SimpleQueue[str | RowCounts | None]


class DaskExecutor:
    """A self-reconnecting connection to a Dask cluster, open for as long as the block.

    Args:
        address: Address of the Dask scheduler, such as tcp://host:8786.
        open_pipeline: Opens the pipeline in each Dask worker; pickled, with its settings.
    """

    def __init__(self, address: str, open_pipeline: OpenPipeline) -> None:
        self._address = address
        self._open_pipeline = open_pipeline
        self._client: Client | None = None
        self._unregistered: Client | None = None  # whose plugin the cluster no longer has
        self._blocked: str | None = f"not yet connected to the Dask scheduler at {address}"
        self._updates: dict[str, TaskUpdates] = {}
        self._check_now = threading.Event()
        self._closing = threading.Event()
        self._monitor = supervised_thread("dask-monitor", self._run_monitor, self._closing)

    def __enter__(self) -> Self:
        self._monitor.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._check_now.set()
        self._monitor.join()
        self._disconnect("this worker stops")

    def blocked_reason(self) -> str | None:
        """Why no task can run now; None if tasks can run."""
        return self._blocked

    def enrich(self, task: Task, report: OnStep) -> RowCounts:
        """Run the task on the cluster and wait for it.

        Raises:
            Snooze: The cluster lost or can't run the task.
            StepFailed: From WorkerLost if one Dask worker after the other died running it.
            Exception: What the pipeline raised.
        """
        client, key = self._client, dask_worker.dask_key(task)
        if client is None:
            raise Snooze(self._blocked or "not connected to the Dask cluster", 0.0)
        with self._receiving(key) as updates, self._submitted(client, task, key) as future:
            future.add_done_callback(lambda _: updates.put(None))
            step, rows = _await_rows(client, updates, report)
            return self._result(client, future, step) if rows is None else rows

    @contextmanager
    def _receiving(self, key: str) -> Iterator[TaskUpdates]:
        updates = self._updates[key] = TaskUpdates()
        try:
            yield updates
        finally:
            del self._updates[key]

    @contextmanager
    def _submitted(self, client: Client, task: Task, key: str) -> Iterator[DaskFuture[Any]]:
        """The future of the submitted task, released at the end of the block."""
        try:
            future = client.submit(
                dask_worker.enrich,
                task,
                client.id,
                key=key,
                pure=False,
                priority=int(task.interactive),
            )
        except Exception as exc:  # Dask has no common error for a closed client
            raise self._lost(client) from exc
        try:
            yield future
        finally:
            future.release()

    def _result(self, client: Client, future: DaskFuture[Any], step: str) -> RowCounts:
        if future.status not in ("finished", "error"):
            raise self._lost(client)
        try:
            result: RowCounts | TaskFailed | None = future.result()
        except KilledWorker as exc:
            name, _, timeframe = step.partition(" ")
            raise StepFailed(name, timeframe or None, 0.0) from WorkerLost(
                f"{exc.allowed_failures + 1} Dask workers died while they ran it: look for the "
                f"memory limit in the log of {exc.last_worker.address}"
            )
        except (CancelledError, OSError) as exc:
            raise self._lost(client) from exc
        except Exception as exc:  # Dask's own: failures of the pipeline are returned as values
            raise Snooze(
                f"the Dask cluster can't run it: {exc}", dask_worker.SNOOZE_SECONDS
            ) from exc
        if result is None:
            self._unregistered = client
            raise self._lost(client)
        if isinstance(result, TaskFailed):
            raise result.error
        return result

    def _lost(self, client: Client) -> Snooze:
        """The Snooze of a task that was lost with the connection, or by the cluster alone."""
        if client.status == "running" and client is not self._unregistered:
            return Snooze(f"the Dask cluster at {self._address} lost it", DROPPED_SNOOZE_SECONDS)
        reason = f"the connection to the Dask scheduler at {self._address} was lost"
        if self._client is client:
            self._set_blocked(reason)
            self._check_now.set()
        return Snooze(reason, 0.0)  # nothing is claimed before the monitor has reconnected

    def _run_monitor(self) -> None:
        while not self._closing.is_set():
            try:
                self._check_connection()
            except OSError as exc:
                self._disconnect(_no_scheduler(self._address, exc))
            except Exception as exc:  # whatever it is, it is published and tried again
                self._disconnect(
                    f"the Dask cluster at {self._address} can't be used ({_message(exc)}): "
                    "run 'enrichment doctor'"
                )
            self._check_now.wait(POLL_SECONDS)
            self._check_now.clear()

    def _check_connection(self) -> None:
        """Connect if necessary, and check that the cluster has workers."""
        if self._client is None:
            self._client = self._connect()
        if self._client.status != "running" or self._client is self._unregistered:
            raise ConnectionResetError("the connection was lost")
        self._set_blocked(None if _threads(self._client) else _no_workers(self._address))

    def _connect(self) -> Client:
        client = connect(self._address)
        try:
            client.subscribe_topic(client.id, self._on_event)
            client.register_plugin(dask_worker.ClientCleanupPlugin())
            client.register_plugin(
                dask_worker.PipelinePlugin(client.id, self._open_pipeline), name=client.id
            )
        except Exception:
            client.close()
            raise
        return client

    def _on_event(self, event: tuple[float, Any]) -> None:
        for key, update in dask_worker.parse_event(event[1]):
            updates = self._updates.get(key)
            if updates is not None:
                updates.put(update)

    def _disconnect(self, reason: str) -> None:
        """Close the connection; threads that wait for a task notice within CANCEL_SECONDS."""
        client, self._client = self._client, None
        self._set_blocked(reason)
        if client is not None:
            if client.status == "running":  # else the scheduler would report our own leaving to us
                client.unsubscribe_topic(client.id)
            client.close(timeout=CONNECT_SECONDS)

    def _set_blocked(self, reason: str | None) -> None:
        before, self._blocked = self._blocked, reason
        if reason is None and before is not None:
            _log.info("connected to the Dask cluster at %s", self._address)
        elif reason is not None and reason != before and not self._closing.is_set():
            _log.warning("waiting: %s", reason)


def connect(address: str) -> Client:
    """A client of the Dask scheduler. Raises OSError if it does not answer within 5 s."""
    parts = urlsplit(address)
    # A client that fails to connect leaks a thread, so check first that something listens.
    socket.create_connection((parts.hostname, parts.port), timeout=CONNECT_SECONDS).close()
    return Client(address, timeout=CONNECT_SECONDS, name="enrichment", set_as_default=False)


def check_cluster(address: str, probe: Callable[[], None]) -> str:
    """Check that the cluster can run tasks.

    Args:
        address: Address of the Dask scheduler.
        probe: Run in each Dask worker; raises EnrichmentError if that worker can't run tasks.

    Returns:
        A one-line description of the cluster.

    Raises:
        ConfigurationError: No scheduler, no workers, other versions than here, or a failed probe.
    """
    try:
        with connect(address) as client:
            threads = _threads(client)
            if not threads:
                raise ConfigurationError(_no_workers(address))
            _require_same_versions(client)
            for worker, error in client.run(_run_probe, probe).items():
                if error is not None:
                    raise ConfigurationError(f"the Dask worker {worker} can't run tasks: {error}")
    except OSError as exc:
        raise ConfigurationError(_no_scheduler(address, exc)) from exc
    return f"{address}: {len(threads)} workers with {sum(threads.values())} threads"


async def _run_probe(probe: Callable[[], None]) -> EnrichmentError | None:
    """In a Dask worker: the probe's error; in a thread, as it may block the event loop."""
    try:
        await asyncio.to_thread(probe)
    except EnrichmentError as exc:
        exc.__cause__ = None
        return exc
    return None


def _require_same_versions(client: Client) -> None:
    versions: Any = client.get_versions(packages=["market-enrichment"])
    here = versions["client"]["packages"]
    others = {"the scheduler": versions["scheduler"], **versions["workers"]}
    for name in ("market-enrichment", "distributed", "python"):
        for process, installed in others.items():
            version = installed["packages"].get(name)
            if version != here[name]:
                raise ConfigurationError(
                    f"{process} has {name} {version or 'not installed'}, this process "
                    f"{here[name]}: install the same versions everywhere"
                )


def _threads(client: Client) -> dict[str, int]:
    """Dask worker → number of threads. Raises OSError if the scheduler does not answer in time."""
    scheduler: Any = client.scheduler
    threads: dict[str, int] = client.sync(scheduler.ncores, callback_timeout=CONNECT_SECONDS)
    return threads


def _await_rows(
    client: Client, updates: TaskUpdates, report: OnStep
) -> tuple[str, RowCounts | None]:
    """Report the steps until the task ends; returns its last step and its row counts, if received.

    Repeats the step every CANCEL_SECONDS, since `report` raises Cancelled for a cancelled job.
    """
    step = "queued"
    while True:
        report(step)
        try:
            update = updates.get(timeout=CANCEL_SECONDS)
        except Empty:
            if client.status != "running":
                return step, None
            continue
        if not isinstance(update, str):
            return step, update
        step = update


def _no_scheduler(address: str, exc: OSError) -> str:
    return (
        f"the Dask scheduler at {address} does not answer ({_message(exc)}): start it with "
        "'dask scheduler', or correct ENRICHMENT_EXECUTOR"
    )


def _no_workers(address: str) -> str:
    return (
        f"the Dask scheduler at {address} has no workers: start some with 'dask worker {address}'"
    )


def _message(exc: Exception) -> str:
    return " ".join(str(exc).split()) or type(exc).__name__
