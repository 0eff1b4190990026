"""Invalid input on the command line: one line that says how to fix it, and exit code 1."""

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


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["symbols", "add", "'; DROP TABLE bars"], "malformed symbol"),
        (["symbols", "add", "AAPL", "--timeframes", "7m"], "5m, 15m, 30m, 1h, 4h"),
        (["symbols", "add", "AAPL", "--asset-class", "bond"], "stock, etf, crypto"),
        (["symbols", "remove", "AAPL"], "enrichment symbols list"),
        (["trigger", "AAPL"], "symbols add AAPL"),
        (["trigger"], "symbols add AAPL"),
        (["status", "AAPL"], "enrichment symbols list"),
        (["cancel", "00000000-0000-0000-0000-000000000000"], "enrichment history"),
        (["pause", "--symbol", "NOPE"], "NOPE"),
        (["pause", "--for", "soon"], "30m"),
        (["breaker", "nasdaq_api", "reset"], "nasdaq_api"),
        (["bars", "AAPL"], "enrichment symbols list"),
        (["bars", "AAPL", "--adjust", "dividends"], "none, split, total"),
        (["bars", "AAPL", "--format", "xlsx"], "json, csv, arrow, parquet"),
        (["bars", "AAPL", "--columns", "closes"], "open, high, low, close"),
        (
            ["actions", "add", "NVDA", "split", "2024-06-10", "--reason", "filed"],
            "ratio is missing",
        ),
        (["actions", "add", "NVDA", "merger", "2024-06-10", "--reason", "x"], "split, stock_div"),
        (["actions", "refute", "NVDA", "split", "10.6.24", "--reason", "x"], "YYYY-MM-DD"),
        (["repair"], "--all"),
        (["repair", "--all", "--yes"], "--reason"),
        (["repair", "--all", "--kind", "rust", "--dry-run"], "after_close"),
        (["repair", "NOPE", "--dry-run"], "symbols add NOPE"),
        (["sandbox", "--fault", "AAPL:nonsense"], "nonsense"),
        (["sandbox", "--anchor", "yesterday"], "YYYY-MM-DD"),
        (["api", "--host", "0.0.0.0"], "ENRICHMENT_API_TOKEN"),
    ],
)
def test_bad_arguments(console: Console, arguments: list[str], expected: str) -> None:
    code, _, errors = console.run(*arguments)
    assert code == 1
    assert errors.startswith("error: ")
    assert expected in errors
    assert errors.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("DATABASE_URL", "postgresql://me:secret@127.0.0.1:1/x", "DATABASE_URL"),
        ("DATABASE_URL", "mysql://me:secret@127.0.0.1/x", "postgresql://"),
        ("DATABASE_URL", "nonsense", "postgresql://USER:PASSWORD@HOST"),
        ("ENRICHMENT_HOUR", "25", "ENRICHMENT_HOUR='25'"),
        ("PROVIDERS_STOCK", "bloomberg", "polygon"),
        (
            "ENRICHMENT_EXECUTOR",
            "tcp://127.0.0.1",
            "tcp://",
        ),
    ],
)
def test_bad_settings(console: Console, name: str, value: str, expected: str) -> None:
    code, _, errors = console.run("history", **{name: value})
    assert code == 1
    assert expected in errors
    assert "secret" not in errors
    assert errors.count("\n") == 1


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
