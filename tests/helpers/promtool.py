"""Prometheus' own checker, where it is installed (`.ci/run` sees to that)."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None and "CI" not in os.environ,
    reason="promtool is not installed: it comes with Debian's package 'prometheus'",
)


def promtool(*arguments: str | Path, given: bytes = b"") -> tuple[int, str]:
    """Exit code and output of `promtool`; given: its standard input."""
    done = subprocess.run(
        ["promtool", *map(str, arguments)],
        input=given,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    return done.returncode, done.stdout.decode()
