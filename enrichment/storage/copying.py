"""Columns to and from Postgres at full speed, by binary COPY.

numpy → Arrow → COPY (encoded by pgpq, in Rust), and COPY → numpy as one view of the bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pgpq import ArrowToPostgresBinaryEncoder
from sqlalchemy import Connection

_ROWS_PER_BATCH = 50_000
_HEADER_BYTES = 19  # signature, flags, length of an empty extension
_TRAILER_BYTES = 2
_EPOCH = np.datetime64("2000-01-01", "us")


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


def fetch(
    conn: Connection, query: str, values: Mapping[str, object], columns: Sequence[str]
) -> tuple[NDArray[np.datetime64], dict[str, NDArray[np.float64]]]:
    """The rows of a query as columns: `ts` (datetime64[us], UTC), and the others by name, NULL as
    NaN.

    query: selects `ts` (timestamptz) and then the columns (float8), with %(name)s for values.
    """
    listed = ", ".join(f"coalesce({name}, 'NaN') AS {name}" for name in columns)
    driver: Any = conn.connection.driver_connection
    out = BytesIO()
    with driver.cursor() as cursor:
        bound = cursor.mogrify(query, values).decode()
        cursor.copy_expert(
            f"COPY (SELECT ts, {listed} FROM ({bound}) AS found ORDER BY ts) TO STDOUT BINARY", out
        )
    # Every field is not NULL and 8 bytes long, so every row is of one length.
    fields = [("fields", ">i2"), ("ts_length", ">i4"), ("ts", ">i8")]
    for name in columns:
        fields += [(f"{name}_length", ">i4"), (name, ">f8")]
    body = memoryview(out.getbuffer())[_HEADER_BYTES:-_TRAILER_BYTES]
    rows = np.frombuffer(body, dtype=np.dtype(fields))
    ts = _EPOCH + rows["ts"].astype("i8").astype("timedelta64[us]")
    return ts, {name: rows[name].astype("f8") for name in columns}
