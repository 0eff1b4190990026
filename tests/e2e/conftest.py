"""The product as a user gets it: its wheel in an environment of its own, with its console
script.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from enrichment.warehouse.database import Database
from tests.helpers.running_stack import RunningStack, running_stack

ROOT = Path(__file__).parents[2]
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


@pytest.fixture(scope="session")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The console script of the built wheel, installed where the checkout can't be imported.

    The processes of one test run share it.
    """
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    environment = folder / "wheel" / "environment"
    with (folder / "wheel.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not environment.exists():
            _install_wheel(environment)
    return environment / "bin" / "enrichment"


def _install_wheel(environment: Path) -> None:
    """Install the wheel into a new environment; its dependencies are this environment's, by path.

    The project's editable install is not among them: .pth files of a folder on the path are not
    read.
    """
    wheels = environment.parent
    build = (sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir")
    _quiet(*build, str(wheels), str(ROOT))
    (wheel,) = wheels.glob("*.whl")
    venv.create(environment, with_pip=False, symlinks=True)
    python = environment / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--no-deps")
    _quiet(*pip, str(wheel))
    (site,) = environment.glob("lib/python*/site-packages")
    installed = [path for path in sys.path if path.endswith("site-packages")]
    (site / "dependencies.pth").write_text("\n".join(installed) + "\n")


def _quiet(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="session")
def demo(script: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """One demo for the session, asked for the whole recorded history."""
    cwd = tmp_path_factory.mktemp("elsewhere")
    with running_stack(script, "demo", cwd, HISTORY_DAYS="5000") as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's chromium, for the tests of a module."""
    chromium = shutil.which("chromium")
    assert chromium, "the browser tests need chromium: apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def demo_db(demo: RunningStack) -> Iterator[Database]:
    """The demo's database, as `enrichment db url` would name it."""
    url = f"postgresql://postgres:@/postgres?host={demo.home / 'postgres'}"
    database = Database(url, pool_size=1)
    yield database
    database.close()
