"""A demo that is stopped while it starts leaves no process and no folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.helpers.memory_folder import memory_folder
from tests.helpers.running_stack import free_ports
from tests.helpers.waiting import until

MOMENTS: dict[str, Callable[[Path], object]] = {
    "its folder exists": lambda home: True,
    "initdb has begun": lambda home: (home / "postgres" / "base").exists(),
    "the server runs": lambda home: (home / "postgres" / "postmaster.pid").exists(),
    "the first process has logged": lambda home: (home / "enrichment.log").stat().st_size,
}


SIGNALS = (signal.SIGHUP, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@pytest.mark.parametrize(("moment", "number"), list(zip(MOMENTS, SIGNALS, strict=True)))
def test_nothing_is_left(moment: str, number: signal.Signals) -> None:
    with memory_folder() as folder:
        ports = [f"--{name}-port={port}" for name, port in free_ports().items()]
        process = subprocess.Popen(
            [sys.executable, "-m", "enrichment", "demo", *ports],
            env={**os.environ, "TMPDIR": str(folder)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        until(lambda: has_come(folder, MOMENTS[moment]), moment, 60)
        process.send_signal(number)
        output, _ = process.communicate(timeout=60)
        assert "Traceback" not in output
        assert list(folder.glob("enrichment*")) == []
        left = psutil.process_iter(["cmdline"])
        assert [p for p in left if str(folder) in " ".join(p.info["cmdline"] or [])] == []


def has_come(folder: Path, condition: Callable[[Path], object]) -> bool:
    try:
        return any(condition(home) for home in folder.glob("enrichment-demo-*"))
    except FileNotFoundError:
        return False
