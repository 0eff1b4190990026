"""What a call costs in each pattern, beside other libraries, measured in one run.

    python -m tests.benchmarks.resilience_overhead

Peers that are not installed get a row that says so:
    pip install -e '.[bench]'
Each figure is the least of many short rounds that take turns, in ns per call, the bare call
included; ratios therefore hold on a noisy machine too. pytest collects nothing here.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from timeit import Timer

from resilience import Bulkhead, CircuitBreaker, RateLimiter, RetryPolicy, init_resilience_manager
from tests.benchmarks.report import Figure, parser, write

ROUNDS, SECONDS_A_ROUND = 60, 0.005
RATE, BURST = 10**6, 10**8

Call = Callable[[], object]


def work() -> int:
    return 1


def nanoseconds(calls: dict[str, Call]) -> dict[str, float]:
    timers = {name: Timer("call()", globals={"call": call}) for name, call in calls.items()}
    least = {name: min(timer.repeat(3, 100)) / 100 for name, timer in timers.items()}
    for _ in range(ROUNDS):
        for name, timer in timers.items():
            number = 1 + int(SECONDS_A_ROUND / least[name])
            least[name] = min(least[name], timer.timeit(number) / number)
    return {name: seconds * 1e9 for name, seconds in least.items()}


def execute(pattern: CircuitBreaker | RateLimiter | RetryPolicy | Bulkhead) -> Call:
    return partial(pattern.execute, work)


def timed_breaker() -> CircuitBreaker:
    return CircuitBreaker("bench", slow_call_seconds=1)


def lock() -> Call:
    mutex = threading.Lock()

    def call() -> int:
        with mutex:
            return work()

    return call


def bounded_semaphore() -> Call:
    semaphore = threading.BoundedSemaphore(10)

    def call() -> int:
        with semaphore:
            return work()

    return call


def pipeline() -> Call:
    manager = init_resilience_manager()
    run = manager.pipeline(
        breaker=manager.register_circuit_breaker(),
        limiter=manager.register_rate_limiter(rate=RATE, interval=1, burst=BURST),
        retry=manager.register_retry_policy(),
        bulkhead=manager.register_bulkhead(),
    ).execute
    return partial(run, work)


def pybreaker() -> Call:
    import pybreaker

    return partial(pybreaker.CircuitBreaker().call, work)


def circuitbreaker() -> Call:
    import circuitbreaker

    return circuitbreaker.circuit(work)


def purgatory() -> Call:
    import purgatory

    return purgatory.SyncCircuitBreakerFactory()("bench")(work)


def tenacity() -> Call:
    import tenacity

    return tenacity.retry(stop=tenacity.stop_after_attempt(4))(work)


def stamina() -> Call:
    import stamina

    return stamina.retry(on=Exception)(work)


def pyrate_limiter() -> Call:
    from pyrate_limiter import Duration, Limiter, Rate

    limiter = Limiter(Rate(BURST, Duration.SECOND))

    def call() -> int:
        limiter.try_acquire("bench")
        return work()

    return call


def limits() -> Call:
    from limits import RateLimitItemPerSecond, storage, strategies

    limiter = strategies.FixedWindowRateLimiter(storage.MemoryStorage())
    item = RateLimitItemPerSecond(BURST)

    def call() -> int:
        limiter.hit(item, "bench")
        return work()

    return call


# row: (our row to compare with, aim in ns or None, maker)
ROWS: dict[str, tuple[str, float | None, Callable[[], Call]]] = {
    "plain call": ("", None, lambda: work),
    "a lock around it": ("", None, lock),
    "breaker": ("", 700, lambda: execute(CircuitBreaker("bench"))),
    "breaker, slow calls too": ("", 700, lambda: execute(timed_breaker())),
    "  pybreaker": ("breaker", None, pybreaker),
    "  circuitbreaker": ("breaker", None, circuitbreaker),
    "  purgatory": ("breaker", None, purgatory),
    "limiter": ("", 600, lambda: execute(RateLimiter("bench", RATE, 1, BURST))),
    "  pyrate-limiter": ("limiter", None, pyrate_limiter),
    "  limits (fixed window)": ("limiter", None, limits),
    "retry, success": ("", 200, lambda: execute(RetryPolicy("bench"))),
    "  tenacity": ("retry, success", None, tenacity),
    "  stamina": ("retry, success", None, stamina),
    "bulkhead": ("", 700, lambda: execute(Bulkhead("bench"))),
    "  BoundedSemaphore": ("bulkhead", None, bounded_semaphore),
    "all four": ("", None, pipeline),
}


def overlap() -> float:
    """Seconds for eight threads that sleep 20 ms five times each through one breaker."""
    breaker, start = CircuitBreaker("bench"), threading.Barrier(9)

    def client() -> None:
        start.wait()
        for _ in range(5):
            breaker.execute(time.sleep, 0.02)

    threads = [threading.Thread(target=client) for _ in range(8)]
    for thread in threads:
        thread.start()
    start.wait()
    began = time.perf_counter()
    for thread in threads:
        thread.join()
    return time.perf_counter() - began


def line(name: str, measured: dict[str, float]) -> str:
    ours, aim, _ = ROWS[name]
    if name not in measured:
        return f"{name:24}  not installed"
    row = f"{name:24} {measured[name]:8,.0f}"
    if ours:
        return f"{row}   ours / theirs = {measured[ours] / measured[name]:.2f}"
    return f"{row}   aim ≤ {aim:,.0f}" if aim else row


def figures(measured: dict[str, float], together: float) -> Iterator[Figure]:
    for name, (ours, aim, _) in ROWS.items():
        if not ours and name in measured:
            yield Figure(f"a call through: {name}", measured[name], "ns", "≤" if aim else None, aim)
    yield Figure("8 threads × 5 × 20 ms through one breaker", together, "s", "≤", 0.2)


def main() -> None:
    options = parser(__doc__).parse_args()
    calls = {}
    for name, (_, _, make) in ROWS.items():
        with suppress(ImportError):
            calls[name] = make()
    measured = nanoseconds(calls)
    together = overlap()
    write("resilience", figures(measured, together), options)
    print(f"Python {sys.version.split()[0]}\n{'':24}  ns/call")
    print(*(line(name, measured) for name in ROWS), sep="\n")
    print(f"\n8 threads × 5 × 20 ms through one breaker: {together:.3f} s (0.8 s if serialised)")


if __name__ == "__main__":
    main()
