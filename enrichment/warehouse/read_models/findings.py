"""Flags, rejected bars and missing bars of all symbols, page by page, newest bar first.

Of symbols that are not tracked any more only where one is named. Times are timezone-aware UTC.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Generic, TypeVar

from sqlalchemy import Row

from enrichment.domain.statuses import FindingKind
from enrichment.warehouse.database import Reader, from_row, sql
from enrichment.warehouse.queue.symbols import stored_as

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Flag:
    """A finding of a validation check that has not been confirmed."""

    symbol: str
    timeframe: str
    timestamp: datetime  # start of the bar
    check: str
    severity: str
    detail: str
    found_at: datetime


@dataclass(frozen=True, slots=True)
class RejectedBar:
    """A bar in quarantine, as the vendor sent it."""

    symbol: str
    timeframe: str
    timestamp: datetime  # start of the bar
    check: str
    detail: str
    source: str
    bar: Mapping[str, Any]
    found_at: datetime


@dataclass(frozen=True, slots=True)
class MissingBar:
    """An open gap."""

    symbol: str
    timeframe: str
    timestamp: datetime  # start of the bar
    cause: str
    attempts: int  # how often it was fetched
    error: str | None  # of the last attempt
    found_at: datetime
    next_try_at: datetime  # runs from then on fetch it again


Finding = TypeVar("Finding", Flag, RejectedBar, MissingBar)


@dataclass(frozen=True, slots=True)
class Cursor:
    """The last row of a page."""

    timestamp: datetime
    symbol: str
    timeframe: str
    key: str  # what tells findings of one bar apart

    def __str__(self) -> str:
        micros = (self.timestamp - _EPOCH) // timedelta(microseconds=1)
        return f"{micros}_{self.symbol}_{self.timeframe}_{self.key}"

    @classmethod
    def parse(cls, text: str) -> Cursor:
        """The inverse of `str`. Raises ValueError."""
        micros, symbol, timeframe, key = text.split("_", 3)
        try:
            return cls(_EPOCH + timedelta(microseconds=int(micros)), symbol, timeframe, key)
        except OverflowError:
            raise ValueError(f"{micros} is no time") from None


@dataclass(frozen=True, slots=True)
class FindingsPage(Generic[Finding]):
    """Some of the findings that match."""

    total: int  # that match, on all pages
    rows: Sequence[Finding]
    next: Cursor | None  # None on the last page


@dataclass(frozen=True, slots=True)
class Filter:
    """Which findings; None for all."""

    symbol: str | None = None
    timeframe: str | None = None
    kind: str | None = None  # check or cause
    since: datetime | None = None  # found then or later


class Findings(Reader):
    """Reads the findings."""

    def of_kind(
        self, kind: FindingKind, limit: int, which: Filter | None = None
    ) -> FindingsPage[Any]:
        """The first page of flags, rejected bars or missing bars."""
        read: Mapping[FindingKind, Callable[[int, Filter | None], FindingsPage[Any]]] = {
            FindingKind.FLAGS: self.flags,
            FindingKind.QUARANTINE: self.rejected_bars,
            FindingKind.GAPS: self.missing_bars,
        }
        return read[kind](limit, which)

    def flags(
        self, limit: int, which: Filter | None = None, after: Cursor | None = None
    ) -> FindingsPage[Flag]:
        return self._page(Flag, _FLAGS, limit, which, after)

    def rejected_bars(
        self, limit: int, which: Filter | None = None, after: Cursor | None = None
    ) -> FindingsPage[RejectedBar]:
        return self._page(RejectedBar, _REJECTED, limit, which, after)

    def missing_bars(
        self, limit: int, which: Filter | None = None, after: Cursor | None = None
    ) -> FindingsPage[MissingBar]:
        return self._page(MissingBar, _MISSING, limit, which, after)

    def _page(
        self,
        model: type[Finding],
        query: str,
        limit: int,
        which: Filter | None,
        after: Cursor | None,
    ) -> FindingsPage[Finding]:
        which = which or Filter()
        matching: dict[str, object] = {
            "symbol": which.symbol,
            "timeframe": which.timeframe,
            "kind": which.kind,
            "since": which.since,
        }
        begin = {
            "after_ts": after and after.timestamp,
            "after_symbol": after and after.symbol,
            "after_timeframe": after and after.timeframe,
            "after_key": after and after.key,
        }
        with self._db.begin() as conn:
            if which.symbol:
                matching["symbol"] = stored_as(conn, [which.symbol])[0]
            total = conn.execute(sql(f"SELECT count(*) {_matching(query)}"), matching).scalar_one()
            selected = sql(f"SELECT * {_matching(query)} {_AFTER}")
            rows = conn.execute(selected, {**matching, **begin, "limit": limit + 1}).all()
        page = rows[:limit]
        following = None if len(rows) <= limit else _cursor(page[-1])
        return FindingsPage(total, [from_row(model, row) for row in page], following)


def _cursor(row: Row[Any]) -> Cursor:
    return Cursor(row.timestamp, row.symbol, row.timeframe, row.key)


def _matching(findings: str) -> str:
    return f"""
FROM ({findings}) findings
WHERE (CAST(:timeframe AS text) IS NULL OR timeframe = :timeframe)
    AND (CAST(:kind AS text) IS NULL OR kind = :kind)
    AND (CAST(:since AS timestamptz) IS NULL OR found_at >= :since)
    AND CASE WHEN CAST(:symbol AS text) IS NULL THEN EXISTS (
            SELECT FROM tracked_symbols t WHERE t.symbol = findings.symbol AND t.active)
        ELSE symbol = :symbol END"""


_AFTER = """
    AND (CAST(:after_ts AS timestamptz) IS NULL OR timestamp < :after_ts
        OR timestamp = :after_ts AND (symbol, timeframe, key)
            > (CAST(:after_symbol AS text), :after_timeframe, :after_key))
ORDER BY timestamp DESC, symbol, timeframe, key LIMIT :limit
"""

_FLAGS = """
SELECT symbol, timeframe, ts AS timestamp, check_name AS check, severity, detail, found_at,
    check_name AS kind, check_name AS key
FROM bar_flags"""

_REJECTED = """
SELECT symbol, timeframe, ts AS timestamp, check_name AS check, detail, source, bar,
    quarantined_at AS found_at, check_name AS kind, check_name || '_' || md5(bar::text) AS key
FROM bar_quarantine"""

_MISSING = """
SELECT symbol, timeframe, ts AS timestamp, cause, attempts, error, found_at, next_try_at,
    cause AS kind, '' AS key
FROM bar_gaps WHERE resolved_at IS NULL"""
