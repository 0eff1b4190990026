"""CPU affinity and malloc arenas of a process with many threads.

Because of the interpreter lock only one thread runs at a time. If the kernel spreads the threads
over several processors, every call that releases the lock (a request, a statement, a sort) wakes a
thread on a processor with cold caches; a small symbol then takes nearly twice the processor time.
"""

from __future__ import annotations

import ctypes
import os
import random
import sys
import threading
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import IO

import platformdirs
import psutil

from resilience.supervised_thread import supervised_thread

POLL_SECONDS = 1.0
CROWDED_SHARE = 0.25  # of a processor's time: more load than on the quietest one that causes a move
_M_ARENA_MAX = -8  # of glibc's malloc.h


@contextmanager
def pinned_to_one_processor(
    enabled: bool = True, *, poll_seconds: float = POLL_SECONDS
) -> Iterator[None]:
    """Pin all threads of this process to one processor for as long as the block.

    Avoids processors to which another process is pinned by this function, and moves to a less
    loaded one when others use more than CROWDED_SHARE of it. Does nothing outside Linux or where
    only one processor is allowed.

    Args:
        enabled: False does nothing.
        poll_seconds: Interval at which the load is measured.
    """
    if not enabled or sys.platform != "linux" or len(allowed := os.sched_getaffinity(0)) < 2:
        yield
        return
    stopped = threading.Event()
    processor = _PinnedProcessor(allowed)
    poll = partial(processor.poll, stopped, poll_seconds)
    poller = supervised_thread("affinity", poll, stopped)
    poller.start()
    try:
        yield
    finally:
        stopped.set()
        poller.join()
        processor.unlock()
        set_affinity(allowed)


def least_loaded(current: int, loads: Mapping[int, float]) -> int:
    """The processor to move to, or `current` if it is not crowded.

    Args:
        current: The present processor.
        loads: Processor → share of its time that other processes used, from 0 to 1.
    """
    least = min(loads, key=lambda number: loads[number])
    return least if loads[current] - loads[least] > CROWDED_SHARE else current


def set_affinity(processors: Set[int]) -> None:
    """Restrict all threads of this process, and those they will start, to these processors."""
    if sys.platform == "linux":
        for thread in os.listdir("/proc/self/task"):
            with suppress(OSError):  # the thread has ended, or the container forbids it
                os.sched_setaffinity(int(thread), processors)


def _lock_folder() -> Path:
    """Of this user alone, so that no other user can hold all processors' locks."""
    return Path(platformdirs.user_state_dir("market-enrichment"))


def _open_locked(path: Path) -> IO[str] | None:
    """The file, exclusively locked until it is closed; None if another process has locked it."""
    import fcntl  # absent on Windows

    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = path.open("a")
    except OSError:  # no home, or no space left
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return None
    return file


class _PinnedProcessor:
    """The processor this process is pinned to, with a lock file that other processes see."""

    def __init__(self, allowed: Set[int]) -> None:
        self._allowed = allowed
        self._process = psutil.Process()
        self._lock_file: IO[str] | None = None
        candidates = random.sample(sorted(allowed), len(allowed))
        self._current = next(filter(self._try_lock, candidates), candidates[0])
        set_affinity({self._current})

    def poll(self, stopped: threading.Event, seconds: float) -> None:
        while not stopped.wait(seconds):
            target = least_loaded(self._current, self._loads())
            # At random, since two processes on one processor would otherwise both leave it.
            moves = target != self._current and random.random() < 0.5
            if moves and self._try_lock(target):
                self._current = target
            set_affinity({self._current})  # again, for threads started during a move

    def unlock(self) -> None:
        if self._lock_file is not None:
            self._lock_file.close()

    def _try_lock(self, number: int) -> bool:
        """Lock the processor for this process; False if another process has locked it."""
        file = _open_locked(_lock_folder() / f"processor-{number}.lock")
        if file is None:
            return False
        self.unlock()
        self._lock_file = file
        return True

    def _loads(self) -> dict[int, float]:
        """Processor → share of its time that other processes used since the previous call."""
        busy = psutil.cpu_percent(percpu=True)
        own = self._process.cpu_percent()
        loads = {n: busy[n] / 100 if n < len(busy) else 1.0 for n in self._allowed}
        return loads | {self._current: max(0.0, loads[self._current] - own / 100)}


def use_few_arenas(count: int = 2) -> bool:
    """Limit glibc's malloc to `count` arenas; call it before threads are started.

    By default each thread has an arena, which keeps the memory of its largest symbol: 80 MB with
    five threads and a year of 5-minute bars.

    Returns:
        False where malloc is not glibc's.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return False
    return bool(mallopt(_M_ARENA_MAX, count))
