"""The days of a market that jobs fetch whole: their plan, their requests and their rows.

A day is claimed by locking its row for as long as its request takes, so that the day of a killed
worker is free again at once. The items that need the days are held until none is pending.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from threading import Lock
from uuid import UUID

import numpy as np
import pyarrow as pa
from sqlalchemy import Connection, text

from enrichment.domain.bars import Bars, Timestamps
from enrichment.domain.market_days import DaysOfSymbol, MarketDay
from enrichment.domain.model import AssetClass, JobKind, Timeframe, TrackedSymbol
from enrichment.domain.statuses import JobState, MarketDayStatus, PauseScope
from enrichment.warehouse.database import Database, fetch_one
from enrichment.warehouse.queue.pauses import IN_FORCE
from enrichment.warehouse.state_lists import OPEN_JOBS, WAITING_ITEMS

WORTH_PLANNING = 12  # symbols of a job: fewer need no more requests than the days of an overlap
_REQUEST_SECONDS = 900
_JOBS_IN_MEMORY = 2


@dataclass(frozen=True, slots=True)
class DueDay:
    """A claimed day of a job."""

    job_id: UUID
    day: date
    attempts: int
    newest: bool
    """Whether it is the job's newest one."""
    waited: float
    """Seconds since it was planned."""
    priority: int
    """Of the job's items."""


def job_to_plan(conn: Connection) -> UUID | None:
    """An open job that has no plan yet, locked for this transaction."""
    job_id: UUID | None = conn.execute(text(_TO_PLAN), {"least": WORTH_PLANNING}).scalar()
    return job_id


def save_plan(
    conn: Connection, job_id: UUID, source: str, days: Sequence[date], symbols: Collection[str]
) -> None:
    """Plan the days of a job, for these symbols of it; no days: each symbol asks for itself."""
    values = {"job_id": job_id, "source": source, "days": list(days), "symbols": list(symbols)}
    conn.execute(text(_ADD_DAYS), values)
    conn.execute(text(_MARK_ITEMS), values)
    conn.execute(text(_PLANNED), {"job_id": job_id, "pending": bool(days)})


def refused_lately(conn: Connection, source: str) -> bool:
    """Whether the vendor refused a whole day within the last day."""
    return bool(conn.execute(text(_REFUSED_LATELY), {"source": source}).scalar_one())


def claim(conn: Connection, source: str, provider: str) -> DueDay | None:
    """The newest due day of a job that goes first, locked for this transaction; None for none."""
    conn.execute(text(f"SET LOCAL idle_in_transaction_session_timeout = '{_REQUEST_SECONDS}s'"))
    return fetch_one(conn, DueDay, _CLAIM, {"source": source, "provider": provider})


def waiting_items(conn: Connection, job_id: UUID) -> list[TrackedSymbol]:
    """The items of a job that have not started."""
    return [
        TrackedSymbol(
            row.symbol, AssetClass(row.asset_class), tuple(map(Timeframe, row.timeframes))
        )
        for row in conn.execute(text(_WAITING), {"job_id": job_id})
    ]


def symbols_of(conn: Connection, job_id: UUID) -> frozenset[str]:
    """The symbols of a job that its days are fetched for."""
    return frozenset(conn.execute(text(_SYMBOLS), {"job_id": job_id}).scalars())


def store(conn: Connection, due: DueDay, day: MarketDay) -> None:
    """Store the bars of a day; empty: no symbol has it yet."""
    values = {
        "job_id": due.job_id,
        "day": due.day,
        "status": MarketDayStatus.FETCHED if day.symbols else MarketDayStatus.UNPUBLISHED,
        "symbols": len(day.symbols),
        "content": _to_arrow(day) if day.symbols else None,
    }
    conn.execute(text(_STORE), values)


def postpone(conn: Connection, due: DueDay, seconds: float, why: str, *, attempt: bool) -> None:
    """Try a day again in some seconds. attempt: whether that counts as one."""
    values = {"seconds": seconds, "error": why, "attempts": due.attempts + attempt}
    conn.execute(text(_POSTPONE), {"job_id": due.job_id, "day": due.day, **values})


