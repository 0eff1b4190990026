"""The connection pool to Postgres, and its errors as DatabaseUnavailable with a hint."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import cache
from typing import Any

import psycopg2
from sqlalchemy import Connection as Connection
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from enrichment.domain.errors import ConfigurationError, DatabaseUnavailable

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
        """The URL without its password."""
        return self.url.render_as_string(hide_password=True)

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
    return parsed.set(drivername="postgresql+psycopg2")


def _with_options(url: URL, options: str) -> str:
    """The options of the URL, then these."""
    given: Any = url.query.get("options", "")
    return f"{given} {options}".strip()
