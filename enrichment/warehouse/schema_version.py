"""Which schema this version of the program speaks, checked without loading the migrations."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import text

from enrichment.domain.errors import ConfigurationError
from enrichment.warehouse.database import Database

REVISION = "0008"


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
    """ConfigurationError, with the mend, unless the schema is current."""
    if not is_current(db, feature_columns):
        raise ConfigurationError(
            f"the schema of {db.address} is not that of this version: run 'enrichment db upgrade'"
        )