def give_up(conn: Connection, due: DueDay, status: MarketDayStatus, why: str) -> None:
    """End a day without its bars. The days before it are dropped, since no symbol needs only them.

    Symbols that need none of these are still served by the newer days.
    """
    values = {"job_id": due.job_id, "day": due.day, "status": status, "error": why}
    conn.execute(text(_GIVE_UP), values)


def release_items(conn: Connection) -> list[UUID]:
    """Release the items of every job none of whose days is pending; returns these jobs."""
    return list(conn.execute(text(_RELEASE)).scalars())


def discard_content(conn: Connection) -> None:
    """Remove the bars of the days of ended jobs."""
    conn.execute(text(_DISCARD))


class StoredMarketDays:
    """Reads the days of jobs, and keeps those of the last jobs in memory."""

    def __init__(self, db: Database) -> None:
        self._db, self._lock = db, Lock()
        self._jobs: OrderedDict[UUID, _JobDays] = OrderedDict()

    def __call__(self, job_id: UUID, symbol: str) -> DaysOfSymbol | None:
        """What the days of a job hold of a symbol; None for nothing."""
        with self._lock:
            if job_id not in self._jobs:
                with self._db.begin() as conn:
                    self._jobs[job_id] = _read(conn, job_id)
                while len(self._jobs) > _JOBS_IN_MEMORY:
                    self._jobs.popitem(last=False)
            days = self._jobs[job_id]
        return days.of(symbol)


@dataclass(frozen=True, slots=True, eq=False)
class _JobDays:
    positions: Mapping[str, int]  # symbol → where its rows begin and end in `starts`
    starts: np.ndarray[tuple[int], np.dtype[np.intp]]
    bars: Bars  # by symbol and time
    unpublished: Timestamps

    def of(self, symbol: str) -> DaysOfSymbol | None:
        at = self.positions.get(symbol)
        if at is None:
            return None
        rows = slice(int(self.starts[at]), int(self.starts[at + 1]))
        return DaysOfSymbol(self.bars.take(rows), self.unpublished)


def _read(conn: Connection, job_id: UUID) -> _JobDays:
    rows = conn.execute(text(_CONTENT), {"job_id": job_id}).all()
    unpublished = np.array([row.day for row in rows if row.content is None], "datetime64[us]")
    tables = [pa.ipc.open_stream(row.content).read_all() for row in rows if row.content is not None]
    if not tables:
        return _JobDays({}, np.zeros(1, np.intp), Bars.empty(), unpublished)
    table = pa.concat_tables(tables).sort_by([("symbol", "ascending"), ("ts", "ascending")])
    symbols, counts = np.unique(table["symbol"].to_numpy(), return_counts=True)
    names = [name for name in table.column_names if name != "symbol"]
    return _JobDays(
        {symbol: n for n, symbol in enumerate(symbols.tolist())},
        np.concatenate([[0], np.cumsum(counts)]),
        Bars(**{name: table[name].to_numpy() for name in names}),
        unpublished,
    )


def _to_arrow(day: MarketDay) -> bytes:
    table = pa.table({"symbol": pa.array(day.symbols, pa.string()), **day.bars.columns()})
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_stream(sink, table.schema, options=options) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


_TO_PLAN = f"""
SELECT job_id FROM enrichment_jobs
WHERE state IN {OPEN_JOBS} AND cancel_requested_at IS NULL AND market_days_planned_at IS NULL
    AND kind <> '{JobKind.BACKFILL}' AND total >= :least
ORDER BY created_at LIMIT 1 FOR UPDATE SKIP LOCKED
"""

_ADD_DAYS = """
INSERT INTO market_days (job_id, source, day)
SELECT :job_id, :source, unnest(CAST(:days AS date[]))
"""

_MARK_ITEMS = f"""
UPDATE enrichment_job_items SET market_days = true
WHERE job_id = :job_id AND symbol = ANY(:symbols) AND status IN {WAITING_ITEMS}
"""

