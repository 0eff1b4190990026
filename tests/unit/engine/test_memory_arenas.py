"""The number of glibc's heaps after many threads have allocated memory."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import ctypes, threading
from enrichment.engine.cpu_affinity import use_few_arenas
{call}
barrier = threading.Barrier(8)
def allocate():
    barrier.wait()
    blocks = [bytearray(60_000) for _ in range(50)]
    barrier.wait()
threads = [threading.Thread(target=allocate) for _ in range(8)]
[t.start() for t in threads]; [t.join() for t in threads]
libc = ctypes.CDLL(None)
libc.fdopen.restype = ctypes.c_void_p
out = libc.fdopen(1, b"w")
libc.malloc_info(0, ctypes.c_void_p(out))
libc.fflush(ctypes.c_void_p(out))
"""


def heaps(program: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return done.stdout.count("<heap nr=")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another malloc")
def test_threads_share_two_arenas() -> None:
    few = PROGRAM.format(call="assert use_few_arenas(2)")
    many = PROGRAM.format(call="")
    assert heaps(few) <= 2 < heaps(many)
