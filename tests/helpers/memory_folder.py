"""Folders for the files of test servers: in memory where there is enough, for speed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

MEMORY = Path("/dev/shm")  # noqa: S108  # the file system, not a file in it
NEEDED_BYTES = 4 * 2**30


def memory() -> Path | None:
    """The file system in memory, if it has enough space for several servers."""
    enough = MEMORY.is_dir() and shutil.disk_usage(MEMORY).free >= NEEDED_BYTES
    return MEMORY if enough else None


@contextmanager
def memory_folder() -> Iterator[Path]:
    """A temporary folder, in memory if possible.

    It is not in pytest's own folder, which is closed to other users when root runs the tests: the
    server then runs as one of them.
    """
    with TemporaryDirectory(dir=memory()) as folder:
        if os.geteuid() == 0:
            Path(folder).chmod(0o711)
        yield Path(folder)
