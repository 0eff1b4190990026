"""One pool of connections to Postgres, and the words in which it reports trouble."""

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
_OUTSIDE_SQLALCHEMY = (psycopg2.OperationalError, psycopg2.InterfaceError)  # as COPY raises them
_DISK_FULL = "53100"
_TOO_SLOW = "57014"
_NO_CONNECTION_LEFT = ("too many clients", "too many connections", "remaining connection slots")


sql = cache(text)  # a statement that runs often, parsed once


class Database:
    """A pool of connections with transactions as context managers.

    Every session runs in UTC. A lost connection surfaces as DatabaseUnavailable, and the pool heals
    itself: the next transaction gets a new connection.

    idle_seconds: a transaction that its process leaves idle for longer is ended by the server, so
    that a frozen process can't keep its locks for ever. role: whose rights its sessions have.
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
                "options": _with_own_options(self.url, options),
                "keepalives_idle": 10,
                "keepalives_interval": 5,
                "keepalives_count": 3,
            },
        )

    @property
    def address(self) -> str:
        """The address without its password."""
        return self.url.render_as_string(hide_password=True)

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """One transaction: committed at the end of the block, rolled back by an exception."""
        try:
            with self.engine.begin() as conn:
                yield conn
        except (OperationalError, PoolTimeout, *_OUTSIDE_SQLALCHEMY) as exc:
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
    """The database's wall clock, asked every 30 s and carried on by the monotonic clock between.

    What is judged by it does not depend on this machine's clock being right.
    """

    def __init__(self, db: Database) -> None:
        self._db = db
        self._asked: tuple[datetime, float] | None = None

    def __call__(self) -> datetime:
        asked = self._asked
        if asked is None or time.monotonic() - asked[1] > CLOCK_SECONDS:
            with self._db.begin() as conn:
                now: datetime = conn.execute(text("SELECT clock_timestamp()")).scalar_one()
            self._asked = asked = (now, time.monotonic())
        return asked[0] + timedelta(seconds=time.monotonic() - asked[1])


def parse_url(url: str) -> URL:
    """A PostgreSQL address for the psycopg2 driver, from any of its usual spellings."""
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


def _with_own_options(url: URL, options: str) -> str:
    own: Any = url.query.get("options", "")
    return f"{own} {options}".strip()
