"""Running a worker on a thread beside a test, and polling until a condition holds."""

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
    """Run the worker on a thread of its own until the end of the block."""
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        yield
    finally:
        worker.stop()
        thread.join()


def until(
    condition: Callable[[], Any],
    what: str | Callable[[], str] = "the condition holds",
    seconds: float = 10.0,
) -> None:
    """Wait until the condition holds.

    Args:
        condition: polled until it returns something true.
        what: what is waited for, or a function that describes it; the message of a failure.
        seconds: the longest wait; AssertionError after that.
    """
    waiting = threading.Event()
    for _ in range(int(seconds / POLL_SECONDS)):
        if condition():
            return
        waiting.wait(POLL_SECONDS)
    raise AssertionError(f"not within {seconds:.0f} s: {what if isinstance(what, str) else what()}")
