"""Upserts bars: new rows are copied into the table, others are merged with the stored ones.

Columns go numpy → Arrow → binary COPY, encoded by pgpq in Rust.
Values that a vendor restated go to `data_corrections`, and the replaced rows to `bar_versions`.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pgpq import ArrowToPostgresBinaryEncoder
from sqlalchemy import Connection, text

from enrichment.domain.bars import to_datetime
from enrichment.domain.model import RowCounts, Task
from enrichment.domain.series import SeriesUpdate
from enrichment.pipeline.reconcile import RATIO_TOLERANCE, SETTLING_FACTOR
from enrichment.warehouse.database import sql
from enrichment.warehouse.series.results import Batch
from enrichment.warehouse.series.snapshots import COPY_HEADER, COPY_TRAILER, PRICES

_LONG_SERIES = 1_000  # bars
_ROWS_PER_BATCH = 50_000
_COPY_BYTES = 1 << 18


def give_up(conn: Connection, task: Task, update: SeriesUpdate) -> None:
    """Remove a series of the sandbox before its first real bars.

    Its bars become versions, and the removal one correction with their number.
    """
    values = {
        "symbol": task.symbol,
        "timeframe": update.timeframe,
        "source": update.fetched.source,
        "job_id": task.job_id,
    }
    for statement in _GIVE_UP:
        conn.execute(sql(statement), values)


def withdraw(conn: Connection, task: Task, update: SeriesUpdate) -> None:
    """Remove bars that never were traded, or that their vendor has taken back.

    They become versions, and their removal one correction with their number.
    """
    values = {
        "symbol": task.symbol,
        "timeframe": update.timeframe,
        "source": update.fetched.source,
        "job_id": task.job_id,
        "ts": [to_datetime(ts) for ts in update.withdrawn],
        "detail": "no session has it" if update.repairs else "the vendor no longer sends this bar",
    }
    for statement in _WITHDRAW:
        conn.execute(sql(statement), values)


def write(conn: Connection, batch: Batch) -> list[RowCounts]:
    """Insert the new bars and update the changed ones; the row counts of each series.

    Series that only grow at their end are copied straight into the table; the rows of others are
    staged in a temporary table and merged, series by series.
    """
    _append(conn, [(task, update) for task, update in batch if update.appends])
    return [
        RowCounts(inserted=len(update.bars.ts)) if update.appends else _merge(conn, task, update)
        for task, update in batch
    ]


def _append(conn: Connection, batch: Batch) -> None:
    """Encode long series one by one, and short ones with the same features together."""
    short: defaultdict[tuple[str, ...], list[tuple[Task, SeriesUpdate]]] = defaultdict(list)
    for task, update in batch:
        if len(update.bars.ts) > _LONG_SERIES:
            copy(conn, "bars", _encode([(task, update)]))
        elif len(update.bars.ts):
            short[tuple(update.features)].append((task, update))
    for same_features in short.values():
        copy(conn, "bars", _encode(same_features))


def _encode(batch: Batch) -> BinaryRows:
    """The bars and features of series with the same features."""
    counts = [len(update.bars.ts) for _, update in batch]
    series = [{**update.bars.columns(), **update.features} for _, update in batch]
    return encode(
        {
            "symbol": repeat([task.symbol for task, _ in batch], counts),
            "timeframe": repeat([update.timeframe for _, update in batch], counts),
            **{name: _concat([columns[name] for columns in series]) for name in series[0]},
        }
    )


def _concat(columns: list[NDArray[Any]]) -> NDArray[Any]:
    return columns[0] if len(columns) == 1 else np.concatenate(columns)


def _merge(conn: Connection, task: Task, update: SeriesUpdate) -> RowCounts:
    """Merge rows that may be stored already, in whole or in part."""
    if len(update.bars.ts) == 0:
        return RowCounts()
    rows = _encode([(task, update)])
    names = rows.names
    values = {
        "symbol": task.symbol,
        "timeframe": update.timeframe,
        "first": to_datetime(update.bars.ts[0]),
        "last": to_datetime(update.bars.ts[-1]),
    }
    conn.execute(sql(_STAGE))
    copy(conn, "staged_bars", rows)
    conn.execute(text("ANALYZE staged_bars (ts)"))
    if conn.execute(sql(_KEEP_VERSIONS), values).rowcount:
        _write_corrections(conn, task, update, values)
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
    return RowCounts(inserted, updated)


def _write_corrections(
    conn: Connection, task: Task, update: SeriesUpdate, values: dict[str, Any]
) -> None:
    """Old and new values field by field; a rebased history is one correction with its factor."""
    rebase = update.rebase
    values = {**values, "source": update.fetched.source, "job_id": task.job_id}
    values["reason"] = "repaired" if update.repairs else "source_updated"
    values |= {"factor": None, "until": None, "tolerance": RATIO_TOLERANCE}
    values["settling"] = None if update.repairs else update.settling_from
    values["growth"] = SETTLING_FACTOR
    if rebase is not None:
        values |= {"factor": rebase.factor, "until": rebase.until, "from": rebase.ts}
        conn.execute(sql(_REBASED), values)
    if update.restored_until is not None:
        values |= {"factor": 1.0, "until": update.restored_until, "tolerance": math.inf}
        conn.execute(sql(_RESTORED), values)
    conn.execute(sql(_CORRECTIONS), values)


@dataclass(frozen=True, slots=True, eq=False)
class BinaryRows:
    """Rows in COPY's binary format, without its header and trailer."""

    names: tuple[str, ...]  # of the columns
    parts: Sequence[memoryview]


