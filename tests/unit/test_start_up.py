"""Commands import what they use, and nothing that is heavy besides."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys

import pytest

HEAVY = {
    "alembic",
    "distributed",
    "exchange_calendars",
    "flask",
    "numpy",
    "pandas",
    "plotly",
    "pyarrow",
    "requests",
    "urllib3",
    "sqlalchemy",
    "streamlit",
    "talib",
}

PROGRAM = """
import contextlib, io, json, sys
from enrichment.cli.main import main
sys.argv = ["enrichment", *sys.argv[1:]]
with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
    main()
print(json.dumps([name.partition(".")[0] for name in sys.modules]))
"""


def imported(*arguments: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, check=True
    )
    return set(json.loads(done.stdout))


@pytest.mark.parametrize("command", [("--help",), ("worker", "--help"), ("trigger", "--help")])
def test_help_loads_nothing_heavy(command: tuple[str, ...]) -> None:
    assert imported(*command) & HEAVY == set()


def test_what_is_called_heavy_exists() -> None:
    assert [name for name in sorted(HEAVY) if importlib.util.find_spec(name) is None] == []
