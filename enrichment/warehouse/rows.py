"""Rows out of queries and into statements, matched by column name, never by position.

`fetch_all` and `fetch_one` make each row a frozen dataclass. A query whose columns are not the
fields of its dataclass raises TypeError, also where it finds no row; a column of another name gets
an alias: `SELECT check_name AS "check"`. `JsonRows` gives a statement many rows at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

import orjson
from sqlalchemy import Connection, Row

from enrichment.warehouse.database import sql

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Model = TypeVar("Model", bound="DataclassInstance")


def fetch_all(
    conn: Connection, model: type[Model], query: str, values: Mapping[str, object] | None = None
) -> list[Model]:
    """All rows of the query, in its order."""
    result = conn.execute(sql(query), values)
    names = tuple(result.keys())
    _require_fields(model, names)
    return [model(**dict(zip(names, row, strict=True))) for row in result]


def fetch_one(
    conn: Connection, model: type[Model], query: str, values: Mapping[str, object] | None = None
) -> Model | None:
    """The only row of the query; None if it has none."""
    found = fetch_all(conn, model, query, values)
    if len(found) > 1:
        raise ValueError(f"{len(found)} rows for one {model.__name__}")
    return found[0] if found else None


def from_row(model: type[Model], row: Row[Any], **others: object) -> Model:
    """A part of a wider row, or one with fields that are not columns: `others`."""
    columns = row._mapping
    named = {field.name: columns[field.name] for field in fields(model) if field.name in columns}
    return model(**{**named, **others})


@cache
def _require_fields(model: type[DataclassInstance], names: tuple[str, ...]) -> None:
    required = {f.name for f in fields(model) if f.default is f.default_factory is MISSING}
    unknown = set(names) - {field.name for field in fields(model)}
    if len(set(names)) < len(names) or unknown or not required <= set(names):
        raise TypeError(f"{model.__name__} can't be made of the columns {', '.join(names)}")


class JsonRows:
    """Many rows as one parameter of a statement: a JSON array that `jsonb_to_recordset` reads.

    JSON carries arrays and JSON columns too, which parallel arrays and `unnest` can't; for keys
    alone both take the same time. Moments keep their offset; NaN becomes NULL.

        GAPS = JsonRows("gaps", "symbol text, ts timestamptz")
        query = f"INSERT INTO bar_gaps ({GAPS.columns}) SELECT {GAPS.columns} FROM {GAPS.table}"
        conn.execute(sql(query), GAPS.bind([{"symbol": "AAPL", "ts": moment}]))
    """

    def __init__(self, name: str, definition: str) -> None:
        """The rows' name in the statement; their columns as in CREATE TABLE."""
        self._name = name
        self._names = [column.split()[0] for column in definition.split(",")]
        self.columns = ", ".join(self._names)
        self.table = f"jsonb_to_recordset(CAST(:{name} AS jsonb)) AS {name} ({definition})"

    def bind(self, rows: Sequence[Mapping[str, object]]) -> dict[str, str]:
        """The statement's parameter; TypeError for a row that has other columns."""
        for row in rows:
            if row.keys() != set(self._names):
                raise TypeError(f"{self._name}: {', '.join(row)} instead of {self.columns}")
        return {self._name: orjson.dumps(rows).decode()}
