"""A worker's threads stay together, on a quiet processor."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from enrichment.engine.cpu_affinity import CROWDED_SHARE, quieter

several = pytest.mark.skipif(
    sys.platform != "linux" or len(os.sched_getaffinity(0)) < 2, reason="one processor"
)
PROGRAM = """
import os, threading
from enrichment.engine.cpu_affinity import pinned_to_one_processor

def of_a_thread():
    found = []
    thread = threading.Thread(target=lambda: found.append(os.sched_getaffinity(0)))
    thread.start(); thread.join()
    return found[0]

opened, told, shut = threading.Event(), threading.Event(), threading.Event()
before = []
def old():
    opened.wait(); before.append(os.sched_getaffinity(0)); told.set(); shut.wait()
elder = threading.Thread(target=old); elder.start()
allowed = os.sched_getaffinity(0)
with pinned_to_one_processor(look_seconds=0.001):
    opened.set()
    told.wait()
    print(len(os.sched_getaffinity(0)), len(of_a_thread()), len(before[0]))
shut.set(); elder.join()
print(os.sched_getaffinity(0) == of_a_thread() == allowed)
"""


@several
def test_threads_before_and_in_the_block_share_one_processor() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["1", "1", "1", "True"]


@several
def test_two_processes_keep_to_two_processors(tmp_path: Path) -> None:
    program = (
        "import os; from enrichment.engine.cpu_affinity import pinned_to_one_processor\n"
        "with pinned_to_one_processor(): print(*os.sched_getaffinity(0), flush=True); input()"
    )
    with ExitStack() as ending:
        ran = [
            ending.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", program],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    env={**os.environ, "TMPDIR": str(tmp_path)},
                )
            )
            for _ in range(2)
        ]
        kept = [one.stdout.readline() for one in ran if one.stdout]
        for one in ran:
            one.communicate("\n")
    assert len(set(kept)) == 2


@pytest.mark.parametrize(
    ("others", "there"),
    [
        ({0: 0.0, 1: 0.0}, 0),
        ({0: CROWDED_SHARE, 1: 0.0}, 0),
        ({0: 0.9, 1: 0.1}, 1),
        ({0: 0.9, 1: 0.5, 2: 0.2}, 2),
        ({0: 0.2, 1: 0.9}, 0),
    ],
)
def test_a_crowded_processor_is_left_for_the_quietest(others: dict[int, float], there: int) -> None:
    assert quieter(0, others) == there
