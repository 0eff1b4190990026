"""A series' bars with their features, chunk by chunk, all of one moment."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from datetime import datetime
from io import BytesIO
from typing import Any

import pyarrow as pa
from pyarrow import csv
from sqlalchemy import Connection, text

from enrichment.domain.model import Timeframe
from enrichment.pipeline.features import FEATURES
from enrichment.warehouse.database import Database
from enrichment.warehouse.read_models.symbols import is_known
from enrichment.warehouse.series.upsert import PRICES

ROWS = 20_000
COLUMNS: Mapping[str, str] = {
    **dict.fromkeys(PRICES, "number"),
    **{name: feature.kind for name, feature in FEATURES.items()},
}
"""Name → 'number' or 'label', in their order."""

_TYPES = {"number": pa.float64(), "label": pa.string()}


class BarDownloads:
    """Reads stored bars for those who take them away."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def known(self, symbol: str) -> bool:
        """Whether the symbol is tracked, or was."""
        with self._db.begin() as conn:
            return is_known(conn, symbol)

    def chunks(
        self,
        symbol: str,
        timeframe: Timeframe,
        columns: Sequence[str],
        start: datetime | None = None,
        end: datetime | None = None,
        limit: int | None = None,
    ) -> Generator[pa.RecordBatch, None, None]:
        """Bars with start ≤ ts < end, ascending, as batches of `ts` (UTC) and these columns.

        All batches are of one snapshot, however long the reader takes. limit: at most so many rows.
        """
        with self._db.begin() as conn:
            conn.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"))
            left, after = limit, None
            while left is None or left > 0:
                rows = ROWS if left is None else min(ROWS, left)
                values = {
                    "symbol": symbol,
                    "timeframe": timeframe.value,
                    "start": start,
                    "end": end,
                    "after": after,
                    "rows": rows,
                }
                batch = _copied(conn, columns, values)
                if batch.num_rows:
                    yield batch
                if batch.num_rows < rows:
                    return
                after = batch.column(0)[-1].as_py()
                left = None if left is None else left - batch.num_rows


def schema(columns: Sequence[str]) -> pa.Schema:
    """The types of `ts` and these columns."""
    chosen = [(name, _TYPES[COLUMNS[name]]) for name in columns]
    return pa.schema([("ts", pa.timestamp("us", tz="UTC")), *chosen])


def _copied(
    conn: Connection, columns: Sequence[str], values: Mapping[str, object]
) -> pa.RecordBatch:
    driver: Any = conn.connection.driver_connection
    listed = "".join(f', "{name}"' for name in columns)
    out = BytesIO()
    with driver.cursor() as cursor:
        query = cursor.mogrify(_BARS.replace("{columns}", listed), values).decode()
        cursor.copy_expert(f"COPY ({query}) TO STDOUT (FORMAT csv)", out)
    wanted = schema(columns)
    out.seek(0)
    if not out.getbuffer().nbytes:
        return pa.RecordBatch.from_pylist([], schema=wanted)
    table = csv.read_csv(
        out,
        read_options=csv.ReadOptions(column_names=wanted.names, block_size=1 << 26),
        convert_options=csv.ConvertOptions(
            column_types=wanted, strings_can_be_null=True, null_values=[""]
        ),
    )
    return table.combine_chunks().to_batches()[0]


_BARS = """
SELECT to_char(ts, 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'){columns} FROM bars
WHERE symbol = %(symbol)s AND timeframe = %(timeframe)s
    AND (%(start)s::timestamptz IS NULL OR ts >= %(start)s)
    AND (%(end)s::timestamptz IS NULL OR ts < %(end)s)
    AND (%(after)s::timestamptz IS NULL OR ts > %(after)s)
ORDER BY ts LIMIT %(rows)s
"""
