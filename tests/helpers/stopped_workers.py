"""Workers without a database, each in a process of its own, stopped by SIGTERM at any moment."""

from __future__ import annotations

import os
import random
import select
import signal
import sys
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from enrichment.domain.model import Failure, Task
from enrichment.domain.stop_signals import call_on_stop_signal
from enrichment.engine.worker import Worker, WorkerTiming

LIMIT_SECONDS = 20.0


class EmptyQueue:
    """A queue without items; the second look at it says that the worker is in its loop."""

    def __init__(self, ready: int) -> None:
        self._ready, self._looks = ready, 0

    def claim(self, worker_id: str, capacity: int, *, interactive: bool = False) -> Sequence[Task]:
        self._looks += 1
        if self._looks == 2:
            os.write(self._ready, b"1")
        return ()

    def renew(self, steps: Mapping[Task, str]) -> set[Task]:
        return set()

    def cancelled(self, tasks: Collection[Task]) -> set[Task]:
        return set()

    def release(self, task: Task, seconds: float = 0.0, reason: str | None = None) -> None: ...

    def fail(self, task: Task, failure: Failure, delay: float | None) -> None: ...

    def discard(self, task: Task) -> None: ...

    def reclaim_expired(self, max_retries: int) -> int:
        return 0

    def close_finished_jobs(self) -> int:
        return 0


class NoRegistry:
    worker_id = "w"

    def beat(self, **_: object) -> None: ...


def hanging_stops(count: int, seed: int = 1) -> int:
    """How many of so many workers did not end within 20 s of a SIGTERM."""
    rng = random.Random(seed)
    return sum(not _ends(rng.random() * 0.004) for _ in range(count))


def _ends(delay: float) -> bool:
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        _work(writer)
    os.close(writer)
    os.read(reader, 1)
    os.close(reader)
    select.select((), (), (), delay)  # so that the signal arrives anywhere in the loop
    os.kill(pid, signal.SIGTERM)
    process = os.pidfd_open(pid)
    ended, _, _ = select.select((process,), (), (), LIMIT_SECONDS)
    os.close(process)
    if not ended:
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    return bool(ended) and os.waitstatus_to_exitcode(status) == 0


def _work(ready: int) -> None:
    code = 1
    try:
        queue: Any = EmptyQueue(ready)
        registry: Any = NoRegistry()
        timing = WorkerTiming(poll=0.0, heartbeat=0.01)
        worker = Worker(
            lambda task, on_step: None,  # type: ignore[arg-type,return-value]  # there is no item
            queue,
            registry,
            heartbeat_queue=queue,
            threads=2,
            max_retries=0,
            timing=timing,
        )
        call_on_stop_signal(worker.stop)
        code = 0 if worker.run() else 2
    finally:
        os._exit(code)


if __name__ == "__main__":
    hanging = hanging_stops(int(sys.argv[1]))
    print(hanging)
