"""The bars' rows: new ones are copied into the table, others are merged with what is stored.

What a vendor restated goes to `data_corrections`, and the rows as they were to `bar_versions`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, text

from enrichment.domain.bars import Bars, Floats, Timestamps, to_datetime
from enrichment.domain.model import RowCounts, Task
from enrichment.domain.series import SeriesUpdate
from enrichment.pipeline.reconcile import RATIO_TOLERANCE
from enrichment.warehouse.database import sql
from enrichment.warehouse.series.binary_copy import Rows, copy, encoded, repeated

_SHORT = 1_000  # bars of a series
REQUIRED = ("open", "high", "low", "close", "volume")  # NOT NULL in the table
PRICES = (*REQUIRED, "vwap", "trades", "taker_buy_volume")


def bars_of(ts: Timestamps, columns: Mapping[str, Floats]) -> Bars:
    """The columns of PRICES, as `copying.fetch` reads them, with their starts."""
    return Bars(ts, *(columns[name] for name in PRICES))


def write(conn: Connection, series: Sequence[tuple[Task, SeriesUpdate]]) -> list[RowCounts]:
    """Insert the new bars and update the changed ones; the rows written, series by series.

    The rows of all series that lie behind what is stored of them are copied straight into the
    table; those of others are staged in a temporary table and merged, one by one.
    """
    _append(conn, [one for one in series if one[1].appends])
    return [
        RowCounts(inserted=len(enriched.bars)) if enriched.appends else _merge(conn, task, enriched)
        for task, enriched in series
    ]


def _append(conn: Connection, series: Iterable[tuple[Task, SeriesUpdate]]) -> None:
    """Long series are encoded one by one, short ones of the same features together."""
    short: defaultdict[tuple[str, ...], list[tuple[Task, SeriesUpdate]]] = defaultdict(list)
    for task, enriched in series:
        if len(enriched.bars) > _SHORT:
            copy(conn, "bars", _encoded([(task, enriched)]))
        elif len(enriched.bars):
            short[tuple(enriched.features)].append((task, enriched))
    for alike in short.values():
        copy(conn, "bars", _encoded(alike))


def _encoded(series: Sequence[tuple[Task, SeriesUpdate]]) -> Rows:
    """The rows of series with the same features."""
    counts = [len(enriched.bars) for _, enriched in series]
    columns = [{**enriched.bars.columns(), **enriched.features} for _, enriched in series]
    return encoded(
        {
            "symbol": repeated([task.symbol for task, _ in series], counts),
            "timeframe": repeated([enriched.timeframe for _, enriched in series], counts),
            **{name: _stacked([found[name] for found in columns]) for name in columns[0]},
        }
    )


def _stacked(columns: list[NDArray[Any]]) -> NDArray[Any]:
    return columns[0] if len(columns) == 1 else np.concatenate(columns)


def _merge(conn: Connection, task: Task, enriched: SeriesUpdate) -> RowCounts:
    """`enriched.bars` holds only rows from the first new or changed one on."""
    if len(enriched.bars) == 0:
        return RowCounts()
    rows = _encoded([(task, enriched)])
    names = rows.names
    values = {
        "symbol": task.symbol,
        "timeframe": enriched.timeframe,
        "first": to_datetime(enriched.bars.ts[0]),
        "last": to_datetime(enriched.bars.ts[-1]),
    }
    conn.execute(sql(_STAGE))
    copy(conn, "staged_bars", rows)
    conn.execute(text("ANALYZE staged_bars (ts)"))
    if conn.execute(sql(_KEEP_VERSIONS), values).rowcount:
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
    return RowCounts(inserted, updated)


def _write_corrections(
    conn: Connection, task: Task, enriched: SeriesUpdate, values: dict[str, Any]
) -> None:
    """Old and new values field by field; a rebased history is one correction with its factor."""
    rebase = enriched.rebase
    values = {**values, "source": enriched.fetched.source, "job_id": task.job_id}
    values |= {"factor": None, "until": None, "tolerance": RATIO_TOLERANCE}
    if rebase is not None:
        values |= {"factor": rebase.factor, "until": rebase.until, "from": rebase.ts}
        conn.execute(sql(_REBASED), values)
    conn.execute(sql(_CORRECTIONS), values)


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
