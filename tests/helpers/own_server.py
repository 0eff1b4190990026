"""A Postgres server that a test may stop, and a small disk that it may fill."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from sqlalchemy import text

from enrichment.domain.errors import DatabaseUnavailable
from enrichment.warehouse.database import Database
from enrichment.warehouse.embedded import EmbeddedPostgres
from enrichment.wiring.database import upgrade_schema
from tests.helpers.crash_harness import until


class OwnServer:
    """An embedded server that no other test uses, with databases on it."""

    def __init__(self, postgres: EmbeddedPostgres) -> None:
        self.postgres = postgres
        self._admin = Database(postgres.url, pool_size=1)
        self._databases: dict[str, Database] = {}

    def run(self, statement: str) -> None:
        """Execute a statement outside a transaction, as CREATE DATABASE and its like need."""
        with self._admin.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
            conn.execute(text(statement))

    def database(self, name: str) -> Database:
        """A new database with the current schema."""
        self.run(f"CREATE DATABASE {name}")
        url = self._admin.url.set(database=name).render_as_string(False)
        self._databases[name] = made = Database(url, pool_size=3)
        upgrade_schema(made)
        return made

    def drop(self, name: str) -> None:
        self._databases.pop(name).close()
        self.run(f"DROP DATABASE {name} WITH (FORCE)")

    def stop_immediately(self) -> None:
        """Shut the server down in immediate mode, which is SIGQUIT to a postmaster."""
        pid = self._pid()
        assert pid is not None
        os.kill(pid, signal.SIGQUIT)
        until(lambda: not _runs(pid), "the server ends")  # postmaster.pid goes first

    def restart(self) -> None:
        """Start the stopped server again; on a busy machine it may come up after its time limit."""
        with suppress(DatabaseUnavailable):
            self.postgres.revive()
        until(self._answers, "the server answers again")

    def _answers(self) -> bool:
        with suppress(DatabaseUnavailable), self._admin.begin():
            return True
        return False

    def is_running(self) -> bool:
        """Whether the server's process runs; a zombie does not."""
        return _runs(self._pid())

    def _pid(self) -> int | None:
        try:
            return int((self.postgres.folder / "postmaster.pid").read_text().split()[0])
        except FileNotFoundError:
            return None

    def close(self) -> None:
        for database in (self._admin, *self._databases.values()):
            database.close()


class RamDisk:
    """A small tmpfs."""

    def __init__(self, folder: Path, kilobytes: int) -> None:
        self.folder = folder
        self._mount(f"size={kilobytes}k,mode=755")

    def grow(self, kilobytes: int) -> None:
        self._mount(f"remount,size={kilobytes}k")

    def fill(self) -> Path:
        """Fill the free space with a file; removing the file frees it again."""
        ballast = self.folder / "ballast"
        with ballast.open("wb", buffering=0) as file:
            while (free := shutil.disk_usage(self.folder).free) > 0:
                file.write(bytes(min(free, 1 << 20)))
        return ballast

    def _mount(self, options: str) -> None:
        command = ("mount", "-t", "tmpfs", "-o", options, "tmpfs", str(self.folder))
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            pytest.skip("there is no mount command")
        if done.returncode != 0:
            pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")

    def remove(self) -> None:
        subprocess.run(("umount", "--lazy", str(self.folder)), check=True)


@contextmanager
def mounted_disk(folder: Path, kilobytes: int) -> Iterator[RamDisk]:
    """A tmpfs mounted until the end of the block; skips the test where mounting is not allowed."""
    folder.mkdir()
    made = RamDisk(folder, kilobytes)
    try:
        yield made
    finally:
        made.remove()


def _runs(pid: int | None) -> bool:
    try:
        return pid is not None and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
