"""The installed command line: a file of symbols, and its help."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from enrichment.warehouse.database import Database


@dataclass(frozen=True)
class Console:
    """The command line on an empty database."""

    script: Path
    home: Path
    database_url: str

    def run(self, *arguments: str, **environment: str) -> tuple[int, str, str]:
        """Exit code, output and error output of a command."""
        own = {"ENRICHMENT_HOME": str(self.home), "DATABASE_URL": self.database_url}
        completed = subprocess.run(
            [str(self.script), *arguments],
            env={**os.environ, **own, "COLUMNS": "200", **environment},
            cwd=self.home,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return completed.returncode, completed.stdout, completed.stderr


@pytest.fixture(scope="module")
def console(script: Path, shared_db: Database, tmp_path_factory: pytest.TempPathFactory) -> Console:
    url = shared_db.url.render_as_string(hide_password=False)
    return Console(script, tmp_path_factory.mktemp("home"), url)


def test_a_csv_with_invalid_lines_changes_nothing_and_names_each(console: Console) -> None:
    file = console.home / "symbols.csv"
    file.write_text(
        "symbol,asset_class,timeframes\nAAPL,stock,1d|1h\nB AD,stock,1d\nIBM,stock,7m\n"
    )
    code, _, errors = console.run("symbols", "import", str(file))
    assert code == 1
    assert "line 3" in errors
    assert "line 4" in errors
    assert "AAPL" not in console.run("symbols", "list", "--json")[1]
    file.write_text("symbol,asset_class,timeframes\nAAPL,stock,1d|1h\nX:BTCUSD,crypto,4h\n")
    assert console.run("symbols", "import", str(file))[0] == 0
    output = console.run("symbols", "list")[1]
    assert output.index("AAPL") < output.index("X:BTCUSD")


def test_help_names_every_command(console: Console) -> None:
    code, output, _ = console.run("--help")
    assert code == 0
    for command in [
        "up",
        "demo",
        "worker",
        "api",
        "dashboard",
        "sandbox",
        "trigger",
        "status",
        "history",
        "pause",
        "resume",
        "symbols",
        "db",
        "doctor",
    ]:
        assert command in output
