"""Children are stopped by signals, restarted when they exit or hang, and logged on a full disk."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from enrichment.cli.supervisor import Child, Supervisor
from tests.helpers.waiting import until

REPOSITORY = Path(__file__).parents[3]


@pytest.mark.skipif(sys.platform != "linux", reason="forks and waits by pidfd")
def test_no_stop_by_signal_hangs() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.helpers.stopped_workers", "30"],
        capture_output=True,
        text=True,
        check=True,
        cwd=REPOSITORY,
    )
    assert done.stdout.strip() == "0"


class Lines:
    """What the supervisor logs; it may be told to fail as a terminal that is gone does."""

    def __init__(self, *, gone: bool = False) -> None:
        self.texts: list[str] = []
        self._gone = gone

    def __call__(self, name: str, text: str) -> None:
        self.texts.append(text)
        if self._gone:
            raise BrokenPipeError


@pytest.fixture
def stopped() -> Iterator[list[Supervisor]]:
    running: list[Supervisor] = []
    yield running
    for supervisor in running:
        supervisor.stop()


def watched(
    supervisor: Supervisor, child: Child, stopped: list[Supervisor], on_poll: threading.Event
) -> None:
    stopped.append(supervisor)
    supervisor.start(child)
    threading.Thread(target=supervisor.watch, args=(on_poll.set,), daemon=True).start()


def test_output_is_read_on_when_neither_log_nor_terminal_takes_it(
    tmp_path: Path, stopped: list[Supervisor]
) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full")
    log = tmp_path / "enrichment.log"
    log.symlink_to(full)
    lines = Lines(gone=True)
    supervisor = Supervisor({}, log, lines)
    stopped.append(supervisor)
    child = Child("help", ["--help"])  # more than one line
    supervisor.start(child)
    assert child.process is not None
    child.process.wait(60)
    until(lambda: len(lines.texts) > 10, "all lines are read")


def test_control_characters_and_secrets_of_children_do_not_reach_the_log(
    tmp_path: Path, stopped: list[Supervisor]
) -> None:
    log, lines = tmp_path / "enrichment.log", Lines()
    supervisor = Supervisor({}, log, lines)
    stopped.append(supervisor)
    child = Child("x", ["no-\x1b[31m-such", "postgresql://u:pass-word@h/d"])
    supervisor.start(child)
    assert child.process is not None
    child.process.wait(60)
    until(lambda: any("no-" in text for text in lines.texts), "the error is logged")
    content = log.read_text()
    assert "\x1b" not in content
    assert "pass-word" not in content
    assert stat.S_IMODE(log.stat().st_mode) == 0o600


def test_a_log_that_was_readable_is_closed_to_others(
    tmp_path: Path, stopped: list[Supervisor]
) -> None:
    log = tmp_path / "enrichment.log"
    log.touch(0o644)
    stopped.append(Supervisor({}, log, Lines()))
    assert stat.S_IMODE(log.stat().st_mode) == 0o600


def test_a_child_that_does_not_respond_is_killed_and_started_again(
    tmp_path: Path, stopped: list[Supervisor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENRICHMENT_HOME", str(tmp_path))
    lines = Lines()
    supervisor = Supervisor(
        {}, tmp_path / "enrichment.log", lines, check_seconds=0.01, early_exit_seconds=0.0
    )
    hung: set[int] = set()
    child = Child("sandbox", ["sandbox", "--port", "0"], responds=lambda pid: pid not in hung)
    watched(supervisor, child, stopped, threading.Event())
    assert child.process is not None
    first = child.process.pid
    hung.add(first)
    until(lambda: child.process is not None and child.process.pid != first, "it is restarted")
    assert "WARNING does not respond, killed" in lines.texts
    with pytest.raises(ProcessLookupError):
        os.kill(first, 0)
