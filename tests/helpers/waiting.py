"""What runs beside a test, and waiting for what it brings about."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

POLL_SECONDS = 0.02


class Runnable(Protocol):
    """A worker, or the whole process of one."""

    def run(self) -> object: ...

    def stop(self) -> None: ...


@contextmanager
def in_thread(worker: Runnable) -> Iterator[None]:
    """Runs for as long as the block, on a thread of its own."""
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        yield
    finally:
        worker.stop()
        thread.join()


def until(
    condition: Callable[[], Any],
    what: str | Callable[[], str] = "it comes about",
    seconds: float = 10.0,
) -> None:
    """Wait for something to come about. what: what that is, or how to say it if it does not."""
    waiting = threading.Event()
    for _ in range(int(seconds / POLL_SECONDS)):
        if condition():
            return
        waiting.wait(POLL_SECONDS)
    raise AssertionError(f"within {seconds:.0f} s: {what if isinstance(what, str) else what()}")
