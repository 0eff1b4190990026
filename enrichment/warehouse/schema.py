"""The schema: whether a database has the current one, and how it gets it.

Alembic is imported only to migrate, since it takes longer to load than a worker needs to start.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, text

from enrichment.domain.errors import ConfigurationError
from enrichment.warehouse import reader_role, retention
from enrichment.warehouse.database import Database

if TYPE_CHECKING:
    from alembic.config import Config

REVISION = "0008"
_LOCK = 7_303_014  # any number, as long as all versions agree on it
_SQL_TYPES = {"number": "double precision", "label": "text"}


def is_current(db: Database, feature_columns: Iterable[str]) -> bool:
    """Whether the database is at this version's revision and has a column for every feature."""
    with db.begin() as conn:
        if conn.execute(text("SELECT to_regclass('alembic_version')")).scalar() is None:
            return False
        revision = conn.execute(text("SELECT version_num FROM alembic_version")).scalar()
        present = conn.execute(
            text(
                "SELECT attname FROM pg_attribute"
                " WHERE attrelid = to_regclass('bars') AND NOT attisdropped"
            )
        ).scalars()
        return revision == REVISION and set(feature_columns) <= set(present)


def require_current(db: Database, feature_columns: Iterable[str]) -> None:
    """ConfigurationError, with the command that fixes it, unless the schema is current."""
    if not is_current(db, feature_columns):
        raise ConfigurationError(
            f"the schema of {db.address} is not that of this version: run 'enrichment db upgrade'"
        )


def migrate(db: Database, feature_columns: Mapping[str, str]) -> None:
    """Upgrade to the newest schema; safe to run from several processes at once.

    feature_columns: feature name → 'number' or 'label'. Columns are only ever added: a feature that
    leaves the registry keeps its column and its history.
    """
    from alembic import command

    with db.begin() as conn:
        conn.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
        config = configuration()
        config.attributes["connection"] = conn
        command.upgrade(config, "head")
        for name, kind in feature_columns.items():
            _add_feature(conn, name, kind)
        cover_key(conn)
        retention.create_partitions(conn)
        reader_role.grant(conn)


def configuration() -> Config:
    """Alembic's view of the packaged migrations; `attributes["connection"]` is to be set."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config


def _add_feature(conn: Connection, name: str, kind: str) -> None:
    if not name.isidentifier():
        raise ValueError(f"feature {name!r} can't be a column: use letters, digits and '_'")
    conn.execute(text(f'ALTER TABLE bars ADD COLUMN IF NOT EXISTS "{name}" {_SQL_TYPES[kind]}'))


def cover_key(conn: Connection) -> None:
    """Let the key of `bars` carry what every run reads of a series' last bars.

    A series that grew night by night has a row on each of as many pages; its key keeps them side
    by side. For that the pages must be known to be visible, so they are vacuumed by what was
    inserted, however large the table is.
    """
    from enrichment.warehouse.series.snapshots import COLUMNS

    carried = [name for name in COLUMNS if name != "ts"]
    if conn.execute(text(_CARRIED_BY_KEY)).scalars().all() != carried:
        listed = ", ".join(f'"{name}"' for name in carried)
        conn.execute(text("ALTER TABLE bars DROP CONSTRAINT IF EXISTS bars_pkey"))
        conn.execute(
            text(f"ALTER TABLE bars ADD PRIMARY KEY (symbol, timeframe, ts) INCLUDE ({listed})")
        )
    conn.execute(text(_VACUUM_BY_INSERTS))


_CARRIED_BY_KEY = """
SELECT a.attname FROM pg_index i
CROSS JOIN LATERAL unnest(i.indkey) WITH ORDINALITY AS k (attnum, position)
JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
WHERE i.indexrelid = to_regclass('bars_pkey') AND k.position > i.indnkeyatts ORDER BY k.position
"""

_VACUUM_BY_INSERTS = """
ALTER TABLE bars SET (autovacuum_vacuum_insert_scale_factor = 0,
    autovacuum_vacuum_insert_threshold = 100000)
"""
