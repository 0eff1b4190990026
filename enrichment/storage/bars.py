"""The bars with their features: what is stored of a series, and the transactions that add to it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np
from sqlalchemy import Connection, text

from enrichment.domain import (
    Bars,
    Floats,
    Severity,
    Task,
    Timeframe,
    Timestamps,
    Written,
    to_datetime,
    to_datetime64,
)
from enrichment.features import CARRIED, FEATURES
from enrichment.planning import OVERLAP
from enrichment.quality import counts
from enrichment.seam import RATIO_TOLERANCE
from enrichment.series import Enriched, Known, Tail
from enrichment.storage import backfills, findings, jobs, logs, ownership, standing
from enrichment.storage.copying import constant, copy, fetch, record_batch
from enrichment.storage.database import Database

PRICES = ("open", "high", "low", "close", "volume", "vwap", "trades", "taker_buy_volume")


def feature_set(names: Iterable[str] = FEATURES) -> str:
    """A short name of a set of features, in their order."""
    return hashlib.sha256(",".join(names).encode()).hexdigest()[:16]


class Warehouse:
    """Reads what a run needs of a series and writes what it made of it."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._feature_set = feature_set()

    def describe(self, symbol: str, timeframe: Timeframe) -> Known:
        """What is known of the series without its bars."""
        with self._db.begin() as conn:
            row = conn.execute(
                text(_DESCRIBE),
                {"symbol": symbol, "timeframe": timeframe, "overlap": OVERLAP - 1},
            ).one_or_none()
        if row is None:
            return Known()
        return Known(
            bars=row.bars,
            first_ts=row.first_ts,
            overlap_from=row.overlap_from,
            history_from=row.history_from,
            source=row.source,
            adjusted=row.adjusted,
            gaps=_timestamps(row.gaps),
            due=_timestamps(row.due),
            flagged=frozenset(_objections(row)),
            confirmed=frozenset(zip(row.confirmed_ts, row.confirmed_checks, strict=True)),
            untraded=frozenset(row.untraded),
            complete=row.bars == 0 or row.feature_set == self._feature_set,
        )

    def tail(
        self, symbol: str, timeframe: Timeframe, since: datetime | None, lookback: int
    ) -> Tail:
        """All bars from `since` on (None: all there are), after `lookback` bars before it."""
        values = {
            "symbol": symbol,
            "timeframe": timeframe.value,
            "since": since,
            "lookback": lookback,
        }
        with self._db.begin() as conn:
            ts, columns = fetch(conn, _ALL if since is None else _TAIL, values, (*PRICES, *CARRIED))
        bars = bars_of(ts, columns)
        before = 0 if since is None else int(np.searchsorted(ts, to_datetime64(since)))
        whole = before < lookback  # nothing was left out: the tail begins with the series
        return Tail(bars, {} if whole else {name: float(columns[name][0]) for name in CARRIED})

    def keep(self, task: Task, enriched: Enriched, left: datetime) -> None:
        """Write one piece of a backfill, and that what is left to do ends at `left`."""
        with self._db.begin() as conn:
            ownership.assert_owned(conn, task)
            written = self._write(conn, task, enriched)
            backfills.note(conn, task, enriched.timeframe, left, written)

    def commit(self, task: Task, series: Sequence[Enriched]) -> Written:
        """Write everything a task produced, and its completion, in one transaction.

        Raises LeaseLost, and writes nothing, if the item no longer belongs to the task's worker.
        """
        total = Written()
        with self._db.begin() as conn:
            ownership.assert_owned(conn, task)
            for enriched in series:
                total += self._write(conn, task, enriched)
            jobs.complete(conn, task, total)
        return total

    def _write(self, conn: Connection, task: Task, enriched: Enriched) -> Written:
        written = write_rows(conn, task, enriched)
        findings.write(conn, task.symbol, enriched)
        logs.write_success(conn, task, enriched)
        standing.write(conn, task.symbol, enriched, written, self._feature_set)
        return written


def bars_of(ts: Timestamps, columns: Mapping[str, Floats]) -> Bars:
    """The columns of PRICES, as `fetch` reads them, with their starts."""
    return Bars(ts, *(columns[name] for name in PRICES))


