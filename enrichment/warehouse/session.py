"""The settings of database sessions, which poolers do not keep.

A pooler in transaction mode gives each transaction another session of the server, and drops or
refuses options sent at the start of a connection. So the settings are made by SQL: once per
connection where the server itself answers, in each transaction where a pooler does.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from psycopg2.extensions import encodings
from sqlalchemy import Connection, Engine, event

from enrichment.domain.errors import ConfigurationError

_log = logging.getLogger(__name__)
_POOLED = "pooled"
"""Key in a connection's info: whether a pooler answers."""
_CODEC = "codec"
"""Key in a connection's info: Python's name of an encoding that can't store every text."""
_ANY_TEXT = ("UTF8", "SQL_ASCII")


@dataclass(frozen=True)
class SessionSettings:
    """What holds in every transaction: UTC, timeouts, rights."""

    statement_timeout_ms: int = 0
    """0: none."""
    idle_seconds: float = 30.0
    """After which the server ends an idle transaction."""
    read_only: bool = False
    role: str | None = None
    """Whose rights the session has; None: the user's own."""

    @cached_property
    def values(self) -> dict[str, str]:
        """By the name of the server's setting."""
        values = {
            "TimeZone": "UTC",
            "statement_timeout": str(self.statement_timeout_ms),
            "idle_in_transaction_session_timeout": str(round(self.idle_seconds * 1000)),
        }
        return values if self.role is None else {**values, "role": self.role}

    def install(self, engine: Engine) -> None:
        """Make the settings in every connection, or transaction, of the engine."""
        event.listen(engine, "connect", self._on_connect)
        event.listen(engine, "begin", self._on_begin)
        event.listen(engine, "before_cursor_execute", _make_storable, retval=True)

    def _on_connect(self, connection: Any, record: Any) -> None:
        """A pooler shows its own process id, not that of the server's session."""
        connection.autocommit = True  # a rolled back transaction would take the settings with it
        try:
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_backend_pid()")
                record.info[_POOLED] = cursor.fetchone()[0] != connection.info.backend_pid
                encoding = connection.info.parameter_status("server_encoding") or "UTF8"
                record.info[_CODEC] = None if encoding in _ANY_TEXT else encodings.get(encoding)
                if not record.info[_POOLED]:
                    self._set(cursor, local=False)
        finally:
            connection.autocommit = False

    def _on_begin(self, connection: Connection) -> None:
        if connection.info.get(_POOLED) and not _autocommits(connection):
            driver: Any = connection.connection.driver_connection
            with driver.cursor() as cursor:
                self._set(cursor, local=True)

    def _set(self, cursor: Any, *, local: bool) -> None:
        """Make the settings; raises ConfigurationError for a value that the server does not keep.

        Args:
            local: Until the end of the transaction, instead of the session.
        """
        read_only = "transaction_read_only" if local else "default_transaction_read_only"
        values = {**self.values, read_only: "on"} if self.read_only else self.values
        calls = ", ".join("set_config(%s, %s, %s)" for _ in values)
        shown = ", ".join("current_setting(%s)" for _ in values)
        arguments = [part for name, value in values.items() for part in (name, value, local)]
        cursor.execute(f"SELECT {calls}", arguments)
        if local:
            return
        cursor.execute(f"SELECT {shown}", list(values))
        kept = dict(zip(values, cursor.fetchone(), strict=True))
        if kept["TimeZone"] != "UTC" or (self.role is not None and kept["role"] != self.role):
            raise ConfigurationError(
                f"the database's sessions do not keep their settings ({kept}): "
                "let DATABASE_URL name the server itself, or a pooler in transaction mode"
            )


def _make_storable(
    connection: Connection, _cursor: Any, statement: str, values: Any, *_: object
) -> tuple[str, Any]:
    """Take from texts what the database can't store, so that none loses the row it belongs to.

    That is NUL, which PostgreSQL has in no text, and what a database's encoding lacks.
    """
    codec = connection.info.get(_CODEC)
    statement = statement if codec is None else _storable(statement, codec)
    if isinstance(values, dict):
        return statement, {name: _storable(value, codec) for name, value in values.items()}
    if isinstance(values, list):
        return statement, [
            {name: _storable(value, codec) for name, value in row.items()} for row in values
        ]
    return statement, values


def _storable(value: Any, codec: str | None) -> Any:
    if isinstance(value, list):
        return [_storable(item, codec) for item in value]
    if not isinstance(value, str):
        return value
    if "\0" in value:
        value = value.replace("\0", "")
    if r"\u0000" in value:  # in JSON; an escaped backslash before it is rare enough to be lost too
        value = value.replace(r"\u0000", "")
    if codec is None or value.isascii():
        return value
    return value.encode(codec, "backslashreplace").decode(codec)


def is_pooled(connection: Connection) -> bool:
    """Whether a pooler answers, through which a connection is not a session of the server."""
    return bool(connection.info.get(_POOLED))


def _autocommits(connection: Connection) -> bool:
    return bool(connection.get_execution_options().get("isolation_level") == "AUTOCOMMIT")
