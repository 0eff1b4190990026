"""Bars as downloads: every format is encoded in chunks while the bars are read."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from io import BytesIO

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.ipc as ipc
import pyarrow.parquet as parquet

Batches = Iterator[pa.RecordBatch]
Encoder = Callable[[Batches, pa.Schema, dict[str, object]], Iterator[bytes]]


class Format(StrEnum):
    """Format of a download of bars."""

    JSON = "json"
    CSV = "csv"
    ARROW = "arrow"
    PARQUET = "parquet"


@dataclass(frozen=True, slots=True)
class Encoding:
    media_type: str
    encode: Encoder
    """(batches, their schema, the JSON response's leading fields) → chunks of the content."""


class _ChunkBuffer(BytesIO):
    """A file whose content is taken out while it is written; `tell` counts what was taken."""

    def __init__(self) -> None:
        super().__init__()
        self._taken = 0

    def tell(self) -> int:
        return self._taken + super().tell()

    def take(self) -> bytes:
        chunk = self.getvalue()
        self._taken += len(chunk)
        self.seek(0)
        self.truncate()
        return chunk


def _json(batches: Batches, schema: pa.Schema, fields: dict[str, object]) -> Iterator[bytes]:
    yield orjson.dumps(fields, option=orjson.OPT_UTC_Z)[:-1] + b',"bars":['
    first = True
    for batch in batches:
        for start in range(0, batch.num_rows, _JSON_ROWS):
            part = batch.slice(start, _JSON_ROWS).to_pylist()
            rows = orjson.dumps(part, option=orjson.OPT_UTC_Z)[1:-1]
            yield rows if first else b"," + rows
            first = False
    yield b"]}"


def _csv(batches: Batches, schema: pa.Schema, fields: dict[str, object]) -> Iterator[bytes]:
    buffer = _ChunkBuffer()
    text_schema = schema.set(0, pa.field("ts", pa.string()))
    with pa_csv.CSVWriter(buffer, text_schema, write_options=_UNQUOTED) as writer:
        for batch in batches:
            times = pc.strftime(batch.column(0).cast(_SECONDS), format="%Y-%m-%dT%H:%M:%SZ")
            writer.write_batch(batch.set_column(0, "ts", times))
            yield buffer.take()
        yield buffer.take()


def _arrow(batches: Batches, schema: pa.Schema, fields: dict[str, object]) -> Iterator[bytes]:
    buffer = _ChunkBuffer()
    with ipc.new_stream(buffer, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
            yield buffer.take()
    yield buffer.take()


def _parquet(batches: Batches, schema: pa.Schema, fields: dict[str, object]) -> Iterator[bytes]:
    buffer = _ChunkBuffer()
    with parquet.ParquetWriter(buffer, schema, compression="zstd") as writer:
        for batch in batches:
            writer.write_batch(batch)
            yield buffer.take()
    yield buffer.take()


_JSON_ROWS = 500  # whose Python objects are in memory at once
_PIECE_BYTES = 65_536
_SECONDS = pa.timestamp("s", tz="UTC")
_UNQUOTED = pa_csv.WriteOptions(quoting_style="needed", quoting_header="none")

ENCODINGS = {
    Format.JSON: Encoding("application/json", _json),
    Format.CSV: Encoding("text/csv", _csv),
    Format.ARROW: Encoding("application/vnd.apache.arrow.stream", _arrow),
    Format.PARQUET: Encoding("application/vnd.apache.parquet", _parquet),
}


def encoded(
    format: Format,
    batches: Batches,
    schema: pa.Schema,
    fields: dict[str, object],
) -> Iterator[bytes]:
    """The chunks of a file.

    The first batch is read before this returns, so that an error can still be answered with a
    problem.
    """
    first = tuple(itertools.islice(batches, 1))
    encode = ENCODINGS[format].encode
    return _in_pieces(encode(itertools.chain(first, batches), schema, fields))


def _in_pieces(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The same bytes in pieces of at most 64 kB, since the server limits the time of each."""
    for chunk in chunks:
        for start in range(0, len(chunk), _PIECE_BYTES):
            yield chunk[start : start + _PIECE_BYTES]