def encode(columns: Mapping[str, NDArray[Any] | pa.Array]) -> BinaryRows:
    """Columns of equal length as rows.

    NaN and None become NULL, datetime64 (UTC) becomes timestamptz.
    """
    batch = pa.RecordBatch.from_pydict({name: to_arrow(c) for name, c in columns.items()})
    encoder = ArrowToPostgresBinaryEncoder(batch.schema)
    parts = [encoder.write_header()]
    parts += [
        encoder.write_batch(batch.slice(start, _ROWS_PER_BATCH))
        for start in range(0, batch.num_rows, _ROWS_PER_BATCH)
    ]
    parts.append(encoder.finish())
    views = [memoryview(part) for part in parts if part]
    views[0] = views[0][len(COPY_HEADER) :]
    views[-1] = views[-1][: -len(COPY_TRAILER)]
    return BinaryRows(tuple(batch.schema.names), views)


def to_arrow(column: NDArray[Any] | pa.Array) -> pa.Array:
    """A column of moments (UTC), floats or text; NaN and None become null."""
    if isinstance(column, pa.Array):
        return column
    if column.dtype.kind == "M":
        return pa.array(column.astype("datetime64[us]")).cast(pa.timestamp("us", tz="UTC"))
    if column.dtype.kind == "f":
        return pa.array(column, from_pandas=True)
    return pa.array(column, type=pa.string())


def repeat(values: Sequence[str], counts: Sequence[int]) -> pa.Array:
    """A text column in which each value is repeated as often as its count says."""
    runs = [pa.repeat(value, count) for value, count in zip(values, counts, strict=True)]
    return runs[0] if len(runs) == 1 else pa.concat_arrays(runs)


def copy(conn: Connection, table: str, rows: BinaryRows) -> None:
    """COPY the rows into the table, inside the connection's transaction."""
    names = ", ".join(f'"{name}"' for name in rows.names)
    stream = _Stream(rows.parts)
    driver: Any = conn.connection.driver_connection
    with driver.cursor() as cursor:
        cursor.copy_expert(f"COPY {table} ({names}) FROM STDIN BINARY", stream, _COPY_BYTES)


class _Stream:
    """Header, parts and trailer as one file to read, without concatenating them."""

    def __init__(self, parts: Iterable[memoryview]) -> None:
        self._parts = chain([memoryview(COPY_HEADER)], parts, [memoryview(COPY_TRAILER)])
        self._rest = memoryview(b"")  # of the part that is being read

    def read(self, size: int) -> bytes:
        """Up to `size` bytes; none at the end."""
        while not len(self._rest):
            part = next(self._parts, None)
            if part is None:
                return b""
            self._rest = part
        head, self._rest = self._rest[:size], self._rest[size:]
        return bytes(head)


_COLUMNS = ", ".join(PRICES)

# The constants bound the scan of the primary key to the staged range, whatever the planner
# estimates for a temporary table without statistics.
_SAME_BAR = (
    "b.symbol = :symbol AND b.timeframe = :timeframe AND b.ts BETWEEN :first AND :last"
    " AND b.ts = s.ts"
)

_RESTATED = (
    f"({', '.join(f'b.{p}' for p in PRICES)}) IS DISTINCT FROM"
    f" ({', '.join(f's.{p}' for p in PRICES)})"
)

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

# Adjusted bars as they were traded: one correction, with the factor of the oldest bar.
_RESTORED = f"""
INSERT INTO data_corrections
    (symbol, timeframe, ts, field, old_value, new_value, reason, source, job_id)
SELECT b.symbol, b.timeframe, b.ts, 'factor', 1, s.close / b.close, 'as_traded', :source, :job_id
FROM staged_bars s JOIN bars b ON {_SAME_BAR} ORDER BY b.ts LIMIT 1
"""

