"""Rows of a query as frozen dataclasses, matched by column name.

A query whose columns are not its model's fields raises TypeError, also where it finds no row. A
column of another name than the field gets an alias: `SELECT check_name AS "check"`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

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
