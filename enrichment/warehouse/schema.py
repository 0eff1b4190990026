"""The database's schema: checking and upgrading it.

Alembic is imported only for an upgrade, since it would slow the start of every process.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError, OperationalError

from enrichment.domain.errors import ConfigurationError
from enrichment.warehouse import reader_role, retention
from enrichment.warehouse.database import Database

if TYPE_CHECKING:
    from alembic.config import Config

REVISION = "0024"
_LOCK = 7_303_014  # of pg_advisory_xact_lock; all versions must use the same number
_SQL_TYPES = {"number": "double precision", "label": "text"}


def is_current(db: Database, feature_columns: Iterable[str]) -> bool:
    """Whether the database is at this version's revision and has a column for every feature."""
    with db.begin() as conn:
        if conn.execute(text("SELECT to_regclass('alembic_version')")).scalar() is None:
            return False
        revision = conn.execute(
            text(
                "SELECT to_jsonb(v) ->> 'version_num' FROM alembic_version v"
            )  # or a foreign table
        ).scalar()
        present = conn.execute(
            text(
                "SELECT attname FROM pg_attribute"
                " WHERE attrelid = to_regclass('bars') AND NOT attisdropped"
            )
        ).scalars()
        return revision == REVISION and set(feature_columns) <= set(present)


def require_current(db: Database, feature_columns: Iterable[str]) -> None:
    """Raise ConfigurationError, with the command that fixes it, unless the schema is current."""
    if not is_current(db, feature_columns):
        raise ConfigurationError(
            f"the schema of {db.address} is not that of this version: run 'enrichment db upgrade'"
        )


def migrate(db: Database, feature_columns: Mapping[str, str]) -> None:
    """Upgrade to the newest schema; safe to run from several processes at once.

    Args:
        db: To upgrade.
        feature_columns: Feature name → 'number' or 'label'. Columns are only added: a feature that
            is removed from the registry keeps its column and values.
    """
    with db.begin() as conn:
        try:
            _migrate(conn, feature_columns)
        except DBAPIError as exc:
            if exc.connection_invalidated or isinstance(exc, OperationalError):
                raise
            raise ConfigurationError(_refusal(conn, db.address, exc)) from exc


def _migrate(conn: Connection, feature_columns: Mapping[str, str]) -> None:
    from alembic import command
    from alembic.util import CommandError

    conn.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
    config = configuration()
    config.attributes["connection"] = conn
    try:
        command.upgrade(config, "head")
    except CommandError as exc:
        raise ConfigurationError(
            f"the database's schema is one that this version ({REVISION}) does not know ({exc}): "
            "update the package, or choose another database"
        ) from exc
    for name, kind in feature_columns.items():
        _add_feature(conn, name, kind)
    include_in_key(conn)
    retention.create_partitions(conn)
    reader_role.grant(conn)


def _refusal(conn: Connection, address: str, exc: DBAPIError) -> str:
    """Why the server refuses the upgrade, and how to change that."""
    code = getattr(exc.orig, "pgcode", None)
    reason = (str(exc.orig).strip().splitlines() or [type(exc.orig).__name__])[0]
    user = conn.engine.url.username or "its user"
    remedies = {
        "42501": f"run it as the owner of the tables; for a new database run 'GRANT CREATE, USAGE "
        f"ON SCHEMA public TO {user}' as its owner",
        "3F000": f"create the schema, or set one that exists: 'ALTER ROLE {user} SET search_path'",
        "42P07": "it holds tables of another program: choose an empty database",
        "25006": "it is read-only, a standby or failing over: let DATABASE_URL name the primary",
    }
    remedy = remedies.get(code or "", "choose a database that only this program changes")
    return f"{address} is not upgraded, nothing was changed ({reason}): {remedy}"


def configuration() -> Config:
    """Alembic's configuration for the packaged migrations; set `attributes["connection"]`."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config


def _add_feature(conn: Connection, name: str, kind: str) -> None:
    if not name.isidentifier():
        raise ValueError(f"feature {name!r} can't be a column: use letters, digits and '_'")
    conn.execute(text(f'ALTER TABLE bars ADD COLUMN IF NOT EXISTS "{name}" {_SQL_TYPES[kind]}'))


def include_in_key(conn: Connection) -> None:
    """Include in the primary key of `bars` the columns that every run reads, for index-only scans.

    A series that grows night by night has each row on another page of the table, but all next to
    each other in the index. Index-only scans need a current visibility map, so the table is
    vacuumed by the number of inserted rows, whatever its size.
    """
    from enrichment.warehouse.series.snapshots import COLUMNS

    included = [name for name in COLUMNS if name != "ts"]
    if conn.execute(text(_INCLUDED)).scalars().all() != included:
        listed = ", ".join(f'"{name}"' for name in included)
        conn.execute(text("ALTER TABLE bars DROP CONSTRAINT IF EXISTS bars_pkey"))
        conn.execute(
            text(f"ALTER TABLE bars ADD PRIMARY KEY (symbol, timeframe, ts) INCLUDE ({listed})")
        )
    conn.execute(text(_VACUUM_BY_INSERTS))


_INCLUDED = """
SELECT a.attname FROM pg_index i
CROSS JOIN LATERAL unnest(i.indkey) WITH ORDINALITY AS k (attnum, position)
JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
WHERE i.indexrelid = to_regclass('bars_pkey') AND k.position > i.indnkeyatts ORDER BY k.position
"""

_VACUUM_BY_INSERTS = """
ALTER TABLE bars SET (autovacuum_vacuum_insert_scale_factor = 0,
    autovacuum_vacuum_insert_threshold = 100000)
"""
