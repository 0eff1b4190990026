"""This side of a Dask cluster: tasks go there, steps and outcomes come back.

The worker stays their owner: it claims, renews leases and records what became of an item, and each
of its threads waits here for one. A task that is not waited for any more, since its job was
cancelled or this process has ended, is released by Dask and ends at its next step. While scheduler
or Dask workers are away the worker waits, and says for what.
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
from enrichment.engine.dask_worker import OpenPipeline, TaskFailed
from enrichment.pipeline.steps import OnStep

_log = logging.getLogger(__name__)
CONNECT_SECONDS = 5.0
POLL_SECONDS = 1.0
CANCEL_SECONDS = 1.0
DISCONNECT_SECONDS = 2.0

Messages = SimpleQueue[str | RowCounts | None]  # a run's steps, then what it wrote, or None


class DaskExecutor:
    """A connection to a Dask cluster that mends itself, for as long as the block.

    open_line: what each Dask worker's process runs; it travels there, settings and all.
    """

    def __init__(self, address: str, open_pipeline: OpenPipeline) -> None:
        self._address = address
        self._open_line = open_pipeline
        self._client: Client | None = None
        self._forgotten: Client | None = None
        self._waits: str | None = f"the Dask scheduler at {address} has not been asked yet"
        self._runs: dict[str, Messages] = {}
        self._look_now = threading.Event()
        self._closing = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="dask-watch", daemon=True)

    def __enter__(self) -> Self:
        self._watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._look_now.set()
        self._watcher.join()
        self._disconnect("this worker stops")

    def blocked_reason(self) -> str | None:
        """For what no task can run now; None if tasks can."""
        return self._waits

    def enrich(self, task: Task, report: OnStep) -> RowCounts:
        """Run the task on the cluster and wait for its end; raises what it raises there.

        What the cluster itself loses comes back as a Snooze, except a task with which one Dask
        worker after the other dies: that is StepFailed from WorkerLost.
        """
        client, key = self._client, dask_worker.key_of(task)
        if client is None:
            raise Snooze(self._waits or "the Dask cluster is away", 0.0)
        with self._listening(key) as messages, self._submitted(client, task, key) as future:
            future.add_done_callback(lambda _: messages.put(None))
            step, written = _follow(client, messages, report)
            return self._outcome(client, future, step) if written is None else written

    @contextmanager
    def _listening(self, key: str) -> Iterator[Messages]:
        messages = self._runs[key] = Messages()
        try:
            yield messages
        finally:
            del self._runs[key]

    @contextmanager
    def _submitted(self, client: Client, task: Task, key: str) -> Iterator[DaskFuture[Any]]:
        """The future of the task's run; whatever of it is left at the end is not wanted."""
        try:
            future = client.submit(dask_worker.enrich, task, client.id, key=key, pure=False)
        except Exception as exc:  # Dask has no one name for a client that is closed
            raise self._lost(client) from exc
        try:
            yield future
        finally:
            future.release()

    def _outcome(self, client: Client, future: DaskFuture[Any], step: str) -> RowCounts:
        if future.status not in ("finished", "error"):
            raise self._lost(client)
        try:
            outcome: RowCounts | TaskFailed | None = future.result()
        except KilledWorker as exc:
            name, _, timeframe = step.partition(" ")
            raise StepFailed(name, timeframe or None, 0.0) from WorkerLost(
                f"{exc.allowed_failures + 1} Dask workers died while they ran it: look for the "
                f"memory limit in the log of {exc.last_worker.address}"
            )
        except (CancelledError, OSError) as exc:
            raise self._lost(client) from exc
        except Exception as exc:  # not the pipeline's, whose failures are values
            raise Snooze(
                f"the Dask cluster can't run it: {exc}", dask_worker.UNFIT_SECONDS
            ) from exc
        if outcome is None:
            self._forgotten = client
            raise self._lost(client)
        if isinstance(outcome, TaskFailed):
            raise outcome.error
        return outcome

    def _lost(self, client: Client) -> Snooze:
        """The item goes back; at once where nothing is claimed until the watcher has looked."""
        why = f"the Dask scheduler at {self._address} was lost"
        if client.status == "running" and client is not self._forgotten:
            return Snooze(f"the Dask cluster at {self._address} dropped it", DISCONNECT_SECONDS)
        if self._client is client:
            self._set_blocked_reason(why)
            self._look_now.set()
        return Snooze(why, 0.0)

    def _watch(self) -> None:
        while not self._closing.is_set():
            try:
                self._check_connection()
            except OSError as exc:
                self._disconnect(_no_scheduler(self._address, exc))
            except Exception as exc:  # whatever keeps the cluster away is told and tried again
                self._disconnect(
                    f"the Dask cluster at {self._address} can't be used ({_error_text(exc)}): "
                    "'enrichment doctor' looks closer"
                )
            self._look_now.wait(POLL_SECONDS)
            self._look_now.clear()

    def _check_connection(self) -> None:
        """Connect, or see whether the connection stands and somebody works behind it."""
        if self._client is None:
            self._client = self._connect()
        if self._client.status != "running" or self._client is self._forgotten:
            raise ConnectionResetError("the connection was lost")
        self._set_blocked_reason(None if _threads(self._client) else _no_workers(self._address))

    def _connect(self) -> Client:
        client = connected(self._address)
        try:
            client.subscribe_topic(client.id, self._on_message)
            client.register_plugin(dask_worker.ClientCleanupPlugin())
            client.register_plugin(
                dask_worker.PipelinePlugin(client.id, self._open_line), name=client.id
            )
        except Exception:
            client.close()
            raise
        return client

    def _on_message(self, event: tuple[float, Any]) -> None:
        for key, told in dask_worker.read(event[1]):
            messages = self._runs.get(key)
            if messages is not None:
                messages.put(told)

    def _disconnect(self, why: str) -> None:
        """Give up the connection; who waits behind it sees that within a second."""
        client, self._client = self._client, None
        self._set_blocked_reason(why)
        if client is not None:
            if client.status == "running":  # else the scheduler would tell us that we have left
                client.unsubscribe_topic(client.id)
            client.close(timeout=CONNECT_SECONDS)

    def _set_blocked_reason(self, waits: str | None) -> None:
        before, self._waits = self._waits, waits
        if waits is None and before is not None:
            _log.info("enriching on the Dask cluster at %s", self._address)
        elif waits is not None and waits != before and not self._closing.is_set():
            _log.warning("waiting: %s", waits)


