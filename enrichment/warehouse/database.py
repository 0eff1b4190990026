"""The connection pool to Postgres, its errors as DatabaseUnavailable with a hint, and its rows.

Rows read from queries and passed to statements are matched by column name, never by position.
`fetch_all` and `fetch_one` map rows to frozen dataclasses. A query whose columns are not the fields
of its dataclass raises TypeError, even if it returns no rows; an alias renames a column:
`SELECT check_name AS check`. `JsonRows` passes many rows to one statement.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, fields
from datetime import datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

import orjson
import psycopg2
from psycopg2.extensions import make_dsn
from sqlalchemy import Connection as Connection
from sqlalchemy import Engine, Row, create_engine, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from enrichment.domain.errors import ConfigurationError, DatabaseUnavailable
from enrichment.domain.redact import redact
from enrichment.warehouse.session import SessionSettings

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

CLOCK_SECONDS = 30.0
_DRIVER_ERRORS = (psycopg2.OperationalError, psycopg2.InterfaceError)  # raised by COPY
_TOO_SLOW = "57014"
_READ_ONLY = "25006"
_OUTAGES = {
    _READ_ONLY: "it is read-only, a standby or failing over; it is asked again until it takes"
    " writes, or let DATABASE_URL name the primary",
    "42501": "its user has lost a right; run 'enrichment db upgrade' as the owner of the tables,"
    " which names what is missing",
    "53100": "free some disk on the database's machine",
    "53200": "give the database's machine more memory, or run fewer workers",
    "57P01": "it was stopped, or the connection ended by an administrator; it is asked again",
    "57P02": "it crashed and restarts; it is asked again",
    "57P03": "it starts or stops; it is asked again",
    "57P04": "it was dropped; check DATABASE_URL",
}
"""By SQLSTATE, of errors that say that the database can't serve now: the remedy."""
_SERVERS = re.compile(
    r"(?P<start>[\w+]+://([^@/]*@)?)(?P<servers>[^/?@]*,[^/?@]*)(?P<rest>[/?].*)?"
)
_WILL_NOT_PASS = (
    "authentication failed",
    "no password supplied",
    "no pg_hba.conf entry",
    "could not translate host name",
    "does not exist",
    "permission denied",
)
_NO_CONNECTION_LEFT = ("too many clients", "too many connections", "remaining connection slots")


sql = cache(text)  # parses a statement once


