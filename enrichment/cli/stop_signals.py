"""SIGTERM and SIGINT as a function call in a thread.

A Python signal handler runs in the main thread between any two instructions, also while that thread
holds the lock of the very event that the handler would set. So the handler does nothing: the
interpreter writes the signal's number to a pipe, and a thread that reads it makes the call.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def call_on_stop_signal(stop: Callable[[], object]) -> None:
    """Call `stop` in a thread at every SIGTERM and SIGINT. To be called by the main thread."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)

    def read() -> None:
        while number := os.read(reader, 1):
            if number[0] in STOP_SIGNALS:
                stop()

    threading.Thread(target=read, name="stop-signals", daemon=True).start()
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in STOP_SIGNALS:
        signal.signal(number, lambda *_: None)