def write_rows(conn: Connection, task: Task, enriched: Enriched) -> Written:
    """Insert the new bars and update the changed ones; what the vendor restated goes to
    `data_corrections`, and the rows as they were to `bar_versions`.

    `enriched.bars` holds only rows from the first new or changed one on. Where all of them lie
    behind what is stored, they are copied straight into the table; otherwise they are staged in a
    temporary table and merged.
    """
    if len(enriched.bars) == 0:
        return Written()
    columns = {
        "symbol": constant(task.symbol, len(enriched.bars)),
        "timeframe": constant(enriched.timeframe, len(enriched.bars)),
        **enriched.bars.columns(),
        **enriched.features,
    }
    batch = record_batch(columns)
    if _appends(conn, task.symbol, enriched):
        copy(conn, "bars", batch)
        return Written(inserted=len(enriched.bars))
    return _merge(conn, task, enriched, batch)


def _appends(conn: Connection, symbol: str, enriched: Enriched) -> bool:
    newest = conn.execute(
        text("SELECT max(ts) FROM bars WHERE symbol = :symbol AND timeframe = :timeframe"),
        {"symbol": symbol, "timeframe": enriched.timeframe},
    ).scalar()
    return newest is None or bool(enriched.bars.ts[0] > to_datetime64(newest))


def _merge(conn: Connection, task: Task, enriched: Enriched, batch: Any) -> Written:
    names = batch.schema.names
    values = {
        "symbol": task.symbol,
        "timeframe": enriched.timeframe,
        "first": to_datetime(enriched.bars.ts[0]),
        "last": to_datetime(enriched.bars.ts[-1]),
    }
    conn.execute(text(_STAGE))
    copy(conn, "staged_bars", batch)
    conn.execute(text("ANALYZE staged_bars (ts)"))
    if conn.execute(text(_KEEP_VERSIONS), values).rowcount:
        _write_corrections(conn, task, enriched, values)
    assignments = ", ".join(f'"{name}" = s."{name}"' for name in names[3:])
    updated = conn.execute(
        text(
            f"UPDATE bars b SET {assignments}, known_from ="
            f" CASE WHEN {_RESTATED} THEN now() ELSE b.known_from END"
            f" FROM staged_bars s WHERE {_SAME_BAR}"
        ),
        values,
    ).rowcount
    listed = ", ".join(f'"{name}"' for name in names)
    inserted = conn.execute(
        text(
            f"INSERT INTO bars ({listed}) SELECT {listed} FROM staged_bars s"
            f" WHERE NOT EXISTS (SELECT 1 FROM bars b WHERE {_SAME_BAR})"
        ),
        values,
    ).rowcount
    conn.execute(text("DROP TABLE staged_bars"))
    return Written(inserted, updated)


def _write_corrections(
    conn: Connection, task: Task, enriched: Enriched, values: dict[str, Any]
) -> None:
    """Old and new values field by field; a rebased history is one correction with its factor."""
    rebase = enriched.rebase
    values = {**values, "source": enriched.fetched.source, "job_id": task.job_id}
    values |= {"factor": None, "until": None, "tolerance": RATIO_TOLERANCE}
    if rebase is not None:
        values |= {"factor": rebase.factor, "until": rebase.until, "from": rebase.ts}
        conn.execute(text(_REBASED), values)
    conn.execute(text(_CORRECTIONS), values)


def _objections(row: Any) -> Iterator[tuple[datetime, str]]:
    flags = zip(row.flag_ts, row.flag_checks, row.flag_severities, strict=True)
    return ((ts, check) for ts, check, severity in flags if counts(check, Severity(severity)))


def _timestamps(moments: Sequence[datetime]) -> Timestamps:
    return np.array([to_datetime64(moment) for moment in moments], dtype="datetime64[us]")


_COLUMNS = ", ".join(PRICES)

# The constants bound the search to the series' newest stretch of the primary key, whatever the
# planner believes of a temporary table without statistics.
_SAME_BAR = (
    "b.symbol = :symbol AND b.timeframe = :timeframe AND b.ts BETWEEN :first AND :last"
    " AND b.ts = s.ts"
)

_RESTATED = (
    f"({', '.join(f'b.{p}' for p in PRICES)}) IS DISTINCT FROM"
    f" ({', '.join(f's.{p}' for p in PRICES)})"
)

