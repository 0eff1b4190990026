"""The connection pool to Postgres, its errors as DatabaseUnavailable with a hint, and its rows.

Rows read from queries and passed to statements are matched by column name, never by position.
`fetch_all` and `fetch_one` map rows to frozen dataclasses. A query whose columns are not the fields
of its dataclass raises TypeError, even if it returns no rows; an alias renames a column:
`SELECT check_name AS check`. `JsonRows` passes many rows to one statement.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, fields
from datetime import datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

import orjson
import psycopg2
from sqlalchemy import Connection as Connection
from sqlalchemy import Engine, Row, create_engine, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from enrichment.domain.errors import ConfigurationError, DatabaseUnavailable
from enrichment.domain.redact import redact

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

CLOCK_SECONDS = 30.0
_DRIVER_ERRORS = (psycopg2.OperationalError, psycopg2.InterfaceError)  # raised by COPY
_DISK_FULL = "53100"
_TOO_SLOW = "57014"
_NO_CONNECTION_LEFT = ("too many clients", "too many connections", "remaining connection slots")


sql = cache(text)  # parses a statement once


class Database:
    """A pool of connections with transactions as context managers.

    Every session runs in UTC. A lost connection raises DatabaseUnavailable; the next transaction
    gets a new one.
    """

    def __init__(
        self,
        url: str,
        *,
        pool_size: int = 5,
        max_overflow: int = 2,
        application: str = "enrichment",
        statement_timeout_ms: int = 0,
        idle_seconds: float = 30.0,
        read_only: bool = False,
        role: str | None = None,
    ) -> None:
        """Create the pool; it connects with the first transaction.

        Args:
            url: Address of a PostgreSQL database.
            pool_size: Connections that stay open.
            max_overflow: Further connections under load.
            application: Its name in pg_stat_activity.
            statement_timeout_ms: 0 for none.
            idle_seconds: The server ends a transaction that is idle for longer, so that a frozen
                process does not keep its locks.
            read_only: Whether transactions can't write.
            role: Whose rights the sessions have; None for the user's own.
        """
        self.url = parse_url(url)
        options = (
            f"-c timezone=UTC -c statement_timeout={statement_timeout_ms}"
            f" -c idle_in_transaction_session_timeout={round(idle_seconds * 1000)}"
        )
        if read_only:
            options += " -c default_transaction_read_only=on"
        if role is not None:
            options += f" -c role={role}"
        self.engine: Engine = create_engine(
            self.url,
            pool_size=pool_size,
            max_overflow=max_overflow,
            pool_pre_ping=True,
            pool_timeout=30,
            connect_args={
                "application_name": application,
                "connect_timeout": 5,
                "options": _with_options(self.url, options),
                "keepalives_idle": 10,
                "keepalives_interval": 5,
                "keepalives_count": 3,
            },
        )

    @property
    def address(self) -> str:
        """The URL without its secrets."""
        return redact(self.url.render_as_string(hide_password=True))

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """One transaction: committed at the end of the block, rolled back by an exception."""
        try:
            with self.engine.begin() as conn:
                yield conn
        except (OperationalError, PoolTimeout, *_DRIVER_ERRORS) as exc:
            raise self._unavailable(exc) from exc
        except DBAPIError as exc:
            if exc.connection_invalidated:
                raise self._unavailable(exc) from exc
            raise

    def _unavailable(self, exc: Exception) -> DatabaseUnavailable:
        cause = getattr(exc, "orig", None) or exc
        reason = (str(cause).strip().splitlines() or [type(cause).__name__])[0]
        return DatabaseUnavailable(
            f"the database {self.address} does not answer ({reason}): {_hint(cause, reason)}"
        )

    def close(self) -> None:
        self.engine.dispose()


def _hint(cause: Exception, reason: str) -> str:
    if getattr(cause, "pgcode", None) == _DISK_FULL:
        return "free some disk on the database's machine"
    if getattr(cause, "pgcode", None) == _TOO_SLOW:
        return "it took too long; ask for less, or again when it has less to do"
    if any(words in reason for words in _NO_CONNECTION_LEFT):
        return "raise its limit of connections, or run fewer workers or MAX_CONCURRENT_SYMBOLS"
    return "check DATABASE_URL and that the server runs"


def database_now(conn: Connection) -> datetime:
    """The server's clock at the beginning of this transaction, timezone-aware UTC."""
    now: datetime = conn.execute(sql("SELECT now()")).scalar_one()
    return now


class DatabaseClock:
    """The server's clock, read every 30 s and advanced by the monotonic clock in between.

    It does not depend on the wall clock of this machine.
    """

    def __init__(self, db: Database) -> None:
        self._db = db
        self._read: tuple[datetime, float] | None = None  # the server's time, at this monotonic

    def __call__(self) -> datetime:
        read = self._read
        if read is None or time.monotonic() - read[1] > CLOCK_SECONDS:
            with self._db.begin() as conn:
                now: datetime = conn.execute(text("SELECT clock_timestamp()")).scalar_one()
            self._read = read = (now, time.monotonic())
        return read[0] + timedelta(seconds=time.monotonic() - read[1])


def parse_url(url: str) -> URL:
    """A PostgreSQL URL for the psycopg2 driver; raises ConfigurationError for any other."""
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise ConfigurationError(
            "DATABASE_URL can't be read: write postgresql://USER:PASSWORD@HOST:5432/DATABASE"
        ) from None
    if parsed.drivername.split("+")[0] not in ("postgresql", "postgres"):
        raise ConfigurationError(
            f"DATABASE_URL names {parsed.drivername!r}: "
            "only postgresql://… (14 or newer) is supported"
        )
    return _with_password(parsed).set(drivername="postgresql+psycopg2")


def _with_password(url: URL) -> URL:
    """The URL with a password that is given as a parameter in its usual place, where it is masked.

    As for libpq, the parameter takes precedence.
    """
    password = url.query.get("password")
    if not isinstance(password, str):
        return url
    return url.difference_update_query(["password"]).set(password=password)


def _with_options(url: URL, options: str) -> str:
    """The options of the URL, then these."""
    given: Any = url.query.get("options", "")
    return f"{given} {options}".strip()


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
