"""Threads go on after an exception."""

from __future__ import annotations

import threading

import pytest

from resilience.supervised_thread import supervised_thread


def test_a_thread_runs_again_after_an_exception_until_it_returns(
    caplog: pytest.LogCaptureFixture,
) -> None:
    calls: list[int] = []

    def run() -> None:
        calls.append(1)
        if len(calls) < 3:
            raise KeyError("unforeseen")

    thread = supervised_thread("clerk", run, threading.Event(), first_delay=0.001)
    thread.start()
    thread.join(10)
    assert len(calls) == 3
    assert caplog.text.count("thread clerk failed, restarting it") == 2
    assert "KeyError: 'unforeseen'" in caplog.text


def test_a_stopped_thread_is_not_restarted() -> None:
    stop, calls = threading.Event(), []

    def run() -> None:
        calls.append(1)
        stop.set()
        raise KeyError

    thread = supervised_thread("clerk", run, stop, first_delay=60)
    thread.start()
    thread.join(10)
    assert calls == [1]
