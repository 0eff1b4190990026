"""Bars as files: each format is written piece by piece, while they are read."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
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
Reading = Generator[pa.RecordBatch, None, None]
Encoder = Callable[[Batches, pa.Schema, dict[str, object]], Iterator[bytes]]


class Format(StrEnum):
    """How bars are written down."""

    JSON = "json"
    CSV = "csv"
    ARROW = "arrow"
    PARQUET = "parquet"


@dataclass(frozen=True, slots=True)
class Encoding:
    """media: the content's type; encode: (batches, their schema, head of a JSON answer) → bytes."""

    media: str
    encode: Encoder


class _Outlet(BytesIO):
    """A file of which what was written is taken away at once; it remembers how far it is."""

    def __init__(self) -> None:
        super().__init__()
        self._gone = 0

    def tell(self) -> int:
        return self._gone + super().tell()

    def take(self) -> bytes:
        written = self.getvalue()
        self._gone += len(written)
        self.seek(0)
        self.truncate()
        return written


def _json(batches: Batches, schema: pa.Schema, head: dict[str, object]) -> Iterator[bytes]:
    yield orjson.dumps(head, option=orjson.OPT_UTC_Z)[:-1] + b',"bars":['
    first = True
    for batch in batches:
        rows = orjson.dumps(batch.to_pylist(), option=orjson.OPT_UTC_Z)[1:-1]
        yield rows if first else b"," + rows
        first = False
    yield b"]}"


def _csv(batches: Batches, schema: pa.Schema, head: dict[str, object]) -> Iterator[bytes]:
    outlet = _Outlet()
    texts = schema.set(0, pa.field("ts", pa.string()))
    with pa_csv.CSVWriter(outlet, texts, write_options=_PLAIN) as writer:
        for batch in batches:
            moments = pc.strftime(batch.column(0).cast(_SECONDS), format="%Y-%m-%dT%H:%M:%SZ")
            writer.write_batch(batch.set_column(0, "ts", moments))
            yield outlet.take()
        yield outlet.take()


def _arrow(batches: Batches, schema: pa.Schema, head: dict[str, object]) -> Iterator[bytes]:
    outlet = _Outlet()
    with ipc.new_stream(outlet, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
            yield outlet.take()
    yield outlet.take()


def _parquet(batches: Batches, schema: pa.Schema, head: dict[str, object]) -> Iterator[bytes]:
    outlet = _Outlet()
    with parquet.ParquetWriter(outlet, schema, compression="zstd") as writer:
        for batch in batches:
            writer.write_batch(batch)
            yield outlet.take()
    yield outlet.take()


_SECONDS = pa.timestamp("s", tz="UTC")
_PLAIN = pa_csv.WriteOptions(quoting_style="needed", quoting_header="none")

ENCODINGS = {
    Format.JSON: Encoding("application/json", _json),
    Format.CSV: Encoding("text/csv", _csv),
    Format.ARROW: Encoding("application/vnd.apache.arrow.stream", _arrow),
    Format.PARQUET: Encoding("application/vnd.apache.parquet", _parquet),
}


def encoded(
    format: Format,
    batches: Reading,
    schema: pa.Schema,
    head: dict[str, object],
) -> Iterator[bytes]:
    """The pieces of a file. The first bars are read before this returns, so that what goes
    wrong at the start can still be answered with a problem.
    """
    first = next(batches, None)
    return ENCODINGS[format].encode(_joined(first, batches), schema, head)


def _joined(first: pa.RecordBatch | None, rest: Reading) -> Batches:
    try:
        if first is not None:
            yield first
            yield from rest
    finally:
        rest.close()  # ends its transaction
