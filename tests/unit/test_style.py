"""Lint, format, types and layering are tests like any other."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CODE = ("app.py", "api", "enrichment", "resilience", "tests")


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(("ruff", "check", *CODE), id="lint"),
        pytest.param(("ruff", "format", "--check", *CODE), id="format"),
        pytest.param(("mypy",), id="types"),
        pytest.param(("importlinter",), id="layering"),
    ],
)
def test_clean(command: tuple[str, ...]) -> None:
    if command == ("importlinter",):
        arguments = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    else:
        arguments = [sys.executable, "-m", *command]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_modules_are_named_by_concept() -> None:
    vague = {"utils.py", "helpers.py", "common.py", "misc.py"}
    files = [file for name in CODE[1:] for file in (ROOT / name).rglob("*.py")]
    assert [file for file in files if file.name in vague] == []
