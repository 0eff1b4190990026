"""Child processes of one command: started in order, logged to one file, stopped together.

Children that exit, or do not respond for a minute, are restarted. Each child reads its standard
input, a pipe from here, and stops when that closes, so that none is left even if this process is
killed.
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
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from enrichment.cli.logs import RotatedLog
from enrichment.domain.errors import ConfigurationError, EnrichmentError
from enrichment.domain.escape import for_terminal
from enrichment.domain.redact import redact

SUPERVISED = "ENRICHMENT_SUPERVISED"
STOP_SECONDS = 20.0
EARLY_EXIT_SECONDS = 10.0
MAX_EARLY_EXITS = 3
CHECK_SECONDS = 10.0
"""Between two checks whether the children respond."""
MAX_MISSED_CHECKS = 6
"""In a row, after which a child is killed and started again."""


@dataclass
class Child:
    """One child process."""

    name: str
    """Shown in the log."""
    arguments: Sequence[str]
    """Of the command `enrichment`."""
    health_url: str | None = None
    """Responds with 200 once the child is ready."""
    responds: Callable[[int], bool] | None = None
    """Whether the process with this id works; None: whether it responds at `health_url`."""
    process: subprocess.Popen[str] | None = field(default=None, repr=False)
    started: float = 0.0
    missed_checks: int = 0
    """Consecutive checks without a response."""
    early_exits: int = 0
    """Consecutive early exits."""

    def is_responding(self) -> bool:
        if self.responds is not None:
            return self.process is None or self.responds(self.process.pid)
        return self.health_url is None or is_healthy(self.health_url)


class Supervisor:
    """Runs children of this program.

    Args:
        environment: Variables to add to those of this process.
        log_file: Gets every line of the children's output.
        log: Called with the child's name for each of these lines, and for its restarts.
        check_seconds: Between two checks whether the children respond.
        early_exit_seconds: A child that exits within this time of its start has exited early;
            after MAX_EARLY_EXITS in a row it is not started again.
    """

    def __init__(
        self,
        environment: Mapping[str, str],
        log_file: Path,
        log: Callable[[str, str], None],
        *,
        check_seconds: float = CHECK_SECONDS,
        early_exit_seconds: float = EARLY_EXIT_SECONDS,
    ) -> None:
        self._environment = {
            **os.environ,
            **environment,
            SUPERVISED: "1",
            "PYTHONUNBUFFERED": "1",
        }
        self._log = log
        self._log_file = log_file
        self._file = RotatedLog(log_file, as_json=self._environment.get("LOG_FORMAT") == "json")
        self._check_seconds, self._early_exit_seconds = check_seconds, early_exit_seconds
        self._checked = time.monotonic()
        self._children: list[Child] = []
        self._stopping = threading.Event()

    def start(self, child: Child) -> None:
        self._children.append(child)
        self._spawn(child)

    def _spawn(self, child: Child) -> None:
        child.started, child.missed_checks = time.monotonic(), 0
        child.process = subprocess.Popen(  # noqa: S603 — this program
            [sys.executable, "-m", "enrichment", *child.arguments],
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # Ctrl-C reaches only this process, which stops them in order
        )
        threading.Thread(target=self._relay, args=(child, child.process), daemon=True).start()

    def _relay(self, child: Child, process: subprocess.Popen[str]) -> None:
        """Log the child's output until it ends; a pipe that is not read would stop the child."""
        with process:  # its pipes are closed at the end
            for line in process.stdout or ():
                if text := for_terminal(redact(line)).rstrip():
                    self._report(child, text)
            process.wait()

    def wait_healthy(self, child: Child, timeout: float = 60.0) -> None:
        """Wait until the child is ready; ConfigurationError if it exits or exceeds the timeout."""
        deadline = time.monotonic() + timeout
        while child.health_url is not None and not is_healthy(child.health_url):
            if child.process is not None and child.process.poll() is not None:
                raise ConfigurationError(f"{child.name} did not start: see {self._log_file}")
            if time.monotonic() > deadline:
                raise ConfigurationError(
                    f"{child.name} does not respond at {child.health_url}: see {self._log_file}"
                )
            if self._stopping.wait(0.1):
                return

    def watch(self, on_poll: Callable[[], None] = lambda: None) -> None:
        """Restart children that exit or hang, until `stop()`.

        Raises:
            EnrichmentError: One keeps exiting.

        Args:
            on_poll: Called at every poll, twice a second.
        """
        while not self._stopping.wait(0.5):
            on_poll()
            self._kill_hung()
            for child in self._children:
                if child.process is not None and child.process.poll() is not None:
                    self._restart(child, child.process.returncode)

    def _kill_hung(self) -> None:
        """Kill children that have not responded for too long; they are then restarted."""
        if time.monotonic() - self._checked < self._check_seconds:
            return
        for child in self._children:
            child.missed_checks = 0 if child.is_responding() else child.missed_checks + 1
            if child.missed_checks >= MAX_MISSED_CHECKS and child.process is not None:
                self._report(child, "WARNING does not respond, killed")
                with suppress(ProcessLookupError):
                    os.killpg(child.process.pid, signal.SIGKILL)  # gunicorn's worker, too
                child.process.wait()
        self._checked = time.monotonic()

    def _report(self, child: Child, text: str) -> None:
        """Log a line to the file and to the terminal, of which either may be full or gone."""
        self._file.write(child.name, text)
        with suppress(OSError, ValueError):
            self._log(child.name, text)

    def _restart(self, child: Child, exit_code: int) -> None:
        early = time.monotonic() - child.started < self._early_exit_seconds
        child.early_exits = child.early_exits + 1 if early else 0
        if child.early_exits >= MAX_EARLY_EXITS:
            raise EnrichmentError(
                f"{child.name} keeps exiting (exit code {exit_code}): see {self._log_file}"
            )
        self._report(child, f"WARNING exited with code {exit_code}, restarting")
        self._spawn(child)

    def interrupt(self) -> None:
        """End `watch` and `wait_healthy`."""
        self._stopping.set()

    def stop(self) -> None:
        """Stop the children in reverse order; kill those that do not stop within STOP_SECONDS."""
        self._stopping.set()
        running = [c for c in reversed(self._children) if c.process and c.process.poll() is None]
        for child in running:
            self._signal(child, signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        for child in running:
            assert child.process is not None  # noqa: S101 — for the type checker: see `running`
            try:
                child.process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                self._report(child, "WARNING did not stop, killed")
                self._signal(child, signal.SIGKILL)
                child.process.wait()
        self._file.close()

    @staticmethod
    def _signal(child: Child, number: signal.Signals) -> None:
        assert child.process is not None  # noqa: S101 — for the type checker
        child.process.send_signal(number)


_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Asks children, who are never behind the proxy of `http_proxy`."""


def is_healthy(url: str) -> bool:
    """Whether the address responds with 200."""
    try:
        with _DIRECT.open(url, timeout=2) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def stop_with_parent() -> None:
    """In a child: send SIGTERM to itself when the supervising process has exited."""
    if SUPERVISED not in os.environ:
        return

    def wait_for_parent() -> None:
        while os.read(0, 1):  # not sys.stdin, whose lock a forked child would inherit
            pass
        devnull = os.open(os.devnull, os.O_WRONLY)
        for stream in (1, 2):  # their pipes are broken: writing a last line would fail
            os.dup2(devnull, stream)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait_for_parent, name="parent-watch", daemon=True).start()
