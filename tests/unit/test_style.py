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


def test_files_stay_short_and_are_named_by_concept() -> None:
    files = [f for name in CODE[1:] for f in (ROOT / name).rglob("*.py")]
    longest = {True: 500, False: 360}
    long = {
        str(f.relative_to(ROOT)): n
        for f in files
        if (n := _lines(f)) > longest[f.is_relative_to(ROOT / "tests")]
    }
    assert long == {}
    vague = {"utils.py", "helpers.py", "common.py", "misc.py"}
    assert [f for f in files if f.name in vague] == []


def _lines(file: Path) -> int:
    return len(file.read_text(encoding="utf-8").splitlines())
