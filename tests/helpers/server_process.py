"""`enrichment api` and `enrichment dashboard` as processes that answer over HTTP."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.helpers.running_stack import free_ports
from tests.helpers.waiting import until

HEALTH = {"api": "/livez", "dashboard": "/_stcore/health"}


@dataclass(frozen=True)
class ServerProcess:
    """A running server: its base URL and its process."""

    url: str
    process: subprocess.Popen[str]

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])


@contextmanager
def serving(
    database: str, folder: Path, *, part: str = "api", port: int = 0, **environment: str
) -> Iterator[ServerProcess]:
    """Run `enrichment PART` on this database until the end of the block.

    Yields when its health endpoint answers. Its output goes to `folder`/PART.log. port: 0 for a
    free one.
    """
    port = port or free_ports()[part]
    log = folder / f"{part}.log"
    own = {
        "DATABASE_URL": database,
        f"ENRICHMENT_{part.upper()}_PORT": str(port),
        "ENRICHMENT_API_RATE": "0",
        "ENRICHMENT_HOME": str(folder),
    }
    with log.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "enrichment", part],
            env={**os.environ, **own, **environment},
            cwd=folder,
            stdout=out,
            stderr=out,
            text=True,
        )
        try:
            served = ServerProcess(f"http://127.0.0.1:{port}", process)
            until(
                lambda: _answers(served, HEALTH[part]), lambda: f"it answers: {log.read_text()}", 30
            )
            yield served
        finally:
            process.terminate()
            process.wait(30)


def _answers(served: ServerProcess, path: str) -> bool:
    assert served.process.poll() is None, "it has ended"
    try:
        with urllib.request.urlopen(f"{served.url}{path}", timeout=5):
            return True
    except (urllib.error.URLError, ConnectionError):
        return False
