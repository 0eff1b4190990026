"""Rows read from queries and passed to statements, matched by column name, never by position.

`fetch_all` and `fetch_one` map rows to frozen dataclasses. A query whose columns are not the fields
of its dataclass raises TypeError, even if it returns no rows; an alias renames a column:
`SELECT check_name AS check`. `JsonRows` passes many rows to one statement.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

import orjson
from sqlalchemy import Connection, Row

from enrichment.warehouse.database import Database, sql

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Model = TypeVar("Model", bound="DataclassInstance")


def fetch_all(
    conn: Connection, model: type[Model], query: str, values: Mapping[str, object] | None = None
) -> list[Model]:
    """All rows of the query."""
    result = conn.execute(sql(query), values)
    names = tuple(result.keys())
    _require_fields(model, names)
    return [model(**dict(zip(names, row, strict=True))) for row in result]


def fetch_one(
    conn: Connection, model: type[Model], query: str, values: Mapping[str, object] | None = None
) -> Model | None:
    """The only row of the query; None without a row, ValueError for several."""
    rows = fetch_all(conn, model, query, values)
    if len(rows) > 1:
        raise ValueError(f"{len(rows)} rows for one {model.__name__}")
    return rows[0] if rows else None


def from_row(model: type[Model], row: Row[Any], **computed: object) -> Model:
    """The columns of a wider row that the model has as fields, with `computed` ones."""
    columns = row._mapping
    named = {field.name: columns[field.name] for field in fields(model) if field.name in columns}
    return model(**{**named, **computed})


@cache
def _require_fields(model: type[DataclassInstance], names: tuple[str, ...]) -> None:
    required = {f.name for f in fields(model) if f.default is f.default_factory is MISSING}
    unknown = set(names) - {field.name for field in fields(model)}
    if len(set(names)) < len(names) or unknown or not required <= set(names):
        raise TypeError(f"{model.__name__} can't be made of the columns {', '.join(names)}")


class Reader:
    """Base of the read models, whose queries are one transaction each."""

    def __init__(self, db: Database) -> None:
        """db: May be read-only."""
        self._db = db

    def _all(self, model: type[Model], query: str, **values: object) -> list[Model]:
        with self._db.begin() as conn:
            return fetch_all(conn, model, query, values)

    def _one(self, model: type[Model], query: str, **values: object) -> Model | None:
        with self._db.begin() as conn:
            return fetch_one(conn, model, query, values)


class JsonRows:
    """Many rows as one parameter of a statement: a JSON array that `jsonb_to_recordset` reads.

    Unlike parallel arrays in `unnest`, JSON can also hold array and JSON columns; for keys alone
    both are equally fast. Timestamps keep their offset; NaN becomes NULL.

        GAPS = JsonRows("gaps", "symbol text, ts timestamptz")
        query = f"INSERT INTO bar_gaps ({GAPS.columns}) SELECT {GAPS.columns} FROM {GAPS.table}"
        conn.execute(sql(query), GAPS.bind([{"symbol": "AAPL", "ts": moment}]))
    """

    def __init__(self, name: str, definition: str) -> None:
        """Name the parameter and table alias, and define the columns as in CREATE TABLE."""
        self._name = name
        self._names = [column.split()[0] for column in definition.split(",")]
        self.columns = ", ".join(self._names)
        self.table = f"jsonb_to_recordset(CAST(:{name} AS jsonb)) AS {name} ({definition})"

    def bind(self, rows: Sequence[Mapping[str, object]]) -> dict[str, str]:
        """The statement's parameter; raises TypeError for a row with other columns."""
        for row in rows:
            if row.keys() != set(self._names):
                raise TypeError(f"{self._name}: {', '.join(row)} instead of {self.columns}")
        return {self._name: orjson.dumps(rows).decode()}