# A job that fetches days runs, although none of its items has started.
_PLANNED = f"""
UPDATE enrichment_jobs SET market_days_planned_at = now(), market_days_pending = :pending,
    state = CASE WHEN :pending THEN '{JobState.RUNNING}' ELSE state END,
    started_at = CASE WHEN :pending THEN coalesce(started_at, now()) ELSE started_at END
WHERE job_id = :job_id
"""

_REFUSED_LATELY = f"""
SELECT EXISTS (SELECT 1 FROM market_days
    WHERE source = :source AND status = '{MarketDayStatus.REFUSED}'
        AND ended_at > now() - interval '1 day')
"""

_CLAIM = f"""
SELECT d.job_id, d.day, d.attempts, newest.day = d.day AS newest,
    extract(epoch FROM now() - d.created_at)::float8 AS waited, first.priority
FROM market_days d JOIN enrichment_jobs j USING (job_id),
LATERAL (SELECT max(day) AS day FROM market_days WHERE job_id = d.job_id) newest,
LATERAL (SELECT min(priority) AS priority FROM enrichment_job_items
    WHERE job_id = d.job_id AND market_days) first
WHERE d.status = '{MarketDayStatus.PENDING}' AND d.source = :source AND d.run_after <= now()
    AND j.state IN {OPEN_JOBS} AND j.cancel_requested_at IS NULL
    AND NOT EXISTS (
        SELECT 1 FROM pauses WHERE {IN_FORCE} AND (scope = '{PauseScope.GLOBAL}'
            OR (scope, key) = ('{PauseScope.PROVIDER}', :provider)))
    AND EXISTS (
        SELECT 1 FROM enrichment_job_items i
        WHERE i.job_id = d.job_id AND i.market_days AND i.status IN {WAITING_ITEMS}
            AND NOT EXISTS (SELECT 1 FROM pauses WHERE {IN_FORCE}
                AND (scope, key) = ('{PauseScope.ASSET_CLASS}', i.asset_class)))
ORDER BY first.priority, j.created_at, d.day DESC
LIMIT 1 FOR UPDATE OF d SKIP LOCKED
"""

_WAITING = f"""
SELECT symbol, asset_class, timeframes FROM enrichment_job_items
WHERE job_id = :job_id AND status IN {WAITING_ITEMS} AND backfill IS NULL ORDER BY symbol
"""

_SYMBOLS = "SELECT symbol FROM enrichment_job_items WHERE job_id = :job_id AND market_days"

_STORE = """
UPDATE market_days SET status = :status, symbols = :symbols, content = :content,
    error = NULL, ended_at = clock_timestamp()
WHERE job_id = :job_id AND day = :day
"""

_POSTPONE = """
UPDATE market_days SET run_after = clock_timestamp() + make_interval(secs => :seconds),
    attempts = :attempts, error = :error
WHERE job_id = :job_id AND day = :day
"""

_GIVE_UP = f"""
UPDATE market_days SET ended_at = clock_timestamp(),
    status = CASE WHEN day = :day THEN CAST(:status AS text) ELSE '{MarketDayStatus.DROPPED}' END,
    error = CASE WHEN day = :day THEN CAST(:error AS text) END
WHERE job_id = :job_id AND day <= :day AND status = '{MarketDayStatus.PENDING}'
"""

_RELEASE = f"""
UPDATE enrichment_jobs j SET market_days_pending = false
WHERE market_days_pending AND NOT EXISTS (
    SELECT 1 FROM market_days d
    WHERE d.job_id = j.job_id AND d.status = '{MarketDayStatus.PENDING}')
RETURNING j.job_id
"""

_DISCARD = f"""
UPDATE market_days d SET content = NULL FROM enrichment_jobs j
WHERE j.job_id = d.job_id AND j.state NOT IN {OPEN_JOBS} AND d.content IS NOT NULL
"""

_CONTENT = f"""
SELECT day, content FROM market_days
WHERE job_id = :job_id AND (content IS NOT NULL OR status = '{MarketDayStatus.UNPUBLISHED}')
"""
