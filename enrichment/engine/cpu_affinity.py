"""How a process of many threads uses its machine: one processor for all, few memory arenas.

One interpreter runs one thread at a time. Where the kernel spreads its threads over several
processors, each call that lets go of the interpreter (a request, a statement, a sort) wakes a
thread elsewhere, whose caches are cold: a small symbol then takes nearly twice the processor time.
"""

from __future__ import annotations

import ctypes
import os
import random
import sys
import threading
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import gettempdir
from typing import IO

import psutil

POLL_SECONDS = 1.0
_M_ARENA_MAX = -8  # of glibc's malloc.h
CROWDED_SHARE = 0.25  # of a processor's time, taken by others, more than on the quietest one


@contextmanager
def pinned_to_one_processor(
    wanted: bool = True, *, look_seconds: float = POLL_SECONDS
) -> Iterator[None]:
    """All threads of this process on one processor for as long as the block, of those it may use.

    Not on one that another such process of this machine keeps to, while there are others; and it
    moves to a quieter one when it is crowded. Does nothing unless wanted, where there is but one,
    and outside Linux.
    """
    if not wanted or sys.platform != "linux" or len(allowed := os.sched_getaffinity(0)) < 2:
        yield
        return
    ended = threading.Event()
    place = _ProcessorLock(allowed)
    watch = threading.Thread(target=place.watch, args=(ended, look_seconds), name="processor")
    watch.start()
    try:
        yield
    finally:
        ended.set()
        watch.join()
        place.leave()
        bind(allowed)


def quieter(here: int, others: Mapping[int, float]) -> int:
    """Where to go on from `here`. others: processor → share of its time that others took."""
    quietest = min(others, key=lambda number: others[number])
    return quietest if others[here] - others[quietest] > CROWDED_SHARE else here


def bind(processors: Set[int]) -> None:
    """Let all threads of this process, and those they will start, run on these alone."""
    if sys.platform == "linux":
        for thread in os.listdir("/proc/self/task"):
            with suppress(OSError):  # it has ended, or may not choose
                os.sched_setaffinity(int(thread), processors)


def _locked(path: Path) -> IO[str] | None:
    """The file, which this process alone has until it closes it or ends; None if another has it."""
    import fcntl  # not everywhere

    try:
        file = path.open("a")
    except OSError:  # another user's
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return None
    return file


class _ProcessorLock:
    """The processor that this process keeps to, and a lock that tells others of it."""

    def __init__(self, allowed: Set[int]) -> None:
        self._allowed = allowed
        self._process = psutil.Process()
        self._lock: IO[str] | None = None
        choice = random.sample(sorted(allowed), len(allowed))
        self._here = next(filter(self._take, choice), choice[0])
        bind({self._here})

    def watch(self, ended: threading.Event, seconds: float) -> None:
        while not ended.wait(seconds):
            there = quieter(self._here, self._look())
            leaves = there != self._here and random.random() < 0.5  # of two in one place one goes
            if leaves and self._take(there):
                self._here = there
            bind({self._here})  # also what was started while it moved

    def leave(self) -> None:
        if self._lock is not None:
            self._lock.close()

    def _take(self, number: int) -> bool:
        """Whether the processor is free for this process, which then has it."""
        lock = _locked(Path(gettempdir()) / f"market-enrichment-processor-{number}")
        if lock is None:
            return False
        self.leave()
        self._lock = lock
        return True

    def _look(self) -> dict[int, float]:
        """What others took of each processor since the last look, as shares of its time."""
        busy = psutil.cpu_percent(percpu=True)
        own = self._process.cpu_percent()
        found = {n: busy[n] / 100 if n < len(busy) else 1.0 for n in self._allowed}
        return found | {self._here: max(0.0, found[self._here] - own / 100)}


def use_few_arenas(count: int = 2) -> bool:
    """Let all threads take their memory from `count` arenas; call it before threads are started.

    glibc gives each thread an arena of its own, and each keeps what its largest symbol once took:
    with five threads at a year of 5-minute bars that is 80 MB. False where malloc is another's.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return False
    return bool(mallopt(_M_ARENA_MAX, count))