def connected(address: str) -> Client:
    """A client of the scheduler there; OSError if it does not answer within 5 s."""
    place = urlsplit(address)
    # A client that fails to connect leaves a thread behind, so something must listen first.
    socket.create_connection((place.hostname, place.port), timeout=CONNECT_SECONDS).close()
    return Client(address, timeout=CONNECT_SECONDS, name="enrichment", set_as_default=False)


def check_cluster(address: str, reach: Callable[[], None]) -> str:
    """What the cluster is made of; ConfigurationError says what to mend: no scheduler, no workers,
    another version than here, a Dask worker in which `reach` fails.
    """
    try:
        with connected(address) as client:
            threads = _threads(client)
            if not threads:
                raise ConfigurationError(_no_workers(address))
            _require_one_version(client)
            for worker, failure in client.run(_hindrance, reach).items():
                if failure is not None:
                    raise ConfigurationError(f"the Dask worker {worker} can't work: {failure}")
    except OSError as exc:
        raise ConfigurationError(_no_scheduler(address, exc)) from exc
    return f"{address}: {len(threads)} workers with {sum(threads.values())} threads"


async def _hindrance(reach: Callable[[], None]) -> EnrichmentError | None:
    """In a Dask worker, beside its event loop: how `reach` fails there."""
    try:
        await asyncio.to_thread(reach)
    except EnrichmentError as exc:
        exc.__cause__ = None
        return exc
    return None


def _require_one_version(client: Client) -> None:
    found: Any = client.get_versions(packages=["market-enrichment"])
    here = found["client"]["packages"]
    there = {"the scheduler": found["scheduler"], **found["workers"]}
    for name in ("market-enrichment", "distributed", "python"):
        for place, versions in there.items():
            version = versions["packages"].get(name)
            if version != here[name]:
                raise ConfigurationError(
                    f"{place} has {name} {version or 'not installed'}, this process {here[name]}: "
                    "install the same versions everywhere"
                )


def _threads(client: Client) -> dict[str, int]:
    """Dask worker → its threads; OSError if the scheduler does not say so in time."""
    scheduler: Any = client.scheduler
    found: dict[str, int] = client.sync(scheduler.ncores, callback_timeout=CONNECT_SECONDS)
    return found


def _follow(client: Client, messages: Messages, report: OnStep) -> tuple[str, RowCounts | None]:
    """Report each step as it comes, until the end; the last one, and what was written if that was
    told. Raises Cancelled as `report` does.

    The step is reported again each second, since a cancel may come between two of them.
    """
    step = "queued"
    while True:
        report(step)
        try:
            told = messages.get(timeout=CANCEL_SECONDS)
        except Empty:
            if client.status != "running":
                return step, None
            continue
        if not isinstance(told, str):
            return step, told
        step = told


def _no_scheduler(address: str, exc: OSError) -> str:
    return (
        f"the Dask scheduler at {address} does not answer ({_error_text(exc)}): start it with "
        "'dask scheduler', or correct ENRICHMENT_EXECUTOR"
    )


def _error_text(exc: Exception) -> str:
    return " ".join(str(exc).split()) or type(exc).__name__


def _no_workers(address: str) -> str:
    return (
        f"the Dask scheduler at {address} has no workers: start some with 'dask worker {address}'"
    )
