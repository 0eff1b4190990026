"""What the pages show of jobs."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

import pandas as pd

from enrichment.dashboard.data.cache import cached_read
from enrichment.dashboard.services import services
from enrichment.warehouse.read_models.dto import HistoryPage, Progress
from enrichment.warehouse.read_models.jobs import (
    ErrorGroup,
    ItemLog,
    JobItem,
    JobRequest,
    SymbolsOfDay,
    Timeline,
)

HISTORY_LIMIT = 200
ITEM_LIMIT = 500
SPAN_LIMIT = 400


@dataclass(frozen=True)
class JobReport:
    request: JobRequest | None
    progress: Progress | None
    error_groups: list[ErrorGroup]
    items: list[JobItem]  # the first by name
    timeline: Timeline


@cached_read
def read_history(kinds: tuple[str, ...], with_failures: bool, limit: int) -> HistoryPage:
    """The newest jobs of these kinds, or of all if none is given."""
    return services().reader.history(limit, kinds=kinds, with_failures=with_failures)


@cached_read
def read_symbols_by_day(job_ids: tuple[UUID, ...]) -> list[SymbolsOfDay]:
    return services().reader.jobs.symbols_by_day(job_ids)


@cached_read
def read_job(job_id: UUID, error_class: str | None, item_limit: int) -> JobReport:
    """error_class: of the items; None for all."""
    reader = services().reader
    return JobReport(
        request=reader.jobs.request(job_id),
        progress=reader.progress(job_id),
        error_groups=reader.jobs.error_groups(job_id),
        items=reader.jobs.items(job_id, item_limit, error_class=error_class),
        timeline=reader.jobs.timeline(job_id, SPAN_LIMIT),
    )


@cached_read
def read_log(job_id: UUID, symbol: str) -> str:
    """What workers logged about a symbol of a job in attempts that failed."""
    log = services().reader.jobs.log(job_id, symbol)
    return "\n".join(log.lines) if log else ""


@cached_read
def read_newest_log(symbol: str) -> ItemLog | None:
    """Of the newest job in which the symbol failed."""
    return next(iter(services().reader.jobs.logs_of_failures(1, symbol=symbol)), None)


def history_frame(page: HistoryPage) -> pd.DataFrame:
    """A row per job, newest first."""
    rows = [
        {
            "at": details.created_at,
            "kind": details.kind,
            "state": details.state,
            "requested by": details.requested_by,
            "symbols": details.total,
            "successful": job.successful,
            "failed": job.failed,
            "retried": job.retried,
            "seconds": job.duration_seconds,
            "inserted": job.total_records_inserted,
            "updated": job.total_records_updated,
            "job_id": str(job.job_id),
        }
        for job, details in zip(page.jobs, page.details, strict=True)
    ]
    return pd.DataFrame(rows)