# A row that only changed by the factor of the rebase is no correction of its own, nor is the volume
# of a new session that still grows, with what is counted with it.
_CORRECTIONS = f"""
INSERT INTO data_corrections
    (symbol, timeframe, ts, field, old_value, new_value, reason, source, job_id)
SELECT b.symbol, b.timeframe, b.ts, c.field, c.old_value, c.new_value, :reason, :source, :job_id
FROM staged_bars s JOIN bars b ON {_SAME_BAR}
CROSS JOIN LATERAL (VALUES {", ".join(f"('{p}', b.{p}, s.{p})" for p in PRICES)})
    AS c (field, old_value, new_value)
WHERE c.old_value IS DISTINCT FROM c.new_value
    AND NOT coalesce(b.ts <= CAST(:until AS timestamptz)
        AND abs(s.close / (b.close * CAST(:factor AS float8)) - 1) <= :tolerance
        AND abs(s.open / (b.open * CAST(:factor AS float8)) - 1) <= :tolerance, false)
    AND NOT coalesce(c.field IN ('volume', 'vwap', 'trades', 'taker_buy_volume')
        AND b.ts >= CAST(:settling AS timestamptz)
        AND s.volume > b.volume AND s.volume <= b.volume * CAST(:growth AS float8), false)
ORDER BY b.ts, c.field
"""

_OF_SERIES = "WHERE symbol = :symbol AND timeframe = :timeframe"

_COUNT_REMOVED = """
INSERT INTO data_corrections
    (symbol, timeframe, ts, field, old_value, new_value, reason, source, job_id)
SELECT :symbol, :timeframe, min(ts), 'bars', count(*), 0, '{reason}', :source, :job_id
FROM bars {rows} HAVING count(*) > 0
"""

_KEEP_REMOVED = f"""
INSERT INTO bar_versions (symbol, timeframe, ts, {_COLUMNS}, known_from, known_until)
SELECT symbol, timeframe, ts, {_COLUMNS}, known_from, now() FROM bars {{rows}}
"""

_WITHDRAWN = f"{_OF_SERIES} AND ts = ANY(CAST(:ts AS timestamptz[]))"

_SET_APART = f"""
INSERT INTO bar_quarantine (symbol, timeframe, ts, check_name, detail, source, bar)
SELECT symbol, timeframe, ts, 'withdrawn', :detail, :source,
    jsonb_build_object({", ".join(f"'{p}', {p}" for p in PRICES)})
FROM bars {_WITHDRAWN}
ON CONFLICT (symbol, timeframe, ts, check_name, md5(bar::text)) DO NOTHING
"""

_WITHDRAW = (
    _COUNT_REMOVED.format(reason="withdrawn", rows=_WITHDRAWN),
    _KEEP_REMOVED.format(rows=_WITHDRAWN),
    _SET_APART,
    f"DELETE FROM bars {_WITHDRAWN}",
    f"DELETE FROM bar_flags {_WITHDRAWN}",
    f"DELETE FROM bar_confirmations {_WITHDRAWN}",
    f"""
UPDATE enrichment_status SET bars = bars - cardinality(CAST(:ts AS timestamptz[])),
    first_ts = (SELECT min(ts) FROM bars {_OF_SERIES}),
    last_ts = (SELECT max(ts) FROM bars {_OF_SERIES}) {_OF_SERIES}
""",
)

_REJECTED = f"{_OF_SERIES} AND ts = :ts"

REJECT = (
    _COUNT_REMOVED.format(reason="rejected", rows=_REJECTED),
    _KEEP_REMOVED.format(rows=_REJECTED),
    f"""
INSERT INTO bar_quarantine (symbol, timeframe, ts, check_name, detail, source, bar)
SELECT symbol, timeframe, ts, 'rejected', :reason, :source,
    jsonb_build_object({", ".join(f"'{p}', {p}" for p in PRICES)})
FROM bars {_REJECTED}
ON CONFLICT (symbol, timeframe, ts, check_name, md5(bar::text)) DO NOTHING
""",
    f"DELETE FROM bar_flags {_REJECTED}",
    f"DELETE FROM bar_confirmations {_REJECTED}",
    f"DELETE FROM bars {_REJECTED}",
    f"""
UPDATE enrichment_status SET bars = bars - 1, feature_set = '',
    first_ts = (SELECT min(ts) FROM bars {_OF_SERIES}),
    last_ts = (SELECT max(ts) FROM bars {_OF_SERIES}) {_OF_SERIES}
""",
)
"""Take a bar out of a series, whose features are then to be computed again."""

_GIVE_UP = (
    _COUNT_REMOVED.format(reason="sandbox_replaced", rows=_OF_SERIES),
    _KEEP_REMOVED.format(rows=_OF_SERIES),
    f"DELETE FROM bars {_OF_SERIES}",
    f"DELETE FROM bar_flags {_OF_SERIES}",
    f"DELETE FROM bar_gaps {_OF_SERIES}",
    f"DELETE FROM bar_confirmations {_OF_SERIES}",
    f"""
UPDATE enrichment_status SET bars = 0, first_ts = NULL, last_ts = NULL, history_from = NULL,
    history_limit = NULL, history_checked_at = NULL {_OF_SERIES}
""",
)
