"""What the worker and the scheduler need from other packages, as protocols and callable types."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from typing import Any, Protocol
from uuid import UUID

from enrichment.domain.model import Failure, RowCounts, Task
from enrichment.domain.statuses import WorkerState
from enrichment.pipeline.fetch import OnStep

Enrich = Callable[[Task, OnStep], RowCounts | Future[RowCounts]]
"""Enriches a task and reports its steps. It may return before the rows are stored: the future."""

Prepare = Callable[[Sequence[Task]], Sequence[Enrich]]
"""Reads in one batch what tasks claimed together need; returns what enriches each, in order."""

BlockedReason = Callable[[], str | None]
"""Why no task can run now; None if tasks can run."""

OpenPipeline = Callable[[int], AbstractContextManager[Enrich]]
"""Opens a pipeline for this many threads."""


class ItemQueue(Protocol):
    """The job queue; implemented by `warehouse.queue.jobs.JobQueue`. Durations are seconds."""

    def claim(self, worker_id: str, limit: int, *, interactive: bool = False) -> list[Task]: ...

    def renew(self, tasks: Mapping[Task, str]) -> set[Task]: ...

    def cancelled(self, tasks: Collection[Task]) -> set[Task]: ...

    def discard(self, task: Task) -> None: ...

    def release(self, task: Task, seconds: float = 0.0, why: str | None = None) -> None: ...

    def fail(self, task: Task, failure: Failure, retry_after: float | None) -> None: ...

    def close_finished_jobs(self) -> list[UUID]: ...

    def reclaim_expired(self, max_retries: int) -> int: ...


class Registry(Protocol):
    """This worker's row in `workers`; implemented by `warehouse.queue.workers.WorkerRegistry`."""

    worker_id: str

    def beat(self, *, busy: int, state: WorkerState, note: str | None = None) -> None: ...


class NightlySlots(Protocol):
    """Slots of the schedules; implemented by `warehouse.queue.nightly_slot.NightlySlotStore`."""

    def open_due_jobs(self) -> Mapping[str, UUID]: ...

    def maintain(self) -> None: ...


class SchedulerCommands(Protocol):
    """Commands of the scheduler's Python API; implemented by `services.commands.Commands`."""

    def trigger(
        self, *, symbols: Sequence[str] | None, asset_class: str | None, actor: str
    ) -> Any: ...

    def pause(self, *, actor: str) -> Any: ...

    def resume(self, *, actor: str) -> Any: ...


class SchedulerReader(Protocol):
    """Queries of the scheduler's Python API; implemented by `read_models.facade.ReadModels`."""

    def scheduler_status(self) -> Any: ...

    def metrics(self) -> Any: ...

    def job_status(self, symbol: str) -> Any: ...
