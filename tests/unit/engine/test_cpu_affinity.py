"""All threads of a process are pinned to one processor, the least loaded."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from enrichment.engine.cpu_affinity import CROWDED_SHARE, least_loaded

several = pytest.mark.skipif(
    sys.platform != "linux" or len(os.sched_getaffinity(0)) < 2, reason="one processor"
)
PROGRAM = """
import os, threading
from enrichment.engine.cpu_affinity import pinned_to_one_processor

def of_new_thread():
    affinity = []
    thread = threading.Thread(target=lambda: affinity.append(os.sched_getaffinity(0)))
    thread.start(); thread.join()
    return affinity[0]

pinned, reported, done = threading.Event(), threading.Event(), threading.Event()
of_earlier_thread = []
def wait():
    pinned.wait(); of_earlier_thread.append(os.sched_getaffinity(0)); reported.set(); done.wait()
earlier = threading.Thread(target=wait); earlier.start()
allowed = os.sched_getaffinity(0)
with pinned_to_one_processor(poll_seconds=0.001):
    pinned.set()
    reported.wait()
    print(len(os.sched_getaffinity(0)), len(of_new_thread()), len(of_earlier_thread[0]))
done.set(); earlier.join()
print(os.sched_getaffinity(0) == of_new_thread() == allowed)
"""


@several
def test_threads_started_before_and_in_the_block_share_one_processor() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["1", "1", "1", "True"]


@several
def test_two_processes_use_two_processors(tmp_path: Path) -> None:
    program = (
        "import os; from enrichment.engine.cpu_affinity import pinned_to_one_processor\n"
        "with pinned_to_one_processor(): print(*os.sched_getaffinity(0), flush=True); input()"
    )
    with ExitStack() as stack:
        processes = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", program],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    env={**os.environ, "XDG_STATE_HOME": str(tmp_path)},
                )
            )
            for _ in range(2)
        ]
        processors = [process.stdout.readline() for process in processes if process.stdout]
        for process in processes:
            process.communicate("\n")
    assert len(set(processors)) == 2


@pytest.mark.parametrize(
    ("loads", "target"),
    [
        ({0: 0.0, 1: 0.0}, 0),
        ({0: CROWDED_SHARE, 1: 0.0}, 0),
        ({0: 0.9, 1: 0.1}, 1),
        ({0: 0.9, 1: 0.5, 2: 0.2}, 2),
        ({0: 0.2, 1: 0.9}, 0),
    ],
)
def test_a_crowded_processor_is_left_for_the_least_loaded(
    loads: dict[int, float], target: int
) -> None:
    assert least_loaded(0, loads) == target
