"""The nightly run: many symbols with one new daily bar each, then the same with nothing new.

    python -m tests.benchmarks.nightly [--symbols 10000] [--workers 1] [--threads 5] [--nights 3]

The first job fills the warehouse with a year of bars. Then, for every night, the newest bar of each
series is taken away again, as if it were the day before, and the job runs; the last run finds
nothing new. Medians of the nights.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence

from sqlalchemy import text

from tests.benchmarks.installation import Installation, Run, installation
from tests.benchmarks.report import Figure, parser, tell


def a_day_earlier(built: Installation) -> None:
    """Take the newest bar of every series away."""
    with built.db.begin() as conn:
        conn.execute(text(_TAKE_AWAY))
        conn.execute(text(_STANDING))
    with built.db.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
        conn.execute(text("VACUUM ANALYZE bars, enrichment_status"))


def nights(built: Installation, count: int) -> list[Run]:
    found = []
    for _ in range(count):
        a_day_earlier(built)
        found.append(built.run())
        if found[-1].progress.inserted != found[-1].progress.total:
            raise SystemExit("a night did not bring one bar for each symbol")
    return found


def figures(first: Run, with_a_bar: Sequence[Run], nothing_new: Sequence[Run]) -> Iterator[Figure]:
    pace = statistics.median(run.symbols_per_second for run in with_a_bar)
    idle = statistics.median(run.symbols_per_second for run in nothing_new)
    yield Figure("first job, a year of bars each", first.symbols_per_second, "symbols/s")
    yield Figure("night, one new bar each", pace, "symbols/s", "≥", 150)
    yield Figure("nothing new", idle, "symbols/s")
    yield Figure("nothing new against a night", idle / pace, "×", "≥", 2)
    peak = max(run.peak_mb for run in (first, *with_a_bar, *nothing_new))
    yield Figure("worker's memory, highest", peak, "MB", "≤", 400)
    for part in first.cpu_seconds:
        spent = statistics.median(r.cpu_seconds[part] / r.progress.total for r in with_a_bar)
        yield Figure(f"processor time a symbol, {part}", 1000 * spent, "ms")


def main() -> None:
    parsing = parser(__doc__)
    parsing.add_argument("--symbols", type=int, default=10_000)
    parsing.add_argument("--workers", type=int, default=1, help="processes, side by side")
    parsing.add_argument("--threads", type=int, default=5, help="of each worker")
    parsing.add_argument("--nights", type=int, default=3)
    options = parsing.parse_args()
    with installation(options.threads, options.workers) as built:
        built.track([f"SIM{n}" for n in range(options.symbols)], "1d")
        first = built.run()
        found = nights(built, options.nights)
        idle = [built.run() for _ in range(options.nights)]
    tell("nightly run", figures(first, found, idle), options)


_TAKE_AWAY = """
DELETE FROM bars b USING enrichment_status s
WHERE (b.symbol, b.timeframe, b.ts) = (s.symbol, s.timeframe, s.last_ts)
"""

_STANDING = """
UPDATE enrichment_status s SET bars = bars - 1, last_ts = (
    SELECT max(ts) FROM bars b WHERE (b.symbol, b.timeframe) = (s.symbol, s.timeframe))
"""

if __name__ == "__main__":
    main()
