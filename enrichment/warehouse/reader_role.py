"""The database role of clients that only read: API, dashboard and notebooks."""

from __future__ import annotations

from sqlalchemy import Connection, text

from enrichment.warehouse.database import Database

READER = "enrichment_reader"


def grant(conn: Connection) -> None:
    """Create the role, grant it SELECT on every table, and grant the role to this user.

    Leaves out what the user lacks the rights for: `missing` says what an administrator may add.
    """
    create(conn)
    for statement in (_GRANT_TABLES, _GRANT_SCHEMA, _GRANT_ROLE):
        conn.execute(text(statement))


def create(conn: Connection) -> None:
    """Create the role, where this user may."""
    conn.execute(text(_CREATE))


def role(db: Database) -> str | None:
    """The role to read with; None unless this user may take it on and it may read the tables."""
    with db.begin() as conn:
        name: str | None = conn.execute(text(_USABLE), {"role": READER}).scalar()
        return name


def missing(db: Database) -> str | None:
    """Why reads have the rights of the user itself, and how to change that; None if they don't."""
    if role(db) is not None:
        return None
    with db.begin() as conn:
        owner, version, exists = conn.execute(text(_STATE), {"role": READER}).one()
    create = "" if exists else f"CREATE ROLE {READER} NOLOGIN; "
    option = " WITH SET TRUE" if version >= _WITH_SET else ""
    return (
        f"reads are read-only transactions of {owner}, who may not take on the role {READER}: "
        f"as an administrator run '{create}GRANT {READER} TO {owner}{option}', then "
        "'enrichment db upgrade' again"
    )


_WITH_SET = 160_000
"""The server's version from which membership and the right to SET ROLE are two things."""

_CREATE = f"""
DO $$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{READER}') THEN
        CREATE ROLE {READER} NOLOGIN;
    END IF;
EXCEPTION WHEN insufficient_privilege OR duplicate_object OR unique_violation THEN NULL;
END $$
"""

_GRANT_TABLES = f"""
DO $$ BEGIN
    EXECUTE format('GRANT SELECT ON ALL TABLES IN SCHEMA %I TO {READER}', current_schema());
    EXECUTE format('ALTER DEFAULT PRIVILEGES IN SCHEMA %I GRANT SELECT ON TABLES TO {READER}',
        current_schema());
EXCEPTION WHEN insufficient_privilege OR undefined_object OR internal_error THEN NULL;
END $$
"""

_GRANT_SCHEMA = f"""
DO $$ BEGIN
    IF NOT has_schema_privilege('{READER}', current_schema(), 'USAGE') THEN
        EXECUTE format('GRANT USAGE ON SCHEMA %I TO {READER}', current_schema());
    END IF;
EXCEPTION WHEN insufficient_privilege OR undefined_object OR internal_error THEN NULL;
END $$
"""

_RIGHT = f"""CASE WHEN current_setting('server_version_num')::int >= {_WITH_SET}
    THEN 'SET' ELSE 'MEMBER' END"""
"""Of pg_has_role, to take the role on."""

_GRANT_ROLE = f"""
DO $$ BEGIN
    IF NOT pg_has_role('{READER}', {_RIGHT}) THEN
        IF current_setting('server_version_num')::int >= {_WITH_SET} THEN
            EXECUTE 'GRANT {READER} TO CURRENT_USER WITH SET TRUE, INHERIT FALSE';
        ELSE
            GRANT {READER} TO CURRENT_USER;
        END IF;
    END IF;
EXCEPTION WHEN insufficient_privilege OR undefined_object OR internal_error THEN NULL;
END $$
"""

_USABLE = f"""
SELECT rolname FROM pg_roles WHERE rolname = :role AND pg_has_role(oid, {_RIGHT})
    AND has_schema_privilege(oid, current_schema(), 'USAGE')
    AND NOT EXISTS (SELECT FROM pg_class WHERE relkind IN ('r', 'p', 'v')
        AND relnamespace = to_regnamespace(current_schema())
        AND NOT has_table_privilege(pg_roles.oid, pg_class.oid, 'SELECT'))
"""

_STATE = """
SELECT quote_ident(current_user), current_setting('server_version_num')::int,
    EXISTS (SELECT FROM pg_roles WHERE rolname = :role)
"""
