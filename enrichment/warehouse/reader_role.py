"""The database role of clients that only read: API, dashboard and notebooks."""

from __future__ import annotations

from sqlalchemy import Connection, text

from enrichment.warehouse.database import Database

READER = "enrichment_reader"


def grant(conn: Connection) -> None:
    """Create the role, grant it SELECT on every table, and grant the role to this user.

    Does nothing where the user lacks the rights; an administrator can do the same.
    """
    conn.execute(text(_CREATE))
    conn.execute(text(_GRANT))


def role(db: Database) -> str | None:
    """The role to read with; None unless it exists and this user is a member."""
    with db.begin() as conn:
        name: str | None = conn.execute(text(_IS_MEMBER), {"role": READER}).scalar()
        return name


_CREATE = f"""
DO $$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{READER}') THEN
        CREATE ROLE {READER} NOLOGIN;
    END IF;
EXCEPTION WHEN insufficient_privilege OR duplicate_object OR unique_violation THEN NULL;
END $$
"""

_GRANT = f"""
DO $$ BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = '{READER}') THEN
        EXECUTE format('GRANT USAGE ON SCHEMA %I TO {READER}', current_schema());
        EXECUTE format('GRANT SELECT ON ALL TABLES IN SCHEMA %I TO {READER}', current_schema());
        EXECUTE format('ALTER DEFAULT PRIVILEGES IN SCHEMA %I GRANT SELECT ON TABLES TO {READER}',
            current_schema());
        IF NOT pg_has_role('{READER}', 'MEMBER') THEN
            GRANT {READER} TO CURRENT_USER;
        END IF;
    END IF;
EXCEPTION WHEN insufficient_privilege THEN NULL;
END $$
"""

_IS_MEMBER = """
SELECT rolname FROM pg_roles WHERE rolname = :role AND pg_has_role(rolname, 'MEMBER')
"""
