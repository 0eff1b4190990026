"""How quickly the dashboard's pages are there, with many rows in the logs and many symbols.

    python -m tests.benchmarks.dashboard_pages [--rows 200000] [--symbols 1000]
    … --rows 10000000     # 13 months of 1,000 symbols: some minutes of seeding, 3 GB of disk

For each page, medians of five: reading its data with nothing cached (the time that connections are
in use), running its script again with everything cached, and the size of its charts as JSON.
"""

from __future__ import annotations

import logging
import os
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import streamlit as st
from sqlalchemy import event, text
from sqlalchemy.pool import Pool
from streamlit.testing.v1 import AppTest

from enrichment.warehouse.database import Database
from enrichment.warehouse.embedded import EmbeddedPostgres
from enrichment.wiring.database import upgrade_schema
from tests.benchmarks.report import Figure, parser, tell
from tests.benchmarks.seeding import seed

PAGES = Path(__file__).parents[2] / "enrichment" / "dashboard" / "pages"
NAMES = ("overview", "jobs", "symbols", "quality", "resilience", "operations")
TIMES = 5
COLD_MS, WARM_MS, CHARTS_MB = 300, 150, 1


class Reading:
    """The milliseconds that connections of all pools were in use."""

    def __init__(self) -> None:
        self.ms = 0.0
        event.listen(Pool, "checkout", self._begin)
        event.listen(Pool, "checkin", self._end)

    def _begin(self, connection: object, record: dict[str, float], proxy: object) -> None:
        record.info["since"] = time.perf_counter()  # type: ignore[attr-defined]

    def _end(self, connection: object, record: dict[str, float]) -> None:
        since = record.info.pop("since")  # type: ignore[attr-defined]
        self.ms += 1000 * (time.perf_counter() - since)


def run(page: AppTest) -> float:
    """Run the page's script; the milliseconds it took. SystemExit if it shows anything wrong."""
    began = time.perf_counter()
    page.run()
    took = 1000 * (time.perf_counter() - began)
    if page.exception or any("does not answer" in error.value for error in page.error):
        raise SystemExit(f"the page went wrong: {page.exception or page.error}")
    return took


def measured(name: str, reading: Reading) -> Iterator[Figure]:
    page = AppTest.from_file(str(PAGES / f"{name}.py"), default_timeout=60)
    run(page)
    cold, warm = [], []
    for _ in range(TIMES):
        st.cache_data.clear()
        reading.ms = 0.0
        run(page)
        cold.append(reading.ms)
        warm.append(run(page))
    sizes = [len(chart.proto.spec) for chart in page.get("plotly_chart")]
    yield Figure(f"{name}: data, nothing cached", statistics.median(cold), "ms", "≤", COLD_MS)
    yield Figure(f"{name}: again, all cached", statistics.median(warm), "ms", "≤", WARM_MS)
    yield Figure(f"{name}: {len(sizes)} charts", sum(sizes) / 1e6, "MB", "≤", CHARTS_MB)


def furnish(db: Database, symbols: int) -> None:
    """What pages show beyond the logs: bars with features and flags, gaps, breakers and so on."""
    for statement in (
        _BARS,
        _STANDING,
        _FLAGS,
        _GAPS,
        _CORRECTIONS,
        _TRANSITIONS,
        _AUDIT,
        _WORKERS,
        _STATES,
    ):
        with db.begin() as conn:
            conn.execute(text(statement), {"symbols": symbols})
    with db.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
        conn.execute(text("VACUUM ANALYZE"))


def main() -> None:
    parsing = parser(__doc__)
    parsing.add_argument("--rows", type=int, default=200_000)
    parsing.add_argument("--symbols", type=int, default=1_000)
    options = parsing.parse_args()
    logging.getLogger("streamlit").setLevel(logging.ERROR)
    with TemporaryDirectory() as folder, EmbeddedPostgres(Path(folder) / "postgres") as postgres:
        db = Database(postgres.url, pool_size=2)
        upgrade_schema(db)
        seed(db, options.rows, options.symbols)
        furnish(db, options.symbols)
        os.environ["DATABASE_URL"] = postgres.url
        reading = Reading()
        figures = [figure for name in NAMES for figure in measured(name, reading)]
        db.close()
        title = f"dashboard, {options.rows:,} rows of logs, {options.symbols:,} symbols"
        tell(title, figures, options)


