"""PostgreSQL servers and poolers other than the tests' own: Debian's, where it is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import text

from enrichment.domain.errors import DatabaseUnavailable
from enrichment.warehouse.database import Database
from enrichment.warehouse.embedded import EmbeddedPostgres
from tests.helpers.memory_folder import memory_folder
from tests.helpers.running_stack import free_ports
from tests.helpers.waiting import until

_DEBIAN = Path("/usr/lib/postgresql/15/bin")
_USER = "postgres"  # as whom the programs run where root runs the tests


@contextmanager
def debian_server() -> Iterator[str]:
    """The URL of a new PostgreSQL 15 of Debian, which keeps Indian time by default."""
    with memory_folder() as folder:
        server = _new_server(folder / "data")
        server.start()
        try:
            yield f"postgresql://postgres@127.0.0.1:{server.port}/postgres"
        finally:
            server.stop()


@dataclass
class DebianServer:
    """A server of Debian's PostgreSQL 15 and its folder."""

    data: Path
    port: int

    def start(self) -> None:
        options = f"-p {self.port} -h 127.0.0.1 -k '' -c fsync=off -c timezone=Asia/Kolkata"
        self._control("-o", options, "-l", str(self.data / "log"), "start")

    def stop(self) -> None:
        self._control("-m", "immediate", "stop")

    def promote(self) -> None:
        self._control("promote")

    def runs(self) -> bool:
        return (self.data / "postmaster.pid").exists()

    def _control(self, *arguments: str) -> None:
        _run(_DEBIAN / "pg_ctl", "-D", str(self.data), "-w", *arguments)


@contextmanager
def replicated_servers() -> Iterator[tuple[DebianServer, DebianServer]]:
    """A primary and its standby, which follows it by streaming."""
    with memory_folder() as folder:
        primary = _new_server(folder / "primary")
        primary.start()
        standby = DebianServer(folder / "standby", free_ports()["api"])
        source = f"host=127.0.0.1 port={primary.port} user=postgres"
        _run(_DEBIAN / "pg_basebackup", "-D", str(standby.data), "-R", "-c", "fast", "-d", source)
        standby.start()
        try:
            yield primary, standby
        finally:
            for server in (standby, primary):
                if server.runs():
                    server.stop()


def _new_server(data: Path) -> DebianServer:
    if not (_DEBIAN / "initdb").exists():
        pytest.skip("Debian's postgresql-15 is not installed")
    data.mkdir()
    _own(data.parent, data)
    trusting = ("-A", "trust", "-U", "postgres", "--no-locale", "-E", "UTF8")
    _run(_DEBIAN / "initdb", "-D", str(data), *trusting)
    return DebianServer(data, free_ports()["api"])


@contextmanager
def embedded_server() -> Iterator[str]:
    """The URL of an embedded PostgreSQL 18 that no other test uses."""
    with memory_folder() as folder, EmbeddedPostgres(folder / "postgres") as postgres:
        yield postgres.url


@contextmanager
def pooler(url: str, mode: str) -> Iterator[str]:
    """The URL of a pgbouncer before the database. mode: 'transaction' or 'session'."""
    program = shutil.which("pgbouncer", path=f"{os.environ.get('PATH')}:/usr/sbin")
    if program is None:
        pytest.skip("pgbouncer is not installed")
    server = Database(url).url
    with memory_folder() as folder:
        port = free_ports()["api"]
        (folder / "users.txt").write_text('"postgres" ""\n')
        (folder / "pgbouncer.ini").write_text(
            f"[databases]\n* = host=127.0.0.1 port={server.port}\n[pgbouncer]\n"
            f"listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
            f"auth_type = trust\nauth_file = {folder}/users.txt\npool_mode = {mode}\n"
        )
        _own(folder)
        command = [*_as_user(), program, str(folder / "pgbouncer.ini")]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
            try:
                pooled = server.set(port=port).render_as_string(False)
                until(lambda: _answers(pooled), "the pooler answers")
                yield pooled
            finally:
                process.terminate()


def run_as_admin(url: str, *statements: str) -> None:
    """Execute statements outside a transaction."""
    database = Database(url, pool_size=1)
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
        for statement in statements:
            conn.execute(text(statement))
    database.close()


def _answers(url: str) -> bool:
    database = Database(url, pool_size=1)
    try:
        with database.begin():
            return True
    except DatabaseUnavailable:
        return False
    finally:
        database.close()


def _own(*folders: Path) -> None:
    for folder in folders:
        folder.chmod(0o700)
        if os.geteuid() == 0:
            for path in (folder, *folder.rglob("*")):
                shutil.chown(path, _USER)


def _as_user() -> Sequence[str]:
    return ("runuser", "-u", _USER, "--") if os.geteuid() == 0 else ()


def _run(program: Path, *arguments: str) -> None:
    command = [*_as_user(), str(program), *arguments]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd="/")
