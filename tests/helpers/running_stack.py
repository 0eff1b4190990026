"""`enrichment up` and `demo` as a user starts them, and other commands beside them."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import psutil
from sqlalchemy import text

from enrichment.warehouse.database import Database
from tests.helpers.memory_folder import memory

READY = "Ctrl-C stops everything"


@dataclass
class RunningStack:
    """A running `up` or `demo`."""

    process: subprocess.Popen[str]
    ports: dict[str, int]
    lines: list[str] = field(default_factory=list)
    ready: threading.Event = field(default_factory=threading.Event)

    @property
    def output(self) -> str:
        return "\n".join(self.lines)

    @property
    def api(self) -> str:
        return f"http://127.0.0.1:{self.ports['api']}"

    @property
    def dashboard(self) -> str:
        return f"http://127.0.0.1:{self.ports['dashboard']}"

    @property
    def sandbox(self) -> str:
        return f"http://127.0.0.1:{self.ports['sandbox']}"

    @property
    def home(self) -> Path:
        found = re.search(r"log\s+(\S+)/enrichment\.log", self.output)
        assert found, self.output
        return Path(found[1])

    def processes(self) -> list[psutil.Process]:
        """The process, its children and the embedded server in its home folder."""
        me = psutil.Process(self.process.pid)
        server = [
            p
            for p in psutil.process_iter(["name", "cmdline"])
            if p.info["name"] == "postgres"
            and str(self.home / "postgres") in (p.info["cmdline"] or [])
        ]
        return [me, *me.children(recursive=True), *server]

    def request(self, path: str, *, method: str = "GET") -> tuple[int, Any]:
        """Status and JSON body of the API's response."""
        request = urllib.request.Request(self.api + path, method=method)
        try:
            with urllib.request.urlopen(request, timeout=90) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(60)


def free_ports() -> dict[str, int]:
    """Three free ports; all are bound at once, so that they differ."""
    sockets = [socket.socket() for _ in range(3)]
    try:
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        numbers = [int(s.getsockname()[1]) for s in sockets]
    finally:
        for s in sockets:
            s.close()
    return dict(zip(("api", "dashboard", "sandbox"), numbers, strict=True))


@contextmanager
def running_stack(
    script: Path, command: str, cwd: Path, **environment: str
) -> Iterator[RunningStack]:
    """Run `up` or `demo` until the end of the block."""
    ports = free_ports()
    arguments = [f"--{name}-port={port}" for name, port in ports.items()]
    clean = {k: v for k, v in os.environ.items() if k not in ("DATABASE_URL", "PYTHONPATH")}
    temporary = {"TMPDIR": str(memory() or gettempdir())}  # of the demo's database
    process = subprocess.Popen(
        [str(script), command, *arguments],
        cwd=cwd,
        env={**clean, **temporary, "COLUMNS": "200", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    running = RunningStack(process, ports)
    reader = threading.Thread(target=_read, args=(running,), daemon=True)
    reader.start()
    try:
        if not running.ready.wait(180):
            raise AssertionError(f"{command} did not get ready:\n{running.output}")
        assert process.poll() is None, running.output
        yield running
    finally:
        running.stop()
        reader.join(10)
        assert process.stdout is not None
        process.stdout.close()


def _read(running: RunningStack) -> None:
    assert running.process.stdout is not None
    for line in running.process.stdout:
        running.lines.append(line.rstrip())
        if READY in line:
            running.ready.set()
    running.ready.set()


def stored_bars(db: Database, symbol: str, columns: str) -> list[tuple[Any, ...]]:
    with db.begin() as conn:
        found = conn.execute(
            text(
                f"SELECT {columns} FROM bars"
                " WHERE symbol = :symbol AND timeframe = '1d' ORDER BY ts"
            ),
            {"symbol": symbol},
        )
        return [tuple(row) for row in found]


def run_command(
    script: Path, *arguments: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if k not in ("DATABASE_URL", "PYTHONPATH")}
    return subprocess.run(
        [str(script), *arguments],
        env={**clean, "COLUMNS": "200", **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
