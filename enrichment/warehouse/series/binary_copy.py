"""Columns to and from Postgres by binary COPY.

Written: numpy → Arrow → COPY, encoded by pgpq in Rust. Read: COPY → numpy, as a view of its bytes.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pgpq import ArrowToPostgresBinaryEncoder
from sqlalchemy import Connection, Dialect, text

from enrichment.domain.bars import Timestamps

_ROWS_PER_BATCH = 50_000
_READ_BYTES = 1 << 18
_HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)  # signature, flags, length of an empty extension
_TRAILER = b"\xff\xff"
_EPOCH = np.datetime64("2000-01-01", "us")


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
    views[0] = views[0][len(_HEADER) :]
    views[-1] = views[-1][: -len(_TRAILER)]
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
        cursor.copy_expert(f"COPY {table} ({names}) FROM STDIN BINARY", stream, _READ_BYTES)


class _Stream:
    """Header, parts and trailer as one file to read, without concatenating them."""

    def __init__(self, parts: Iterable[memoryview]) -> None:
        self._parts = chain([memoryview(_HEADER)], parts, [memoryview(_TRAILER)])
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


def fetch(
    conn: Connection,
    query: str,
    values: Mapping[str, object],
    numbers: Sequence[str],
    *,
    labels: Sequence[str] = (),
    not_null: Container[str] = (),
    order: str | None = "ts",
) -> tuple[Timestamps, dict[str, NDArray[Any]]]:
    """The rows of a query as columns of equal length.

    numpy reads COPY's bytes as one array of records, since no field is NULL and all rows have the
    same length: the server replaces a missing number by NaN and pads labels to the longest one.

    Args:
        conn: The connection to read from, inside its transaction.
        query: Selects `ts` (timestamptz), numbers and labels, with `:name` for parameters.
        values: Its parameters.
        numbers: Its float8 columns.
        labels: Its text columns.
        not_null: Numbers that are never NULL.
        order: Columns to sort by; None for the order in which the server returns the rows.

    Returns:
        `ts` (datetime64[us], UTC), and the other columns by name: numbers as float64 (NULL as NaN),
        labels as objects (str without trailing spaces, NULL as None).
    """
    selected = ["ts", *(n if n in not_null else _OR_NAN.format(n=n) for n in numbers)]
    listed = ", ".join(selected + [_PADDED.format(n=n) for n in labels])
    sorting = "" if order is None else f" ORDER BY {order}"
    driver: Any = conn.connection.driver_connection
    out = BytesIO()
    with driver.cursor() as cursor:
        bound = cursor.mogrify(_in_driver_style(query, conn.dialect), values).decode()
        cursor.copy_expert(
            f"COPY (SELECT {listed} FROM ({bound}) AS selected{sorting}) TO STDOUT BINARY", out
        )
    body = memoryview(out.getbuffer())[len(_HEADER) : -len(_TRAILER)]
    rows = np.frombuffer(body, dtype=_row_type(body, numbers, labels))
    ts = _EPOCH + rows["ts"].astype("i8").astype("timedelta64[us]")
    columns: dict[str, NDArray[Any]] = {name: rows[name].astype("f8") for name in numbers}
    return ts, columns | {name: _unpadded(rows[name]) for name in labels}


_OR_NAN = "coalesce({n}, 'NaN') AS {n}"
_PADDED = """rpad(coalesce({n}, ''), coalesce(length({n}) - octet_length({n}), 0)
    + coalesce(max(octet_length({n})) OVER (), 0)) AS {n}"""


@lru_cache(maxsize=256)
def _in_driver_style(query: str, dialect: Dialect) -> str:
    """The query with %(name)s for its values."""
    return str(text(query).compile(dialect=dialect))


def _row_type(body: memoryview, numbers: Sequence[str], labels: Sequence[str]) -> np.dtype[Any]:
    """The fields of COPY's rows, each behind its length, as the first row has them."""
    fields = [("fields", ">i2"), ("ts_length", ">i4"), ("ts", ">i8")]
    for name in numbers:
        fields += [(f"{name}_length", ">i4"), (name, ">f8")]
    for name in labels:
        at = np.dtype(fields).itemsize
        size = int.from_bytes(body[at : at + 4], "big")
        fields += [(f"{name}_length", ">i4"), (name, f"S{size}")]
    return np.dtype(fields)


def _unpadded(column: NDArray[np.bytes_]) -> NDArray[np.object_]:
    padded, codes = np.unique(column, return_inverse=True)
    labels = [label.decode().rstrip(" ") or None for label in padded]
    return np.array(labels, dtype=object)[codes]
