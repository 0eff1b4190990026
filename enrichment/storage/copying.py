"""Columns to Postgres at full speed: numpy → Arrow → binary COPY (encoded by pgpq, in Rust)."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pgpq import ArrowToPostgresBinaryEncoder
from sqlalchemy import Connection

_ROWS_PER_BATCH = 50_000


def record_batch(columns: Mapping[str, NDArray[Any]]) -> pa.RecordBatch:
    """An Arrow batch of the columns: NaN and None become NULL, datetime64 becomes timestamptz."""
    return pa.RecordBatch.from_pydict({name: _arrow(column) for name, column in columns.items()})


def _arrow(column: NDArray[Any]) -> pa.Array:
    if column.dtype.kind == "M":
        return pa.array(column.astype("datetime64[us]")).cast(pa.timestamp("us", tz="UTC"))
    if column.dtype.kind == "f":
        return pa.array(column, from_pandas=True)
    return pa.array(column, type=pa.string())


def constant(value: str, length: int) -> NDArray[Any]:
    """A text column that repeats one value."""
    return np.full(length, value, dtype=object)


def copy(conn: Connection, table: str, batch: pa.RecordBatch) -> None:
    """COPY the batch into the columns of its own names, inside the connection's transaction."""
    encoder = ArrowToPostgresBinaryEncoder(batch.schema)
    names = ", ".join(f'"{name}"' for name in batch.schema.names)
    parts = [encoder.write_header()]
    parts += [
        encoder.write_batch(batch.slice(start, _ROWS_PER_BATCH))
        for start in range(0, batch.num_rows, _ROWS_PER_BATCH)
    ]
    parts.append(encoder.finish())
    driver: Any = conn.connection.driver_connection
    with driver.cursor() as cursor:
        cursor.copy_expert(f"COPY {table} ({names}) FROM STDIN BINARY", BytesIO(b"".join(parts)))
