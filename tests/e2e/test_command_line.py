"""Bad input on the command line: one clear line that names the mend, and an exit code that says
no.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


def run(script: Path, home: Path, *arguments: str, **environment: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [str(script), *arguments],
        env={**os.environ, "ENRICHMENT_HOME": str(home), "COLUMNS": "200", **environment},
        cwd=home,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("arguments", "mend"),
    [
        (["symbols", "add", "'; DROP TABLE bars"], "malformed symbol"),
        (["symbols", "add", "AAPL", "--timeframes", "7m"], "choose from 5m, 15m, 30m, 1h, 4h"),
        (["symbols", "add", "AAPL", "--asset-class", "bond"], "choose one of stock, etf, crypto"),
        (["symbols", "remove", "AAPL"], "not tracked: see 'enrichment symbols list'"),
        (["trigger", "AAPL"], "symbols add AAPL"),
        (["trigger"], "symbols add AAPL"),
        (["status", "AAPL"], "not tracked"),
        (["cancel", "00000000-0000-0000-0000-000000000000"], "enrichment history"),
        (["pause", "--symbol", "NOPE"], "not tracked"),
        (["pause", "--for", "soon"], "30m"),
        (["breaker", "nasdaq_api", "reset"], "no worker has run"),
        (["sandbox", "--fault", "AAPL:nonsense"], "nonsense"),
        (["sandbox", "--anchor", "yesterday"], "YYYY-MM-DD"),
        (["api", "--host", "0.0.0.0"], "ENRICHMENT_API_TOKEN"),
    ],
)
def test_bad_arguments(script: Path, home: Path, arguments: list[str], mend: str) -> None:
    code, _, errors = run(script, home, *arguments)
    assert code == 1
    assert errors.startswith("error: ")
    assert mend in errors
    assert errors.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "value", "mend"),
    [
        ("DATABASE_URL", "postgresql://me:secret@127.0.0.1:1/x", "check DATABASE_URL"),
        ("DATABASE_URL", "mysql://me:secret@127.0.0.1/x", "postgresql://"),
        ("DATABASE_URL", "nonsense", "postgresql://USER:PASSWORD@HOST"),
        ("ENRICHMENT_HOUR", "25", "ENRICHMENT_HOUR='25'"),
        ("PROVIDERS_STOCK", "bloomberg", "polygon"),
        (
            "ENRICHMENT_EXECUTOR",
            "tcp://127.0.0.1",
            "the address of a Dask scheduler, such as tcp://",
        ),
    ],
)
def test_bad_settings(script: Path, home: Path, name: str, value: str, mend: str) -> None:
    code, _, errors = run(script, home, "history", **{name: value})
    assert code == 1
    assert mend in errors
    assert "secret" not in errors
    assert errors.count("\n") == 1


def test_a_csv_with_bad_lines_changes_nothing_and_names_each(script: Path, home: Path) -> None:
    file = home / "symbols.csv"
    file.write_text(
        "symbol,asset_class,timeframes\nAAPL,stock,1d|1h\nB AD,stock,1d\nIBM,stock,7m\n"
    )
    code, _, errors = run(script, home, "symbols", "import", str(file))
    assert code == 1
    assert "line 3" in errors
    assert "line 4" in errors
    assert "no symbols yet" in run(script, home, "symbols", "list")[1]
    file.write_text("symbol,asset_class,timeframes\nAAPL,stock,1d|1h\nX:BTCUSD,crypto,4h\n")
    assert run(script, home, "symbols", "import", str(file))[0] == 0
    listed = run(script, home, "symbols", "list")[1]
    assert listed.index("AAPL") < listed.index("X:BTCUSD")


def test_help_names_every_command(script: Path, home: Path) -> None:
    code, shown, _ = run(script, home, "--help")
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
        assert command in shown
