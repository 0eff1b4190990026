"""Groups of states as SQL writes them: `WHERE state IN {OPEN_JOBS}`."""

from __future__ import annotations

from collections.abc import Iterable

from enrichment.domain.model import JobKind
from enrichment.domain.statuses import (
    FINAL_ITEM_STATUSES,
    FINISHED_JOB_STATES,
    OPEN_JOB_STATES,
    QUEUED_ITEM_STATUSES,
    WAITING_ITEM_STATUSES,
)


def _listed(states: Iterable[str]) -> str:
    return "(" + ", ".join(f"'{state}'" for state in states) + ")"


OPEN_JOBS = _listed(OPEN_JOB_STATES)
FINISHED_JOBS = _listed(FINISHED_JOB_STATES)  # cancelled ones do not count
NIGHTLY_JOBS = _listed((JobKind.SCHEDULED, JobKind.CATCHUP))
WAITING_ITEMS = _listed(WAITING_ITEM_STATUSES)
FINAL_ITEMS = _listed(FINAL_ITEM_STATUSES)
QUEUED_ITEMS = _listed(QUEUED_ITEM_STATUSES)
