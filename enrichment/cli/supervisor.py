"""Child processes of one command: started in order, their output as one tidy log, stopped together.

Children that end by themselves are started again. Each child watches its standard input, a pipe
from here, and stops when that closes: so nothing is left running even if this process is killed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from enrichment.domain.errors import ConfigurationError, EnrichmentError

SUPERVISED = "ENRICHMENT_SUPERVISED"
STOP_SECONDS = 20.0
QUICK_DEATHS = 3


@dataclass
class Child:
    """One process: its name in the log, the command line's arguments, the address that proves it
    up.
    """

    name: str
    arguments: Sequence[str]
    health: str | None = None
    process: subprocess.Popen[str] | None = field(default=None, repr=False)
    started: float = 0.0
    quick_deaths: int = 0


class Supervisor:
    """Runs children of this program. log: told each line, with the child's name."""

    def __init__(
        self, environment: Mapping[str, str], log_file: Path, log: Callable[[str, str], None]
    ) -> None:
        self._environment = {
            **os.environ,
            **environment,
            SUPERVISED: "1",
            "PYTHONUNBUFFERED": "1",
        }
        self._log = log
        log_file.parent.mkdir(parents=True, exist_ok=True)
        self._file = log_file.open("a", buffering=1)
        self._children: list[Child] = []
        self._stopping = threading.Event()

    def start(self, child: Child) -> None:
        self._children.append(child)
        self._spawn(child)

    def _spawn(self, child: Child) -> None:
        child.started = time.monotonic()
        child.process = subprocess.Popen(  # noqa: S603 — our own program
            [sys.executable, "-m", "enrichment", *child.arguments],
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # Ctrl-C reaches this process only, which stops them in order
        )
        threading.Thread(target=self._relay, args=(child, child.process), daemon=True).start()

    def _relay(self, child: Child, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None  # noqa: S101 — for the type checker: it is a pipe
        for line in process.stdout:
            text = line.rstrip()
            if text:
                self._file.write(f"{child.name:<9} {text}\n")
                self._log(child.name, text)

    def wait_healthy(self, child: Child, seconds: float = 60.0) -> None:
        """Until the child's address answers 200; ConfigurationError if it dies or takes too
        long.
        """
        until = time.monotonic() + seconds
        while child.health is not None and not _answers(child.health):
            if child.process is not None and child.process.poll() is not None:
                raise ConfigurationError(f"{child.name} did not start: see {self._file.name}")
            if time.monotonic() > until:
                raise ConfigurationError(
                    f"{child.name} does not answer at {child.health}: see {self._file.name}"
                )
            if self._stopping.wait(0.1):
                return

    def watch(self, also: Callable[[], None] = lambda: None) -> None:
        """Start children again that end, until `stop()`; EnrichmentError if one keeps dying.

        also: called at every look, twice a second.
        """
        while not self._stopping.wait(0.5):
            also()
            for child in self._children:
                if child.process is not None and child.process.poll() is not None:
                    self._revive(child, child.process.returncode)

    def _revive(self, child: Child, code: int) -> None:
        quick = time.monotonic() - child.started < 10.0
        child.quick_deaths = child.quick_deaths + 1 if quick else 0
        if child.quick_deaths >= QUICK_DEATHS:
            raise EnrichmentError(
                f"{child.name} ends again and again (exit code {code}): see {self._file.name}"
            )
        self._log(child.name, f"WARNING ended with exit code {code}, starting it again")
        self._spawn(child)

    def interrupt(self) -> None:
        """End `watch` and `wait_healthy`."""
        self._stopping.set()

    def stop(self) -> None:
        """Stop the children in reverse order; kill what does not stop within 20 s."""
        self._stopping.set()
        alive = [c for c in reversed(self._children) if c.process and c.process.poll() is None]
        for child in alive:
            self._signal(child, signal.SIGTERM)
        until = time.monotonic() + STOP_SECONDS
        for child in alive:
            assert child.process is not None  # noqa: S101 — for the type checker: chosen above
            try:
                child.process.wait(max(0.1, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                self._log(child.name, "WARNING did not stop, killed")
                self._signal(child, signal.SIGKILL)
                child.process.wait()
        self._file.close()

    @staticmethod
    def _signal(child: Child, number: signal.Signals) -> None:
        assert child.process is not None  # noqa: S101 — for the type checker
        child.process.send_signal(number)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as response:  # noqa: S310 — loopback
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def stop_with_parent() -> None:
    """In a child: end, as by SIGTERM, when the supervising process has gone."""
    if SUPERVISED not in os.environ:
        return

    def watch() -> None:
        while os.read(0, 1):  # not sys.stdin, whose lock a forked child would inherit
            pass
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (1, 2):  # their pipes are broken, and a last word must not fail
            os.dup2(nowhere, stream)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()
