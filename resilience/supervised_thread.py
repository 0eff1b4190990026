"""Threads that no exception ends: what they run is started again."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

_log = logging.getLogger(__name__)
FIRST_DELAY_SECONDS = 1.0
MAX_DELAY_SECONDS = 30.0


def supervised_thread(
    name: str,
    run: Callable[[], object],
    stop: threading.Event,
    *,
    first_delay: float = FIRST_DELAY_SECONDS,
) -> threading.Thread:
    """A daemon thread, not yet started, that calls `run` until it returns or `stop` is set.

    An exception is logged with its traceback, and `run` is called again after 1, 2, 4 … 30 seconds.

    >>> runs = supervised_thread("poller", lambda: print("polled"), threading.Event())
    >>> runs.start(); runs.join()
    polled
    """

    def supervise() -> None:
        delay = first_delay
        while not stop.is_set():
            try:
                run()
                return
            except Exception:
                _log.exception("thread %s failed, restarting it in %.0f s", name, delay)
            stop.wait(delay)
            delay = min(2 * delay, MAX_DELAY_SECONDS)

    return threading.Thread(target=supervise, name=name, daemon=True)
