"""The response cache: shared reads, refresh behind the reader, invalidation."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from api.response_cache import ResponseCache


class Source:
    """Counts its reads; can fail, or block until `gate` is set."""

    def __init__(self) -> None:
        self.reads = 0
        self.fails = False
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self) -> int:
        self.reads += 1
        assert self.gate.wait(10)
        if self.fails:
            raise RuntimeError("no database")
        return self.reads


def test_a_result_is_shared_until_it_expires() -> None:
    now = [100.0]
    source = Source()
    read = ResponseCache(1.0, lambda: now[0]).cached(source)
    assert [read(), read()] == [1, 1]
    now[0] = 100.999
    assert read() == 1
    now[0] = 102.0
    assert read() == 2


def test_a_stale_result_is_returned_while_it_is_refreshed() -> None:
    now = [100.0]
    source = Source()
    read = ResponseCache(1.0, lambda: now[0]).cached(source)
    assert read() == 1
    source.gate.clear()
    now[0] = 101.0
    assert [read() for _ in range(8)] == [1] * 8
    source.gate.set()
    now[0] = 102.0  # the first result has expired: its refresh is awaited, not read once more
    assert read() == 2


def test_a_change_is_visible_though_a_refresh_started_before_it() -> None:
    now = [100.0]
    source = Source()
    cache = ResponseCache(1.0, lambda: now[0])
    read = cache.cached(source)
    assert read() == 1
    source.gate.clear()
    now[0] = 101.0
    assert read() == 1
    with ThreadPoolExecutor(1) as pool:
        invalidated = pool.submit(cache.invalidate)
        source.gate.set()
        invalidated.result(10)
    assert read() == 3


def test_a_failed_refresh_is_logged_and_the_next_reader_reads(
    caplog: pytest.LogCaptureFixture,
) -> None:
    now = [100.0]
    source = Source()
    read = ResponseCache(1.0, lambda: now[0]).cached(source)
    assert read() == 1
    source.fails = True
    now[0] = 101.0
    assert read() == 1
    now[0] = 102.0
    with pytest.raises(RuntimeError):
        read()
    assert "not refreshed" in caplog.text
    source.fails = False
    assert read() == 4


def test_invalidation_drops_every_result() -> None:
    cache = ResponseCache(1.0, lambda: 0.0)
    first, second = cache.cached(Source()), cache.cached(Source())
    assert [first(), second()] == [1, 1]
    cache.invalidate()
    assert [first(), second(), first()] == [2, 2, 2]


def test_zero_seconds_disable_the_cache() -> None:
    read = ResponseCache(0).cached(Source())
    assert [read(), read()] == [1, 2]


def test_concurrent_readers_share_one_read() -> None:
    source = Source()
    source.gate.clear()
    read = ResponseCache(1.0, lambda: 0.0).cached(source)
    with ThreadPoolExecutor(8) as pool:
        results = [pool.submit(read) for _ in range(8)]
        source.gate.set()
        assert [result.result(10) for result in results] == [1] * 8


def test_a_failure_is_not_cached() -> None:
    source = Source()
    source.fails = True
    read = ResponseCache(1.0, lambda: 0.0).cached(source)
    with pytest.raises(RuntimeError):
        read()
    source.fails = False
    assert read() == 2
