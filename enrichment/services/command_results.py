"""What commands answer."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from enrichment.services.repairs import RepairPlan


@dataclass(frozen=True, slots=True)
class TriggerResult:
    """A job that was opened, and its number of symbols."""

    job_id: UUID
    symbols_to_process: int


@dataclass(frozen=True, slots=True)
class RepairResult:
    """A repair that was opened, its number of symbols, and what it will do."""

    job_id: UUID
    symbols_to_process: int
    plan: RepairPlan
