"""Ad hoc SQL queries as DataFrames, on a read-only connection."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
from sqlalchemy import CursorResult, text
from sqlalchemy.exc import DBAPIError

from enrichment.domain.errors import InvalidRequest
from enrichment.warehouse.database import Database

_TOO_SLOW = "57014"
_READ_ONLY = ("25006", "42501")  # a read-only transaction, a role that may only read
# PostgreSQL's type OIDs → dtypes, which hold for columns without rows or values too.
_TIMESTAMPTZ = 1184
_TYPES: Mapping[object, str] = {
    16: "bool",
    20: "int64",
    21: "int64",
    23: "int64",
    701: "float64",
    1700: "float64",
}


class AdhocSql:
    """Runs an analyst's queries."""

    def __init__(self, db: Database) -> None:
        """db: Read-only, with a statement timeout."""
        self._db = db

    def query(self, sql: str, **values: Any) -> pd.DataFrame:
        """The rows of one statement, with `:name` for parameters; times are timezone-aware UTC.

        Raises InvalidRequest if the statement fails, writes, or takes longer than the timeout.
        """
        with self._db.begin() as conn:
            try:
                return _table(conn.execute(text(sql), values))
            except DBAPIError as exc:
                code = getattr(exc.orig, "pgcode", None)
                if code is None or exc.connection_invalidated:
                    raise
                raise InvalidRequest(_message(code, str(exc.orig))) from None


def _table(result: CursorResult[Any]) -> pd.DataFrame:
    if result.cursor is None or not result.returns_rows:
        raise InvalidRequest("the statement returns no rows: query with SELECT")
    names = list(result.keys())
    types = [column[1] for column in result.cursor.description or ()]
    table = pd.DataFrame(result.all(), columns=names, dtype=object)
    columns = {n: _typed(table.iloc[:, at], types[at]) for at, n in enumerate(names)}
    return pd.DataFrame(columns, columns=names)


def _typed(column: Any, oid: object) -> Any:
    """The column with the dtype of its PostgreSQL type; integers with a NULL become floats."""
    if oid == _TIMESTAMPTZ:
        return pd.to_datetime(column, utc=True)
    dtype = _TYPES.get(oid)
    if dtype is None or (dtype == "bool" and column.isna().any()):
        return column.infer_objects()
    return column.astype("float64" if column.isna().any() else dtype)


def _message(code: str, message: str) -> str:
    if code == _TOO_SLOW:
        return "the query was stopped by its timeout: narrow it, or connect with a longer one"
    if code in _READ_ONLY:
        return "this connection only reads: change what is stored with the 'enrichment' commands"
    return f"the query can't be run: {message.splitlines()[0]}"
