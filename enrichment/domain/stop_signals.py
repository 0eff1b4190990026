"""SIGTERM, SIGINT and SIGHUP as an exception, or as a function call in a thread.

As an exception they end a program whose blocks are to be left in order, until it has something to
stop by itself. A Python signal handler runs in the main thread between any two instructions, also
while that thread holds the lock of the very event that the handler would set. So for a function
call the handler does nothing: the interpreter writes the signal's number to a pipe, and a thread
that reads it makes the call.

>>> with stop_signals_deferred():
...     print("a folder is made and noted")
a folder is made and noted
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_deferred: list[int] = []
"""Signals that have come in the blocks of `stop_signals_deferred`."""
_depth = 0


def exit_on_stop_signals() -> None:
    """Let each of them raise KeyboardInterrupt or SystemExit. To be called by the main thread."""
    for number in _heeded():
        signal.signal(number, lambda came, _: _exit(came))


@contextmanager
def stop_signals_deferred() -> Iterator[None]:
    """Let the exception wait for the end of the block, which starts or removes something."""
    global _depth
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _depth += 1
    try:
        yield
    finally:
        _depth -= 1
        if _deferred and not _depth:
            number = _deferred[0]
            _deferred.clear()
            _exit(number)


def call_on_stop_signal(stop: Callable[[], object]) -> None:
    """Call `stop` in a thread at every stop signal. To be called by the main thread."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    heeded = _heeded()

    def read() -> None:
        while number := os.read(reader, 1):
            if number[0] in heeded:
                stop()

    threading.Thread(target=read, name="stop-signals", daemon=True).start()
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in heeded:
        signal.signal(number, lambda *_: None)


def _heeded() -> list[signal.Signals]:
    """The stop signals that are not ignored, as SIGHUP is by nohup."""
    return [number for number in STOP_SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]


def _exit(number: int) -> None:
    if _depth:
        _deferred.append(number)
    elif number == signal.SIGINT:
        raise KeyboardInterrupt
    else:
        raise SystemExit(128 + number)