_SERIES = "symbol = :symbol AND timeframe = :timeframe"

_DESCRIBE = f"""
SELECT s.bars, s.first_ts, s.history_from, s.source, s.adjusted, s.feature_set,
    coalesce((SELECT ts FROM bars WHERE {_SERIES} ORDER BY ts DESC OFFSET :overlap LIMIT 1),
        s.first_ts) AS overlap_from,
    ARRAY(SELECT ts FROM bar_gaps WHERE {_SERIES} AND resolved_at IS NULL ORDER BY ts) AS gaps,
    ARRAY(SELECT ts FROM bar_gaps WHERE {_SERIES} AND resolved_at IS NULL AND next_try_at <= now()
        ORDER BY ts) AS due,
    ARRAY(SELECT ts FROM bar_gaps WHERE {_SERIES} AND resolution = 'no_trades') AS untraded,
    flags.ts AS flag_ts, flags.checks AS flag_checks, flags.severities AS flag_severities,
    ARRAY(SELECT ts FROM bar_confirmations WHERE {_SERIES} ORDER BY ts, check_name) AS confirmed_ts,
    ARRAY(SELECT check_name FROM bar_confirmations WHERE {_SERIES} ORDER BY ts, check_name)
        AS confirmed_checks
FROM enrichment_status s, LATERAL (
    SELECT coalesce(array_agg(ts), '{{}}') AS ts, coalesce(array_agg(check_name), '{{}}') AS checks,
        coalesce(array_agg(severity), '{{}}') AS severities
    FROM bar_flags WHERE {_SERIES} AND severity <> 'info'
) flags
WHERE s.symbol = :symbol AND s.timeframe = :timeframe AND s.last_success_at IS NOT NULL
"""

_TAIL_COLUMNS = ", ".join(("ts", *PRICES, *CARRIED))
_ONE_SERIES = "symbol = %(symbol)s AND timeframe = %(timeframe)s"

_ALL = f"SELECT {_TAIL_COLUMNS} FROM bars WHERE {_ONE_SERIES}"

_TAIL = f"""
SELECT {_TAIL_COLUMNS} FROM bars WHERE {_ONE_SERIES} AND ts >= coalesce((
    SELECT min(ts) FROM (SELECT ts FROM bars WHERE {_ONE_SERIES} AND ts < %(since)s
        ORDER BY ts DESC LIMIT %(lookback)s) before), %(since)s)
"""

_STAGE = "CREATE TEMP TABLE staged_bars (LIKE bars INCLUDING DEFAULTS) ON COMMIT DROP"

_KEEP_VERSIONS = f"""
INSERT INTO bar_versions (symbol, timeframe, ts, {_COLUMNS}, known_from, known_until)
SELECT b.symbol, b.timeframe, b.ts, {", ".join(f"b.{p}" for p in PRICES)}, b.known_from, now()
FROM staged_bars s JOIN bars b ON {_SAME_BAR} WHERE {_RESTATED}
"""

_REBASED = """
INSERT INTO data_corrections
    (symbol, timeframe, ts, field, old_value, new_value, reason, source, job_id)
VALUES (:symbol, :timeframe, :from, 'factor', 1, :factor, 'rebased', :source, :job_id)
"""

# A row that the change of basis explains is no correction of its own.
_CORRECTIONS = f"""
INSERT INTO data_corrections
    (symbol, timeframe, ts, field, old_value, new_value, reason, source, job_id)
SELECT b.symbol, b.timeframe, b.ts, c.field, c.old_value, c.new_value, 'source_updated',
    :source, :job_id
FROM staged_bars s JOIN bars b ON {_SAME_BAR}
CROSS JOIN LATERAL (VALUES {", ".join(f"('{p}', b.{p}, s.{p})" for p in PRICES)})
    AS c (field, old_value, new_value)
WHERE c.old_value IS DISTINCT FROM c.new_value
    AND NOT coalesce(b.ts <= CAST(:until AS timestamptz)
        AND abs(s.close / (b.close * CAST(:factor AS float8)) - 1) <= :tolerance
        AND abs(s.open / (b.open * CAST(:factor AS float8)) - 1) <= :tolerance, false)
ORDER BY b.ts, c.field
"""
