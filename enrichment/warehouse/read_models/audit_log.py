"""Actions of operators and corrections by vendors, newest first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from enrichment.warehouse.database import Reader, sql


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """An action of an operator."""

    id: int
    at: datetime
    actor: str
    action: str
    target: str | None
    reason: str | None
    params: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class CorrectedValue:
    """A stored value that a vendor restated."""

    id: int
    corrected_at: datetime
    symbol: str
    timeframe: str
    ts: datetime  # start of the bar
    field: str  # column of the bar
    old_value: float | None
    new_value: float | None
    reason: str
    source: str
    job_id: UUID | None


class AuditLog(Reader):
    """Reads pages of append-only tables: rows with an id below `before`."""

    def actions(
        self,
        limit: int,
        *,
        actor: str | None = None,
        action: str | None = None,
        before: int | None = None,
    ) -> list[AuditEntry]:
        return self._all(
            AuditEntry, _ACTIONS, limit=limit, actor=actor, action=action, before=before
        )

    def corrections(
        self,
        limit: int,
        *,
        symbol: str | None = None,
        timeframe: str | None = None,
        since: datetime | None = None,
        before: int | None = None,
    ) -> list[CorrectedValue]:
        """Corrections of a series, or of all, made at `since` or later."""
        return self._all(
            CorrectedValue,
            _CORRECTIONS,
            limit=limit,
            symbol=symbol,
            timeframe=timeframe,
            since=since,
            before=before,
        )

    def count_corrections(self) -> int:
        with self._db.begin() as conn:
            return int(conn.execute(sql("SELECT count(*) FROM data_corrections")).scalar_one())


_ACTIONS = """
SELECT id, at, actor, action, target, reason, params FROM operator_actions
WHERE (CAST(:before AS bigint) IS NULL OR id < :before)
    AND (CAST(:actor AS text) IS NULL OR actor = :actor)
    AND (CAST(:action AS text) IS NULL OR action = :action)
ORDER BY id DESC LIMIT :limit
"""

_CORRECTIONS = """
SELECT id, corrected_at, symbol, timeframe, ts, field, old_value, new_value, reason, source, job_id
FROM data_corrections
WHERE (CAST(:before AS bigint) IS NULL OR id < :before)
    AND (CAST(:symbol AS text) IS NULL OR symbol = :symbol)
    AND (CAST(:timeframe AS text) IS NULL OR timeframe = :timeframe)
    AND (CAST(:since AS timestamptz) IS NULL OR corrected_at >= :since)
ORDER BY id DESC LIMIT :limit
"""
