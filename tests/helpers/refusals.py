"""Many commands that are to be refused, run in one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

_PROGRAM = """
import contextlib, io, json, os, sys
from enrichment.cli import main
own = dict(os.environ)
for line in sys.stdin:
    arguments, environment = json.loads(line)
    os.environ.clear()
    os.environ.update(own | environment)
    sys.argv = ["enrichment", *arguments]
    code, out, err = None, io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main.main()
        except SystemExit as end:
            code = end.code
    print(json.dumps([code, out.getvalue(), err.getvalue()]), flush=True)
"""


@dataclass(frozen=True)
class Refusal:
    """A command, and what its error message is to say."""

    arguments: Sequence[str]
    expected: str
    environment: dict[str, str] = field(default_factory=dict)


def outcomes(
    refusals: Sequence[Refusal], db_url: str, home: Path
) -> list[tuple[int | None, str, str]]:
    """Exit code, output and error output of each command, on this database unless it names one."""
    own = {"ENRICHMENT_HOME": str(home), "DATABASE_URL": db_url}
    requests = [json.dumps([[*r.arguments], own | r.environment]) for r in refusals]
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM],
        env={**os.environ, **own},
        cwd=home,
        input="\n".join(requests),
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    return [tuple(json.loads(line)) for line in done.stdout.splitlines()]