_BARS = """
INSERT INTO bars (symbol, timeframe, ts, open, high, low, close, volume, sma_20, sma_50,
    bollinger_upper, bollinger_lower, rsi_14)
SELECT symbol, '1d', ts, price, price + 2, price - 2, price + sin(n), 1000000, price, price,
    price + 5, price - 5, 50 + 20 * sin(n / 9.0)
FROM (SELECT 'SIM1' AS symbol, n, date_trunc('day', now()) - n * interval '1 day' AS ts,
        100 + 20 * sin(n / 50.0) AS price FROM generate_series(1, 7300) n) days
"""

_STANDING = """
UPDATE enrichment_status SET bars = 7300, last_ts = date_trunc('day', now()) - interval '1 day'
WHERE symbol = 'SIM1'
"""

_FLAGS = """
INSERT INTO bar_flags (symbol, timeframe, ts, check_name, severity, detail)
SELECT symbol, timeframe, ts, 'outlier', 'warning', '12 deviations from the median'
FROM bars WHERE extract(day FROM ts) = 7
"""

_GAPS = """
INSERT INTO bar_gaps (symbol, timeframe, ts)
SELECT 'SIM' || s, '1d', date_trunc('day', now()) - (s % 13 + 1) * n * interval '3 days'
FROM generate_series(1, :symbols) s CROSS JOIN generate_series(1, 20) n
"""

_CORRECTIONS = """
INSERT INTO data_corrections (symbol, timeframe, ts, field, old_value, new_value, reason, source)
SELECT 'SIM' || s, '1d', now() - n * interval '1 day', 'close', 100, 101, 'source_updated', 'yahoo'
FROM generate_series(1, :symbols) s CROSS JOIN generate_series(1, 50) n
"""

_TRANSITIONS = """
INSERT INTO resilience_transitions (at, worker_id, kind, name, from_state, to_state)
SELECT now() - n * interval '7 minutes', 'w' || n % 4, 'circuit_breaker',
    (ARRAY['polygon_api', 'binance_api', 'yahoo_api'])[n % 3 + 1],
    CASE n % 2 WHEN 0 THEN 'open' ELSE 'closed' END,
    CASE n % 2 WHEN 0 THEN 'closed' ELSE 'open' END
FROM generate_series(20000, 1, -1) n
"""

_AUDIT = """
INSERT INTO operator_actions (at, actor, action, target)
SELECT now() - n * interval '1 hour', 'ada@example.com', 'trigger', 'SIM' || n
FROM generate_series(20000, 1, -1) n
"""

_WORKERS = """
INSERT INTO workers (worker_id, host, pid, version, threads)
SELECT 'w' || n, 'here', n, '1', 5 FROM generate_series(0, 3) n
"""

_STATES = """
INSERT INTO resilience_state (worker_id, kind, name, state, status, seq)
SELECT 'w' || n, kind, name, CASE kind WHEN 'circuit_breaker' THEN 'closed' END,
    '{"failure_count": 1, "success_count": 9, "failure_rate": 0.1, "granted_count": 900,
      "paused_count": 9, "tokens": 3, "burst": 5,
      "strict": true, "active_count": 2, "max_concurrent": 10}', 1
FROM generate_series(0, 3) n
CROSS JOIN unnest(ARRAY['circuit_breaker', 'rate_limiter', 'bulkhead', 'retry']) AS kind
CROSS JOIN unnest(ARRAY['polygon_api', 'binance_api', 'yahoo_api']) AS name
"""

if __name__ == "__main__":
    main()