class Database:
    """A pool of connections with transactions as context managers.

    Every transaction runs in UTC, also through a pooler. A lost connection raises
    DatabaseUnavailable, as does a server that is read-only; the next transaction gets a new one.
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
        self.engine: Engine = create_engine(
            self.url,
            pool_size=pool_size,
            max_overflow=max_overflow,
            pool_pre_ping=True,
            pool_timeout=30,
            connect_args={
                "application_name": application,
                "connect_timeout": 5,
                "client_encoding": "utf8",
                "keepalives_idle": 10,
                "keepalives_interval": 5,
                "keepalives_count": 3,
                "tcp_user_timeout": 15_000,  # ms; of a server that has vanished with its network
            },
        )
        SessionSettings(statement_timeout_ms, idle_seconds, read_only, role).install(self.engine)

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
            if exc.connection_invalidated or getattr(exc.orig, "pgcode", None) in _OUTAGES:
                raise self._unavailable(exc) from exc
            raise

    def _unavailable(self, exc: Exception) -> DatabaseUnavailable:
        cause = getattr(exc, "orig", None) or exc
        reason = (str(cause).strip().splitlines() or [type(cause).__name__])[0]
        code = getattr(cause, "pgcode", None)
        if code == _READ_ONLY:  # sessions may stay so when the server takes writes again
            self.engine.dispose()
        if code == _TOO_SLOW:
            happened = f"a query of {self.address} was stopped by its timeout"
        elif code in _OUTAGES:
            happened = f"the database {self.address} can't be used now"
        else:
            happened = f"the database {self.address} does not answer"
        return DatabaseUnavailable(f"{happened} ({reason}): {_hint(code, reason)}")

    def close(self) -> None:
        self.engine.dispose()


def _hint(code: str | None, reason: str) -> str:
    if code == _TOO_SLOW:
        return "it took too long; ask for less, or again when it has less to do"
    if code in _OUTAGES:
        return _OUTAGES[code]
    if any(words in reason for words in _NO_CONNECTION_LEFT):
        return "raise its limit of connections, or run fewer workers or MAX_CONCURRENT_SYMBOLS"
    return "check DATABASE_URL and that the server runs"


def outage_of(db: Database, *, writable: bool = True) -> str | None:
    """Why the database does not answer, or not take writes now; None if it does.

    Raises DatabaseUnavailable if it will not by itself: a wrong user, password, database or host.
    """
    try:
        with db.begin() as conn:
            read_only = "SELECT current_setting('transaction_read_only')::bool"
            if conn.execute(text(read_only)).scalar_one() and writable:
                return f"the database {db.address} can't be used now: {_OUTAGES[_READ_ONLY]}"
    except DatabaseUnavailable as exc:
        if any(words in str(exc) for words in _WILL_NOT_PASS):
            raise
        return str(exc)
    return None


def encoding_limit(db: Database) -> str | None:
    """What the database's encoding can't store; None for UTF8."""
    with db.begin() as conn:
        encoding = conn.execute(text("SHOW server_encoding")).scalar_one()
    if encoding == "UTF8":
        return None
    return (
        f"its encoding {encoding} does not hold every text, such as vendors' messages: "
        "create the database with ENCODING 'UTF8' and restore a dump into it"
    )


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
    """A PostgreSQL URL for the psycopg2 driver; raises ConfigurationError for any other.

    Of several servers, `HOST1:PORT1,HOST2:PORT2`, the one that takes writes is connected to.
    """
    try:
        parsed = _with_servers(url)
        _require_known(parsed)
    except (ArgumentError, ValueError):
        raise ConfigurationError(
            "DATABASE_URL can't be read: write postgresql://USER:PASSWORD@HOST:5432/DATABASE"
        ) from None
    if parsed.drivername.split("+")[0] not in ("postgresql", "postgres"):
        raise ConfigurationError(
            f"DATABASE_URL names {parsed.drivername!r}: "
            "only postgresql://… (14 or newer) is supported"
        )
    return _with_password(parsed).set(drivername="postgresql+psycopg2")


def _with_servers(url: str) -> URL:
    """The URL; several servers as parameters, since SQLAlchemy reads one in their usual place."""
    several = _SERVERS.fullmatch(url)
    if several is None:
        return make_url(url)
    hosts, ports = zip(*map(_host_and_port, several["servers"].split(",")), strict=True)
    servers = {"host": ",".join(hosts), "port": ",".join(ports)}
    parsed = make_url(several["start"] + (several["rest"] or "")).update_query_dict(servers)
    if "target_session_attrs" in parsed.query:
        return parsed
    return parsed.update_query_dict({"target_session_attrs": "read-write"})


def _host_and_port(server: str) -> tuple[str, str]:
    host, colon, port = server.rpartition(":")
    host, port = (host, port) if colon and not server.endswith("]") else (server, "5432")
    if not 0 < int(port) < 65536:
        raise ValueError(f"no port: {port}")
    return host.strip("[]"), port


def address_of(url: str) -> str:
    """The URL without its secrets."""
    return redact(parse_url(url).render_as_string(hide_password=True))


def _require_known(url: URL) -> None:
    """Raise ConfigurationError for a port out of range or a parameter that libpq does not know."""
    if url.port is not None and not 0 < url.port < 65536:
        raise ConfigurationError(f"DATABASE_URL has the port {url.port}: choose one of 1–65535")
    for name in url.query:
        try:
            make_dsn("", **{name: "1"})
        except psycopg2.ProgrammingError:
            raise ConfigurationError(
                f"DATABASE_URL has the parameter {name!r}, which PostgreSQL's clients do not know:"
                " remove it, or see 'Parameter Key Words' in PostgreSQL's manual"
            ) from None


def _with_password(url: URL) -> URL:
    """The URL with a password that is given as a parameter in its usual place, where it is masked.

    As for libpq, the parameter takes precedence.
    """
    password = url.query.get("password")
    if not isinstance(password, str):
        return url
    return url.difference_update_query(["password"]).set(password=password)


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
