"""Rows out of queries and into statements: columns are matched by name, never by position."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest
from sqlalchemy import text

from enrichment.warehouse import database
from enrichment.warehouse.database import Database, JsonRows


@dataclass(frozen=True)
class Point:
    x: int
    at: datetime
    labels: list[str] = field(default_factory=list)


def test_columns_find_their_fields_in_any_order(db: Database) -> None:
    with db.begin() as conn:
        point = database.fetch_one(conn, Point, "SELECT timestamptz 'epoch' AS at, 7 AS x")
    assert point == Point(7, datetime(1970, 1, 1, tzinfo=UTC), [])


@pytest.mark.parametrize(
    "columns",
    [
        "1 AS x",
        "1 AS x, now() AS at, 2 AS y",
        "1 AS x, now(), '{}'::text[] AS labels",
        "1 AS x, 2 AS x, now() AS at",
    ],
)
def test_columns_that_are_not_the_fields_are_an_error_even_without_rows(
    db: Database, columns: str
) -> None:
    with db.begin() as conn, pytest.raises(TypeError, match="Point can't be made of"):
        database.fetch_all(conn, Point, f"SELECT {columns} LIMIT 0")


def test_more_than_one_row_is_no_single_row(db: Database) -> None:
    with db.begin() as conn, pytest.raises(ValueError, match="2 rows"):
        database.fetch_one(conn, Point, "SELECT x, now() AS at FROM generate_series(1, 2) AS x")


def test_rows_travel_as_json_with_their_types(db: Database) -> None:
    points = JsonRows("points", "x integer, at timestamptz, labels text[], more jsonb")
    at = datetime(2026, 3, 1, 1, 30, 0, 5, tzinfo=UTC)
    given = [
        {"labels": ["a", "b,c"], "at": at, "x": 1, "more": {"n": [1]}},
        {"x": None, "at": None, "labels": [], "more": None},
    ]
    query = f"SELECT {points.columns} FROM {points.table}"
    with db.begin() as conn:
        found = [dict(row._mapping) for row in conn.execute(text(query), points.bind(given))]
    assert found == given


@pytest.mark.parametrize("row", [{"x": 1}, {"x": 1, "y": 2, "z": 3}, {"x": 1, "z": 3}])
def test_a_row_of_other_columns_is_refused(row: dict[str, object]) -> None:
    with pytest.raises(TypeError, match="instead of x, y"):
        JsonRows("points", "x integer, y integer").bind([{"x": 1, "y": 2}, row])
