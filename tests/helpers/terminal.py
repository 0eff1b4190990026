"""Commands as they print on a terminal of some width, or into a pipe."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

_SEPARATOR = "\x1eend of a command\x1e"
_PROGRAM = f"""
import contextlib, shlex, sys
from enrichment.cli import main
commands = sys.argv[1:]
for command in commands:
    sys.argv = ["enrichment", *shlex.split(command)]
    with contextlib.suppress(SystemExit):
        main.main()
    sys.stdout.write({_SEPARATOR!r})
    sys.stdout.flush()
"""


def on_terminal(
    db_url: str, home: Path, commands: list[str], *, columns: int | None, **environment: str
) -> list[str]:
    """What each command prints, run in one process. columns: of the terminal; None: into a pipe."""
    env = {**os.environ, "DATABASE_URL": db_url, "ENRICHMENT_HOME": str(home), "TERM": "xterm"}
    env = {**{k: v for k, v in env.items() if k not in ("COLUMNS", "NO_COLOR")}, **environment}
    command = [sys.executable, "-c", _PROGRAM, *commands]
    if columns is None:
        done = subprocess.run(command, env=env, cwd=home, stdout=subprocess.PIPE, check=True)
        return _outputs(done.stdout, env)
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    with subprocess.Popen(command, env=env, cwd=home, stdin=theirs, stdout=theirs) as process:
        os.close(theirs)
        content = b"".join(iter(lambda: _read(ours), b""))
        os.close(ours)
    assert process.returncode == 0
    return _outputs(content, env)


def without_styles(text: str) -> str:
    return re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", text)


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # the other end is closed
        return b""


def _outputs(content: bytes, env: dict[str, str]) -> list[str]:
    printed = content.decode(env.get("PYTHONIOENCODING", "utf-8")).replace("\r\n", "\n")
    return printed.split(_SEPARATOR)[:-1]
